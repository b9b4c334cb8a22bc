"""Requests to batches: bounded, and nobody waits for company.

A request takes a slot, is decoded in a pool of threads, and waits only while the engine is busy. What waited becomes
the next batch. Nothing here polls or sleeps: a batch starts when a picture meets an idle engine or a batch ends.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import ParamSpec, TypeVar

import numpy as np

from serving.engines import Logits
from serving.errors import EngineError, KennelError, NotReady, QueueFull
from serving.preprocess import Pixels

Arguments = ParamSpec("Arguments")
Decoded = TypeVar("Decoded")


@dataclass(frozen=True)
class Answered:
    """What the engine made of one picture."""

    logits: Logits
    """(K,)"""
    queue_s: float
    """Waiting for the engine."""
    model_s: float
    """In the engine, with the others of its batch."""


@dataclass(frozen=True)
class _Waiting:
    pixels: Pixels
    answer: asyncio.Future[Answered]
    since: float


class Batcher:
    """Puts pictures of many requests through one engine; lives in one event loop.

    Args:
        infer: Runs a batch, as `Engine.infer` does.
        thread: Where `infer` runs: a pool of one thread.
        num_decoders: Threads that decode.
        max_batch_size: Pictures in a batch.
        max_queue_size: Slots, that is requests between admission and answer.
        max_queue_bytes: Of the bodies of all of them together.
    """

    def __init__(
        self,
        infer: Callable[[Pixels], Logits],
        thread: ThreadPoolExecutor,
        *,
        num_decoders: int,
        max_batch_size: int,
        max_queue_size: int,
        max_queue_bytes: int,
    ) -> None:
        self._infer = infer
        self._thread = thread
        self._decoders = ThreadPoolExecutor(num_decoders, thread_name_prefix="decoder")
        self._max_batch_size = max_batch_size
        self._max_queue_size = max_queue_size
        self._max_queue_bytes = max_queue_bytes
        self._waiting: deque[_Waiting] = deque()
        self._is_busy = False
        self._num_slots_taken = 0
        self._num_bytes_taken = 0
        self._is_closing = False
        self._drained = asyncio.Event()

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
        if self._num_slots_taken >= self._max_queue_size:
            raise QueueFull(f"{self._num_slots_taken} requests are under way, as many as may be: try again in a moment")
        if self._num_slots_taken and self._num_bytes_taken + num_bytes > self._max_queue_bytes:
            raise QueueFull(
                f"{self._num_bytes_taken} bytes of requests are under way, and {num_bytes} more would be over the "
                f"{self._max_queue_bytes} that may be: try again in a moment"
            )
        self._num_slots_taken += 1
        self._num_bytes_taken += num_bytes
        try:
            yield
        finally:
            self._release(num_bytes)

    async def decode(
        self, read: Callable[Arguments, Decoded], *args: Arguments.args, **kwargs: Arguments.kwargs
    ) -> Decoded:
        """Call `read` in a decoder thread, so that a bad picture fails alone and before it meets others."""
        return await asyncio.get_running_loop().run_in_executor(self._decoders, partial(read, *args, **kwargs))

    async def infer(self, pixels: Pixels) -> Answered:
        """Logits of one picture (H, W, 3). When the caller is cancelled, the picture leaves the queue.

        Raises:
            EngineError: The engine failed on the batch that the picture was in.
            NotReady: The model went out of service while the picture waited.
        """
        waiting = _Waiting(pixels, asyncio.get_running_loop().create_future(), time.perf_counter())
        self._waiting.append(waiting)
        if not self._is_busy:
            self._start_batch()
        return await waiting.answer

    async def close(self) -> None:
        """Admit nobody any more, and return when everybody admitted was answered."""
        self._is_closing = True
        if self._num_slots_taken:
            await self._drained.wait()
        self._decoders.shutdown(wait=False)

    def _release(self, num_bytes: int) -> None:
        self._num_slots_taken -= 1
        self._num_bytes_taken -= num_bytes
        if self._is_closing and self._num_slots_taken == 0:
            self._drained.set()

    def _start_batch(self) -> None:
        batch: list[_Waiting] = []
        while self._waiting and len(batch) < self._max_batch_size:
            waiting = self._waiting.popleft()
            if not waiting.answer.done():  # else its caller went away
                batch.append(waiting)
        self._is_busy = bool(batch)
        if batch:
            pictures = [waiting.pixels for waiting in batch]
            running = asyncio.get_running_loop().run_in_executor(self._thread, self._run, pictures)
            running.add_done_callback(partial(self._finish_batch, batch, time.perf_counter()))

    def _run(self, pictures: list[Pixels]) -> Logits:
        logits = self._infer(np.stack(pictures))
        if len(logits) != len(pictures):
            raise EngineError(f"the engine answered {len(logits)} rows to a batch of {len(pictures)}")
        return logits

    def _finish_batch(self, batch: list[_Waiting], started: float, running: asyncio.Future[Logits]) -> None:
        self._start_batch()  # first of all, so that the engine does not idle while answers go out
        model_s = time.perf_counter() - started
        error = running.exception()
        for index, waiting in enumerate(batch):
            if waiting.answer.done():
                continue
            if error is None:
                waiting.answer.set_result(Answered(running.result()[index], started - waiting.since, model_s))
            else:
                waiting.answer.set_exception(_failure(error))


def _failure(error: BaseException) -> KennelError:
    """An error of its own for each request: one shared would gather the tracebacks of all of them."""
    failure = type(error)(str(error)) if isinstance(error, KennelError) else EngineError(f"{error!r}")
    failure.__cause__ = error
    return failure
