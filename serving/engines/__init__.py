"""What runs a batch: pixels to logits. One small protocol, one file an engine."""

from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from serving.bundle import Bundle
from serving.errors import ConfigError
from serving.machine import num_cpus
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
