"""A search space as Optuna has it, and back."""

from collections.abc import Mapping

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from components.tune.space import Categorical, Continuous, Integer, Range, Space, Value
from serving.errors import ConfigError


def to_optuna(space: Space) -> dict[str, BaseDistribution]:
    """Distributions by setting, for `study.ask` and for samplers of a grid."""
    return {name: _distribution(tried) for name, tried in space.items()}


def from_optuna(distributions: Mapping[str, BaseDistribution]) -> Space:
    """The space of distributions that `to_optuna` made, such as those that a stored trial brings along.

    Raises:
        ConfigError: A distribution has steps, or is of a kind that no range is.
    """
    return {name: _range(name, distribution) for name, distribution in distributions.items()}


def _distribution(tried: Range) -> BaseDistribution:
    if isinstance(tried, Categorical):
        return CategoricalDistribution(tried.values)
    is_log = tried.scale == "log"
    if isinstance(tried, Integer):
        return IntDistribution(tried.min, tried.max, log=is_log)
    return FloatDistribution(tried.min, tried.max, log=is_log)


def _range(name: str, distribution: BaseDistribution) -> Range:
    match distribution:
        case CategoricalDistribution(choices=choices):
            return Categorical(tuple(_value(name, choice) for choice in choices))
        case IntDistribution(low=low, high=high, log=is_log, step=1):
            return Integer(low, high, "log" if is_log else "linear")
        case FloatDistribution(low=low, high=high, log=is_log, step=None):
            return Continuous(low, high, "log" if is_log else "linear")
        case _:
            raise ConfigError(f"distribution of {name} is {distribution}, expected one without steps")


def _value(name: str, choice: object) -> Value:
    if isinstance(choice, str | int | float):
        return choice
    raise ConfigError(f"distribution of {name} has the choice {choice!r}, expected a text or a number")
