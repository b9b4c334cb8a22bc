"""What a training is done with, wherever it is done."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from components.cache import Cache
from components.progress import Progress
from components.train.world import World


class Phases:
    """A stopwatch for the parts of a run."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def measured(self, name: str) -> Iterator[None]:
        """Count the time that the block takes as `name`."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started


@dataclass(frozen=True)
class Workplace:
    """Handed from part to part of a run."""

    world: World
    """Who shares the work."""
    cache: Cache
    """Where decoded images, features and graphs are kept."""
    progress: Progress
    """Told how far it is."""
    phases: Phases = field(default_factory=Phases)
    """Told how long it took."""
