"""One pydantic model, several sources of its values: flags, files, environment. Nothing here knows what is configured.

A stage's settings are the fields of a model made with `setting(...)`. The same fields become command-line flags,
SageMaker hyperparameters, Kubeflow inputs and the tables of the README. Values travel as strings and are checked
once, in `resolve`, so a wrong one is reported the same way wherever it came from.
"""

import argparse
import difflib
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import annotated_types
from pydantic import BaseModel, Field, ValidationError
from pydantic.config import JsonDict
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from serving.errors import ConfigError

Settings = TypeVar("Settings", bound=BaseModel)


def setting(
    default: Any = ...,
    *,
    help: str,  # noqa: A002  # the word argparse and its readers use
    unit: str = "",
    aliases: Sequence[str] = (),
    is_hyperparameter: bool = False,
    **constraints: Any,
) -> Any:
    """Declare a field of a settings model.

    Args:
        default: Left out: the value must be given.
        help: One line for `--help`, README and component files; no full stop.
        unit: `s`, `px`, `images`; empty for a pure number or a name.
        aliases: Other names under which people give it, in snake case.
        is_hyperparameter: Whether it changes what is learnt, not only how the stage runs.
        constraints: pydantic's `gt`, `ge`, `lt`, `le`, `default_factory`.
    """
    if "default_factory" not in constraints:
        constraints["default"] = default
    extra: JsonDict = {"unit": unit, "aliases": list(aliases), "is_hyperparameter": is_hyperparameter}
    return Field(description=help, json_schema_extra=extra, **constraints)


@dataclass(frozen=True)
class SettingDoc:
    """What there is to say about one setting, for help texts, tables and component files."""

    name: str
    help: str
    unit: str
    aliases: tuple[str, ...]
    expected: str
    default: Any
    is_required: bool
    is_hyperparameter: bool

    @property
    def flag(self) -> str:
        """Its command-line flag."""
        return flag_of(self.name)


@dataclass(frozen=True)
class Layer:
    """One source of values: how to call it in a message, and the values by name (kebab or snake case) or alias."""

    source: str
    values: Mapping[str, str]


def flag_of(name: str) -> str:
    """`batch_size` -> `--batch-size`."""
    return "--" + name.replace("_", "-")


def documentation(model: type[BaseModel]) -> list[SettingDoc]:
    """Describe every setting of a model, in its order."""
    return [_document(name, field) for name, field in model.model_fields.items()]


def parse_arguments(model: type[BaseModel], arguments: Sequence[str], *, prog: str, description: str) -> Layer:
    """Read flags; prints help and exits on `--help`.

    Raises:
        ConfigError: An unknown flag (with the nearest known one) or a missing value.
    """
    parser = _Parser(prog=prog, description=description, allow_abbrev=False, formatter_class=_HelpFormatter)
    for entry in documentation(model):
        names = [flag_of(name) for name in (entry.name, *entry.aliases)]
        # a bare `--flag` switches a yes-or-no setting on; `--flag true` is how platforms write it
        switch: dict[str, Any] = {"nargs": "?", "const": "true"} if entry.expected == "true or false" else {}
        parser.add_argument(
            *names, dest=entry.name, default=argparse.SUPPRESS, metavar=_metavar(entry), help=_help(entry), **switch
        )
    known, unknown = parser.parse_known_args(list(arguments))
    if unknown:
        flags = [flag_of(name) for entry in documentation(model) for name in (entry.name, *entry.aliases)]
        raise ConfigError(f"{unknown[0]} is not a flag of {prog}{nearest(unknown[0], flags)}; --help lists them")
    return Layer("flag", vars(known))


def resolve(model: type[Settings], layers: Sequence[Layer]) -> Settings:
    """Merge layers, later ones winning, and check the result.

    Raises:
        ConfigError: An unknown name, one setting under two names in one layer, or a value that is not as expected; says
            where it came from, what was found and what was expected.
    """
    merged: dict[str, str] = {}
    origin: dict[str, str] = {}
    for layer in layers:
        for name, (given, value) in _by_field(model, layer).items():
            merged[name] = value
            origin[name] = flag_of(name) if layer.source == "flag" else f"{layer.source} {given!r}"
    try:
        return model.model_validate(merged)
    except ValidationError as error:
        raise ConfigError(_explain(model, error, merged, origin)) from error


