"""The search space: which settings of train are tried, and between which values.

It is written once, in a file, and read here alone; what Optuna, SageMaker and Katib are told is translated from it
(`components/tune/distributions.py`, `components/aws/ranges.py`, `components/kubeflow/katib.py`). It needs neither torch
nor Optuna, so that launchers can read it too.
"""

import json
import math
import reprlib
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import yaml

from components.config import unquote
from components.train.settings import TrainSettings
from serving.errors import ConfigError
from serving.flags import Layer, SettingDoc, documentation, flag_of, nearest, resolve

Value = str | int | float | bool
Scale = Literal["linear", "log"]

MAX_FILE_BYTES: Final = 2**18
MAX_VALUES: Final = 30
"""Of a categorical range: more than SageMaker takes, and more than any search of a few trials could tell apart."""
LARGEST_EXACT: Final = 2**53
"""Whole numbers above this are not all told apart by platforms that count in floats."""
SCALES: Final[tuple[Scale, ...]] = ("linear", "log")
EXAMPLE: Final = "lr: {type: continuous, min: 0.001, max: 0.1, scale: log}"


@dataclass(frozen=True)
class Continuous:
    """Any number between two, both included."""

    min: float
    max: float
    scale: Scale = "linear"


@dataclass(frozen=True)
class Integer:
    """Any whole number between two, both included."""

    min: int
    max: int
    scale: Scale = "linear"


@dataclass(frozen=True)
class Categorical:
    """One of several values, all of the setting's type."""

    values: tuple[Value, ...]


Range = Continuous | Integer | Categorical
Space = Mapping[str, Range]
"""Ranges by setting of train, its field's name, in the order of the file."""

KEYS: Final = {
    "continuous": ("type", "min", "max", "scale"),
    "integer": ("type", "min", "max", "scale"),
    "categorical": ("type", "values"),
}
"""What a range of each type holds; `scale` may be left out."""


def read(path: Path) -> Space:
    """Read a search space from a YAML or JSON file.

    Raises:
        ConfigError: The file is missing, too large, damaged, or no search space; one sentence that names it.
    """
    source = f"search space {path}"
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ConfigError(f"{source} is larger than {MAX_FILE_BYTES} bytes, expected a few lines such as {EXAMPLE}")
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{source} cannot be read: {error.strerror}") from error
    except UnicodeError as error:
        raise ConfigError(f"{source} is not readable: {str(error).splitlines()[0]}") from error
    return read_text(text, source, is_json=path.suffix == ".json")


def read_text(text: str, source: str, *, is_json: bool = False) -> Space:
    """Read a search space from YAML, of which JSON is a part, or from nothing but JSON.

    Args:
        source: What holds it, for messages.

    Raises:
        ConfigError: It is damaged, or no search space.
    """
    try:
        content = _load_json(text, source) if is_json else yaml.load(text, _Loader)  # noqa: S506  # safe
    except yaml.MarkedYAMLError as error:
        line = f" in line {error.problem_mark.line + 1}" if error.problem_mark else ""
        reason = " ".join(part for part in (error.context, error.problem) if part)
        raise ConfigError(f"{source} is not readable YAML: {reason}{line}") from error
    except RecursionError as error:
        raise ConfigError(f"{source} is nested too deeply, expected a few lines such as {EXAMPLE}") from error
    except (ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"{source} is not readable: {str(error).splitlines()[0]}") from error
    return parse(content, source)


def parse(content: Any, source: str) -> Space:
    """Make a search space of what a file, a preset or a platform holds: a range for each setting, by any of its names.

    Values take the type of train's setting; texts that hold one, once or twice quoted, are fine.

    Args:
        source: What holds it, for messages.

    Raises:
        ConfigError: It is no search space; one sentence with what was found and what was expected.
    """
    if not isinstance(content, Mapping):
        raise ConfigError(f"{source} holds {shortened(content)}, expected a range for each setting, such as {EXAMPLE}")
    if not content:
        raise ConfigError(f"{source} is empty, expected a range for each setting, such as {EXAMPLE}")
    entries = {name: entry for entry in documentation(TrainSettings) for name in (entry.name, *entry.aliases)}
    space: dict[str, Range] = {}
    names: dict[str, str] = {}
    for given, held in content.items():
        entry = entries.get(given.replace("-", "_")) if isinstance(given, str) else None
        if entry is None:
            raise ConfigError(f"{source}: {shortened(given)} is not a setting of train{_nearest_setting(str(given))}")
        if entry.name in space:
            raise ConfigError(f"{source}: {names[entry.name]} and {given} are the same setting: give one of them")
        names[entry.name] = given
        space[entry.name] = _range(held, entry, f"{source}: {given}")
    return space


