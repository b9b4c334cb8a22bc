"""What runs a batch: pixels to logits. One small protocol, one file an engine."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from serving.bundle import Bundle
from serving.errors import ConfigError
from serving.preprocess import Pixels

Logits = NDArray[np.float32]
"""(N, K), before softmax."""


class Engine(Protocol):
    """Runs batches, one at a time, from one thread."""

    name: str

    @property
    def options(self) -> dict[str, str]:
        """How it runs (threads, dtype, device), for logs and for the bundle's metrics."""
        ...

    def infer(self, pixels: Pixels) -> Logits:
        """Logits of a batch.

        Args:
            pixels: (N, H, W, 3), N at least 1, of the bundle's height and width.

        Returns:
            (N, K), in the order of `pixels` and of the bundle's labels.

        Raises:
            EngineError: Wrong shape or dtype, or the runtime failed.
        """
        ...


def open_engine(name: str, bundle: Bundle, threads: int | None = None) -> Engine:
    """Make the engine called `name`, `threads` wide (default: the CPUs this process may use).

    Raises:
        ConfigError: No such engine here.
        BundleError: The bundle does not carry what the engine runs.
    """
    if name not in ENGINES:
        raise ConfigError(f"engine {name!r} does not exist, expected one of {', '.join(ENGINES)}")
    return ENGINES[name](bundle, threads or num_cpus())


def num_cpus(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """CPUs this process may use: the container's quota, rounded up, not the host's count.

    Source: `cpu.max` of control groups v2, `cpu.cfs_quota_us` of v1 (Linux kernel documentation).
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for quota_file, period_file in (("cpu.max", None), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        try:
            words = (cgroup / quota_file).read_text().split()
            if period_file:
                words += (cgroup / period_file).read_text().split()
            quota, period = int(words[0]), int(words[1])
        except (OSError, ValueError, IndexError):  # no such file, or "max": no quota
            continue
        if quota > 0 and period > 0:
            return max(1, min(allowed, -(-quota // period)))
    return allowed


def _onnx(bundle: Bundle, threads: int) -> Engine:
    from serving.engines.onnx_engine import OnnxEngine

    return OnnxEngine(bundle, threads)


def _onnx_int8(bundle: Bundle, threads: int) -> Engine:
    from serving.engines.onnx_engine import Int8Engine

    return Int8Engine(bundle, threads)


def _torch(bundle: Bundle, threads: int) -> Engine:
    try:
        from serving.engines.torch_engine import TorchEngine
    except ImportError as error:
        raise ConfigError(f"engine 'torch' needs torch, use the cuda image or another engine: {error}") from error
    return TorchEngine(bundle, threads)


ENGINES: dict[str, Callable[[Bundle, int], Engine]] = {
    "onnx": _onnx,
    "onnx-int8": _onnx_int8,
    "torch": _torch,
}
