"""Where the loop's batches come from: pixels, pixels changed at random, or a frozen backbone's features."""

import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Final, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from components.train.augment import Augmentation
from serving.preprocess import Pixels

AHEAD: Final = 2
"""Batches that are ready or under way while one is computed: one to take at once, one against a hiccup of the disk."""

Places = NDArray[np.int64]
"""(N,), indices of samples in their split."""


class Source(Protocol):
    """Samples of a split, as inputs of whatever learns."""

    @property
    def targets(self) -> NDArray[np.int64]:
        """(N,)"""
        ...

    def batch(self, places: Places, epoch: int) -> Tensor:
        """Inputs of the samples at `places`, on any device, as they are in this epoch (from 1; 0: as they are)."""
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
    """Pixels changed at random, uint8 (N, size, size, 3), where the network runs: a GPU crops as it goes along."""

    pixels: Pixels
    targets: NDArray[np.int64]
    augmentation: Augmentation
    device: torch.device

    def batch(self, places: Places, epoch: int) -> Tensor:
        """See `Source.batch`."""
        return self.augmentation(_move(torch.from_numpy(self.pixels[places]), self.device), places, epoch)


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
    """Batches in order; while one is computed, the next `AHEAD` are prepared by a thread."""

    def prepare(places: Places) -> tuple[Tensor, Tensor]:
        return _move(source.batch(places, epoch), device), _move(torch.from_numpy(source.targets[places]), device)

    if isinstance(source, FeatureSource):  # a row's copy costs less than handing it to a thread
        for places in cut:
            started = time.perf_counter()
            inputs, targets = prepare(places)
            yield Loaded(places, inputs, targets, time.perf_counter() - started)
        return
    with ThreadPoolExecutor(1, thread_name_prefix="loader") as thread:
        submitted = (thread.submit(prepare, places) for places in cut)
        pending = deque(islice(submitted, AHEAD))
        for places in cut:
            started = time.perf_counter()
            inputs, targets = pending.popleft().result()
            waited_s = time.perf_counter() - started
            pending.extend(islice(submitted, 1))
            yield Loaded(places, inputs, targets, waited_s)


def describe_loading(source: Source, device: torch.device) -> str:
    """How batches come to the device, and why so, for the log."""
    if isinstance(source, FeatureSource):
        return "loader: none, since features are in memory"
    if device.type == "cuda":
        return (
            f"loader: 1 thread, {AHEAD} batches ahead, pinned memory: images are decoded already, so a batch is a "
            "copy, which runs beside the computation; the GPU crops"
        )
    return (
        f"loader: 1 thread, {AHEAD} batches ahead: images are decoded already, so a batch is a copy; more threads "
        "would take cores from the network"
    )


def _move(tensor: Tensor, device: torch.device) -> Tensor:
    """To the device; from pinned memory a copy runs beside the computation."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