def check(space: Space, base: TrainSettings, source: str = "search space") -> None:
    """Check that every trial of a space is one that train accepts, before any starts.

    A range has to have two ends: what stays the same is no part of the search. One single category is fine, since that
    is how platforms are told that a setting is fixed.

    Args:
        base: Settings that all trials share.
        source: What holds the space, for messages.

    Raises:
        ConfigError: One sentence that names the setting, what was found and what was expected.
    """
    if not space:
        raise ConfigError(f"{source} is empty, expected a range for each setting, such as {EXAMPLE}")
    entries = {entry.name: entry for entry in documentation(TrainSettings)}
    for name, tried in space.items():
        where = f"{source}: {setting_name(name)}"
        if name not in entries:
            raise ConfigError(f"{where} is not a setting of train{_nearest_setting(name)}")
        if not entries[name].is_hyperparameter:
            raise ConfigError(
                f"{where} is no hyperparameter: it does not change what is learnt; give all trials the same "
                f"{flag_of(name)}"
            )
        if isinstance(tried, Categorical):
            _check_values(tried.values, entries[name], where)
        else:
            _check_bounds(tried, entries[name], where)
        _check_accepted(name, tried, base, source)
    _check_head(space, base, source)


def describe(space: Space) -> str:
    """A line for each setting, for the log."""
    return "\n".join(f"{setting_name(name)}: {_describe(tried)}" for name, tried in space.items())


def size(space: Space) -> int | None:
    """How many different trials there are; None if there is no end of them."""
    counts = [
        len(tried.values) if isinstance(tried, Categorical) else tried.max - tried.min + 1
        for tried in space.values()
        if not isinstance(tried, Continuous)
    ]
    return math.prod(counts) if len(counts) == len(space) else None


def setting_name(name: str) -> str:
    """A setting as files and platforms have it, which is its flag's name: `batch_size` -> `batch-size`."""
    return flag_of(name).removeprefix("--")


def as_text(value: Value) -> str:
    """A value as train reads it from flags and platforms hold it; a number comes back the same to the last bit."""
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value) if isinstance(value, float) else str(value)


def shortened(found: Any) -> str:
    """What was found, for a message; never long, however much it is."""
    if isinstance(found, bool) or found is None:
        return json.dumps(found)
    return reprlib.repr(dict(found) if isinstance(found, Mapping) else found)


