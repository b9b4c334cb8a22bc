"""A torchvision architecture with our head on it, and the pixels' way in: what a bundle's weights are weights of."""

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from serving.bundle import Head, InputSpec
from serving.engines.torch_vision import models
from serving.errors import ConfigError

Weights = dict[str, Tensor]


class Network(nn.Module):
    """Pixels to logits: cast, normalise, change layout, run the architecture. The whole of it is exported to ONNX."""

    mean: Tensor
    std: Tensor

    def __init__(self, architecture: str, head: Head, num_labels: int, spec: InputSpec) -> None:
        """Build it with random weights."""
        super().__init__()
        self.body = build_architecture(architecture, (spec.height, spec.width))
        self.head_path = replace_head(self.body, head, num_labels)
        # Not in the state dict: they belong to the bundle's input, not to what was learnt.
        self.register_buffer("mean", torch.tensor(spec.mean).mul(255).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(spec.std).mul(255).view(1, 3, 1, 1), persistent=False)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """As torch's, for a plain dict too: it lacks the versions of modules, without which MNASNet refuses it."""
        if not hasattr(state_dict, "_metadata"):
            state_dict = OrderedDict(state_dict)
            state_dict._metadata = self.state_dict()._metadata  # type: ignore[attr-defined]  # noqa: SLF001 - torch's
        return super().load_state_dict(state_dict, strict, assign)

    @property
    def head(self) -> nn.Module:
        """The classifier that replaced the architecture's own."""
        return self.body.get_submodule(self.head_path)

    def replace(self, head: nn.Module) -> None:
        """Put another head in the place of this one; torch's modules know no properties that can be set."""
        _put(self.body, self.head_path, head)

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits (N, K) of uint8 pixels (N, H, W, 3)."""
        logits: Tensor = self.body(self.normalise(pixels))
        return logits

    def forward_in(self, dtype: torch.dtype, pixels: Tensor) -> Tensor:
        """Logits in float32 of a network whose body is in `dtype`; what the body gets is normalised in float32."""
        logits: Tensor = self.body(self.normalise(pixels).to(dtype))
        return logits.float()

    def normalise(self, pixels: Tensor) -> Tensor:
        """What the body gets of uint8 pixels (N, H, W, 3): (N, 3, H, W)."""
        return (pixels.permute(0, 3, 1, 2).to(self.mean.dtype) - self.mean) / self.std


def list_architectures() -> list[str]:
    """Names of torchvision's classification architectures."""
    names: list[str] = models.list_models(module=models)
    return names


def build_architecture(name: str, size: tuple[int, int]) -> nn.Module:
    """A torchvision classification network with random weights, for inputs of `size` (height, width) in px.

    Inception and GoogLeNet come without their auxiliary classifiers. They were meant to carry gradients to the lower
    layers of a network trained from nothing; Szegedy et al. 2015 (arXiv 1512.00567, section 4) found no faster
    convergence by them, and a pretrained or frozen backbone has no use for gradients from ImageNet's labels.

    Raises:
        ConfigError: No such architecture, or it does not take this size.
    """
    if name not in list_architectures():
        raise ConfigError(
            f'architecture "{name}" does not exist, expected a torchvision classification model such as resnet18'
        )
    options: dict[str, object] = {"weights": None}
    if name.startswith("vit_"):
        options["image_size"] = size[0]
    if name.startswith("maxvit_"):
        options["input_size"] = size
    if name in {"googlenet", "inception_v3"}:
        # Their published weights expect transformed input; nothing in the weights says so.
        options |= {"transform_input": True, "init_weights": False, "aux_logits": False}
    try:
        network: nn.Module = models.get_model(name, **options)
    except (ValueError, AssertionError) as error:
        raise ConfigError(f"architecture {name} does not take pictures of {size[0]} x {size[1]} px: {error}") from error
    return network


def replace_head(network: nn.Module, head: Head, num_labels: int) -> str:
    """Put a new classifier in place of the last linear (or 1x1 convolution) layer.

    The last such layer in definition order is the classifier in every torchvision architecture.

    Returns:
        Path of the new head in `network`.
    """
    layers = [(str(path), layer) for path, layer in network.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    path, last = layers[-1]
    _put(network, path, make_head(head, last, num_labels))
    return path


def _put(network: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, child = path.rpartition(".")
    setattr(network.get_submodule(parent), child, module)


def make_head(head: Head, last: nn.Linear | nn.Conv2d, num_labels: int) -> nn.Module:
    """Layers of the kind of `last`, from its inputs to the labels, with random weights."""

    def layer(inputs: int, outputs: int) -> nn.Module:
        return nn.Linear(inputs, outputs) if isinstance(last, nn.Linear) else nn.Conv2d(inputs, outputs, kernel_size=1)

    inputs = last.in_features if isinstance(last, nn.Linear) else last.in_channels
    if head.kind == "linear":
        return layer(inputs, num_labels)
    hidden = head.hidden or inputs
    dropout = [nn.Dropout(head.dropout)] if head.dropout > 0 else []
    return nn.Sequential(layer(inputs, hidden), nn.ReLU(), *dropout, layer(hidden, num_labels))
