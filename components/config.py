"""Settings of a stage: flag > SageMaker hyperparameter > environment variable > preset > default."""

import ast
import json
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ConfigDict

from components import presets
from components.environment import Environment
from serving.errors import ConfigError
from serving.flags import Layer, documentation, parse_arguments, resolve, setting

ENVIRONMENT_PREFIX: Final = "KENNEL_"

# What platforms add to a job's hyperparameters for themselves (sagemaker-training-toolkit, params.py).
PLATFORM_KEYS: Final = ("_tuning_objective_metric", "default_user_module_name")
PLATFORM_PREFIX: Final = "sagemaker_"

MAX_HYPERPARAMETERS_BYTES: Final = 2**19
"""A job of SageMaker has at most a hundred, of 256 + 2500 characters each."""
_TEXT: Final = r"""(?:'(?:[^'\\\n]|\\.)*+'|"(?:[^"\\\n]|\\.)*+")"""
_NUMBER: Final = r"(?:[-+]?[0-9.][0-9.eE+-]*+)"
_PAIR: Final = rf"{_TEXT}\s*+:\s*+(?:{_TEXT}|{_NUMBER}|True|False|None)\s*+"
PRINTED: Final = re.compile(rf"\s*+\{{\s*+(?:{_PAIR}(?:,\s*+{_PAIR})*+(?:,\s*+)?)?\}}\s*+")
"""A flat dictionary of texts, numbers and yes or no, as Python prints it; found or not in one go, never trying back."""


class StageSettings(BaseModel):
    """What every stage can be told."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    preset: str | None = setting(
        None, help=f"known system to start from: {', '.join(presets.names())}; any other setting overrides it"
    )
    hyperparameters: Path | None = setting(
        None, help="JSON file of settings, such as tune's best_hyperparameters.json; flags override it"
    )

    def learnt_from(self) -> dict[str, str | int | float | bool | None]:
        """Values of the hyperparameters: the settings that change what is learnt."""
        names = {entry.name for entry in documentation(type(self)) if entry.is_hyperparameter}
        return self.model_dump(mode="json", include=names)


Stage = TypeVar("Stage", bound=StageSettings)


def read_settings(
    model: type[Stage],
    arguments: Sequence[str],
    environment: Environment,
    *,
    prog: str,
    description: str,
    environ: Mapping[str, str] = os.environ,
) -> Stage:
    """Read a stage's settings.

    Raises:
        ConfigError: A name is unknown or a value is not as expected; one sentence that says where it came from.
    """
    flags = parse_arguments(model, arguments, prog=prog, description=description)
    layers = _from_environment(model, environ)
    if environment.hyperparameters is not None:
        layers.append(read_hyperparameters(environment.hyperparameters))
    if "hyperparameters" in flags.values:
        layers.append(read_hyperparameters(Path(flags.values["hyperparameters"])))
    layers.append(flags)
    named = [layer.values["preset"] for layer in layers if "preset" in layer.values]
    return resolve(model, [*(_preset(name) for name in named[-1:]), *layers])


def read_hyperparameters(path: Path) -> Layer:
    """Read hyperparameters as SageMaker writes them: an object of strings, some of them JSON once or twice more.

    Values of other types (a file written by hand) are taken as they are; the platform's own keys are left out. What
    Python prints of the same dictionary, such as that of a tuning job's best training job, is fine as well.

    Raises:
        ConfigError: The file is missing, too large, or neither a JSON object nor a flat dictionary as Python prints it.
    """
    try:
        if path.stat().st_size > MAX_HYPERPARAMETERS_BYTES:
            raise ConfigError(f"hyperparameters file {str(path)!r} is larger than {MAX_HYPERPARAMETERS_BYTES} bytes")
        content = _load(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"hyperparameters file {str(path)!r} is not readable JSON: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"hyperparameters file {str(path)!r} holds a {type(content).__name__}, expected an object")
    own = {name: unquote(value) for name, value in content.items() if value is not None and not _is_platforms(name)}
    return Layer("hyperparameter", own)


def unquote(value: Any) -> str:
    """The text that a user meant: SageMaker's SDK turns a categorical 4 into `"4"` and into `"\\"4\\""`."""
    while isinstance(value, str) and value.startswith('"') and value.endswith('"') and len(value) > 1:
        try:
            value = json.loads(value)
        except ValueError:
            break
    return value if isinstance(value, str) else json.dumps(value)


def _load(text: str) -> Any:
    """JSON, else a dictionary as Python prints it, of literals alone and flat: nothing in it is carried out.

    Raises:
        ValueError: It is neither; says what is wrong with it as JSON.
    """
    try:
        return json.loads(text)
    except ValueError:
        # Before Python's own parser sees it, whose stack a hostile text could exhaust.
        if not PRINTED.fullmatch(text):
            raise
        with suppress(SyntaxError, ValueError):
            return ast.literal_eval(text.strip())
        raise


def _preset(name: str) -> Layer:
    return Layer("preset's", presets.read(name).settings)


def _from_environment(model: type[BaseModel], environ: Mapping[str, str]) -> list[Layer]:
    """One layer for each variable, so that a message names the variable; an empty one is as good as none."""
    variables = {ENVIRONMENT_PREFIX + entry.name.upper(): entry.name for entry in documentation(model)}
    return [
        Layer(f"environment variable {variable} for", {name: environ[variable]})
        for variable, name in variables.items()
        if environ.get(variable)
    ]


def _is_platforms(name: str) -> bool:
    return name in PLATFORM_KEYS or name.startswith(PLATFORM_PREFIX)
