"""What a frozen backbone says of each image, computed once: a constant that every epoch and every trial stands on."""

import copy
import hashlib
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from components.cache import Cache, key
from components.data.decode import Progress, Split
from components.train.augment import Augmentation
from components.train.graph import Graph
from serving.bundle import ONNX_MODEL, InputSpec
from serving.engines import num_cpus
from serving.engines.onnx_engine import open_session
from serving.engines.torch_network import Network

Features = NDArray[np.float32]
"""(N, D)"""
EngineName = Literal["onnx", "torch"]
Compute = Callable[[NDArray[np.generic]], Features]

BATCH: Final = 32
"""Always so many at once, the last batch filled up: the last digits depend on the size of the batch."""
TOLERANCE: Final = 1e-3
"""Of the logits that a head makes of features, against those of the whole network; relative to the largest."""


@dataclass(frozen=True)
class Extractor:
    """Computes features of one backbone, or finds them in the cache."""

    network: Network
    spec: InputSpec
    engine: EngineName
    device: torch.device
    cache: Cache
    progress: Progress

    def features(self, split: Split, what: str, augmentation: Augmentation | None = None, view: int = 0) -> Features:
        """Features of a split, mapped from the cache.

        Args:
            split: Its pixels; larger than the network's input when they are augmented.
            what: What to call it while it lasts: `train`.
            augmentation: What is done to the images first.
            view: Which of its random outcomes.
        """
        facts = {
            "pixels": split.key,
            "files": split.digests,
            "backbone": hash_backbone(self.network),
            "layer": self.network.head_path,
            "input": self.spec.model_dump(mode="json"),
            "augmentation": None if augmentation is None else (repr(augmentation), view),
            "engine": _version(self.engine),
            "batch": BATCH,
            "dtype": "float32",
        }

        def build(folder: Path) -> None:
            self._report(what, 0, split)
            compute = self._by_onnx(folder) if self.engine == "onnx" else self._by_torch()
            _write(
                folder / "features.npy",
                split,
                augmentation,
                view,
                compute,
                lambda done: self._report(what, done, split),
            )

        entry = self.cache.entry(key("features", facts), build)
        features: Features = np.load(entry / "features.npy", mmap_mode="r")
        return features

    def can_stand_in(self, split: Split) -> bool:
        """Whether the head makes of features what the whole network makes of pixels.

        Not so where something comes behind the head: SqueezeNet's ends in a ReLU and a pooling.
        """
        pixels = torch.tensor(split.pixels[:4], device=self.device)
        with torch.inference_mode():
            network = self.network.eval()
            expected, features = network(pixels), _without_head(network)(pixels)
            try:
                found = network.head(features)
            except RuntimeError:  # what came behind the head changed its input's shape
                return False
        return found.shape == expected.shape and bool(
            (found - expected).abs().max() <= TOLERANCE * expected.abs().max().clamp(min=1e-6)
        )

    def _report(self, what: str, done: int, split: Split) -> None:
        self.progress(f"features of {what}", done, len(split.targets))

    def _by_onnx(self, folder: Path) -> Compute:
        with tempfile.TemporaryDirectory(dir=folder) as graph:
            Graph(self.network, self.spec, self.cache).write(Path(graph), "features")
            session = open_session(Path(graph) / ONNX_MODEL, num_cpus())
        (entry,) = session.get_inputs()
        return lambda pixels: np.asarray(session.run(None, {entry.name: pixels})[0])

    def _by_torch(self) -> Compute:
        backbone = _without_head(self.network).eval()

        def compute(pixels: NDArray[np.generic]) -> Features:
            with torch.inference_mode():
                features: Features = backbone(torch.from_numpy(pixels).to(self.device)).float().cpu().numpy()
            return features

        return compute


def hash_backbone(network: Network) -> str:
    """sha256 of everything in a network but its head: architecture, names, values."""
    of_head = f"body.{network.head_path}."
    state = {name: tensor for name, tensor in network.state_dict().items() if not name.startswith(of_head)}
    return _hash(type(network.body).__name__, state)


def hash_head(network: Network) -> str:
    """sha256 of a network's head: names, values."""
    return _hash(network.head_path, network.head.state_dict())


def _hash(title: str, state: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(title.encode())
    for name, tensor in sorted(state.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _without_head(network: Network) -> Network:
    """A network that answers what its head would be given; shares the weights of `network`."""
    memo = {id(tensor): tensor for tensor in (*network.parameters(), *network.buffers())}
    backbone = copy.deepcopy(network, memo)
    parent, _, child = network.head_path.rpartition(".")
    setattr(backbone.body.get_submodule(parent), child, nn.Identity())
    return backbone


def _write(
    path: Path,
    split: Split,
    augmentation: Augmentation | None,
    view: int,
    compute: Compute,
    report: Callable[[int], None],
) -> None:
    """Compute features batch by batch, every batch of the same size, into a file."""
    count = len(split.targets)
    features: Features | None = None
    for start in range(0, count, BATCH):
        places = np.arange(start, min(start + BATCH, count))
        pixels: NDArray[np.generic] = split.pixels[np.resize(places, BATCH)]
        if augmentation is not None:
            pixels = augmentation(torch.from_numpy(pixels), np.resize(places, BATCH), view).numpy()
        computed = compute(pixels)[: len(places)]
        if features is None:
            features = np.lib.format.open_memmap(  # type: ignore[no-untyped-call]
                path, mode="w+", dtype=np.float32, shape=(count, *computed.shape[1:])
            )
        features[places] = computed
        report(start + len(places))


def _version(engine: EngineName) -> str:
    return f"onnxruntime {onnxruntime.__version__}" if engine == "onnx" else f"torch {torch.__version__}"
