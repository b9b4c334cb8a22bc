"""Where the loop's batches come from: pixels, pixels changed at random, or a frozen backbone's features."""

import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from components.train.augment import Augmentation
from serving.preprocess import Pixels

Places = NDArray[np.int64]
"""(N,), indices of samples in their split."""


class Source(Protocol):
    """Samples of a split, as inputs of whatever learns."""

    @property
    def targets(self) -> NDArray[np.int64]:
        """(N,)"""
        ...

    def batch(self, places: Places, epoch: int) -> Tensor:
        """Inputs of the samples at `places`, on the CPU, as they are in this epoch (from 1; 0: as they are)."""
        ...


@dataclass(frozen=True)
class PixelSource:
    """Pixels as serving sees them, uint8 (N, H, W, 3)."""

    pixels: Pixels
    targets: NDArray[np.int64]

    def batch(self, places: Places, epoch: int) -> Tensor:
        """See `Source.batch`."""
        return torch.from_numpy(self.pixels[places])


@dataclass(frozen=True)
class AugmentedSource:
    """Pixels changed at random, uint8 (N, size, size, 3)."""

    pixels: Pixels
    targets: NDArray[np.int64]
    augmentation: Augmentation

    def batch(self, places: Places, epoch: int) -> Tensor:
        """See `Source.batch`."""
        return self.augmentation(torch.from_numpy(self.pixels[places]), places, epoch)


@dataclass(frozen=True)
class FeatureSource:
    """What a frozen backbone says of each sample, float32 (N, D), in one view or several that take turns."""

    views: Sequence[NDArray[np.float32]]
    targets: NDArray[np.int64]

    def batch(self, places: Places, epoch: int) -> Tensor:
        """See `Source.batch`."""
        return torch.from_numpy(self.views[epoch % len(self.views)][places])


@dataclass(frozen=True)
class Loaded:
    """A batch on its device, and how long the loop waited for it."""

    places: Places
    inputs: Tensor
    targets: Tensor
    waited_s: float


def load(source: Source, cut: Sequence[Places], epoch: int, device: torch.device) -> Iterator[Loaded]:
    """Batches in order; while one is computed, the next is prepared.

    One thread is enough: indexing, cropping and copying to a device all leave Python's lock.
    """

    def prepare(places: Places) -> tuple[Tensor, Tensor]:
        inputs, targets = source.batch(places, epoch), torch.from_numpy(source.targets[places])
        if device.type == "cuda":  # from pinned memory a copy runs beside the computation
            inputs, targets = inputs.pin_memory(), targets.pin_memory()
        return inputs.to(device, non_blocking=True), targets.to(device, non_blocking=True)

    if isinstance(source, FeatureSource):  # a row's copy costs less than handing it to a thread
        for places in cut:
            started = time.perf_counter()
            inputs, targets = prepare(places)
            yield Loaded(places, inputs, targets, time.perf_counter() - started)
        return
    with ThreadPoolExecutor(1, thread_name_prefix="loader") as thread:
        submitted = (thread.submit(prepare, places) for places in cut)
        pending = deque(islice(submitted, 2))
        for places in cut:
            started = time.perf_counter()
            inputs, targets = pending.popleft().result()
            waited_s = time.perf_counter() - started
            pending.extend(islice(submitted, 1))
            yield Loaded(places, inputs, targets, waited_s)
