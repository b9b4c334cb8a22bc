"""What there is time for when nobody asks: memory that large pictures took goes back to the system.

malloc keeps what was freed. To give it back at once would cost every camera-sized picture half its time again, in page
faults; to keep it would leave a server at the size of its worst minute.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from serving.machine import release_memory, resident_bytes

IDLE_S: Final = 1.0
WORTHWHILE_BYTES: Final = 32 * 2**20
"""Grown by less, memory is kept: it will be wanted again."""


class Idleness:
    """Waits for a quiet second; lives in one event loop.

    Args:
        is_idle: Whether it is quiet now.
        run_aside: Runs what takes milliseconds in another thread.
    """

    def __init__(self, is_idle: Callable[[], bool], run_aside: Callable[[Callable[[], None]], None]) -> None:
        self._is_idle = is_idle
        self._run_aside = run_aside
        self._timer: asyncio.TimerHandle | None = None
        self._kept_bytes = 0

    def begin(self) -> None:
        """The last request under way was answered."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(IDLE_S, self._end)

    def close(self) -> None:
        """Nothing is done any more."""
        if self._timer:
            self._timer.cancel()

    def _end(self) -> None:
        self._timer = None
        if self._is_idle() and resident_bytes() > self._kept_bytes + WORTHWHILE_BYTES:
            self._run_aside(self._give_back)

    def _give_back(self) -> None:
        release_memory()
        self._kept_bytes = resident_bytes()
