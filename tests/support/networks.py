"""Networks for tests: without weights, however large, and with weights that hide no mistake."""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import torch
from torch import Tensor, nn

from components.model import input_spec
from serving.bundle import Head
from serving.engines.torch_network import Network


@contextmanager
def on_meta() -> Iterator[None]:
    """Modules made in this block have their parameters and buffers on the meta device.

    Shapes can be computed there, numbers cannot. `torch.device("meta")` would do for most architectures; RegNet and
    Swin compute their widths with tensors.
    """
    register_parameter, register_buffer = nn.Module.register_parameter, nn.Module.register_buffer

    def parameter(module: nn.Module, name: str, value: nn.Parameter | None) -> None:
        register_parameter(module, name, None if value is None else nn.Parameter(value.to("meta")))

    def buffer(module: nn.Module, name: str, value: Tensor | None, persistent: bool = True) -> None:
        register_buffer(module, name, None if value is None else value.to("meta"), persistent)

    with (
        mock.patch.object(nn.Module, "register_parameter", parameter),
        mock.patch.object(nn.Module, "register_buffer", buffer),
    ):
        yield


def settled(architecture: str, size: int, num_labels: int = 3, seed: int = 0) -> Network:
    """A network whose batch statistics are not those of a newborn, which hide mistakes in exporting them."""
    torch.manual_seed(seed)
    network = Network(architecture, Head(kind="linear"), num_labels, input_spec(size))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)  # type: ignore[arg-type]  # there is one
            nn.init.uniform_(module.running_var, 0.8, 1.2)  # type: ignore[arg-type]
    return network.eval()
