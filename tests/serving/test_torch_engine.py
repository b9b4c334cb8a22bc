"""The engine of the cuda image, here on the CPU."""

from pathlib import Path

import pytest

from serving import bundle as bundles
from serving.bundle import Bundle
from serving.engines import Engine, open_engine
from serving.errors import BundleError
from tests.serving.engine_suite import *  # noqa: F403 - the suite
from tests.support.bundles import write_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_bundle(tmp_path_factory.mktemp("torch-bundle"), with_torch=True)


@pytest.fixture(scope="module")
def engine(bundle: Bundle) -> Engine:
    return open_engine("torch", bundle, 1)


def test_a_bundle_without_weights_is_a_bundle_error(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"carries no model\.safetensors"):
        open_engine("torch", write_bundle(tmp_path), 1)


def test_weights_of_another_architecture_are_a_bundle_error(bundle: Bundle) -> None:
    other = bundle.manifest.model_copy(update={"architecture": "resnet18"})
    with pytest.raises(BundleError, match="does not hold weights of resnet18"):
        open_engine("torch", bundles.Bundle(bundle.folder, other), 1)
