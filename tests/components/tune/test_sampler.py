"""What a trial tries is a function of the seed, its number and the trials that it is shown."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from components.tune.sampler import GRID_POINTS, SamplerName, SeededSampler, grid

SPACE: dict[str, BaseDistribution] = {
    "lr": FloatDistribution(0.001, 0.3, log=True),
    "batch_size": CategoricalDistribution((16, 32, 64)),
    "epochs": IntDistribution(2, 9),
}
FLAT = {"lr": 0.02, "batch_size": 32, "epochs": 5}


def value_of(parameters: dict[str, Any]) -> float:
    """Lowest at lr 0.01 and few epochs."""
    return float(math.log(parameters["lr"] / 0.01) ** 2 + parameters["epochs"])


def search(
    num_trials: int,
    *,
    kind: SamplerName = "tpe",
    seed: int = 0,
    lag: int = 1,
    early: Sequence[int] = (0,),
    restart_after: Sequence[int] = (),
    sign: int = 1,
) -> list[dict[str, Any]]:
    """What was tried by `lag` trials at once.

    A trial begins when those that it is shown are over; `early` says of how many more, the newest first, over and over.
    """
    storage = optuna.storages.InMemoryStorage()
    turns = itertools.cycle(early)
    running: list[optuna.Trial] = []
    study = open_study(storage, kind, seed, lag)
    for number in range(num_trials):
        if number in restart_after:
            study = open_study(storage, kind, seed, lag)
        over = [trial for trial in running if trial.number <= number - lag]
        over += [trial for trial in reversed(running) if trial not in over][: next(turns)]
        for trial in over:
            running.remove(trial)
            study.tell(trial, sign * value_of(trial.params))
        running.append(study.ask(SPACE))
    return [trial.params for trial in study.get_trials()]


def open_study(storage: optuna.storages.BaseStorage, kind: SamplerName, seed: int, lag: int) -> optuna.Study:
    sampler = SeededSampler(kind, SPACE, seed=seed, lag=lag)
    return optuna.create_study(storage=storage, study_name="one", sampler=sampler, load_if_exists=True)


@pytest.mark.parametrize("kind", ["tpe", "random"])
def test_the_seed_decides(kind: SamplerName) -> None:
    assert search(16, kind=kind) == search(16, kind=kind)
    assert all(one != other for one, other in zip(search(16, kind=kind), search(16, kind=kind, seed=1), strict=True))


@pytest.mark.parametrize("kind", ["tpe", "random", "grid"])
def test_a_restart_changes_nothing(kind: SamplerName) -> None:
    assert search(16, kind=kind, lag=2, restart_after=(1, 5, 6, 14)) == search(16, kind=kind, lag=2)


@pytest.mark.parametrize("early", [(1,), (2, 0), (0, 1, 2, 2)])
def test_the_order_in_which_trials_end_changes_nothing(early: Sequence[int]) -> None:
    assert search(24, lag=3, early=early) == search(24, lag=3)


def test_after_ten_trials_tpe_goes_by_what_they_found_and_random_does_not() -> None:
    tried, contrary = search(40), search(40, sign=-1)
    assert tried[:10] == contrary[:10]
    assert all(one != other for one, other in zip(tried[10:], contrary[10:], strict=True))
    assert np.mean([value_of(one) for one in tried[10:]]) < 0.6 * np.mean([value_of(one) for one in tried[:10]])
    assert search(40, kind="random") == search(40, kind="random", sign=-1)


def test_a_trial_is_not_shown_those_that_run_beside_it() -> None:
    storage = optuna.storages.InMemoryStorage()
    study = open_study(storage, "tpe", 0, 2)
    for parameters in search(12, lag=2):
        study.add_trial(optuna.trial.create_trial(params=parameters, distributions=SPACE, value=value_of(parameters)))
    study.add_trial(optuna.trial.create_trial(params=FLAT, distributions=SPACE, value=-1000.0))
    assert study.ask(SPACE).params == search(14, lag=2)[13]  # of number 12 it hears nothing


def test_a_trial_that_stands_for_one_whose_machine_died_tries_the_same() -> None:
    for kind in ("random", "grid"):
        study = open_study(optuna.storages.InMemoryStorage(), kind, 0, 1)
        tried = [study.ask(SPACE).params for _ in range(5)]
        study.add_trial(optuna.trial.create_trial(state=TrialState.WAITING, user_attrs={"instead_of": 3}))
        assert study.ask(SPACE).params == tried[3]


def test_a_grid_visits_every_combination_once() -> None:
    num_combinations = SeededSampler("grid", SPACE, seed=0).num_combinations
    assert num_combinations == GRID_POINTS * 3 * GRID_POINTS
    tried = [tuple(parameters.values()) for parameters in search(num_combinations, kind="grid")]
    assert sorted(tried) == sorted(tuple(parameters.values()) for parameters in grid(SPACE))
    assert len(set(tried)) == num_combinations
    assert tried != [tuple(parameters.values()) for parameters in search(num_combinations, kind="grid", seed=1)]


@pytest.mark.parametrize(
    ("low", "high"), [(0.001, 0.3), (1e-05, 0.1), (0.0007, 0.7), (0.003, 0.9), (1e-4, 1e-3), (0.1, 7.3)]
)
@pytest.mark.parametrize("is_log", [True, False])
def test_a_grid_spreads_a_range_evenly_on_its_scale_with_both_ends(low: float, high: float, *, is_log: bool) -> None:
    values = [parameters["lr"] for parameters in grid({"lr": FloatDistribution(low, high, log=is_log)})]
    assert (values[0], values[-1], len(values)) == (low, high, GRID_POINTS)
    steps = np.diff(np.log(values) if is_log else values)
    np.testing.assert_allclose(steps, steps[0], rtol=1e-9)


def test_a_grid_of_whole_numbers_has_both_ends_and_none_twice() -> None:
    def values(low: int, high: int, *, is_log: bool = False) -> list[int]:
        return [parameters["n"] for parameters in grid({"n": IntDistribution(low, high, log=is_log)})]

    assert values(2, 4) == [2, 3, 4]
    assert values(1, 9) == [1, 3, 5, 7, 9]
    assert values(1, 256, is_log=True) == [1, 4, 16, 64, 256]
    assert values(1, 3, is_log=True) == [1, 2, 3]


def test_a_grid_has_every_category() -> None:
    assert [found["arch"] for found in grid({"arch": CategoricalDistribution(("b", "a"))})] == ["b", "a"]


def test_there_is_no_end_of_what_tpe_and_random_try() -> None:
    assert SeededSampler("tpe", SPACE, seed=0).num_combinations is None
    assert SeededSampler("random", SPACE, seed=0).num_combinations is None
