"""What is known of a trial when it is over, or while it lasts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from components.tune.objective import Objective
from components.tune.space import Value

State = Literal["complete", "pruned", "failed", "running"]


@dataclass(frozen=True)
class Trial:
    """One setting of the hyperparameters, tried."""

    number: int
    """From 0."""
    state: State
    parameters: Mapping[str, Value]
    """What was tried, by setting."""
    values: tuple[float, ...]
    """One for each objective; empty unless it is complete."""
    losses: tuple[float, ...]
    """valid_loss of its epochs."""
    started: datetime
    ended: datetime | None
    seconds: float
    """Of its own work, without waiting."""
    reason: str = ""
    """Why it failed or was pruned."""
    epochs_s: float = 0.0
    """The part of `seconds` that its epochs took."""


def best(trials: Sequence[Trial], objective: Objective) -> Trial | None:
    """The complete trial with the best value of the first objective; of equal ones the first."""
    complete = [trial for trial in trials if trial.state == "complete"]
    sign = 1 if objective.direction == "minimize" else -1
    return min(complete, key=lambda trial: (sign * trial.values[0], trial.number), default=None)


def front(trials: Sequence[Trial], objectives: Sequence[Objective]) -> list[Trial]:
    """The Pareto front: complete trials of which no other is at least as good everywhere and better somewhere.

    Of trials with equal values the first; sorted by the first objective, the best first.
    """
    signs = [1 if objective.direction == "minimize" else -1 for objective in objectives]
    costs = {
        trial.number: tuple(sign * value for sign, value in zip(signs, trial.values, strict=True))
        for trial in trials
        if trial.state == "complete"
    }
    first = {cost: number for number, cost in sorted(costs.items(), reverse=True)}
    kept = [
        number
        for cost, number in first.items()
        if not any(other != cost and all(a <= b for a, b in zip(other, cost, strict=True)) for other in first)
    ]
    by_number = {trial.number: trial for trial in trials}
    return sorted((by_number[number] for number in kept), key=lambda trial: costs[trial.number])


def chosen(trials: Sequence[Trial], objectives: Sequence[Objective]) -> list[Trial]:
    """The best trial, or with several objectives the front; empty when none is complete."""
    if len(objectives) > 1:
        return front(trials, objectives)
    found = best(trials, objectives[0])
    return [] if found is None else [found]
