from pathlib import Path

import pytest

from tests.containers.jobs import Job, run_job
from tests.support import engine
from tests.support.bundles import write_bundle
from tests.support.folders import write_images


@pytest.fixture(scope="session")
def trained(images: engine.Made, tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A job that trains a ResNet-18 for an epoch, at the size that it has in the wild."""
    root = tmp_path_factory.mktemp("sagemaker") / "ml"
    write_images(root / "input" / "data" / "training", per_class=4)
    return run_job(
        root,
        {
            "arch": "resnet18",
            "weights": "none",
            "freeze": '"none"',
            "image-size": "224",
            "epochs": '"1"',
            "batch_size": "4",
            "learning-rate": '"\\"0.001\\""',
            "sagemaker_region": '"us-east-1"',
        },
    )


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a bundle that loads in milliseconds; others may read it, pytest's own folder lets nobody in."""
    return write_bundle(tmp_path_factory.mktemp("tiny") / "model").folder
