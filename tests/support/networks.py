"""Networks without weights, however large: shapes can be computed on torch's meta device, numbers cannot."""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

from torch import Tensor, nn


@contextmanager
def on_meta() -> Iterator[None]:
    """Modules made in this block have their parameters and buffers on the meta device.

    `torch.device("meta")` would do for most architectures; RegNet and Swin compute their widths with tensors.
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
