"""Searches that tests run, in this process, and what came of them."""

import csv
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from components.config import read_settings
from components.environment import Environment
from components.tune.results import BEST, TABLE
from components.tune.run import tune
from components.tune.settings import TuneSettings

SMALL: Final = ("--arch", "resnet18", "--weights", "none", "--image-size", "32", "--epochs", "2", "--batch-size", "8")
"""For the tinted pictures of `tests.support.folders`: a newborn backbone, frozen, tells colors apart."""
LR: Final = '{"lr": {"type": "continuous", "min": 0.001, "max": 0.1, "scale": "log"}}'


@dataclass(frozen=True)
class Searched:
    """A search that is over."""

    settings: TuneSettings
    folder: Path
    """Of results."""
    log: list[str]
    trials: list[dict[str, str]]
    """Rows of trials.csv."""

    @property
    def best(self) -> dict[str, str]:
        """best_hyperparameters.json."""
        content: dict[str, str] = json.loads((self.folder / BEST).read_text())
        return content

    @property
    def values(self) -> list[float]:
        """Of the first objective, of complete trials."""
        return [float(trial["FinalObjectiveValue"]) for trial in self.trials if trial["FinalObjectiveValue"]]

    def lines(self, beginning: str) -> list[str]:
        """Of the log, those that begin so."""
        return [line for line in self.log if line.startswith(beginning)]


class Lines(logging.Handler):
    """Keeps what is logged, each message a line."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.kept: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.kept.extend(record.getMessage().splitlines())


def search(folder: Path, cache: Path, *flags: str) -> Searched:
    """Run `tune FLAGS`, two trials at once, with its results in FOLDER/out; errors are the caller's.

    The log is there also after an error: in FOLDER/log.txt.
    """
    places = ("--output-dir", str(folder / "out"), "--model-dir", str(folder / "model"), "--cache-dir", str(cache))
    settings = read(*places, *flags)
    handler, logger = Lines(), logging.getLogger("components")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        tune(settings, Environment())
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        (folder / "log.txt").write_text("\n".join(handler.kept))
    return Searched(settings, folder / "out", handler.kept, rows(folder / "out"))


def read(*flags: str) -> TuneSettings:
    """Settings as flags give them, two trials at once unless they say otherwise."""
    common: Sequence[str] = ("--parallel-trials", "2") if "--parallel-trials" not in flags else ()
    return read_settings(TuneSettings, [*common, *flags], Environment(), prog="tune", description="", environ={})


def rows(folder: Path) -> list[dict[str, str]]:
    """Of trials.csv, as texts."""
    with (folder / TABLE).open(newline="") as file:
        return list(csv.DictReader(file))


def entries(cache: Path, kind: str) -> dict[str, int]:
    """Of a cache, by name, each with the time at which its content was written."""
    return {
        folder.name: max(path.stat().st_mtime_ns for path in folder.iterdir()) for folder in cache.glob(f"{kind}-*")
    }
