"""Which trials are hopeless: a function of what a trial did so far and of what the trials did that it is shown.

Optuna's pruners judge by whatever else is over by then and note half of a decision in the study, so a search that is
killed in between, or whose trials end in another order, would end others early.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from components.tune.objective import Objective

PrunerName = Literal["asha", "median", "none"]

REDUCTION_FACTOR: Final = 2
"""Of ASHA: one trial of so many goes on after epochs 1, 2, 4, 8 and so on."""
MIN_COMPLETE: Final = 5
"""The median says little about fewer trials."""


@dataclass(frozen=True)
class Other:
    """A trial that another is judged by."""

    values: Mapping[int, float]
    """The objective after epochs, from 1."""
    is_complete: bool


def is_hopeless(name: PrunerName, objective: Objective, epoch: int, value: float, others: Sequence[Other]) -> bool:
    """Whether a trial may as well end after `epoch` (from 1), at which its objective was `value`.

    Source: asynchronous successive halving, Li et al. 2020, arXiv 1810.05934; the median stopping rule, Golovin et al.
    2017 (Vizier), section 3.2.1.
    """
    if name == "asha":
        reached = [other.values[epoch] for other in others if epoch in other.values]
        num_kept = max(1, (len(reached) + 1) // REDUCTION_FACTOR)
        return _is_rung(epoch) and sum(objective.is_better(other, value) for other in reached) >= num_kept
    reached = [other.values[epoch] for other in others if other.is_complete and epoch in other.values]
    num_complete = sum(other.is_complete for other in others)
    if name == "none" or num_complete < MIN_COMPLETE or not reached:
        return False
    return objective.is_better(statistics.median(reached), value)


def _is_rung(epoch: int) -> bool:
    while epoch % REDUCTION_FACTOR == 0:
        epoch //= REDUCTION_FACTOR
    return epoch == 1
