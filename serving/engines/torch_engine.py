"""torch, on a GPU where there is one: weights from model.safetensors, architecture from torchvision."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, Literal

import torch
from safetensors.torch import load_file

from serving.bundle import WEIGHTS, Bundle
from serving.engines import REMEDY, TOLERANCE, Logits, check_pixels
from serving.engines.torch_batches import Batches, batch_sizes
from serving.engines.torch_cuda import CudaRunner
from serving.engines.torch_network import Network
from serving.errors import BundleError, EngineError, OutOfMemory
from serving.machine import MAX_BATCH_SIZE
from serving.preprocess import Pixels

logger = logging.getLogger(__name__)

TOLERANCES: Final = {torch.float32: TOLERANCE, torch.bfloat16: 0.2}
"""By dtype. bfloat16 keeps 8 bits of a number. Logits of golden inputs moved by 0.003 (SqueezeNet) to 0.14 (RegNet) of
the largest, on a CPU, with trained and with random weights; another model's are 0.5 to 2 off."""
OUT_OF_MEMORY: Final = ("can't allocate memory", "out of memory")
"""How torch says so, of the machine's and of the GPU's."""


class TorchEngine:
    """Runs the bundle's model.safetensors: in bfloat16 on a GPU that computes in it, else in float32.

    Args:
        bundle: What it runs.
        threads: On a CPU.
        max_batch_size: On a GPU, the largest that is captured; larger ones are answered in pieces.
        device: Default: a GPU where there is one.
    """

    name = "torch"

    def __init__(
        self,
        bundle: Bundle,
        threads: int,
        max_batch_size: int = MAX_BATCH_SIZE,
        device: Literal["cpu", "cuda"] | None = None,
    ) -> None:
        manifest = bundle.manifest
        self._device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self._dtype = _dtype(self._device)
        self._spec = manifest.input
        self._more: dict[str, str] = {}
        with _engine_errors("the model"):
            network = load_network(bundle, self._dtype)
            with torch.inference_mode():
                if self._device == "cuda":
                    self._answer = self._on_gpu(network, max_batch_size, len(manifest.labels))
                else:
                    self._answer = self._on_cpu(network, threads)

    @property
    def options(self) -> dict[str, str]:
        """Device and dtype, as they bear on the last digits of the logits."""
        return {
            "runtime": f"torch {torch.__version__}",
            "device": self._device,
            "threads": str(torch.get_num_threads()),
            "dtype": str(self._dtype).removeprefix("torch."),
            **self._more,
        }

    @property
    def tolerance(self) -> float:
        """See `Engine.tolerance`."""
        return TOLERANCES[self._dtype]

    def infer(self, pixels: Pixels) -> Logits:
        """See `Engine.infer`."""
        check_pixels(pixels, self._spec)
        with _engine_errors(f"a batch of {len(pixels)}"), torch.inference_mode():
            return self._answer(pixels)

    def _on_gpu(self, network: Network, max_batch_size: int, num_labels: int) -> Callable[[Pixels], Logits]:
        sizes = batch_sizes(max_batch_size)
        runner = CudaRunner(network, self._dtype)
        batches = Batches(runner, sizes, (self._spec.height, self._spec.width, 3), num_labels)
        self._more = {
            "gpu": torch.cuda.get_device_name(),
            "graphs of": " ".join(map(str, sizes)) if runner.has_graphs else "none",
        }
        return batches.infer

    def _on_cpu(self, network: Network, threads: int) -> Callable[[Pixels], Logits]:
        logger.info("torch runs on the CPU in float32%s", "" if torch.cuda.is_available() else ": it finds no GPU")
        torch.set_num_threads(threads)
        return lambda pixels: network(torch.tensor(pixels)).numpy()


def _dtype(device: str) -> torch.dtype:
    # Older GPUs, such as the T4, only imitate bfloat16; so do most CPUs.
    has_it = device == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if has_it else torch.float32


def load_network(bundle: Bundle, dtype: torch.dtype) -> Network:
    """The network on the CPU, channels-last, its body in `dtype`.

    Raises:
        BundleError: The weights are of another network.
    """
    manifest, path = bundle.manifest, bundle.file(WEIGHTS)
    network = Network(manifest.architecture, manifest.head, len(manifest.labels), manifest.input)
    network.body.to(dtype).to(memory_format=torch.channels_last)
    try:
        network.load_state_dict(load_file(path))
    except Exception as error:  # safetensors and torch raise several kinds
        if _is_out_of_memory(error):
            raise
        raise BundleError(f"{str(path)!r} does not hold weights of {manifest.architecture}: {error}") from error
    return network.eval()


def _is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError) or any(words in str(error) for words in OUT_OF_MEMORY)


@contextmanager
def _engine_errors(of_what: str) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if _is_out_of_memory(error):
            raise OutOfMemory(f"there is not enough memory for {of_what}: {REMEDY}") from error
        raise EngineError(f"torch failed on {of_what}: {error}") from error
