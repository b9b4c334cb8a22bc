"""What bounds a server on this machine: the engine without HTTP, matrix multiplication, decoding."""

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
import torch
from PIL import Image

from serving.bundle import Bundle, InputSpec
from serving.engines import Engine, open_engine
from serving.machine import num_cpus
from serving.preprocess import Decoding, Pixels, preprocess
from tests.bench import pictures
from tests.support import engine as docker

GFLOP_AN_IMAGE: Final = 8.2
"""Of ResNet-50 at 224 px, two operations for each multiply-accumulate (He et al. 2016, table 1, counts one)."""
SIDE: Final = 2048
CAMERA: Final = (3000, 2250)
IMAGE: Final = "kennel-serving:cpu"
BATCHES: Final = (1, 8)
QUIET_S: Final = 2.0


def measure(bundle: Bundle, pixels: Pixels, jpegs: list[bytes], seconds: float) -> dict[str, float]:
    """One round of all bounds; `seconds` each at most.

    Args:
        bundle: With both engines.
        pixels: (N, H, W, 3), N at least the largest of `BATCHES`.
        jpegs: The photographs that servers are asked about.
        seconds: For each.
    """
    found = {"busy_cores": busy_cores(QUIET_S)}
    found |= {"matmul_images_per_s": _matmul_gflops(seconds) / GFLOP_AN_IMAGE}
    for name in ("onnx", "onnx-int8"):
        engine = open_engine(name, bundle)
        for batch in BATCHES:
            found[f"{name}_batch_{batch}_images_per_s"] = _engine_images_per_s(engine, pixels[:batch], seconds)
    found["preprocess_ms"] = _preprocess_ms(jpegs, bundle.manifest.input, seconds)
    camera = [camera_jpeg()]
    found["camera_preprocess_ms"] = _preprocess_ms(camera, bundle.manifest.input, seconds)
    found["reduced_preprocess_ms"] = _preprocess_ms(camera, bundle.manifest.input, seconds, decoding="reduced")
    return found


def busy_cores(seconds: float) -> float:
    """Cores that everybody together keeps busy: what is not ours while nothing of ours runs."""
    before, started = _idle_s(), time.perf_counter()
    time.sleep(seconds)
    passed = time.perf_counter() - started
    return max(0.0, (os.cpu_count() or 1) - (_idle_s() - before) / passed)


def _idle_s() -> float:
    """Of all cores since the machine started (proc(5), /proc/stat: idle and iowait)."""
    idle, iowait = Path("/proc/stat").read_text().split()[4:6]
    return (int(idle) + int(iowait)) / os.sysconf("SC_CLK_TCK")


def camera_jpeg() -> bytes:
    """A picture of `CAMERA` px, a mosaic of photographs: blown up from one it would hold no detail to decode."""
    photos = pictures.photographs()
    mosaic = Image.new("RGB", CAMERA)
    width, height = photos[0].size
    for row in range(-(-CAMERA[1] // height)):
        for column in range(-(-CAMERA[0] // width)):
            mosaic.paste(photos[(row + column) % len(photos)], (column * width, row * height))
    return pictures.encode(mosaic)


def image_mb() -> float | str:
    """Size of the serving image in MB (10^6 bytes), or why it is not known."""
    if reason := docker.why_not():
        return reason
    command = ["docker", "image", "inspect", "--format", "{{.Size}}", IMAGE]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return int(done.stdout) / 1e6 if done.returncode == 0 else f"there is no image {IMAGE}: make build"


def _repeat(call: Callable[[], object], seconds: float) -> list[float]:
    """Seconds of each call, after one that does not count."""
    call()
    taken: list[float] = []
    ends = time.perf_counter() + seconds
    while time.perf_counter() < ends or len(taken) < 3:
        started = time.perf_counter()
        call()
        taken.append(time.perf_counter() - started)
    return taken


def _matmul_gflops(seconds: float) -> float:
    """The best single-precision product of large matrices, by NumPy's library or torch's, whichever is faster here."""
    torch.set_num_threads(num_cpus())
    left = np.random.default_rng(0).normal(size=(SIDE, SIDE)).astype(np.float32)
    tensor = torch.from_numpy(left)
    fastest = min(_repeat(lambda: left @ left, seconds / 2) + _repeat(lambda: tensor @ tensor, seconds / 2))
    return 2 * SIDE**3 / fastest / 1e9


def _engine_images_per_s(engine: Engine, batch: Pixels, seconds: float) -> float:
    """All images by all seconds, as throughput is counted."""
    taken = _repeat(lambda: engine.infer(batch), seconds)
    return len(batch) * len(taken) / sum(taken)


def _preprocess_ms(jpegs: list[bytes], spec: InputSpec, seconds: float, decoding: Decoding = "exact") -> float:
    """The median of a picture, one at a time."""
    turns = iter(range(10**9))
    taken = _repeat(lambda: preprocess(jpegs[next(turns) % len(jpegs)], spec, decoding), seconds)
    return float(np.median(taken)) * 1e3
