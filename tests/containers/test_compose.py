import json
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
