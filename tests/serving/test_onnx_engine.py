"""The default engine."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from serving import bundle as bundles
from serving.bundle import Bundle
from serving.engines import Engine, open_engine
from serving.errors import BundleError, EngineError
from tests.serving.engine_suite import *  # noqa: F403 - the suite
from tests.support.bundles import reseal, write_model


@pytest.fixture
def engine(bundle: Bundle) -> Engine:
    return open_engine("onnx", bundle, 1)


def test_a_file_that_is_no_model_is_a_bundle_error(own_bundle: Path) -> None:
    (own_bundle / bundles.ONNX_MODEL).write_bytes(b"no model")
    reseal(own_bundle)
    with pytest.raises(BundleError, match="is not a model that ONNX Runtime loads"):
        open_engine("onnx", bundles.read(own_bundle), 1)


def test_a_model_with_another_number_of_labels_is_an_engine_error(own_bundle: Path, bundle: Bundle) -> None:
    write_model(own_bundle / bundles.ONNX_MODEL, seed=0, num_labels=3)
    reseal(own_bundle)
    with pytest.raises(EngineError, match=r"answered \(2, 3\), expected \(2, 7\)"):
        open_engine("onnx", bundles.read(own_bundle), 1).infer(pictures(bundle, 2))  # noqa: F405 - of the suite


def test_nothing_is_told_to_the_makers_of_the_runtime(own_bundle: Path, tmp_path: Path) -> None:
    scratch = tmp_path / "tmp"
    scratch.mkdir()
    code = (
        "import sys; from pathlib import Path; from serving import bundle, engines; "
        "engines.open_engine('onnx', bundle.read(Path(sys.argv[1])), 1)"
    )
    environ = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    subprocess.run([sys.executable, "-c", code, str(own_bundle)], check=True, env=environ | {"TMPDIR": str(scratch)})
    assert list(scratch.iterdir()) == []  # telemetry keeps the number of its session here
