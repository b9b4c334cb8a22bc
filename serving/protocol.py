"""HTTP on one connection, with bounds on what a caller may make us keep and for how long.

uvicorn's parser waits for ever for the rest of a head, for a body that nobody reads any more and for a caller that does
not read its answer, and keeps a head of any length. A body under way has the time limit of `serving.bodies`.
"""

import asyncio
import json
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD_BYTES: Final = 64 * 1024
CHUNK_OVERHEAD: Final = 16
"""Bytes of chunked coding for each byte of a body: a chunk of one byte has five and may have extensions."""
STALLED_S: Final = 30.0
SILENT_S: Final = 75.0
"""A connection opened in advance, as load balancers do, may wait longer than their 60 s for its first request."""


class Protocol(HttpToolsProtocol):
    """One connection."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._is_in_head = True
        self._is_in_message = False
        self._num_messages = 0
        self._num_body_bytes = 0
        self._num_other_bytes = 0
        self._reading: asyncio.TimerHandle | None = None
        self._writing: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        self._reading = self.loop.call_later(SILENT_S, transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._reading = _stopped(self._reading)
        self._writing = _stopped(self._writing)

    def data_received(self, data: bytes) -> None:
        if not self._is_in_message:
            self._reading = _stopped(self._reading)
        self._feed(data)
        if self.transport.is_closing():
            return
        if self._is_in_message and self._num_other_bytes > MAX_HEAD_BYTES + CHUNK_OVERHEAD * self._num_body_bytes:
            self._refuse("431 Request Header Fields Too Large", f"the head has more than {MAX_HEAD_BYTES} bytes")
        else:
            self._watch()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._is_in_message = self._is_in_head = True
        self._num_messages += 1
        self._num_body_bytes = self._num_other_bytes = 0

    def on_headers_complete(self) -> None:
        self._is_in_head = False
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._num_body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._is_in_message = False
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._writing = self._writing or self.loop.call_later(STALLED_S, self.transport.abort)

    def resume_writing(self) -> None:
        self._writing = _stopped(self._writing)
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        self._refuse("400 Bad Request", "the request is not HTTP/1.1, or its head is damaged")

    def _feed(self, data: bytes) -> None:
        """Parse what was read, and count what of it is of this message but not of its body.

        A read that ends one message and begins the next counts for neither: it is no longer than a head may be, nearly.
        """
        was_between, num_messages, num_body_bytes = not self._is_in_message, self._num_messages, self._num_body_bytes
        super().data_received(data)
        if self._num_messages == num_messages:
            self._num_other_bytes += len(data) - (self._num_body_bytes - num_body_bytes)
        elif was_between and self._num_messages == num_messages + 1:
            self._num_other_bytes = len(data) - self._num_body_bytes

    def _watch(self) -> None:
        """Allow `STALLED_S` for the rest of a head, and for a body that has its answer already."""
        is_body_unread = self.cycle is not None and self.cycle.response_complete
        if self._is_in_message and (self._is_in_head or is_body_unread):
            self._reading = self._reading or self.loop.call_later(STALLED_S, self.transport.abort)
        else:
            self._reading = _stopped(self._reading)

    def _refuse(self, status: str, message: str) -> None:
        word = "_".join(status.lower().split()[1:])
        content = json.dumps({"error": word, "message": message}).encode()
        head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n"
        self.transport.write(f"{head}Connection: close\r\n\r\n".encode() + content)
        self.transport.close()


def _stopped(timer: asyncio.TimerHandle | None) -> asyncio.TimerHandle | None:
    if timer:
        timer.cancel()
    return None
