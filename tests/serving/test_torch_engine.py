"""The engine of the cuda image, here on the CPU."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from serving import bundle as bundles
from serving.bundle import Bundle
from serving.engines import Engine, open_engine
from serving.engines.torch_engine import TOLERANCES, TorchEngine, load_network
from serving.errors import BundleError
from tests.serving.engine_suite import *  # noqa: F403 - the suite
from tests.support.bundles import write_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_bundle(tmp_path_factory.mktemp("torch-bundle"), with_torch=True)


@pytest.fixture(scope="module")
def engine(bundle: Bundle) -> Engine:
    return TorchEngine(bundle, 1, device="cpu")


def test_a_bundle_without_weights_is_a_bundle_error(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"carries no model\.safetensors"):
        open_engine("torch", write_bundle(tmp_path), 1)


def test_weights_of_another_architecture_are_a_bundle_error(bundle: Bundle) -> None:
    other = bundle.manifest.model_copy(update={"architecture": "resnet18"})
    with pytest.raises(BundleError, match="does not hold weights of resnet18"):
        open_engine("torch", bundles.Bundle(bundle.folder, other), 1)


def test_in_bfloat16_it_is_near_and_the_same_pixels_are_normalised(engine: Engine, bundle: Bundle) -> None:
    """What runs on a GPU, here slowly."""
    pixels = pictures(bundle, 8)  # noqa: F405 - of the suite
    exact = engine.infer(pixels)
    with torch.inference_mode():
        rounded = load_network(bundle, torch.bfloat16).forward_in(torch.bfloat16, torch.tensor(pixels)).numpy()
    assert rounded.dtype == np.float32
    difference = float(np.abs(exact - rounded).max() / np.abs(exact).max())
    assert 1e-5 < difference < TOLERANCES[torch.bfloat16] / 4
    assert TOLERANCES[torch.float32] == engine.tolerance


def test_the_log_says_that_it_runs_on_the_cpu(bundle: Bundle, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "serving"):
        options = TorchEngine(bundle, 1, device="cpu").options
    assert "torch runs on the CPU in float32" in caplog.text
    assert (options["device"], options["dtype"]) == ("cpu", "float32")
