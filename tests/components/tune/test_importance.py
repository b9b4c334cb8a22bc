"""Importances, and what is not loaded for them."""

import json
import subprocess
import sys

import optuna
import pytest
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.trial import create_trial

from components.tune import importance
from tests.support.engine import ROOT

DISTRIBUTIONS: dict[str, BaseDistribution] = {name: FloatDistribution(0, 1) for name in ("lr", "dropout")}


def make_study() -> optuna.Study:
    study = optuna.create_study()
    for number in range(20):
        params = {"lr": number / 20, "dropout": (number * 7 % 20) / 20}
        study.add_trial(create_trial(params=params, distributions=DISTRIBUTIONS, value=params["lr"] ** 2))
    return study


def test_what_moves_the_objective_matters_and_shares_are_those_that_optuna_finds() -> None:
    study = make_study()
    found = importance.shares(study)
    assert found == pytest.approx(optuna.importance.get_param_importances(study))
    assert sum(found.values()) == pytest.approx(1)
    assert found["lr"] > found["dropout"]


@pytest.mark.parametrize(("before", "is_loaded"), [("", False), ("import sklearn", True)])
def test_scikit_learn_is_not_loaded_for_it_and_stays_where_it_is(before: str, is_loaded: bool) -> None:
    code = f"""
import json, sys
{before}
from tests.components.tune.test_importance import importance, make_study
importance.shares(make_study())
found = ["sklearn" in sys.modules, sys.modules.get("sklearn") is not None]
import sklearn
print(json.dumps([*found, sklearn.__name__]))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [is_loaded, is_loaded, "sklearn"]
