import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from components.model import Freeze, input_spec, make_network
from components.train.ema import Average
from components.train.loop import Run
from components.train.plan import Plan
from components.train.sources import PixelSource
from serving import bundle
from serving.bundle import Bundle, Head
from tests.support.folders import write_images

NUM_LABELS = 3


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What is cached here is not the user's."""
    os.environ["KENNEL_CACHE_DIR"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def pictures() -> PixelSource:
    """Eight pictures of three labels, told apart by their brightness."""
    targets = np.arange(8) % NUM_LABELS
    noise = np.random.default_rng(0).integers(0, 60, (8, 32, 32, 3))
    return PixelSource((targets[:, None, None, None] * 90 + noise).astype(np.uint8), targets)


@pytest.fixture(scope="session")
def make_run() -> Callable[..., Run]:
    def make(*, freeze: bool = False, head: str = "linear", ema: float = 0.0, **plan: Any) -> Run:
        settled = Head(kind="mlp", dropout=0.5) if head == "mlp" else Head(kind="linear")
        labels = tuple("abc"[:NUM_LABELS])
        freezing: Freeze = "backbone" if freeze else "none"
        network = make_network("resnet18", settled, labels, input_spec(32), weights="none", freeze=freezing)
        settings: dict[str, Any] = {"epochs": 2, "batch_size": 4, "lr": 0.001, "seed": 0} | plan
        learning = [parameter for parameter in network.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(learning, lr=settings["lr"])
        return Run(network, optimizer, Plan(**settings), average=Average(network, ema) if ema else None)

    return make


FLAGS = [
    "--arch", "resnet18", "--weights", "none", "--freeze", "none", "--image-size", "32",
    "--epochs", "2", "--batch-size", "8", "--lr", "0.002", "--seed", "0",
]  # fmt: skip


@dataclass(frozen=True)
class Trained:
    data: Path
    bundle: Bundle
    log: str


def run_train(*arguments: str, **environ: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "components.train", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | environ)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("train")
    data = write_images(folder / "data", size=(50, 38))
    done = run_train("--data", str(data), "--model-dir", str(folder / "model"), *FLAGS)
    assert done.returncode == 0, done.stderr
    return Trained(data, bundle.read(folder / "model"), done.stdout)
