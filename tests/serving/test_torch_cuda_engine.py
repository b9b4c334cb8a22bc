"""The engine of the cuda image on a GPU: bfloat16, channels-last, captured graphs."""

import gc
import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from serving import golden
from serving.bundle import Bundle
from serving.engines import Engine, open_engine
from serving.engines.torch_cuda import CudaRunner
from serving.engines.torch_engine import TorchEngine, load_network
from serving.engines.torch_network import Network
from serving.errors import EngineError, OutOfMemory
from tests.serving.engine_suite import *  # noqa: F403 - the suite
from tests.support.bundles import write_bundle

pytestmark = pytest.mark.gpu

MAX_BATCH_SIZE = 8


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_bundle(tmp_path_factory.mktemp("torch-bundle"), with_torch=True)


@pytest.fixture(scope="module")
def engine(bundle: Bundle) -> Engine:
    return open_engine("torch", bundle, 1, MAX_BATCH_SIZE)


@pytest.fixture(scope="module")  # type: ignore[no-redef]  # over the suite's, of float32
def batch_tolerance() -> float:
    """A sum that comes out in another order may be rounded to the next of 256 steps, in every layer."""
    return 0.02


def test_it_computes_in_bfloat16_and_says_what_it_captured(engine: Engine) -> None:
    assert engine.options["device"] == "cuda"
    assert engine.options["dtype"] == "bfloat16"
    assert engine.options["graphs of"] == "1 2 4 8"
    assert engine.tolerance > 1e-3


def test_it_is_near_float32_on_the_cpu_and_not_the_same(engine: Engine, bundle: Bundle) -> None:
    pixels = pictures(bundle, 8)  # noqa: F405
    exact = TorchEngine(bundle, 1, device="cpu").infer(pixels)
    difference = float(np.abs(engine.infer(pixels) - exact).max() / np.abs(exact).max())
    assert 1e-5 < difference < engine.tolerance / 4


@pytest.mark.parametrize("count", range(1, 2 * MAX_BATCH_SIZE + 2))
def test_graphs_answer_as_the_same_network_does_without(engine: Engine, bundle: Bundle, count: int) -> None:
    pixels = pictures(bundle, count)  # noqa: F405 - of the suite
    with torch.inference_mode():
        runner = CudaRunner(load_network(bundle, torch.bfloat16), torch.bfloat16)
        expected = runner.forward(torch.tensor(pixels, device=runner.device)).cpu().numpy()
    np.testing.assert_allclose(engine.infer(pixels), expected, rtol=0, atol=0.02 * np.abs(expected).max())


def test_a_replay_allocates_nothing(engine: Engine, bundle: Bundle) -> None:
    pixels = pictures(bundle, MAX_BATCH_SIZE)  # noqa: F405
    engine.infer(pixels)
    before = torch.cuda.memory_stats()["allocation.all.allocated"]
    for count in range(1, MAX_BATCH_SIZE + 1):
        engine.infer(pixels[:count])
    assert torch.cuda.memory_stats()["allocation.all.allocated"] == before


def test_two_engines_answer_in_turn_each_its_own(engine: Engine, bundle: Bundle, tmp_path: Path) -> None:
    other = open_engine("torch", write_bundle(tmp_path, seed=1, with_torch=True), 1, MAX_BATCH_SIZE)
    pixels = pictures(bundle, 3)  # noqa: F405
    mine, theirs = engine.infer(pixels), other.infer(pixels)
    assert np.abs(mine - theirs).max() > 0.02 * np.abs(mine).max()
    for _ in range(3):
        np.testing.assert_array_equal(engine.infer(pixels), mine)
        np.testing.assert_array_equal(other.infer(pixels), theirs)


def test_what_cannot_be_captured_runs_without_a_graph_and_the_log_says_so(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    normalise = Network.normalise

    def waits(self: Network, pixels: torch.Tensor) -> torch.Tensor:
        return normalise(self, pixels) + 0 * pixels.max().item()  # the processor waits for the GPU

    monkeypatch.setattr(Network, "normalise", waits)
    with caplog.at_level(logging.WARNING, "serving"):
        engine = open_engine("torch", bundle, 1, MAX_BATCH_SIZE)
    assert "cannot be captured" in caplog.text
    assert engine.options["graphs of"] == "none"
    assert golden.check(bundle, engine) < engine.tolerance


def test_a_gpu_that_is_full_is_out_of_memory_and_the_next_engine_opens(bundle: Bundle) -> None:
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(1e-4)
    try:
        with pytest.raises(OutOfMemory, match="there is not enough memory for the model"):
            open_engine("torch", bundle, 1, 4096)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    gc.collect()
    assert golden.check(bundle, open_engine("torch", bundle, 1, 2)) < 1


def test_it_goes_on_after_a_refusal(engine: Engine, bundle: Bundle) -> None:
    good = pictures(bundle, 2)  # noqa: F405
    before = engine.infer(good)
    with pytest.raises(EngineError):
        engine.infer(good[:, 1:])
    np.testing.assert_array_equal(engine.infer(good), before)
