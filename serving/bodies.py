"""A request's body, from the socket to bytes: bounded in size and time, and dropped when its caller is gone."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from fastapi import Request

from serving.errors import InvalidInput, PayloadTooLarge


def declared_bytes(request: Request, max_bytes: int) -> int:
    """Length of the body; where none is declared, the most that is accepted.

    Raises:
        PayloadTooLarge: Over `max_bytes`.
    """
    declared = int(request.headers.get("content-length", max_bytes))
    if declared > max_bytes:
        raise _too_large(max_bytes)
    return declared


def _too_large(max_bytes: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"the request body has more than the {max_bytes} bytes that are accepted")


async def read_body(
    request: Request, max_bytes: int, timeout_s: float, on_bytes: Callable[[int], None] = lambda _: None
) -> bytes:
    """The body, refused as soon as too much of it arrived.

    `on_bytes` is told how many came each time, and may refuse them.

    Raises:
        PayloadTooLarge: Over `max_bytes`.
        InvalidInput: It did not arrive in `timeout_s`; a slot may not be held by trickling.
        ClientDisconnect: The caller hung up.
    """
    chunks: list[bytes] = []
    size_bytes = 0
    try:
        async with asyncio.timeout(timeout_s):
            async for chunk in request.stream():
                size_bytes += len(chunk)
                if size_bytes > max_bytes:
                    raise _too_large(max_bytes)
                on_bytes(len(chunk))
                chunks.append(chunk)
    except TimeoutError as error:
        raise InvalidInput(f"only {size_bytes} bytes of the request body arrived in {timeout_s:g} s") from error
    return b"".join(chunks)


class CallerGoneError(Exception):
    """The connection closed before there was an answer."""


@asynccontextmanager
async def while_caller_waits(request: Request) -> AsyncIterator[None]:
    """Cancel the block when the caller hangs up, so that its picture costs nobody else time.

    Raises:
        CallerGoneError: It did.
    """
    task = asyncio.current_task()
    gone = asyncio.ensure_future(request.receive())  # after the body, the only message left is the disconnect
    if task is not None:
        gone.add_done_callback(lambda watcher: None if watcher.cancelled() else task.cancel())
    try:
        yield
    except asyncio.CancelledError as error:
        if not gone.done() or task is None or task.uncancel() > 0:
            raise
        raise CallerGoneError from error
    finally:
        gone.cancel()