def nearest(word: str, words: Sequence[str]) -> str:
    """`, did you mean …?` when something is close, else nothing."""
    close = difflib.get_close_matches(word, words, n=1)
    return f", did you mean {close[0]}?" if close else ""


def _by_field(model: type[BaseModel], layer: Layer) -> dict[str, tuple[str, str]]:
    names = {alias: entry.name for entry in documentation(model) for alias in (entry.name, *entry.aliases)}
    found: dict[str, tuple[str, str]] = {}
    for given, value in layer.values.items():
        name = names.get(given.replace("-", "_"))
        if name is None:
            raise ConfigError(f"{layer.source} {given!r} is unknown{nearest(given.replace('-', '_'), list(names))}")
        if name in found:
            raise ConfigError(
                f"{layer.source}s {found[name][0]!r} and {given!r} are the same setting: give one of them"
            )
        found[name] = (given, value)
    return found


def _explain(
    model: type[BaseModel], error: ValidationError, values: Mapping[str, str], origin: Mapping[str, str]
) -> str:
    first = error.errors()[0]
    if not first["loc"]:
        return str(first["msg"]).removeprefix("Value error, ")
    name = str(first["loc"][0])
    entry = _document(name, model.model_fields[name])
    if first["type"] == "missing":
        return f"{entry.flag} is missing, expected {entry.expected}: {entry.help}"
    reason = f" ({first['msg'].removeprefix('Value error, ')})" if first["type"] == "value_error" else ""
    return f'{origin.get(name, entry.flag)} got "{values.get(name)}", expected {entry.expected}{reason}'


def _document(name: str, field: FieldInfo) -> SettingDoc:
    extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
    is_required = field.is_required()
    default = None if is_required else field.get_default(call_default_factory=True, validated_data={})
    aliases = extra.get("aliases", [])
    return SettingDoc(
        name=name,
        help=field.description or "",
        unit=str(extra.get("unit", "")),
        aliases=tuple(str(alias) for alias in aliases) if isinstance(aliases, list) else (),
        expected=_expected(field),
        default=None if default is PydanticUndefined else default,
        is_required=is_required,
        is_hyperparameter=bool(extra.get("is_hyperparameter", False)),
    )


def _expected(field: FieldInfo) -> str:
    choices, kind = _kind(field.annotation)
    if choices:
        return "one of " + ", ".join(choices)
    bounds = []
    for rule in field.metadata:
        if isinstance(rule, annotated_types.Gt):
            bounds.append(f"above {rule.gt}")
        elif isinstance(rule, annotated_types.Ge):
            bounds.append(f"at least {rule.ge}")
        elif isinstance(rule, annotated_types.Lt):
            bounds.append(f"below {rule.lt}")
        elif isinstance(rule, annotated_types.Le):
            bounds.append(f"at most {rule.le}")
    return " ".join([kind, " and ".join(bounds)]).strip()


def _kind(annotation: Any) -> tuple[list[str], str]:
    """Choices, if the type is a choice; else what to call the type."""
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union:
        inner = [part for part in typing.get_args(annotation) if part is not type(None)]
        return _kind(inner[0])
    if typing.get_origin(annotation) is typing.Annotated:
        return _kind(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) is typing.Literal:
        return [str(choice) for choice in typing.get_args(annotation)], ""
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return [str(choice.value) for choice in annotation], ""
    return [], {bool: "true or false", int: "a whole number", float: "a number", Path: "a path"}.get(
        annotation, "a text"
    )


def _metavar(entry: SettingDoc) -> str:
    if entry.expected.startswith("one of "):
        return "|".join(entry.expected.removeprefix("one of ").split(", "))
    words = {"true or": "BOOL", "a whole": "N", "a number": "X", "a path": "PATH"}
    return next((word for start, word in words.items() if entry.expected.startswith(start)), "TEXT")


def _help(entry: SettingDoc) -> str:
    facts = [] if entry.expected.startswith(("one of", "a path", "a text", "true")) else [entry.expected]
    if entry.unit:
        facts.append(f"in {entry.unit}")
    if entry.is_required:
        facts.append("required")
    elif entry.default is not None:
        facts.append(f"default {str(entry.default).lower() if isinstance(entry.default, bool) else entry.default}")
    text = f"{entry.help} ({'; '.join(facts)})" if facts else entry.help
    return text.replace("%", "%%")


class _HelpFormatter(argparse.HelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=34, width=120)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; --help lists the flags")
