"""What a GPU makes of a full fine-tuning: ResNet-50, bfloat16, from JPEGs, against the same loop without data.

Prints images/s of three loops that take turns, how busy the GPU was in each, and the shares that the second and third
reach of the first: a batch that never changes; random pixels from the decoded cache, cropped and flipped; JPEGs decoded
by the train stage itself, whole, from the command line.
"""

import argparse
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
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
from tests.bench import pictures
from tests.bench.utilisation import Utilisation

SIZE: Final = 224
LABELS: Final = tuple("abcdefghij")


@dataclass(frozen=True)
class SameBatch:
    """A batch that lies on the GPU and never changes: what the network could do if data cost nothing."""

    inputs: Tensor
    targets: NDArray[np.int64]

    def batch(self, places: Places, epoch: int) -> Tensor:
        """See `Source.batch`."""
        return self.inputs[: len(places)]


def images_per_s(source: Source, batch_size: int, dtype: torch.dtype) -> float:
    """Speed of the second of two epochs: the first finds the fastest kernels."""
    network = make_network("resnet50", Head(kind="linear"), LABELS, input_spec(SIZE), weights="none", freeze="none")
    network = network.cuda().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, fused=True)
    plan = Plan(epochs=2, batch_size=batch_size, lr=1e-4, seed=0, dtype=dtype)
    nothing = PixelSource(np.zeros((batch_size, SIZE, SIZE, 3), np.uint8), np.zeros(batch_size, np.int64))
    run = Run(network, optimizer, plan)
    fit(run, source, nothing, [])
    return run.history[-1].images_per_s


def run_stage(data: Path, folder: Path, batch_size: int) -> float:
    """Images/s of the last epoch of a whole training from JPEGs."""
    command = [sys.executable, "-m", "components.train", "--data", str(data), "--model-dir", str(folder / "model")]
    command += ["--cache-dir", str(folder / "cache"), "--arch", "resnet50", "--weights", "none", "--freeze", "none"]
    command += ["--precision", "bfloat16", "--epochs", "3", "--batch-size", str(batch_size), "--lr", "0.0001"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stdout + done.stderr)
    return float(re.findall(r"^epoch=.* images_per_s=([\d.]+)", done.stdout, re.MULTILINE)[-1])


def main() -> int:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=4000)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    if not torch.cuda.is_available():
        print("error: no GPU is found here; this bench is for a machine with one", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(prefix="kennel-bench-") as made:
        measure(Path(made), given.pictures, given.batch_size, given.rounds)
    return 0


def measure(folder: Path, count: int, batch_size: int, rounds: int) -> None:
    """Take turns, then print what came out."""
    data = pictures.cut(folder / "data", count, pictures.photographs())
    generator, side, device = np.random.default_rng(0), round(SIZE * CACHED_SCALE), torch.device("cuda", 0)
    targets = np.arange(count, dtype=np.int64) % len(LABELS)
    pixels = generator.integers(0, 256, (count, side, side, 3), dtype=np.uint8)
    fixed = torch.from_numpy(pixels[:batch_size, :SIZE, :SIZE].copy()).to(device)
    bfloat16 = torch.bfloat16
    same, cached = SameBatch(fixed, targets), AugmentedSource(pixels, targets, Augmentation("basic", 0, SIZE), device)
    loops: dict[str, Callable[[], float]] = {
        "the same batch": lambda: images_per_s(same, batch_size, bfloat16),
        "decoded cache, cropped": lambda: images_per_s(cached, batch_size, bfloat16),
        "train, from JPEGs": lambda: run_stage(data, folder / "run", batch_size),
    }
    rates: dict[str, list[float]] = {name: [] for name in loops}
    busy: dict[str, list[float]] = {name: [] for name in loops}
    for _ in range(rounds):
        for name, loop in loops.items():
            with Utilisation() as utilisation:
                rates[name].append(loop())
            busy[name].append(utilisation.percent)
    print(f"{torch.cuda.get_device_name()}, ResNet-50, bfloat16, {SIZE} px, batch {batch_size}, {rounds} rounds")
    best = statistics.median(rates["the same batch"])
    for name in loops:
        rate = statistics.median(rates[name])
        print(f"  {name:24} {rate:8.0f} images/s  {rate / best:6.1%}  GPU {statistics.median(busy[name]):3.0f} % busy")


if __name__ == "__main__":
    sys.exit(main())
