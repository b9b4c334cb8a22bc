import json
import shutil
import socket
from pathlib import Path

import httpx
import pytest
import yaml

from tests.support import engine
from tests.support import images as pictures
from tests.support.engine import Made

pytestmark = pytest.mark.docker

PROJECT = "kenneltest"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_make_up_serves_a_bundle_and_make_down_takes_it_away(images: Made, tiny_bundle: Path) -> None:
    port = free_port()
    variables = {"MODEL": str(tiny_bundle), "PORT": str(port), "COMPOSE_PROJECT_NAME": PROJECT}
    try:
        up = engine.make("up", variables=variables)
        assert up.code == 0, up.output
        assert f"localhost:{port}/invocations" in up.output
        health = engine.docker("inspect", "--format", "{{.State.Health.Status}}", f"{PROJECT}-serving-1")
        assert health == "healthy"
        header = {"Content-Type": "image/jpeg"}
        answer = httpx.post(f"http://127.0.0.1:{port}/invocations", content=pictures.jpeg(), headers=header)
        assert answer.status_code == 200
    finally:
        down = engine.make("down", variables=variables)
    assert down.code == 0, down.output
    assert engine.docker("ps", "--all", "--quiet", "--filter", f"label=com.docker.compose.project={PROJECT}") == ""
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.1:{port}/ping")


def test_make_up_without_a_bundle_says_how_to_get_one(images: Made, tmp_path: Path) -> None:
    up = engine.make("up", variables={"MODEL": str(tmp_path), "COMPOSE_PROJECT_NAME": PROJECT})
    assert up.code != 0
    assert f"there is no bundle in {tmp_path}: run `make demo` to train one, or give MODEL=DIR" in up.output


def test_make_up_with_a_broken_bundle_shows_why(images: Made, tiny_bundle: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "bundle.json").write_text("{")
    variables = {"MODEL": str(folder), "PORT": str(free_port()), "COMPOSE_PROJECT_NAME": PROJECT, "WAIT_S": "8"}
    try:
        up = engine.make("up", variables=variables)
        assert up.code != 0
        assert "bundle.json that is not JSON" in up.output
        assert "did not become healthy" in up.output
    finally:
        engine.make("down", variables=variables)


def failed_up(expected: str, **variables: str) -> Made:
    """`make up` that has to fail with this sentence; what it left is taken down."""
    named = {"PORT": str(free_port()), "COMPOSE_PROJECT_NAME": PROJECT, **variables}
    try:
        up = engine.make("up", variables=named)
    finally:
        engine.make("down", variables=named)
    assert up.code != 0, up.output
    assert f"make up: {expected}" in up.output
    assert "answers on" not in up.output
    return up


def test_make_up_does_not_wait_for_a_model_that_cannot_be_loaded(
    images: Made, tiny_bundle: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_bundle, tmp_path / "model")
    (folder / "model.onnx").write_bytes(b"torn")
    up = failed_up("the server did not become healthy: it cannot load the model", MODEL=str(folder))
    assert "model.onnx' has 4 bytes" in up.output
    assert up.seconds < 30  # the health check alone would take a minute


def test_make_up_fails_when_the_time_is_over(images: Made, tiny_bundle: Path) -> None:
    failed_up("the server did not become healthy within 0 s", MODEL=str(tiny_bundle), WAIT_S="0")


def test_make_up_at_a_port_in_use_says_so(images: Made, tiny_bundle: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        failed_up(
            "a port is taken, Docker's words above say which: give another with PORT=",
            MODEL=str(tiny_bundle),
            PORT=port,
        )


def test_make_up_without_prometheuss_image_says_so(images: Made, tiny_bundle: Path, tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere.yml"
    nowhere.write_text("services: {prometheus: {image: '127.0.0.1:1/prometheus:none'}}")
    files = f"{engine.ROOT / 'docker-compose.yml'}:{nowhere}"
    failed_up("Prometheus's image cannot be had", MODEL=str(tiny_bundle), METRICS="1", COMPOSE_FILE=files)


def test_make_up_on_a_gpu_that_docker_cannot_give_says_so(images: Made, tiny_bundle: Path, tmp_path: Path) -> None:
    """The driver asked for is one that no machine has, so that those with a GPU say the same."""
    other = tmp_path / "other.yml"
    device = "{driver: nvidia-none, count: 1, capabilities: [gpu]}"
    other.write_text(f"services: {{serving-gpu: {{deploy: {{resources: {{reservations: {{devices: [{device}]}}}}}}}}}}")
    files = f"{engine.ROOT / 'docker-compose.yml'}:{other}"
    failed_up("this Docker has no NVIDIA GPU to give", MODEL=str(tiny_bundle), GPU="1", COMPOSE_FILE=files)


def test_prometheus_asks_the_services_that_compose_starts(tmp_path: Path) -> None:
    """Its image is not fetched here: what is checked is that the two files speak of the same names and ports."""
    composed = json.loads(engine.docker("compose", "--profile", "*", "config", "--format", "json"))["services"]
    (mount,) = composed["prometheus"]["volumes"]
    assert mount["target"] == "/etc/prometheus/prometheus.yml"
    scraped = yaml.safe_load(Path(mount["source"]).read_text())["scrape_configs"]
    targets = {target for job in scraped for static in job["static_configs"] for target in static["targets"]}
    served = {
        f"{name}:{port['target']}"
        for name, service in composed.items()
        for port in service["ports"]
        if "kennel" in service["image"]
    }
    assert targets == served


def test_prometheus_comes_only_when_asked_for() -> None:
    assert "prometheus" not in engine.docker("compose", "config", "--services").split()