class _Loader(yaml.SafeLoader):
    """Safe, and without what loses or multiplies ranges: a key twice, and merges."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: list[Any] = []
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    problem=f"{key.value} is there twice", problem_mark=key.start_mark
                )
            seen.append(key.value)
        return yaml.constructor.BaseConstructor.construct_mapping(self, node, deep=True)


def _load_json(text: str, source: str) -> Any:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [key for key, _ in pairs]
        for key in keys:
            if keys.count(key) > 1:
                raise ConfigError(f"{source}: {key} is there twice")
        return dict(pairs)

    return json.loads(text, object_pairs_hook=unique)


def _range(held: Any, entry: SettingDoc, where: str) -> Range:
    if not isinstance(held, Mapping):
        raise ConfigError(f"{where} holds {shortened(held)}, expected a range, such as {EXAMPLE}")
    kind = str(held.get("type"))
    if kind not in KEYS:
        found = f"has the type {shortened(held['type'])}" if "type" in held else "has no type"
        raise ConfigError(f"{where} {found}, expected one of {', '.join(KEYS)}{nearest(kind, list(KEYS))}")
    keys = KEYS[kind]
    for key in held:
        if key not in keys:
            raise ConfigError(
                f"{where} has {shortened(key)}, expected of a range of type {kind} are {', '.join(keys)}"
                f"{nearest(str(key), keys)}"
            )
    for key in keys:
        if key not in held and key != "scale":
            raise ConfigError(f"{where} has no {key}, expected of a range of type {kind} are {', '.join(keys)}")
    if kind == "categorical":
        return Categorical(_values(held["values"], entry, where))
    scale = _scale(held.get("scale", "linear"), where)
    if kind == "integer":
        return Integer(_whole(held["min"], f"{where} has the min"), _whole(held["max"], f"{where} has the max"), scale)
    return Continuous(_number(held["min"], f"{where} has the min"), _number(held["max"], f"{where} has the max"), scale)


def _scale(held: Any, where: str) -> Scale:
    for scale in SCALES:
        if held == scale:
            return scale
    close = nearest(str(held), SCALES)
    raise ConfigError(f"{where} has the scale {shortened(held)}, expected one of {', '.join(SCALES)}{close}")


def _values(held: Any, entry: SettingDoc, where: str) -> tuple[Value, ...]:
    if not isinstance(held, Sequence) or isinstance(held, str | bytes):
        raise ConfigError(f"{where} has the values {shortened(held)}, expected a list such as [16, 32, 64]")
    return tuple(_value(value, entry, f"{where} has the value") for value in held)


def _value(held: Any, entry: SettingDoc, where: str) -> Value:
    kind = _type_of(entry.name)
    found = unquote(held) if isinstance(held, str) else held
    if found is None:
        raise ConfigError(f"{where} null, expected {entry.expected}; without a range it is as the other flags say")
    if kind is int:
        return _whole(found, where, entry.expected)
    if kind is float:
        return _number(found, where, entry.expected)
    if kind is bool and isinstance(found, bool | str) and found in {True, False, "true", "false"}:
        return found in {True, "true"}
    if kind is str and isinstance(found, str):
        return found
    hint = '; a text has quotes around it, such as "no"' if kind is str else ""
    raise ConfigError(f"{where} {shortened(held)}, expected {entry.expected}{hint}")


def _whole(held: Any, where: str, expected: str = "a whole number") -> int:
    number = _number(held, where, expected)
    if not number.is_integer() or abs(number) > LARGEST_EXACT:
        raise ConfigError(f"{where} {shortened(held)}, expected {expected}")
    return int(number)


def _number(held: Any, where: str, expected: str = "a number") -> float:
    found = unquote(held) if isinstance(held, str) else held
    if isinstance(found, int | float | str) and not isinstance(found, bool):
        with suppress(ValueError, OverflowError):
            return float(found)
    raise ConfigError(f"{where} {shortened(held)}, expected {expected}")


def _check_bounds(tried: Continuous | Integer, entry: SettingDoc, where: str) -> None:
    kind = _type_of(entry.name)
    word = "continuous" if isinstance(tried, Continuous) else "integer"
    low, high = as_text(tried.min), as_text(tried.max)
    if kind in {str, bool}:
        raise ConfigError(f"{where} has a range of type {word}, expected type categorical: it is {entry.expected}")
    if kind is int and isinstance(tried, Continuous):
        raise ConfigError(f"{where} has a range of type continuous, expected type integer: it is {entry.expected}")
    if not (math.isfinite(tried.min) and math.isfinite(tried.max)):
        raise ConfigError(f"{where} has the range {low} to {high}, expected {entry.expected}")
    if tried.min > tried.max:
        raise ConfigError(f"{where} has min {low} and max {high}, expected a min below the max")
    if tried.min == tried.max:
        raise ConfigError(
            f"{where} has min and max {low}, which leaves nothing to search: leave it out and give all trials "
            f"{entry.flag} {low}"
        )
    if tried.scale == "log" and tried.min <= 0:
        raise ConfigError(f"{where} has a log scale and min {low}, expected a min above 0, or scale: linear")


def _check_values(values: tuple[Value, ...], entry: SettingDoc, where: str) -> None:
    kind = _type_of(entry.name)
    if not 1 <= len(values) <= MAX_VALUES:
        raise ConfigError(f"{where} has {len(values)} values, expected 1 to {MAX_VALUES}")
    for value in values:
        if type(value) is not kind and not (kind is float and type(value) is int):
            raise ConfigError(f"{where} has the value {shortened(value)}, expected {entry.expected}")
        if values.count(value) > 1:
            raise ConfigError(f"{where} has the value {shortened(value)} twice")


def _check_accepted(name: str, tried: Range, base: TrainSettings, source: str) -> None:
    """As train would: bounds of a setting are its own, so that all between two that it accepts is accepted, too."""
    if isinstance(tried, Categorical):
        found: list[tuple[str, Value]] = [("a value", value) for value in tried.values]
    else:
        found = [("min", tried.min), ("max", tried.max)]
    shared = base.model_dump(mode="json", exclude_none=True)
    for what, value in found:
        own = Layer(f"{source}: {what} of", {setting_name(name): as_text(value)})
        resolve(TrainSettings, [Layer("setting", {key: as_text(held) for key, held in shared.items()}), own])


def _check_head(space: Space, base: TrainSettings, source: str) -> None:
    """Train refuses a linear head with settings of the other one."""
    of_the_mlp = [name for name in ("hidden", "dropout") if any(_possible(name, space, base))]
    if of_the_mlp and "linear" in _possible("head", space, base):
        raise ConfigError(
            f"{source}: {' and '.join(of_the_mlp)} would be tried with a linear head, expected the mlp: give all "
            "trials --head mlp"
        )


def _possible(name: str, space: Space, base: TrainSettings) -> Iterable[Any]:
    """Values of a setting over all trials; of a range its ends."""
    tried = space.get(name)
    if tried is None:
        return (getattr(base, name),)
    return tried.values if isinstance(tried, Categorical) else (tried.min, tried.max)


def _type_of(name: str) -> type[Value]:
    """The type of a setting's values; a choice and a path are texts."""
    annotation: Any = TrainSettings.model_fields[name].annotation
    if isinstance(annotation, types.UnionType):
        annotation = next(part for part in typing.get_args(annotation) if part is not types.NoneType)
    kinds: dict[Any, type[Value]] = {bool: bool, int: int, float: float}
    return kinds.get(annotation, str)


def _describe(tried: Range) -> str:
    if isinstance(tried, Categorical):
        return f"one of {', '.join(map(as_text, tried.values))}"
    whole = ", whole numbers" if isinstance(tried, Integer) else ""
    log = ", log scale" if tried.scale == "log" else ""
    return f"{as_text(tried.min)} to {as_text(tried.max)}{whole}{log}"


def _nearest_setting(given: str) -> str:
    names = [entry.name for entry in documentation(TrainSettings) if entry.is_hyperparameter]
    aliases = [alias for entry in documentation(TrainSettings) if entry.is_hyperparameter for alias in entry.aliases]
    return nearest(given.replace("_", "-"), [setting_name(name) for name in (*names, *aliases)])
