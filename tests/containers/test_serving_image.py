import json
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from serving import golden
from serving.bundle import read
from tests.containers.jobs import Job
from tests.support import engine
from tests.support import images as pictures
from tests.support.bundles import LABELS, pack
from tests.support.engine import Container, Made
from tests.support.figures import RecordFigure
from tests.support.servers import wait_for

pytestmark = pytest.mark.docker

PUBLISHED = ("--publish", "127.0.0.1::8080")
TIGHT = ("--read-only", "--user", "12345", "--network", "none", "--memory", "1g", "--cpus", "1")
COLD_START_LIMIT_S = (
    10.0  # the promise is 3 s, printed below; a machine busy with neighbours gets more before it is red
)
ASK = """
import sys, urllib.request
request = urllib.request.Request("http://127.0.0.1:8080" + sys.argv[1])
if len(sys.argv) > 2:
    request.data = bytes.fromhex(sys.argv[2])
    request.add_header("Content-Type", "image/jpeg")
print(urllib.request.urlopen(request, timeout=20).read().decode())
"""


def mounted(model: Path) -> tuple[str, str]:
    return ("--volume", f"{model}:/opt/ml/model:ro")


def is_ready(server: Container) -> bool:
    assert server.is_running, server.logs
    try:
        return httpx.get(f"{server.address()}/ping", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture(scope="module")
def server(images: Made, tiny_bundle: Path) -> Iterator[Container]:
    """The image as a laptop runs it, ready."""
    with engine.container("kennel-serving:latest", "serve", options=[*PUBLISHED, *mounted(tiny_bundle)]) as running:
        wait_for(lambda: is_ready(running), "/ping to be 200")
        yield running


def test_a_jpeg_gets_ranked_labels(server: Container) -> None:
    answer = httpx.post(
        f"{server.address()}/invocations", content=pictures.jpeg(), headers={"Content-Type": "image/jpeg"}
    )
    ranked = answer.json()["predictions"]
    assert answer.status_code == 200
    assert {entry["label"] for entry in ranked} <= set(LABELS)
    assert [entry["probability"] for entry in ranked] == sorted(
        (entry["probability"] for entry in ranked), reverse=True
    )


def test_a_text_file_gets_a_4xx_and_the_next_picture_an_answer(server: Container) -> None:
    url, header = f"{server.address()}/invocations", {"Content-Type": "image/jpeg"}
    assert httpx.post(url, content=b"hello", headers=header).status_code == 400
    assert httpx.post(url, content=pictures.jpeg(), headers=header).status_code == 200


def test_it_runs_read_only_as_any_user_without_network_in_a_gigabyte(images: Made, tiny_bundle: Path) -> None:
    with engine.container("kennel-serving:cpu", "serve", options=[*TIGHT, *mounted(tiny_bundle)]) as server:
        wait_for(lambda: "ready" in server.logs or not server.is_running, "the server to be ready")
        assert server.is_running, server.logs
        server.python(ASK, "/ping")
        ranked = json.loads(server.python(ASK, "/invocations", pictures.jpeg().hex()))["predictions"]
        assert {entry["label"] for entry in ranked} <= set(LABELS)
        assert server.stop() == 0


def test_it_serves_an_archive_when_it_may_write_to_tmp(images: Made, tiny_bundle: Path, tmp_path: Path) -> None:
    folder = tmp_path / "archive"
    folder.mkdir()
    pack(tiny_bundle, folder / "model.tar.gz")
    options = [*PUBLISHED, *mounted(folder), "--read-only", "--tmpfs", "/tmp", "--user", "12345"]
    with engine.container("kennel-serving:cpu", "serve", options=options) as server:
        wait_for(lambda: is_ready(server), "/ping to be 200")


def test_it_listens_on_the_port_that_sagemaker_names(images: Made, tiny_bundle: Path) -> None:
    options = ["--publish", "127.0.0.1::9009", "--env", "SAGEMAKER_BIND_TO_PORT=9009", *mounted(tiny_bundle)]
    with engine.container("kennel-serving:cpu", "serve", options=options) as server:
        wait_for(lambda: "port 9009" in server.logs, "the port in the log")


def test_a_tampered_bundle_never_becomes_healthy_and_the_log_names_the_file(
    images: Made, tiny_bundle: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for file in tiny_bundle.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    content = bytearray((folder / "model.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "model.onnx").write_bytes(content)
    with engine.container("kennel-serving:cpu", "serve", options=[*PUBLISHED, *mounted(folder)]) as server:
        wait_for(lambda: "model.onnx" in server.logs, "the file in the log")
        assert httpx.get(f"{server.address()}/ping", timeout=5).status_code == 503


def test_sigterm_ends_it_with_0(images: Made, tiny_bundle: Path) -> None:
    with engine.container("kennel-serving:cpu", "serve", options=[*PUBLISHED, *mounted(tiny_bundle)]) as server:
        wait_for(lambda: is_ready(server), "/ping to be 200")
        started = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - started < 25


def test_the_cuda_image_answers_as_torch_did_in_training(images: Made, trained: Job) -> None:
    """On a machine without a GPU torch takes the CPU; the golden logits are checked before /ping is 200."""
    model = trained.root / "model"
    assert "torch" in golden.read(read(model)).logits
    with engine.container("kennel-serving:cuda", "serve", options=[*PUBLISHED, *mounted(model)]) as server:
        wait_for(lambda: is_ready(server), "/ping to be 200")
        assert "torch" in server.logs


def test_cold_start_with_a_resnet18(images: Made, trained: Job, record_figure: RecordFigure) -> None:
    started = time.monotonic()
    with engine.container(
        "kennel-serving:cpu", "serve", options=[*PUBLISHED, *mounted(trained.root / "model")]
    ) as server:
        wait_for(lambda: is_ready(server), "/ping to be 200")
        ready_s = time.monotonic() - started
    started = time.monotonic()
    engine.docker(
        "run", "--rm", "--network", "none", "--entrypoint", "python", "kennel-serving:cuda", "-c", "import torch"
    )
    torch_s = time.monotonic() - started
    record_figure(
        f"container start to first 200 on /ping with a ResNet-18: {ready_s:.2f} s (promised: 3 s); "
        f"container start to the end of `import torch` alone: {torch_s:.2f} s; ratio {ready_s / torch_s:.2f}"
    )
    assert ready_s < COLD_START_LIMIT_S
