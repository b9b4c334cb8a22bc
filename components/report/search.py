"""A search as its page sees it: what trials are worth, how things are called, where each stands on which axis."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final

from components.report.drawing import Axis, exact
from components.report.scales import are_alike, is_wide, number
from components.report.threads import LEVELS
from components.tune.objective import Objective
from components.tune.space import Categorical, Integer, Range, Space, Value
from components.tune.trials import Trial, best, front

LOG_RATIO: Final = 3
"""What differs by more than this is told apart on a logarithmic axis alone: one diverged trial hides the good ones."""


@dataclass(frozen=True)
class Search:
    """Trials, and what is asked of them again and again."""

    trials: Sequence[Trial]
    space: Space
    objectives: Sequence[Objective]

    @cached_property
    def chosen(self) -> frozenset[int]:
        """Numbers of the best trial, or of the Pareto front where there are several objectives."""
        if len(self.objectives) > 1:
            return frozenset(trial.number for trial in front(self.trials, self.objectives))
        winner = self.best(0)
        return frozenset() if winner is None else frozenset({winner.number})

    @cached_property
    def ranked(self) -> list[Trial]:
        """From the worst to the best by the first objective; before them those that are not complete."""
        sign = -1 if self.objectives[0].direction == "minimize" else 1

        def merit(trial: Trial) -> tuple[bool, float, int]:
            value = self.value(trial, 0) if trial.state == "complete" else None
            return (value is not None, sign * (value or 0.0), -trial.number)

        return sorted(self.trials, key=merit)

    @cached_property
    def settings(self) -> list[str]:
        """Those of the space, then what else was tried."""
        others = {name: None for trial in self.trials for name in trial.parameters if name not in self.space}
        return [*self.space, *others]

    def best(self, place: int) -> Trial | None:
        """The complete trial that is best by one of the objectives, given by its place."""
        complete = [trial for trial in self.trials if trial.state == "complete"]
        found = best([replace(trial, values=(trial.values[place],)) for trial in complete], self.objectives[place])
        return next((trial for trial in complete if found is not None and trial.number == found.number), None)

    def value(self, trial: Trial, place: int) -> float | None:
        """What it came to; of one that was stopped, the lowest valid_loss that it reached, where that is asked for."""
        if trial.state == "complete":
            value = trial.values[place]
            return value if math.isfinite(value) else None
        reached = [loss for loss in trial.losses if math.isfinite(loss)]
        is_told = trial.state == "pruned" and self.objectives[place].metric == "valid_loss"
        return min(reached) if is_told and reached else None

    def axis(self, place: int) -> Axis:
        """Of an objective; it ends at the best and the worst value."""
        values = [value for trial in self.trials if (value := self.value(trial, place)) is not None]
        objective = self.objectives[place]
        is_log = objective.direction == "minimize" and min(values, default=0) > 0 and is_wide(values, LOG_RATIO)
        low, high = (min(values), max(values)) if values else (1.0, 2.0)
        if are_alike(low, high):
            low, high = low - (abs(low) / 2 or 0.5), high + (abs(high) / 2 or 0.5)
        return Axis(named(objective), is_log, bounds=(low, high))

    def level(self, trial: Trial) -> int | None:
        """Which color of the sequential scale its first objective has."""
        value = self.value(trial, 0)
        if trial.state != "complete" or value is None:
            return None
        share = exact([], self.axis_of_first, 0, 1)(value)
        share = 1 - share if self.objectives[0].direction == "minimize" else share
        return min(LEVELS - 1, int(share * LEVELS))

    @cached_property
    def axis_of_first(self) -> Axis:
        """Asked for by every trial."""
        return self.axis(0)


def named(objective: Objective) -> str:
    """An objective as a person says it: valid loss; latency, ms."""
    name = objective.metric.removesuffix("_ms").replace("_", " ")
    return f"{name}, ms" if objective.metric.endswith("_ms") else name


def said(objective: Objective, value: float) -> str:
    """A value of an objective with its unit."""
    if objective.metric.endswith("accuracy") and math.isfinite(value):
        return f"{100 * value:.2f}%"
    return number(value) + (" ms" if objective.metric.endswith("_ms") else "")


def setting(name: str) -> str:
    """A setting as a person says it."""
    return name.replace("_", " ")


def shown(value: Value) -> str:
    """A value of a setting, as a space file has it."""
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    return number(value) if isinstance(value, int | float) else value


def bounds(objective: Objective) -> tuple[float, float] | None:
    """Beyond which an axis of the objective would promise what cannot be."""
    return (0.0, 1.0) if objective.metric.endswith("accuracy") else None


def places(search: Search, name: str) -> Callable[[Trial], float | None]:
    """Where a trial stands on the axis of a setting."""
    order = {text: place for place, text in enumerate(categories(search, name))}

    def place(trial: Trial) -> float | None:
        if name not in trial.parameters:
            return None
        value = trial.parameters[name]
        return order[shown(value)] if order else float(value)

    return place


def setting_axis(search: Search, name: str) -> Axis:
    limits: Range | None = search.space.get(name)
    names = categories(search, name)
    if names or limits is None or isinstance(limits, Categorical):
        return Axis(setting(name), categories=names)
    values = [float(trial.parameters[name]) for trial in search.trials if name in trial.parameters]
    low, high = min([limits.min, *values]), max([limits.max, *values])
    is_log = limits.scale == "log" and low > 0
    return Axis(setting(name), is_log, bounds=(low, high), is_whole=isinstance(limits, Integer))


def categories(search: Search, name: str) -> list[str]:
    """Empty where values are numbers."""
    limits = search.space.get(name)
    tried = [trial.parameters[name] for trial in search.trials if name in trial.parameters]
    known = list(limits.values) if isinstance(limits, Categorical) else []
    if not known and all(isinstance(value, int | float) and not isinstance(value, bool) for value in tried):
        return []
    return list(dict.fromkeys(shown(value) for value in [*known, *tried]))
