"""How long a network takes to answer one picture, on this machine, by the engine that serves."""

import json
import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np

from components.train.graph import Graph
from components.train.prepare import Prepared
from components.train.settings import OF_THE_HEAD, TrainSettings
from components.train.workplace import Workplace
from serving import files
from serving.bundle import ONNX_MODEL
from serving.engines.onnx_engine import open_session
from serving.machine import num_cpus

FILE: Final = "latency.json"
NUM_WARMUP: Final = 3
MIN_RUNS: Final = 15
MIN_TIME_S: Final = 0.5


class Latencies:
    """Medians in ms, measured once for each network and kept, so that a search that goes on has the same ones."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE
        self._known: dict[str, float] = json.loads(self._path.read_text()) if self._path.exists() else {}

    def has(self, settings: TrainSettings) -> bool:
        """Whether this network was measured before."""
        return _name(settings) in self._known

    def of(self, settings: TrainSettings) -> float:
        """What was measured, in ms."""
        return self._known[_name(settings)]

    def measure(self, prepared: Prepared, settings: TrainSettings, workplace: Workplace) -> None:
        """Measure a network on all cores; nothing else may run meanwhile."""
        network = prepared.network
        own = network.head
        network.replace(prepared.new_head(settings))
        try:
            with tempfile.TemporaryDirectory(prefix=files.ASIDE_PREFIX) as folder:
                Graph(network, prepared.spec, workplace.cache).write(Path(folder))
                self._known[_name(settings)] = _median_ms(Path(folder) / ONNX_MODEL, prepared)
        finally:
            network.replace(own)
        files.write_text(self._path, json.dumps(self._known, indent=1))


def _name(settings: TrainSettings) -> str:
    shape: Mapping[str, object] = settings.model_dump(mode="json", include={"arch", "image_size", *OF_THE_HEAD})
    return json.dumps(shape, sort_keys=True)


def _median_ms(path: Path, prepared: Prepared) -> float:
    session = open_session(path, num_cpus())
    (entry,) = session.get_inputs()
    pixels = np.ascontiguousarray(prepared.splits["valid"].pixels[:1])
    taken: list[float] = []
    begun = time.perf_counter()
    while len(taken) < NUM_WARMUP + MIN_RUNS or time.perf_counter() - begun < MIN_TIME_S:
        started = time.perf_counter()
        session.run(None, {entry.name: pixels})
        taken.append((time.perf_counter() - started) * 1000)
    return statistics.median(taken[NUM_WARMUP:])
