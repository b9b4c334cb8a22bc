"""A search space as SageMaker's hyperparameter tuning jobs have it, and back; no client of AWS is needed for that.

Source: the SageMaker API, CreateHyperParameterTuningJob: ParameterRanges and its limits.
"""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final

from components.config import unquote
from components.tune.space import (
    MAX_VALUES,
    Categorical,
    Integer,
    Scale,
    Space,
    Value,
    as_text,
    parse,
    setting_name,
    shortened,
)
from serving.errors import ConfigError
from serving.flags import nearest

INTEGERS: Final = "IntegerParameterRanges"
NUMBERS: Final = "ContinuousParameterRanges"
CATEGORIES: Final = "CategoricalParameterRanges"

MAX_RANGES: Final = 30
"""Of one tuning job."""
MAX_VALUE_CHARS: Final = 256
SCALING_TYPES: Final[dict[Scale, str]] = {"linear": "Linear", "log": "Logarithmic"}
AUTO: Final = "Auto"
AUTO_LOG_FACTOR: Final = 100
"""SageMaker does not tell what it makes of `Auto`; here a range over two powers of ten or more has a log scale."""


def to_sagemaker(space: Space) -> dict[str, list[dict[str, Any]]]:
    """The `ParameterRanges` of a tuning job: all values are texts, names are those of train's flags.

    Raises:
        ConfigError: More ranges or values than a tuning job takes, or a text that would not arrive as it is.
    """
    if len(space) > MAX_RANGES:
        raise ConfigError(f"search space has {len(space)} settings, SageMaker searches at most {MAX_RANGES}")
    ranges: dict[str, list[dict[str, Any]]] = {INTEGERS: [], NUMBERS: [], CATEGORIES: []}
    for name, tried in space.items():
        flag = setting_name(name)
        if isinstance(tried, Categorical):
            ranges[CATEGORIES].append({"Name": flag, "Values": _values(tried.values, flag)})
        else:
            ranges[INTEGERS if isinstance(tried, Integer) else NUMBERS].append(
                {
                    "Name": flag,
                    "MinValue": as_text(tried.min),
                    "MaxValue": as_text(tried.max),
                    "ScalingType": SCALING_TYPES[tried.scale],
                }
            )
    return ranges


def from_sagemaker(ranges: Mapping[str, Any], source: str = "ParameterRanges") -> Space:
    """The space of a tuning job's `ParameterRanges`, also of those that AWS's SDK made, with values quoted again.

    Whole numbers first, then any numbers, then categories, each as they are: a tuning job has no order among them.
    `Auto` becomes a log scale if the range is above zero and spans a factor of 100, else a linear one.

    Args:
        source: What holds them, for messages.

    Raises:
        ConfigError: There is something in it that a search space cannot hold.
    """
    kinds = {INTEGERS: "integer", NUMBERS: "continuous", CATEGORIES: "categorical"}
    if not isinstance(ranges, Mapping):
        raise ConfigError(f"{source} hold a {type(ranges).__name__}, expected an object with {', '.join(kinds)}")
    content: dict[str, dict[str, Any]] = {}
    for kind, held in ranges.items():
        if kind not in kinds and held:
            raise ConfigError(
                f"{source} have {shortened(kind)}, expected {', '.join(kinds)}{nearest(str(kind), list(kinds))}"
            )
        if not isinstance(held, list | tuple | None):
            raise ConfigError(f"{source} have {shortened(held)} for {kind}, expected a list of ranges")
        for one in held or ():
            name = one.get("Name") if isinstance(one, Mapping) else None
            if not isinstance(name, str):
                raise ConfigError(f"{source} have a range without Name in {kind}, expected the name of a setting")
            if name in content:
                raise ConfigError(f"{source} have two ranges for {name:.80}: give one of them")
            content[name] = _content(one, kinds[kind], f"{source}: {name:.80}")
    return parse(content, source)


def _values(values: tuple[Value, ...], flag: str) -> list[str]:
    if not 1 <= len(values) <= MAX_VALUES:
        raise ConfigError(f"search space: {flag} has {len(values)} values, SageMaker takes 1 to {MAX_VALUES}")
    texts = [as_text(value) for value in values]
    for text in texts:
        if len(text) > MAX_VALUE_CHARS or "\n" in text:
            raise ConfigError(
                f"search space: {flag} has the value {text[:40]!r}, SageMaker takes one line of at most "
                f"{MAX_VALUE_CHARS} characters"
            )
        if unquote(text) != text:
            raise ConfigError(
                f"search space: {flag} has the value {text!r}, expected one without quotes around it: SageMaker adds "
                "its own, which train takes off"
            )
    return texts


def _content(held: Mapping[str, Any], kind: str, where: str) -> dict[str, Any]:
    """A range as a file would hold it; what is wrong with its values is left to be said there."""
    keys = ("Name", "Values") if kind == "categorical" else ("Name", "MinValue", "MaxValue", "ScalingType")
    for key in held:
        if key not in keys:
            raise ConfigError(f"{where} has {shortened(key)}, expected {', '.join(keys)}{nearest(str(key), keys)}")
    for key in keys:
        if key not in held and key != "ScalingType":
            raise ConfigError(f"{where} has no {key}, expected {', '.join(keys)}")
    if kind == "categorical":
        return {"type": kind, "values": held["Values"]}
    low, high = held["MinValue"], held["MaxValue"]
    return {"type": kind, "min": low, "max": high, "scale": _scale(held.get("ScalingType", AUTO), low, high, where)}


def _scale(scaling: Any, low: Any, high: Any, where: str) -> Scale:
    if scaling == AUTO:
        with suppress(ValueError, TypeError):  # what is no number, is none in any scale
            return "log" if float(low) > 0 and round(float(high) / float(low), 6) >= AUTO_LOG_FACTOR else "linear"
        return "linear"
    for scale, name in SCALING_TYPES.items():
        if scaling == name:
            return scale
    if scaling == "ReverseLogarithmic":
        raise ConfigError(
            f"{where} has ScalingType ReverseLogarithmic, which no other search has, expected Logarithmic"
        )
    known = [AUTO, *SCALING_TYPES.values()]
    raise ConfigError(
        f"{where} has ScalingType {shortened(scaling)}, expected one of {', '.join(known)}"
        f"{nearest(str(scaling), known)}"
    )
