"""torchvision's architectures without torch's compiler, which `import torchvision` loads for a layer of detectors.

torchvision/ops/roi_align.py takes one function from torch._dynamo.utils when it is imported. That module brings
torch's compiler and sympy along: more than half of the time in which the torch engine starts, and nothing that
classifies calls it. While torchvision is imported, a stand-in answers in its place.
"""

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any, Final

import torch  # noqa: F401 - before the stand-in, which is for torchvision alone

COMPILER: Final = "torch._dynamo.utils"


class _StandIn(ModuleType):
    """Puts off loading the module until that function is called; whoever takes anything else gets it at once."""

    def is_compile_supported(self, device_type: Any) -> Any:
        return _load("is_compile_supported")(device_type)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # what the import system asks of every module
            raise AttributeError(name)
        return _load(name)


@contextmanager
def _without_compiler() -> Iterator[None]:
    stand_in = _StandIn(COMPILER)
    # Where somebody has loaded the real module already, it stays.
    is_used = sys.modules.setdefault(COMPILER, stand_in) is stand_in
    try:
        yield
    finally:
        if is_used:
            _remove_stand_in()


def _load(name: str) -> Any:
    _remove_stand_in()
    return getattr(importlib.import_module(COMPILER), name)


def _remove_stand_in() -> None:
    if isinstance(sys.modules.get(COMPILER), _StandIn):
        del sys.modules[COMPILER]


with _without_compiler():
    from torchvision import io, models

__all__ = ["io", "models"]
