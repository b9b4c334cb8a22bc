"""torch, on a GPU where there is one: weights from model.safetensors, architecture from torchvision."""

import numpy as np
import torch
from safetensors.torch import load_file

from serving.bundle import WEIGHTS, Bundle
from serving.engines import Logits
from serving.engines.torch_network import Network
from serving.errors import BundleError, EngineError
from serving.preprocess import Pixels


class TorchEngine:
    """Runs the bundle's model.safetensors, in float32."""

    name = "torch"

    def __init__(self, bundle: Bundle, threads: int) -> None:
        manifest = bundle.manifest
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        if self._device.type == "cpu":
            torch.set_num_threads(threads)
        network = Network(manifest.architecture, manifest.head, len(manifest.labels), manifest.input)
        path = bundle.file(WEIGHTS)
        try:
            network.load_state_dict(load_file(path))
        except Exception as error:  # safetensors and torch raise several kinds
            raise BundleError(f"{str(path)!r} does not hold weights of {manifest.architecture}: {error}") from error
        self._network = network.eval().to(self._device)
        self._shape = (manifest.input.height, manifest.input.width, 3)

    @property
    def options(self) -> dict[str, str]:
        """Device and dtype, as they bear on the last digits of the logits."""
        return {
            "runtime": f"torch {torch.__version__}",
            "device": self._device.type,
            "threads": str(torch.get_num_threads()),
            "dtype": "float32",
        }

    def infer(self, pixels: Pixels) -> Logits:
        """See `Engine.infer`."""
        if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[1:] != self._shape or len(pixels) == 0:
            raise EngineError(
                f"the engine got {pixels.dtype} {pixels.shape}, expected uint8 (N, {', '.join(map(str, self._shape))})"
            )
        try:
            with torch.inference_mode():
                logits: Logits = self._network(torch.tensor(pixels, device=self._device)).cpu().numpy()
        except RuntimeError as error:
            raise EngineError(f"torch failed on a batch of {len(pixels)}: {error}") from error
        return logits
