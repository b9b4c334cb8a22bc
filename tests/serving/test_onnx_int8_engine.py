"""The default engine in 8-bit integers."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from serving import bundle as bundles
from serving.bundle import Bundle
from serving.engines import Engine, open_engine
from serving.errors import BundleError
from tests.serving.engine_suite import *  # noqa: F403 - the suite
from tests.support.bundles import write_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_bundle(tmp_path_factory.mktemp("int8"), with_int8=True)


@pytest.fixture
def engine(bundle: Bundle) -> Engine:
    return open_engine("onnx-int8", bundle, 1)


def test_it_is_near_the_default_engine_and_not_the_same(engine: Engine, bundle: Bundle) -> None:
    pixels = pictures(bundle, 8)  # noqa: F405 - of the suite
    exact, rounded = open_engine("onnx", bundle, 1).infer(pixels), engine.infer(pixels)
    difference = float(np.abs(exact - rounded).max() / np.abs(exact).max())
    assert 1e-4 < difference < 0.05


def test_its_weights_are_integers_of_seven_bits_with_a_scale_a_channel(bundle: Bundle) -> None:
    graph = onnx.load(bundle.file(bundles.INT8_MODEL)).graph
    arrays = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    kernels = [array for array in arrays.values() if array.dtype == np.int8 and array.ndim == 4]
    assert [kernel.shape for kernel in kernels] == [(16, 3, 5, 5)]
    # Of the 8 bits one is free: without VNNI two products are added in 16 bits, and would not fit.
    assert 60 < np.abs(kernels[0].astype(int)).max() <= 64
    assert any(array.shape == (16,) and array.dtype == np.float32 for array in arrays.values())


def test_a_bundle_without_the_integer_model_says_what_to_do(tmp_path: Path) -> None:
    plain = write_bundle(tmp_path)
    with pytest.raises(BundleError, match=r"carries no model\.int8\.onnx, .*use engine 'onnx'"):
        open_engine("onnx-int8", plain, 1)


def test_options_tell_it_from_the_default(engine: Engine) -> None:
    assert engine.options["dtype"] == "uint8 activations, int8 weights"
