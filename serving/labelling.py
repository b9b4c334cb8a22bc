"""Pictures to logits: taken apart, decoded, put through the engine, each timed."""

import asyncio
import time
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Final

from serving.batching import Batcher
from serving.bundle import InputSpec
from serving.engines import Logits
from serving.readers import Body, Decode, Pictures, Reader

SMALL_BYTES: Final = 100_000
"""Bodies up to this size are taken apart at once: handing one to a thread would take longer."""


@dataclass(frozen=True)
class Labelled:
    """A picture's logits (K,) and where its time went."""

    logits: Logits
    decode_s: float
    queue_s: float
    model_s: float


def server_timing(answered: Sequence[Labelled]) -> str:
    """Milliseconds of the slowest picture in each phase, as the W3C's Server-Timing has them."""
    phases = {
        "decode": max(one.decode_s for one in answered),
        "queue": max(one.queue_s for one in answered),
        "model": max(one.model_s for one in answered),
    }
    return ", ".join(f"{name};dur={1000 * seconds:.2f}" for name, seconds in phases.items())


class Labeller:
    """Labels the pictures of requests, through one batcher."""

    def __init__(self, batcher: Batcher, max_batch_size: int) -> None:
        self._batcher = batcher
        self._max_batch_size = max_batch_size

    async def take_apart(self, read: Reader, body: Body) -> Pictures:
        """Large bodies in a decoder's thread: base64 of 25 MB would keep everybody else waiting."""
        return read(body) if len(body.data) <= SMALL_BYTES else await self._batcher.decode(read, body)

    async def label(self, pictures: Pictures, spec: InputSpec) -> list[Labelled]:
        """Every picture's answer, in order; of many, two batches are decoded ahead."""
        ahead = asyncio.Semaphore(2 * self._max_batch_size)

        async def answer(decode: Decode) -> Labelled:
            async with ahead:
                started = time.perf_counter()
                pixels = await self._batcher.decode(decode, spec)
                decode_s = time.perf_counter() - started
                answered = await self._batcher.infer(pixels)
                return Labelled(answered.logits, decode_s, answered.queue_s, answered.model_s)

        return await _all([answer(decode) for decode in pictures.decoders])


async def _all(answers: Sequence[Coroutine[Any, Any, Labelled]]) -> list[Labelled]:
    """All answers in order, or the first error; then nobody computes the others any more."""
    if len(answers) == 1:
        return [await answers[0]]
    tasks = [asyncio.ensure_future(answer) for answer in answers]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
