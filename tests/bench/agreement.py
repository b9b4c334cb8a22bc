"""Whether training on features that were computed once learns what the whole network learns in every epoch."""

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from components.cache import Cache
from components.data.decode import Split
from components.data.index import Sample
from components.model import input_spec, make_network
from components.train.features import BATCH, Extractor, Features
from components.train.loop import Run, fit
from components.train.plan import Plan
from components.train.sources import FeatureSource, PixelSource
from components.train.world import World
from serving.bundle import Head
from serving.engines.torch_network import Network
from serving.preprocess import Pixels
from tests.bench import pictures

SIZE: Final = 224
COUNT: Final = 96
EPOCHS: Final = 4
RATES: Final = (0.001, 0.01)
LABELS: Final = tuple("abcd")


def make_split() -> Split:
    """Parts of scikit-learn's two photographs."""
    photos = pictures.photographs()
    generator = np.random.default_rng(0)
    shown = [photos[number % 2] for number in range(COUNT)]
    pixels = np.stack([_part(photo, generator) for photo in shown])
    samples = tuple(Sample(Path(f"{n}.jpg"), f"{n}.jpg", n % len(LABELS)) for n in range(COUNT))
    digests = tuple(str(number) for number in range(COUNT))
    return Split(samples, pixels, np.arange(COUNT, dtype=np.int64) % len(LABELS), digests, "pixels-bench")


def _part(photo: Image.Image, generator: np.random.Generator) -> Pixels:
    left, top = (int(generator.integers(side - SIZE)) for side in photo.size)
    return np.asarray(photo.crop((left, top, left + SIZE, top + SIZE)))


def losses(network: Network, run_on: Features | Pixels, targets: NDArray[np.int64], lr: float) -> NDArray[np.float64]:
    """Train losses of the epochs: of the head alone when `run_on` are features, of the whole network when pixels."""
    head = {name: tensor.clone() for name, tensor in network.head.state_dict().items()}
    of_features = run_on.ndim == 2
    learner: nn.Module = network.head if of_features else network
    source = (
        FeatureSource([run_on.astype(np.float32)], targets)
        if of_features
        else PixelSource(run_on.astype(np.uint8), targets)
    )
    optimizer = torch.optim.Adam(network.head.parameters(), lr=lr, fused=True)
    run = Run(learner, optimizer, Plan(epochs=EPOCHS, batch_size=BATCH, lr=lr, seed=0, schedule="constant"))
    fit(run, source, source, [])
    network.head.load_state_dict(head)
    return np.array([result.train_loss for result in run.history])


def eager_features(network: Network, pixels: Pixels) -> Features:
    """What the head is given when the whole network runs in torch."""
    seen: list[Tensor] = []
    hook = network.head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.inference_mode():
        for start in range(0, len(pixels), BATCH):
            network.eval()(torch.tensor(pixels[start : start + BATCH]))
    hook.remove()
    return torch.cat(seen).numpy()


def report() -> None:
    """Print how far features and losses are apart."""
    split, spec = make_split(), input_spec(SIZE)
    network = make_network("resnet18", Head(kind="linear"), LABELS, spec, weights="none", freeze="backbone")
    eager = eager_features(network, split.pixels)
    with tempfile.TemporaryDirectory() as folder:
        extractor = Extractor(network, spec, "onnx", World(), Cache(Path(folder)), lambda *_: None)
        by_onnx = np.array(extractor.features(split, "pictures"))
        by_torch = np.array(replace(extractor, engine="torch").features(split, "pictures"))
    apart = np.abs(by_onnx - eager).max() / np.abs(eager).max()
    print(f"features of ONNX Runtime against torch's: at most {apart:.1e} apart, relative to the largest")
    print(f"features of the eager engine at a batch of {BATCH}: bit for bit {np.array_equal(by_torch, eager)}")
    for lr in RATES:
        whole, once = (losses(network, inputs, split.targets, lr) for inputs in (split.pixels, by_onnx))
        eagerly = losses(network, by_torch, split.targets, lr)
        print(
            f"losses of {EPOCHS} epochs at lr {lr:g}: at most {np.abs(once / whole - 1).max():.1e} apart (relative); "
            f"with the eager engine's features bit for bit {np.array_equal(eagerly, whole)}",
            flush=True,
        )


if __name__ == "__main__":
    report()
