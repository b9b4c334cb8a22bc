"""Where the server's settings come from."""

import logging
import re
from pathlib import Path

import pytest

from serving.errors import ConfigError
from serving.settings import ServerSettings, read


def test_the_defaults_are_sagemakers_contract() -> None:
    settings = read([], {})
    assert settings == ServerSettings()
    assert (settings.model, settings.host, settings.port) == (Path("/opt/ml/model"), "0.0.0.0", 8080)
    assert settings.engine == "onnx"
    assert settings.max_payload_bytes == 25 * 2**20


def test_a_flag_wins_over_kennels_variable_and_that_over_the_platforms() -> None:
    environment = {"SAGEMAKER_BIND_TO_PORT": "9001"}
    assert read([], environment).port == 9001
    assert read([], {"KENNEL_PORT": "9002"} | environment).port == 9002
    assert read(["--port", "9003"], environment | {"KENNEL_PORT": "9002"}).port == 9003


@pytest.mark.parametrize(("given", "size_mb"), [("6", 6), ("0", 1024), ("100", 100)])
def test_the_platforms_payload_limit_holds_and_0_means_none_of_hosting(given: str, size_mb: int) -> None:
    assert read([], {"SAGEMAKER_MAX_PAYLOAD_IN_MB": given}).max_payload_bytes == size_mb * 2**20


@pytest.mark.parametrize("name", ServerSettings.model_fields)
def test_every_setting_has_a_variable(name: str) -> None:
    given = {"engine": "torch", "model": "/m", "host": "::1", "pixel_range": "normalized", "log_format": "json"}
    given |= {"decode": "reduced"}
    value = (given | dict.fromkeys(("multi_model", "log_requests"), "True")).get(name, "7")
    settings = read([], {f"KENNEL_{name.upper()}": value})
    assert str(getattr(settings, name)).removesuffix(".0") == value


def test_a_wrong_value_is_refused_by_the_variable_that_has_it() -> None:
    with pytest.raises(ConfigError, match=r'KENNEL_PORT .*got "http", expected a whole number'):
        read([], {"KENNEL_PORT": "http"})
    with pytest.raises(ConfigError, match=r'SAGEMAKER_MAX_PAYLOAD_IN_MB .*got "-1"'):
        read([], {"SAGEMAKER_MAX_PAYLOAD_IN_MB": "-1"})


def test_a_variable_that_is_no_setting_is_warned_of_with_the_nearest_and_ignored(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert read([], {"KENNEL_MAX_BATCHSIZE": "4"}) == ServerSettings()
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "KENNEL_MAX_BATCHSIZE" in record.getMessage()
    assert "did you mean KENNEL_MAX_BATCH_SIZE?" in record.getMessage()


def test_what_kubernetes_injects_beside_a_service_called_kennel_stops_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    injected = {
        "KENNEL_PORT": "tcp://10.0.0.7:80",
        "KENNEL_PORT_80_TCP_ADDR": "10.0.0.7",
        "KENNEL_SERVICE_HOST": "10.0.0.7",
        "KENNEL_SERVING_PORT": "tcp://10.0.0.8:8080",
    }
    assert read([], injected) == ServerSettings()
    assert len(caplog.records) == len(injected)


def test_an_empty_variable_is_an_unset_one() -> None:
    """Compose passes `${KENNEL_THREADS:-}` on as an empty text."""
    assert read([], {"KENNEL_THREADS": "", "SAGEMAKER_BIND_TO_PORT": "", "KENNEL_NONSENSE": ""}) == ServerSettings()


def test_settings_cannot_be_changed_later() -> None:
    with pytest.raises(ValueError, match="frozen"):
        ServerSettings().port = 1


@pytest.mark.parametrize(
    ("cpus", "flags", "batch", "queue"),
    [
        (1, [], 8, 64),
        (4, [], 16, 128),
        (96, [], 32, 256),
        (2, ["--engine", "torch"], 32, 256),
        (96, ["--max-batch-size", "3"], 3, 24),
        (2, ["--max-queue-size", "5"], 8, 5),
    ],
)
def test_batch_and_queue_are_derived_from_the_machine_unless_said(
    monkeypatch: pytest.MonkeyPatch, cpus: int, flags: list[str], batch: int, queue: int
) -> None:
    monkeypatch.setattr("serving.settings.num_cpus", lambda: cpus)
    settings = read(flags, {})
    assert (settings.batch_size, settings.queue_size) == (batch, queue)


@pytest.mark.parametrize(
    "hosts", ["example.com", "images.example.com:8443, 93.184.216.34", "2606:4700::1111", "a_b", ","]
)
def test_hosts_from_which_pictures_can_come_are_taken(hosts: str) -> None:
    assert read(["--url-hosts", hosts], {}).allowed_hosts == [host.strip() for host in hosts.split(",") if host.strip()]


@pytest.mark.parametrize(
    ("hosts", "sentence"),
    [
        ("https://example.com/", "is no HOST or HOST:PORT"),
        ("example.com, a.example/pictures", "'a.example/pictures' is no HOST"),
        ("*.example.com", "is no HOST"),
        ("bücher.example", "is no HOST"),
        ("[::1]:80", "is no HOST"),
        ("example.com:99999", "is no HOST"),
        ("127.0.0.1:9999", "is not of the internet"),
        ("localhost", "is not of the internet"),
        ("10.1.2.3", "is not of the internet"),
        ("::1", "is not of the internet"),
    ],
)
def test_hosts_from_which_no_picture_can_come_are_refused_at_the_start(hosts: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=f"KENNEL_URL_HOSTS .*{re.escape(sentence)}"):
        read([], {"KENNEL_URL_HOSTS": hosts})


def test_two_ports_are_two() -> None:
    with pytest.raises(ConfigError, match="--port and --management-port are both 9001, expected two different"):
        read(["--management-port", "9001"], {"SAGEMAKER_BIND_TO_PORT": "9001"})
