"""What a training is done with, wherever it is done."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from components.cache import Cache
from components.progress import Progress
from components.train.world import World


class Phases:
    """A stopwatch for the parts of a run."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self.seconds: dict[str, float] = {}
        self._others_s = 0.0
        """Time of the parts that ended inside the one that is under way."""

    @contextmanager
    def measured(self, name: str) -> Iterator[None]:
        """Count the time that the block takes as `name`, but for what is counted as another part inside it."""
        started, before, self._others_s = self._clock(), self._others_s, 0.0
        try:
            yield
        finally:
            spent = self._clock() - started
            self.seconds[name] = self.seconds.get(name, 0.0) + spent - self._others_s
            self._others_s = before + spent


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
