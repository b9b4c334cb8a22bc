"""Pictures to logits: taken apart, decoded, put through the engine, each timed."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, ParamSpec, TypeVar

from serving.batching import Batcher
from serving.bundle import InputSpec
from serving.engines import Logits
from serving.engines.activation_map import Maps
from serving.errors import InvalidInput
from serving.model import Model
from serving.preprocess import Pixels, Preprocess
from serving.readers import Body, Decode, Pictures, Reader
from serving.remote import Fetcher, Remote

Arguments = ParamSpec("Arguments")
Decoded = TypeVar("Decoded")
SMALL_BYTES: Final = 100_000
"""Bodies up to this size are taken apart at once: handing one to a thread would take longer."""


@dataclass(frozen=True)
class Timed:
    """Where a picture's time went."""

    decode_s: float
    queue_s: float
    model_s: float


@dataclass(frozen=True)
class Labelled(Timed):
    """A picture's logits (K,)."""

    logits: Logits


@dataclass(frozen=True)
class Mapped(Timed):
    """Where the model looked in a picture; its labels and its map took time together."""

    index: int
    """Of the label in question."""
    values: Maps
    """(h, w), what each place says for the label."""


class Labeller:
    """Labels the pictures of requests, through one batcher.

    Args:
        batcher: Where decoded pictures go.
        num_decoders: Threads that decode.
        max_batch_size: The batcher's.
        fetcher: Of pictures that are elsewhere.
        preprocess: How pictures become pixels.
        on_undecodable: Called for each picture that becomes none.
    """

    def __init__(
        self,
        batcher: Batcher,
        num_decoders: int,
        max_batch_size: int,
        fetcher: Fetcher,
        preprocess: Preprocess,
        on_undecodable: Callable[[], None] = lambda: None,
    ) -> None:
        self._batcher = batcher
        self._preprocess = preprocess
        self._on_undecodable = on_undecodable
        self._fetcher = fetcher
        self._decoders = ThreadPoolExecutor(num_decoders, thread_name_prefix="decoder")
        self._max_batch_size = max_batch_size

    async def take_apart(self, read: Reader, body: Body) -> Pictures:
        """Large bodies in a decoder's thread: base64 of 25 MB would keep everybody else waiting."""
        return read(body) if len(body.data) <= SMALL_BYTES else await self._decode(read, body)

    async def label(self, pictures: Pictures, model: Model) -> list[Labelled]:
        """Every picture's answer, in order; of many, two batches are decoded ahead."""
        ahead = asyncio.Semaphore(2 * self._max_batch_size)
        spec = model.manifest.input

        async def answer(picture: Decode | Remote) -> Labelled:
            async with ahead:
                started = time.perf_counter()
                pixels = await self._pixels(picture, spec)
                decode_s = time.perf_counter() - started
                answered = await self._batcher.infer(model, pixels)
                return Labelled(decode_s, answered.queue_s, answered.model_s, answered.logits)

        return await _all([answer(picture) for picture in pictures.decoders])

    async def activation_map(self, picture: Decode | Remote, model: Model, index: int | None) -> Mapped:
        """Where `model` looks for the label `index`, by default the most probable, in one picture.

        Raises:
            MapNotFound, OutOfMemory: As for `ActivationMaps.open`.
        """
        await self._decode(model.maps.open)  # where decoders work: loading it keeps no batch waiting
        started = time.perf_counter()
        pixels = await self._pixels(picture, model.manifest.input)
        decode_s = time.perf_counter() - started
        runs = []
        if index is None:
            runs.append(await self._batcher.infer(model, pixels))
            index = int(runs[0].logits.argmax())
        runs.append(await self._batcher.infer(model.maps, pixels))
        queue_s, model_s = sum(run.queue_s for run in runs), sum(run.model_s for run in runs)
        return Mapped(decode_s, queue_s, model_s, index, runs[-1].logits[index])

    def run_aside(self, do: Callable[[], None]) -> None:
        """Have a decoder's thread do something else."""
        self._decoders.submit(do)

    def close(self) -> None:
        """Let the threads go."""
        self._decoders.shutdown(wait=False)
        self._fetcher.close()

    async def _pixels(self, picture: Decode | Remote, spec: InputSpec) -> Pixels:
        try:
            if not isinstance(picture, Remote):
                return await self._decode(picture, spec, self._preprocess)
            async with self._fetcher.places:
                return await self._decode(self._preprocess, await self._fetcher.fetch(picture), spec)
        except InvalidInput:
            self._on_undecodable()
            raise

    async def _decode(
        self, read: Callable[Arguments, Decoded], *args: Arguments.args, **_: Arguments.kwargs
    ) -> Decoded:
        """Call `read` in a decoder's thread, so that a bad picture fails alone and before it meets others."""
        return await asyncio.get_running_loop().run_in_executor(self._decoders, read, *args)


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
