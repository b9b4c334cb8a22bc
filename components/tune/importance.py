"""How much each setting matters: Optuna's PED-ANOVA, loaded without scikit-learn.

The package of Optuna's importances loads scikit-learn where it is installed, for another method than this one. That
takes seconds at the end of every search, and nothing here calls it.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import optuna

UNUSED: Final = "sklearn"


def shares(study: optuna.Study) -> dict[str, float]:
    """Importance of each setting for the objective of a study, adding up to 1.

    Source: Watanabe, Bansal and Hutter 2023, PED-ANOVA.
    """
    with _absent(UNUSED):
        from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
    found: dict[str, float] = get_param_importances(study, evaluator=PedAnovaImportanceEvaluator())
    return found


@contextmanager
def _absent(name: str) -> Iterator[None]:
    """Let a package look as if it were not installed, unless somebody has loaded it already."""
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]  # what the import system takes for "there is none"
    try:
        yield
    finally:
        del sys.modules[name]
