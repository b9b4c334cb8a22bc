"""Known systems by name: settings, search space and rules, a small file each."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from serving.errors import ConfigError

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Preset:
    """The content of one file."""

    name: str
    about: str
    settings: dict[str, str]
    """Of train, as texts, by name; any flag overrides them."""
    space: dict[str, dict[str, Any]]
    """Ranges that the system tuned, by setting."""
    trials: int | None
    """Trials that it ran, where that is known."""
    rules: tuple[str, ...]
    """Debugger and profiler rules that it ran."""


def names() -> list[str]:
    """Names of all presets, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def read(name: str) -> Preset:
    """Read a preset.

    Raises:
        ConfigError: There is none of that name.
    """
    if name not in names():
        raise ConfigError(f'preset "{name}" does not exist, expected one of {", ".join(names())}')
    content = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())
    return Preset(
        name=name,
        about=content["about"],
        settings={key: str(value) for key, value in content["settings"].items()},
        space=content["space"],
        trials=content.get("trials"),
        rules=tuple(content["rules"]),
    )
