"""Batches of any size through buffers that never move: what a GPU has captured runs on no others."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from serving.engines import Logits
from serving.preprocess import Pixels

Step = Callable[[], object]


class Runner(Protocol):
    """A device with a network on it."""

    device: torch.device

    def queue(self) -> AbstractContextManager[object]:
        """Within it, what the device is asked to do is done in order."""
        ...

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits (N, K) in float32 of uint8 pixels (N, H, W, 3), both on the device."""
        ...

    def prepare(self, step: Step) -> Step:
        """What does the same as `step`, on the same buffers, and faster."""
        ...

    def wait(self) -> None:
        """Return when everything asked for is done."""
        ...


def batch_sizes(largest: int) -> list[int]:
    """1, 2, 4, 8 and so on, and `largest`."""
    return [*(2**power for power in range((largest - 1).bit_length())), largest]


class Batches:
    """Answers batches of any size by steps of a few sizes.

    A batch takes the smallest size that holds it. Behind it in the buffers lie pixels of earlier batches, which are
    answered too and thrown away: no picture's logits depend on its neighbours. What is larger than all sizes goes in
    pieces of the largest.

    Args:
        runner: Where it runs.
        sizes: Of batches, ascending.
        shape: Of a picture, (H, W, 3).
        num_labels: K.
    """

    def __init__(self, runner: Runner, sizes: Sequence[int], shape: tuple[int, int, int], num_labels: int) -> None:
        self._runner = runner
        self._sizes = list(sizes)
        largest = self._sizes[-1]
        # Copies from and to pinned memory need no stop over, and the processor does not wait for them.
        is_pinned = runner.device.type == "cuda"
        self._sent = torch.zeros((largest, *shape), dtype=torch.uint8, pin_memory=is_pinned)
        self._received = torch.zeros((largest, num_labels), pin_memory=is_pinned)
        with runner.queue():
            self._pixels = torch.zeros((largest, *shape), dtype=torch.uint8, device=runner.device)
            self._logits = torch.zeros((largest, num_labels), device=runner.device)
            # The largest first: the others find room in the memory that it took.
            self._steps = {size: runner.prepare(self._step(size)) for size in reversed(self._sizes)}
            runner.wait()

    def infer(self, pixels: Pixels) -> Logits:
        """Logits (N, K) of (N, H, W, 3)."""
        largest = self._sizes[-1]
        pieces = [self._run(pixels[start : start + largest]) for start in range(0, len(pixels), largest)]
        return np.concatenate(pieces)

    def _step(self, size: int) -> Step:
        return lambda: self._logits[:size].copy_(self._runner.forward(self._pixels[:size]))

    def _run(self, pixels: Pixels) -> Logits:
        count = len(pixels)
        size = next(size for size in self._sizes if size >= count)
        self._sent[:count].numpy()[:] = pixels
        with self._runner.queue():
            self._pixels[:count].copy_(self._sent[:count], non_blocking=True)
            self._steps[size]()
            self._received[:count].copy_(self._logits[:count], non_blocking=True)
            self._runner.wait()
        logits: Logits = self._received[:count].numpy().copy()  # the next batch is received in the same place
        return logits
