"""Trains a small network without batch norm and saves its weights; run alone or by torchrun: two_processes.py OUT."""

import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from components.train import processes
from components.train.loop import Run, fit
from components.train.plan import Plan
from components.train.sources import PixelSource
from components.train.world import World


class Small(nn.Module):
    """Pixels (N, 8, 8, 3) to three logits."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 3))

    def forward(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self.layers(pixels.permute(0, 3, 1, 2).float() / 255)
        return logits


def main(out: Path) -> None:
    """Train for a few epochs on batches that do not divide evenly."""
    with processes.connected(60) as world:
        train(world, out)


def train(world: World, out: Path) -> None:
    """See `main`."""
    torch.manual_seed(0)
    targets = np.arange(21) % 3
    pixels = np.random.default_rng(0).integers(0, 60, (21, 8, 8, 3)) + targets[:, None, None, None] * 90
    source = PixelSource(pixels.astype(np.uint8), targets)
    learner = Small()
    plan = Plan(epochs=4, batch_size=8, lr=0.01, seed=0, label_weights=(0.5, 1.0, 2.0), label_smoothing=0.1)
    run = Run(learner, torch.optim.AdamW(learner.parameters(), lr=0.01), plan, world)
    fit(run, source, source, [])
    if world.is_leader:
        losses = torch.tensor([(result.train_loss, result.valid_loss) for result in run.history])
        torch.save({**learner.state_dict(), "losses": losses}, out)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
