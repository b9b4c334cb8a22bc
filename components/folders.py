"""Folders that a stage writes to."""

from pathlib import Path

from serving import files
from serving.errors import ConfigError


def beside(folder: Path, what: str) -> Path:
    """`out/model` -> `out/model.output`."""
    folder = folder.absolute()  # of "." there is no name
    return folder.with_name(f"{folder.name}.{what}")


def make(*folders: Path) -> None:
    """Make folders.

    Raises:
        ConfigError: One cannot be made.
    """
    for folder in folders:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"cannot write to {str(folder)!r}: {error.strerror}") from error


def sweep(*folders: Path) -> None:
    """Delete what killed processes left half-written."""
    for folder in folders:
        files.sweep(folder)
