"""Who may come in: requests bounded by number and by bytes, before anything of them is decoded.

While a body comes in, it counts with the bytes that came and takes no slot: a caller who sends a byte a second takes
nothing from anybody.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from serving.errors import NotReady, QueueFull


class Incoming:
    """A body on its way in, as far as its bytes count."""

    def __init__(self, admission: "Admission") -> None:
        self._admission = admission
        self.num_bytes = 0
        """That came so far."""

    def add(self, num_bytes: int) -> None:
        """Some came.

        Raises:
            QueueFull: They are too many beside those of others.
        """
        self._admission.check_bytes(num_bytes, besides=self.num_bytes)
        self.num_bytes += num_bytes
        self._admission.num_bytes += num_bytes


class Admission:
    """Slots for requests between admission and answer; lives in one event loop.

    Args:
        max_requests: Slots.
        max_bytes: Of the bodies of all requests together.
        on_idle: Called when the last request is answered.
    """

    def __init__(self, max_requests: int, max_bytes: int, on_idle: Callable[[], None] = lambda: None) -> None:
        self._max_requests = max_requests
        self._max_bytes = max_bytes
        self._on_idle = on_idle
        self._is_closing = False
        self._drained = asyncio.Event()
        self.num_open = 0
        """Requests that come in or are under way."""
        self.num_requests = 0
        """Under way."""
        self.num_bytes = 0
        """Of the bodies of all of them, as far as they came."""

    @contextmanager
    def incoming(self, declared_bytes: int) -> Iterator[Incoming]:
        """Let a request come in, and count its body for as long as the block runs.

        It is refused before its body is read when there is no place for it now. A body larger than all that there may
        be is let in when there is no other: it is within the limit of one.

        Raises:
            QueueFull: All slots are taken, or the bodies that came are too large for another.
            NotReady: The server is stopping.
        """
        if self._is_closing:
            raise NotReady("the server is stopping")
        self._check_slots()
        self.check_bytes(declared_bytes)
        body = Incoming(self)
        self.num_open += 1
        try:
            yield body
        finally:
            self.num_open -= 1
            self.num_bytes -= body.num_bytes
            self._note_empty()

    @contextmanager
    def slot(self) -> Iterator[None]:
        """Admit a request whose body has come in, for as long as the block runs.

        Raises:
            QueueFull: All slots are taken.
        """
        self._check_slots()
        self.num_requests += 1
        try:
            yield
        finally:
            self.num_requests -= 1

    def check_bytes(self, num_bytes: int, besides: int = 0) -> None:
        """Whether there is room for so many more, of a body of which `besides` have come.

        Raises:
            QueueFull: There is none.
        """
        if self.num_bytes > besides and self.num_bytes + num_bytes > self._max_bytes:
            raise QueueFull(
                f"{self.num_bytes} bytes of requests are under way, and {num_bytes} more would be over the "
                f"{self._max_bytes} that may be: try again in a moment"
            )

    async def close(self) -> None:
        """Let nobody in any more, and return when everybody inside was answered."""
        self._is_closing = True
        if self.num_open:
            await self._drained.wait()

    def _check_slots(self) -> None:
        if self.num_requests >= self._max_requests:
            raise QueueFull(f"{self.num_requests} requests are under way, as many as may be: try again in a moment")

    def _note_empty(self) -> None:
        if self.num_open:
            return
        if self._is_closing:
            self._drained.set()
        else:
            self._on_idle()
