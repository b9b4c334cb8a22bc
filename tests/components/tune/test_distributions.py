from random import Random

import optuna
import pytest
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
    json_to_distribution,
)

from components.tune.distributions import from_optuna, to_optuna
from components.tune.space import Categorical, Continuous, Integer, Space, check
from serving.errors import ConfigError
from tests.support.spaces import BASE, random_space

SPACE: Space = {
    "lr": Continuous(0.001, 0.3, "log"),
    "dropout": Continuous(0.0, 0.5),
    "epochs": Integer(2, 5),
    "patience": Integer(1, 9, "log"),
    "batch_size": Categorical((16, 32)),
}


def test_ranges_become_distributions_with_the_same_ends_and_scale() -> None:
    assert to_optuna(SPACE) == {
        "lr": FloatDistribution(0.001, 0.3, log=True),
        "dropout": FloatDistribution(0.0, 0.5),
        "epochs": IntDistribution(2, 5),
        "patience": IntDistribution(1, 9, log=True),
        "batch_size": CategoricalDistribution((16, 32)),
    }


@pytest.mark.parametrize("seed", range(20))
def test_nothing_is_lost_there_and_back_also_when_a_study_was_stored_meanwhile(seed: int) -> None:
    random = Random(seed)
    for _ in range(10):
        space = random_space(random)
        distributions = to_optuna(space)
        assert list(from_optuna(distributions).items()) == list(space.items())
        stored = {name: json_to_distribution(distribution_to_json(held)) for name, held in distributions.items()}
        assert from_optuna(stored) == space


def test_what_optuna_draws_is_of_the_settings_type_and_within_the_range() -> None:
    random = Random(0)
    for seed in range(5):
        space = random_space(random)
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
        drawn = study.ask(to_optuna(space)).params
        assert set(drawn) == set(space)
        for name, tried in space.items():
            if isinstance(tried, Categorical):
                assert drawn[name] in tried.values
            else:
                assert tried.min <= drawn[name] <= tried.max
                assert type(drawn[name]) is (int if isinstance(tried, Integer) else float)
        check({name: Categorical((value,)) for name, value in drawn.items()}, BASE)


@pytest.mark.parametrize(
    ("distribution", "message"),
    [
        (
            IntDistribution(2, 8, step=2),
            "distribution of epochs is IntDistribution.*step=2.*, expected one without steps",
        ),
        (FloatDistribution(0, 1, step=0.5), "expected one without steps"),
        (CategoricalDistribution((1, None)), "distribution of epochs has the choice None, expected a text or a number"),
    ],
)
def test_what_no_range_holds_is_refused(distribution: BaseDistribution, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_optuna({"epochs": distribution})
