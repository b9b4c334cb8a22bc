"""What a trial tries: a function of the seed, its number, and the trials that were over some trials before it.

Optuna's samplers carry a generator from trial to trial, so a search that is killed and started again would go other
ways, and so would one whose trials end in another order. Here every trial gets a sampler of its own, seeded by its
number, and is shown the same trials whatever else is over by then.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial

from serving.errors import ConfigError

SamplerName = Literal["tpe", "random", "grid"]

INSTEAD_OF: Final = "instead_of"
"""Attribute of a trial that is handed out for one whose machine died: the number of that one."""
GRID_POINTS: Final = 5
"""Of a range of numbers, evenly spread on its scale, both ends among them."""


MAX_COMBINATIONS: Final = 100_000


class SeededSampler(BaseSampler):
    """Chooses hyperparameters by Optuna's samplers, or from a grid."""

    def __init__(
        self, kind: SamplerName, distributions: Mapping[str, BaseDistribution], *, seed: int, lag: int = 1
    ) -> None:
        """Choose.

        Args:
            kind: Bergstra et al. 2011's tree-structured Parzen estimator, random, or each combination of a grid once.
            distributions: By setting.
            seed: Of all that is drawn.
            lag: A trial is shown those whose numbers are lower by this much or more: as many as run at once, so that
                what it is shown does not depend on which of them is over first.
        """
        self._kind = kind
        self._distributions = dict(distributions)
        self._seed = seed
        self.lag = lag
        self._grid = _shuffled(grid(distributions), seed) if kind == "grid" else []

    @property
    def num_combinations(self) -> int | None:
        """Trials after which there is nothing new; None when there always is."""
        return len(self._grid) if self._kind == "grid" else None

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """All of it is chosen together."""
        return self._distributions

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The hyperparameters of a trial."""
        number: int = trial.user_attrs.get(INSTEAD_OF, trial.number)
        if self._kind == "grid":
            return self._grid[number % len(self._grid)]
        seed = int(np.random.default_rng((self._seed, number)).integers(2**31))
        sampler = TPESampler(seed=seed) if self._kind == "tpe" else RandomSampler(seed=seed)
        alone = optuna.create_study(directions=study.directions, sampler=sampler)
        alone.add_trials(shown(study.get_trials(deepcopy=False), number, self.lag))
        return alone.ask(search_space).params

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Not asked for: everything is chosen together."""
        raise KeyError(param_name)


def shown(trials: Sequence[FrozenTrial], number: int, lag: int) -> list[FrozenTrial]:
    """Trials that the one of this number may be judged by: what they are does not depend on which are over first."""
    found = [trial for trial in trials if trial.number <= number - lag and trial.state.is_finished()]
    return sorted(found, key=lambda trial: trial.number)


def grid(distributions: Mapping[str, BaseDistribution]) -> list[dict[str, Any]]:
    """All combinations of the values that a grid has for each setting.

    Raises:
        ConfigError: They are too many to be gone through.
    """
    values = [_values(distribution) for distribution in distributions.values()]
    count = math.prod(map(len, values))
    if count > MAX_COMBINATIONS:
        raise ConfigError(
            f"--sampler grid has {count} combinations, expected at most {MAX_COMBINATIONS}: use --sampler random, or "
            "a smaller space"
        )
    return [dict(zip(distributions, combination, strict=True)) for combination in itertools.product(*values)]


def _values(distribution: BaseDistribution) -> Sequence[Any]:
    match distribution:
        case CategoricalDistribution(choices=choices):
            return choices
        case IntDistribution(low=low, high=high, log=is_log):
            return sorted({round(value) for value in _spread(low, high, is_log)})
        case FloatDistribution(low=low, high=high, log=is_log):
            return _spread(low, high, is_log)
        case _:
            raise NotImplementedError(distribution)


def _spread(low: float, high: float, is_log: bool) -> list[float]:
    if is_log:
        between = [math.exp(value) for value in np.linspace(math.log(low), math.log(high), GRID_POINTS)[1:-1]]
    else:
        between = [float(value) for value in np.linspace(low, high, GRID_POINTS)[1:-1]]
    return [low, *between, high]  # the ends to the last digit


def _shuffled(combinations: Sequence[dict[str, Any]], seed: int) -> list[dict[str, Any]]:
    """In an order drawn from the seed: a grid that is cut short has then looked everywhere a little."""
    return [combinations[place] for place in np.random.default_rng(seed).permutation(len(combinations))]
