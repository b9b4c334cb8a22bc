"""What the search and its workers say to each other."""

from dataclasses import dataclass
from pathlib import Path

from components.train.metrics import EpochResult
from components.train.settings import TrainSettings


@dataclass(frozen=True)
class Task:
    """A trial, as a worker is told of it."""

    number: int
    settings: TrainSettings
    folder: Path
    """For its checkpoints, and for what it learnt."""


@dataclass(frozen=True)
class Epoch:
    """An epoch is done; the worker waits to be told whether to go on."""

    number: int
    result: EpochResult


@dataclass(frozen=True)
class Done:
    """A trial came to its end, or to the one that it was told."""

    number: int
    metrics: dict[str, float]
    """By name, of the weights that are kept."""
    history: tuple[EpochResult, ...]
    seconds: float
    """From being told of it, without preparing what others share."""


@dataclass(frozen=True)
class Failed:
    """A trial could not be trained."""

    number: int
    reason: str
    seconds: float = 0.0


Message = Epoch | Done | Failed
