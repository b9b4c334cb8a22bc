"""Features of random pictures, twice, in the processes that torchrun starts: sharded_features.py FOLDER ENGINE."""

import json
import sys
from pathlib import Path
from typing import cast

import numpy as np
import torch

from components.cache import Cache
from components.data.decode import Split
from components.data.index import Sample
from components.model import input_spec, make_network
from components.train import processes
from components.train.features import BATCH, EngineName, Extractor
from components.train.world import World
from serving.bundle import Head

COUNT = 5 * BATCH + 5


def main(folder: Path, engine: EngineName) -> None:
    """Write FOLDER/RANK.json: how many images this process computed at the first start and at the second."""
    with processes.connected(60) as world:
        computed = [_extract(world, folder, engine) for _ in range(2)]
        (folder / f"{world.rank}.json").write_text(json.dumps(computed))


def _extract(world: World, folder: Path, engine: EngineName) -> int:
    torch.set_num_threads(max(1, 2 // world.size))
    network = make_network("resnet18", Head(kind="linear"), "abc", input_spec(32), weights="none", freeze="backbone")
    pixels = np.random.default_rng(0).integers(0, 256, (COUNT, 32, 32, 3), dtype=np.uint8)
    pixels.flags.writeable = False
    names = [str(place) for place in range(COUNT)]
    samples = tuple(Sample(Path(name), name, 0) for name in names)
    split = Split(samples, pixels, np.zeros(COUNT, dtype=np.int64), tuple(names), "pixels-1")
    computed = [0]

    def progress(what: str, done: int, total: int) -> None:
        computed.append(done)

    Extractor(network, input_spec(32), engine, world, Cache(folder / "cache"), progress).features(split, "train")
    return computed[-1]


if __name__ == "__main__":
    main(Path(sys.argv[1]), cast("EngineName", sys.argv[2]))
