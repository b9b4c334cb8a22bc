"""Pictures to batches: nobody waits for company.

A picture waits only while the engine is busy. What waited becomes the next batch. Nothing here polls or sleeps: a batch
starts when a picture meets an idle engine or a batch ends. Pictures of several models take turns, in the order in which
they came: two models that run at once would only take the processor from each other.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np

from serving.engines import Logits
from serving.errors import EngineError, KennelError
from serving.preprocess import Pixels


class Infers(Protocol):
    """A model, as far as a batch is concerned."""

    def infer(self, pixels: Pixels) -> Logits:
        """See `Engine.infer`."""
        ...


@dataclass(frozen=True)
class Answered:
    """What the engine made of one picture."""

    logits: Logits
    """(K,), or whatever else the model makes of a picture."""
    queue_s: float
    """Waiting for the engine."""
    model_s: float
    """In the engine, with the others of its batch."""


@dataclass(frozen=True)
class _Waiting:
    model: Infers
    pixels: Pixels
    answer: asyncio.Future[Answered]
    since: float


class Batcher:
    """Puts pictures of many requests through engines, one batch at a time; lives in one event loop.

    Args:
        max_batch_size: Pictures in a batch.
        on_batch: Told the size of each batch.
    """

    def __init__(self, max_batch_size: int, on_batch: Callable[[int], None] = lambda _: None) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="engine")
        self._max_batch_size = max_batch_size
        self._on_batch = on_batch
        self._waiting: deque[_Waiting] = deque()
        self._is_busy = False

    @property
    def num_waiting(self) -> int:
        """Pictures that wait for the engine."""
        return sum(not waiting.answer.done() for waiting in self._waiting)

    async def infer(self, model: Infers, pixels: Pixels) -> Answered:
        """Logits of one picture (H, W, 3). When the caller is cancelled, the picture leaves the queue.

        Raises:
            EngineError: The engine failed on the batch that the picture was in.
            NotReady: The model went out of service while the picture waited.
        """
        waiting = _Waiting(model, pixels, asyncio.get_running_loop().create_future(), time.perf_counter())
        self._waiting.append(waiting)
        if not self._is_busy:
            self._start_batch()
        return await waiting.answer

    def close(self) -> None:
        """Let the thread go, after its last batch."""
        self._thread.shutdown(wait=False)

    def _start_batch(self) -> None:
        batch = self._next_batch()
        self._is_busy = bool(batch)
        if batch:
            self._on_batch(len(batch))
            pictures = [waiting.pixels for waiting in batch]
            running = asyncio.get_running_loop().run_in_executor(self._thread, _run, batch[0].model, pictures)
            running.add_done_callback(partial(self._finish_batch, batch, time.perf_counter()))

    def _next_batch(self) -> list[_Waiting]:
        """Those of the longest-waiting picture's model; the others keep their places."""
        batch: list[_Waiting] = []
        others: list[_Waiting] = []
        while self._waiting and len(batch) < self._max_batch_size:
            waiting = self._waiting.popleft()
            if waiting.answer.done():  # its caller went away
                continue
            (others if batch and waiting.model is not batch[0].model else batch).append(waiting)
        self._waiting.extendleft(reversed(others))
        return batch

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


def _run(model: Infers, pictures: list[Pixels]) -> Logits:
    logits = model.infer(np.stack(pictures))
    if len(logits) != len(pictures):
        raise EngineError(f"the engine answered {len(logits)} rows to a batch of {len(pictures)}")
    return logits


def _failure(error: BaseException) -> KennelError:
    """An error of its own for each request: one shared would gather the tracebacks of all of them."""
    failure = type(error)(str(error)) if isinstance(error, KennelError) else EngineError(f"{error!r}")
    failure.__cause__ = error
    return failure
