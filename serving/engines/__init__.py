"""What runs a batch: pixels to logits. One small protocol, one file an engine."""

from collections.abc import Callable
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from serving.bundle import Bundle, InputSpec
from serving.errors import ConfigError, EngineError
from serving.machine import MAX_BATCH_SIZE, num_cpus
from serving.preprocess import Pixels

Logits = NDArray[np.float32]
"""(N, K), before softmax."""

TOLERANCE: Final = 1e-3
"""Of engines in float32, see `Engine.tolerance`: instruction sets differ by 1e-5, wrong models by 1."""
REMEDY: Final = "run smaller batches or fewer models at once, or give the server more"
"""What to do when memory runs out."""


class Engine(Protocol):
    """Runs batches, one at a time, from one thread."""

    name: str

    @property
    def options(self) -> dict[str, str]:
        """How it runs (threads, dtype, device), for logs and for the bundle's metrics."""
        ...

    @property
    def tolerance(self) -> float:
        """How far its logits may be from those of the same model in float32, relative to the largest logit."""
        ...

    def infer(self, pixels: Pixels) -> Logits:
        """Logits of a batch.

        Args:
            pixels: (N, H, W, 3), N at least 1, of the bundle's height and width.

        Returns:
            (N, K), in the order of `pixels` and of the bundle's labels.

        Raises:
            EngineError: Wrong shape or dtype, or the runtime failed.
            OutOfMemory: The memory is not enough for so many.
        """
        ...


def open_engine(name: str, bundle: Bundle, threads: int | None = None, max_batch_size: int = MAX_BATCH_SIZE) -> Engine:
    """Make the engine called `name`.

    Args:
        name: One of `ENGINES`.
        bundle: What it runs.
        threads: How wide, on a CPU; default: the CPUs this process may use.
        max_batch_size: Up to which an engine on a GPU prepares itself; larger batches are answered in pieces.

    Raises:
        ConfigError: No such engine here.
        BundleError: The bundle does not carry what the engine runs.
        OutOfMemory: The model does not fit.
    """
    if name not in ENGINES:
        raise ConfigError(f"engine {name!r} does not exist, expected one of {', '.join(ENGINES)}")
    return ENGINES[name](bundle, threads or num_cpus(), max_batch_size)


def check_pixels(pixels: Pixels, spec: InputSpec) -> None:
    """Refuse what is no batch of the bundle's pictures.

    Raises:
        EngineError: It is not.
    """
    shape = (spec.height, spec.width, 3)
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[1:] != shape or len(pixels) == 0:
        raise EngineError(
            f"the engine got {pixels.dtype} {pixels.shape}, expected uint8 (N, {', '.join(map(str, shape))})"
        )


def _onnx(bundle: Bundle, threads: int, _: int) -> Engine:
    from serving.engines.onnx_engine import OnnxEngine

    return OnnxEngine(bundle, threads)


def _onnx_int8(bundle: Bundle, threads: int, _: int) -> Engine:
    from serving.engines.onnx_engine import Int8Engine

    return Int8Engine(bundle, threads)


def _torch(bundle: Bundle, threads: int, max_batch_size: int) -> Engine:
    try:
        from serving.engines.torch_engine import TorchEngine
    except ImportError as error:
        raise ConfigError(f"engine 'torch' needs torch, use the cuda image or another engine: {error}") from error
    return TorchEngine(bundle, threads, max_batch_size)


ENGINES: dict[str, Callable[[Bundle, int, int], Engine]] = {
    "onnx": _onnx,
    "onnx-int8": _onnx_int8,
    "torch": _torch,
}
