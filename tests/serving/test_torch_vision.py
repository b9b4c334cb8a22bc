"""What the torch engine and a training's start do not load, and that nobody misses it."""

import importlib
import subprocess
import sys

import pytest

from serving.bundle import Bundle
from serving.engines import torch_vision
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


def test_training_starts_and_the_engine_answers_without_torchs_compiler_and_what_asks_for_it_finds_it(
    bundle: Bundle,
) -> None:
    code = """
import sys
from pathlib import Path
def loaded():
    return [name for name in ("torch._dynamo", "torch._inductor", "sympy") if name in sys.modules]
import components.train.run
print("training", loaded())
from serving import bundle, engines, golden
opened = bundle.read(Path(sys.argv[1]))
golden.check(opened, engines.open_engine("torch", opened, 1))
print("engine", loaded())

import torch, torchvision
asked = torchvision.ops.roi_align.__globals__["is_compile_supported"]
print("torch._dynamo.utils" in sys.modules, asked("cpu"), "torch._dynamo.utils" in sys.modules)
boxes = torch.tensor([[0.0, 0.0, 0.0, 3.0, 3.0]])
print(torchvision.ops.roi_align(torch.ones(1, 1, 4, 4), boxes, 2).shape)
from torch._dynamo.utils import is_compile_supported
print(is_compile_supported("cpu") == asked("cpu"), is_compile_supported is not asked)
"""
    assert python(code, str(bundle.folder)).splitlines() == [
        "training []",
        "engine []",
        "False True True",
        "torch.Size([1, 1, 2, 2])",
        "True True",
    ]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> str:
    """A module that loads in no time, in the place of the compiler's."""
    name = "colorsys"
    monkeypatch.setattr(torch_vision, "COMPILER", name)
    monkeypatch.delitem(sys.modules, name, raising=False)
    return name


def test_whoever_takes_something_else_meanwhile_gets_the_real_thing(small: str) -> None:
    """As a torchvision would that takes another function of it, or a torch that loads it on the way."""
    with torch_vision._without_compiler():
        stand_in = sys.modules[small]
        from colorsys import rgb_to_hls
    assert isinstance(stand_in, torch_vision._StandIn)
    assert rgb_to_hls is sys.modules[small].rgb_to_hls
    assert not isinstance(sys.modules[small], torch_vision._StandIn)


def test_what_was_loaded_before_stays(small: str) -> None:
    before = importlib.import_module(small)
    with torch_vision._without_compiler():
        assert sys.modules[small] is before
    assert sys.modules[small] is before


def test_nothing_is_left_of_a_stand_in_that_nobody_asked(small: str) -> None:
    with torch_vision._without_compiler():
        pass
    assert small not in sys.modules


@pytest.mark.slow
def test_so_does_whoever_takes_something_else_of_the_compiler() -> None:
    code = """
from serving.engines import torch_vision
with torch_vision._without_compiler():
    from torch._dynamo.utils import counters
import torch._dynamo.utils
print(counters is torch._dynamo.utils.counters, type(torch._dynamo.utils).__name__)
"""
    assert python(code) == "True module"


@pytest.mark.slow
def test_the_compiler_stays_where_it_was_loaded_before() -> None:
    code = """
import torch._dynamo.utils as before
from serving.engines import torch_vision
import torchvision, torch._dynamo.utils as after
print(before is after, torchvision.ops.roi_align.__globals__["is_compile_supported"] is before.is_compile_supported)
"""
    assert python(code) == "True True"
