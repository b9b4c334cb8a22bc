"""AWS's own client of its PyTorch container, pointed at ours: what its users send and expect back stays as it was."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.containers.test_serving_image import PUBLISHED, is_ready, mounted
from tests.support import engine
from tests.support.bundles import LABELS
from tests.support.engine import ROOT, Container, Made
from tests.support.photographs import halves
from tests.support.servers import wait_for

pytestmark = [pytest.mark.docker, pytest.mark.slow]


@pytest.fixture(scope="module")
def server(images: Made, tiny_bundle: Path) -> Iterator[Container]:
    with engine.container("kennel-serving:cpu", "serve", options=[*PUBLISHED, *mounted(tiny_bundle)]) as running:
        wait_for(lambda: is_ready(running), "/ping to be 200")
        yield running


@pytest.fixture(scope="module")
def photograph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not square, as photographs are."""
    path = tmp_path_factory.mktemp("photograph") / "photograph.jpg"
    Image.fromarray(halves()["9.petal"][0]).save(path, quality=95)
    return path


@pytest.fixture(scope="module")
def answers(server: Container, photograph: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Of a process of its own: the SDK warns, logs and looks for a home folder."""
    home = tmp_path_factory.mktemp("home")
    environment = os.environ | {
        "HOME": str(home),
        "DOCKER_CONFIG": os.environ.get("DOCKER_CONFIG", str(Path.home() / ".docker")),
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "nobody",
        "AWS_SECRET_ACCESS_KEY": "nothing",
        "AWS_EC2_METADATA_DISABLED": "true",
        "SAGEMAKER_SUPPRESS_V2_WARNING": "1",
    }
    port = server.address().rpartition(":")[2]
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.pytorch_client", port, str(photograph)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.partition("ANSWERS ")[2])
    return found


def logits(server: Container, picture: Image.Image) -> NDArray[np.float32]:
    """As our own client gets them, of a picture without loss."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    headers = {"Content-Type": "image/png", "Accept": "application/x-npy"}
    answer = httpx.post(f"{server.address()}/invocations", content=buffer.getvalue(), headers=headers, timeout=20)
    return np.asarray(np.load(io.BytesIO(answer.content)))


def test_a_tensor_of_a_photograph_that_is_not_square_gets_its_logits(
    server: Container, photograph: Path, answers: dict[str, Any]
) -> None:
    """`Resize(224)` and `ToTensor` without normalisation: 1 x 3 x H x W floats."""
    batch, channels, height, width = answers["shape"]
    assert (batch, channels) == (1, 3)
    assert height != width
    resized = Image.open(photograph).resize((width, height), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(np.array(answers["floats"], np.float32), logits(server, resized))
    assert answers["list"] == answers["floats"]


def test_a_raw_row_of_cifar_reshaped_gets_its_logits(
    server: Container, photograph: Path, answers: dict[str, Any]
) -> None:
    expected = logits(server, Image.open(photograph).resize((32, 32)))
    np.testing.assert_array_equal(np.array(answers["row"], np.float32), expected)
    assert LABELS[int(np.argmax(answers["row"], 1)[0])]  # what their code does next


def test_a_jpeg_with_the_identity_serializer_gets_ranked_labels(
    server: Container, photograph: Path, answers: dict[str, Any]
) -> None:
    headers = {"Content-Type": "image/jpeg", "Accept": "application/json"}
    ours = httpx.post(f"{server.address()}/invocations", content=photograph.read_bytes(), headers=headers, timeout=20)
    assert answers["jpeg"] == ours.json()
    assert len(answers["jpeg"]["predictions"]) == 5
