"""What a frozen backbone says of each image, computed once: a constant that every epoch and every trial stands on."""

import copy
import hashlib
import math
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
from components.train.world import World
from serving.bundle import ONNX_MODEL, InputSpec
from serving.engines.onnx_engine import open_session
from serving.engines.torch_network import Network
from serving.machine import memory_bytes, num_cpus

Features = NDArray[np.float32]
"""(N, D)"""
EngineName = Literal["onnx", "torch"]
Compute = Callable[[NDArray[np.generic]], Features]

BATCH: Final = 32
"""Always so many at once, the last batch filled up: the last digits depend on the size of the batch."""
FILE: Final = "features.npy"
TOLERANCE: Final = 1e-3
"""Of the logits that a head makes of features, against those of the whole network; relative to the largest."""


@dataclass(frozen=True)
class Extractor:
    """Computes features of one backbone, each process its share of them, or finds them in the cache."""

    network: Network
    spec: InputSpec
    engine: EngineName
    world: World
    cache: Cache
    progress: Progress

    def features(self, split: Split, what: str, augmentation: Augmentation | None = None, view: int = 0) -> Features:
        """Features of a split, in memory.

        What is computed at once is the same however many processes share the work, and so is every bit.

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
            "engine": _version(self.engine, self.world.device),
            "batch": BATCH,
            "dtype": "float32",
        }

        def compute(places: range, scratch: Path) -> Features:
            self._report(what, 0, places)
            engine = self._by_onnx(scratch) if self.engine == "onnx" else self._by_torch()
            return _compute(split, places, augmentation, view, engine, lambda done: self._report(what, done, places))

        return self._kept(key("features", facts), len(split.targets), compute)

    def can_stand_in(self, split: Split) -> bool:
        """Whether the head makes of features what the whole network makes of pixels.

        Not so where something comes behind the head: SqueezeNet's ends in a ReLU and a pooling.
        """
        pixels = torch.tensor(split.pixels[:4], device=self.world.device)
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

    def _kept(self, name: str, count: int, compute: Callable[[range, Path], Features]) -> Features:
        """Rows from the cache; when a process misses them there, each computes its share and gives it to the others.

        Hosts share no disk, so one process of each host keeps all rows. The cache's lock is not held while processes
        wait for each other: who waits for the lock would keep them waiting.
        """
        if self.world.size == 1:
            entry = self.cache.entry(
                name, lambda folder: np.save(folder / FILE, compute(range(count), folder), allow_pickle=False)
            )
            return _load(entry)
        found = _load(self.cache.folder / name) if self.cache.has(name) else None
        is_missed = self.world.any(found is None)
        if found is not None and not is_missed:
            return found
        mine = _share(count, self.world.rank, self.world.size)
        with tempfile.TemporaryDirectory(prefix="kennel-") as scratch:
            rows = self._gathered(compute(mine, Path(scratch)), count)
        if self.world.is_host_leader:
            self.cache.entry(name, lambda folder: np.save(folder / FILE, rows, allow_pickle=False))
        return rows

    def _gathered(self, mine: Features, count: int) -> Features:
        """All processes' rows, from those of this one; the leader always has some."""
        shape = torch.zeros(4, dtype=torch.int64)
        if self.world.is_leader:
            shape[: mine.ndim - 1] = torch.tensor(mine.shape[1:])
        self.world.broadcast([shape])
        rows = torch.empty(count, *shape[shape > 0].tolist())
        for rank in range(self.world.size):
            places = _share(count, rank, self.world.size)
            part = rows[places.start : places.stop]
            if places and rank == self.world.rank:
                part.copy_(torch.from_numpy(mine))
            self.world.broadcast([part] if places else [], rank)
        gathered: Features = rows.numpy()
        return gathered

    def _report(self, what: str, done: int, places: range) -> None:
        self.progress(f"features of {what}", done, len(places))

    def _by_onnx(self, scratch: Path) -> Compute:
        with tempfile.TemporaryDirectory(dir=scratch) as graph:
            Graph(self.network, self.spec, self.cache).write(Path(graph), "features")
            session = open_session(Path(graph) / ONNX_MODEL, max(1, num_cpus() // self.world.local_size))
        (entry,) = session.get_inputs()
        return lambda pixels: np.asarray(session.run(None, {entry.name: pixels})[0])

    def _by_torch(self) -> Compute:
        backbone = _without_head(self.network).eval()

        def compute(pixels: NDArray[np.generic]) -> Features:
            with torch.inference_mode():
                features: Features = backbone(torch.from_numpy(pixels).to(self.world.device)).float().cpu().numpy()
            return features

        return compute


def hash_backbone(network: Network) -> str:
    """sha256 of everything in a network but its head: architecture, names, values."""
    of_head = f"body.{network.head_path}."
    state = {name: tensor for name, tensor in network.state_dict().items() if not name.startswith(of_head)}
    return _hash(type(network.body).__name__, state)


def hash_head(path: str, head: nn.Module) -> str:
    """sha256 of a head that is at `path` of its network: names, values."""
    return _hash(path, head.state_dict())


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


def _share(count: int, rank: int, size: int) -> range:
    """The samples whose features the process of a rank computes: whole batches, the leader's first."""
    step = math.ceil(math.ceil(count / BATCH) / size) * BATCH
    return range(min(rank * step, count), min((rank + 1) * step, count))


def _compute(
    split: Split,
    share: range,
    augmentation: Augmentation | None,
    view: int,
    compute: Compute,
    report: Callable[[int], None],
) -> Features:
    """Compute features of a share batch by batch, every batch of the same size."""
    features: Features | None = None
    for start in range(share.start, share.stop, BATCH):
        places = np.arange(start, min(start + BATCH, share.stop))
        pixels: NDArray[np.generic] = split.pixels[np.resize(places, BATCH)]
        if augmentation is not None:
            pixels = augmentation(torch.from_numpy(pixels), np.resize(places, BATCH), view).numpy()
        computed = compute(pixels)[: len(places)]
        if features is None:
            features = np.empty((len(share), *computed.shape[1:]), dtype=np.float32)
        features[places - share.start] = computed
        report(start - share.start + len(places))
    return features if features is not None else np.empty((0, 0), dtype=np.float32)


def _load(entry: Path) -> Features:
    """In memory, since a head's epoch over mapped rows would be spent on page faults; large ones are mapped even so.

    As many processes as there are CPUs may hold them at once, and a quarter of the memory has to do for all.
    """
    path = entry / FILE
    is_large = path.stat().st_size > memory_bytes() / (4 * num_cpus())
    features: Features = np.load(path, mmap_mode="r" if is_large else None, allow_pickle=False)
    return features


def _version(engine: EngineName, device: torch.device) -> str:
    if engine == "onnx":
        return f"onnxruntime {onnxruntime.__version__}"
    return f"torch {torch.__version__} on {device.type}"
