"""What the torch engine does not load, and that nobody misses it."""

import subprocess
import sys

import pytest

from serving.bundle import Bundle
from tests.support.bundles import write_bundle
from tests.support.servers import ROOT


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_bundle(tmp_path_factory.mktemp("torch-bundle"), with_torch=True)


def python(code: str, *arguments: str) -> str:
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_engine_answers_and_torchs_compiler_was_never_loaded(bundle: Bundle) -> None:
    code = """
import sys
from pathlib import Path
from serving import bundle, engines, golden
opened = bundle.read(Path(sys.argv[1]))
golden.check(opened, engines.open_engine("torch", opened, 1))
print([name for name in ("torch._dynamo", "torch._inductor", "sympy") if name in sys.modules])
"""
    assert python(code, str(bundle.folder)) == "[]"


def test_the_layer_that_asks_for_it_finds_it_when_it_is_called() -> None:
    code = """
import sys
from serving.engines import torch_vision
import torch, torchvision
asked = torchvision.ops.roi_align.__globals__["is_compile_supported"]
print("torch._dynamo.utils" in sys.modules, asked("cpu"), "torch._dynamo.utils" in sys.modules)
boxes = torch.tensor([[0.0, 0.0, 0.0, 3.0, 3.0]])
print(torchvision.ops.roi_align(torch.ones(1, 1, 4, 4), boxes, 2).shape)
from torch._dynamo.utils import is_compile_supported
print(is_compile_supported("cpu") == asked("cpu"), is_compile_supported is not asked)
"""
    assert python(code).splitlines() == ["False True True", "torch.Size([1, 1, 2, 2])", "True True"]


def test_whoever_takes_something_else_of_it_meanwhile_gets_the_real_thing() -> None:
    """As a torchvision would that takes another function of it, or a torch that loads it on the way."""
    code = """
from serving.engines import torch_vision
with torch_vision._without_compiler():
    from torch._dynamo.utils import counters
import torch._dynamo.utils
print(counters is torch._dynamo.utils.counters, type(torch._dynamo.utils).__name__)
"""
    assert python(code) == "True module"


def test_where_it_was_loaded_before_it_stays() -> None:
    code = """
import torch._dynamo.utils as before
from serving.engines import torch_vision
import torchvision, torch._dynamo.utils as after
print(before is after, torchvision.ops.roi_align.__globals__["is_compile_supported"] is before.is_compile_supported)
"""
    assert python(code) == "True True"
