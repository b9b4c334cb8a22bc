"""Who may come in: requests bounded by number and by bytes, before anything of them is read or decoded."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from serving.errors import NotReady, QueueFull


class Admission:
    """Slots for requests between admission and answer; lives in one event loop.

    Args:
        max_requests: Slots.
        max_bytes: Of the bodies of all admitted requests together.
        on_idle: Called when the last request under way is answered.
    """

    def __init__(self, max_requests: int, max_bytes: int, on_idle: Callable[[], None] = lambda: None) -> None:
        self._max_requests = max_requests
        self._max_bytes = max_bytes
        self._on_idle = on_idle
        self._is_closing = False
        self._drained = asyncio.Event()
        self.num_requests = 0
        """Under way."""
        self.num_bytes = 0
        """Of their bodies."""

    @contextmanager
    def slot(self, num_bytes: int) -> Iterator[None]:
        """Admit a request for as long as the block runs: before its body, of at most `num_bytes`, is read or decoded.

        A body larger than all that may be under way is admitted when nothing else is: it is within the limit of one.

        Raises:
            QueueFull: All slots are taken, or the bodies under way are too large for another.
            NotReady: The server is stopping.
        """
        if self._is_closing:
            raise NotReady("the server is stopping")
        if self.num_requests >= self._max_requests:
            raise QueueFull(f"{self.num_requests} requests are under way, as many as may be: try again in a moment")
        if self.num_requests and self.num_bytes + num_bytes > self._max_bytes:
            raise QueueFull(
                f"{self.num_bytes} bytes of requests are under way, and {num_bytes} more would be over the "
                f"{self._max_bytes} that may be: try again in a moment"
            )
        self.num_requests += 1
        self.num_bytes += num_bytes
        try:
            yield
        finally:
            self._release(num_bytes)

    async def close(self) -> None:
        """Admit nobody any more, and return when everybody admitted was answered."""
        self._is_closing = True
        if self.num_requests:
            await self._drained.wait()

    def _release(self, num_bytes: int) -> None:
        self.num_requests -= 1
        self.num_bytes -= num_bytes
        if self.num_requests:
            return
        if self._is_closing:
            self._drained.set()
        else:
            self._on_idle()
