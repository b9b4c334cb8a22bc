"""Whether fine-tuning waits for its images: the loop on the decoded cache against the same loop fed from memory."""

import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from components.model import input_spec, make_network
from components.train.augment import CACHED_SCALE, Augmentation
from components.train.loop import Run, fit
from components.train.plan import Plan
from components.train.sources import AugmentedSource, PixelSource, Places, Source
from serving.bundle import Head

SIZE: Final = 224
BATCH: Final = 16
COUNT: Final = 8 * BATCH
ROUNDS: Final = 5


@dataclass(frozen=True)
class MemorySource:
    """The same few images in every batch: nothing is read, cropped or flipped."""

    batch_of_pixels: Tensor
    targets: NDArray[np.int64]

    def batch(self, places: Places, epoch: int) -> Tensor:
        """See `Source.batch`."""
        return self.batch_of_pixels[: len(places)]


def images_per_s(source: Source) -> tuple[float, float]:
    """Speed of an epoch in which a whole ResNet-18 learns, and the share of its time spent waiting."""
    network = make_network("resnet18", Head(kind="linear"), "abcd", input_spec(SIZE), weights="none", freeze="none")
    network = network.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, fused=True)
    run = Run(network, optimizer, Plan(epochs=1, batch_size=BATCH, lr=1e-4, seed=0))
    nothing = PixelSource(np.zeros((1, SIZE, SIZE, 3), np.uint8), np.zeros(1, np.int64))
    fit(run, source, nothing, [])
    (result,) = run.history
    return result.images_per_s, result.waited_s * result.images_per_s / COUNT


def report() -> None:
    """Print the ratio."""
    generator, side = np.random.default_rng(0), round(SIZE * CACHED_SCALE)
    targets = np.arange(COUNT, dtype=np.int64) % 4
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pixels.npy"
        np.save(path, generator.integers(0, 256, (COUNT, side, side, 3), dtype=np.uint8))
        augmentation = Augmentation("basic", 0, SIZE)
        cached = AugmentedSource(np.load(path, mmap_mode="r"), targets, augmentation, torch.device("cpu"))
        memory = MemorySource(torch.from_numpy(generator.integers(0, 256, (BATCH, SIZE, SIZE, 3), np.uint8)), targets)
        rounds = [(images_per_s(cached), images_per_s(memory)) for _ in range(ROUNDS)]
    ratio = statistics.median(from_cache / from_memory for (from_cache, _), (from_memory, _) in rounds)
    waited = statistics.median(share for (_, share), _ in rounds)
    print(
        f"full fine-tuning, ResNet-18, {SIZE} px, cropped and flipped from the decoded cache: {ratio:.1%} of the speed "
        f"of the same loop fed from memory ({waited:.1%} of the time spent waiting), median of {ROUNDS} rounds",
        flush=True,
    )


if __name__ == "__main__":
    report()
