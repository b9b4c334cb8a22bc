"""What is said when a push cannot be, and what is asked of AWS: everything that needs no registry."""

import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import boto3
import pytest

from components.aws import ecr
from serving.errors import ConfigError
from tests.support.engine import ROOT
from tests.support.moto import ACCOUNT, REGION, Aws, aws, without_aws


@pytest.fixture(scope="module")
def cloud() -> Iterator[Aws]:
    with aws() as running:
        yield running


@pytest.fixture
def in_the_cloud(cloud: Aws, monkeypatch: pytest.MonkeyPatch) -> Aws:
    """This process takes moto for AWS."""
    become(cloud.environment, monkeypatch)
    return cloud


def become(environment: Mapping[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ACCESS_KEY_ID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        if name.startswith("AWS_"):
            monkeypatch.setenv(name, value)


@contextmanager
def refusing(code: str, message: str) -> Iterator[Aws]:
    """An AWS that answers everything with one error, in the XML of STS."""

    class Refusal(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            error = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
            body = f"<ErrorResponse>{error}</ErrorResponse>".encode()
            self.send_response(403)
            self.send_header("Content-Type", "text/xml")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Refusal)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield Aws(f"http://127.0.0.1:{server.server_port}")
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_the_default_registry_is_ecr_of_the_callers_account_and_region(in_the_cloud: Aws) -> None:
    found = ecr.find_registry("")
    assert found.host == f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com"
    assert found.repository("kennel-serving") == "kennel-serving"
    assert found.credentials == {"username": "AWS", "password": f"{ACCOUNT}-auth-token"}


def test_an_ecr_by_name_is_logged_in_to_in_its_own_region(in_the_cloud: Aws) -> None:
    found = ecr.find_registry("210987654321.dkr.ecr.eu-west-1.amazonaws.com/team")
    assert found.host == "210987654321.dkr.ecr.eu-west-1.amazonaws.com"
    assert found.repository("kennel-serving") == "team/kennel-serving"
    assert found.ecr is not None
    assert found.ecr.meta.region_name == "eu-west-1"


def test_another_registry_is_not_asked_of_aws(monkeypatch: pytest.MonkeyPatch) -> None:
    become(without_aws(), monkeypatch)
    found = ecr.find_registry("registry.example.com/team/vision/")
    assert (found.host, found.prefix, found.ecr, found.credentials) == (
        "registry.example.com",
        "team/vision",
        None,
        None,
    )


def test_a_missing_repository_is_created_scanned_and_tagged_and_a_present_one_left_alone(in_the_cloud: Aws) -> None:
    client = boto3.client("ecr", region_name=REGION)
    ecr.ensure_repository(client, "made-once")
    ecr.ensure_repository(client, "made-once")
    (made,) = client.describe_repositories(repositoryNames=["made-once"])["repositories"]
    assert made["imageScanningConfiguration"]["scanOnPush"]
    tags = client.list_tags_for_resource(resourceArn=made["repositoryArn"])["tags"]
    assert {"Key": "project", "Value": "kennel"} in tags


@pytest.mark.parametrize(
    ("missing", "sentence"),
    [("AWS_ACCESS_KEY_ID", "found no AWS credentials: log in"), ("AWS_DEFAULT_REGION", "found no AWS region: set")],
)
def test_missing_settings_are_named(cloud: Aws, monkeypatch: pytest.MonkeyPatch, missing: str, sentence: str) -> None:
    become({name: value for name, value in cloud.environment.items() if name != missing}, monkeypatch)
    if missing == "AWS_ACCESS_KEY_ID":
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY", raising=False)
    with pytest.raises(ConfigError, match=sentence):
        ecr.find_registry("")


def test_a_profile_that_does_not_exist_is_named(cloud: Aws, monkeypatch: pytest.MonkeyPatch) -> None:
    become(cloud.environment | {"AWS_PROFILE": "nobody"}, monkeypatch)
    with pytest.raises(ConfigError, match="nobody"):
        ecr.find_registry("")


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        ("ExpiredToken", "cannot ask AWS who you are: your AWS credentials have expired; log in"),
        ("InvalidClientTokenId", "AWS does not know your credentials"),
        ("AccessDenied", "AWS denies it, ask for the permission GetCallerIdentity"),
        ("Throttled", "AWS refuses, Throttled: the message"),
    ],
)
def test_each_refusal_of_aws_is_one_sentence(monkeypatch: pytest.MonkeyPatch, code: str, sentence: str) -> None:
    with refusing(code, "the message") as cloud:
        become(cloud.environment, monkeypatch)
        with pytest.raises(ConfigError, match=sentence) as caught:
            ecr.find_registry("")
    assert "\n" not in str(caught.value)


def test_an_aws_that_does_not_answer_is_one_sentence(cloud: Aws, monkeypatch: pytest.MonkeyPatch) -> None:
    become(cloud.environment | {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_MAX_ATTEMPTS": "1"}, monkeypatch)
    with pytest.raises(ConfigError, match="AWS does not answer: check network and region"):
        ecr.find_registry("")


@pytest.mark.parametrize(
    ("tag", "revision", "tags"),
    [
        ("cpu", "0123456789abcdef0123456789abcdef01234567", ["cpu", "cpu-0123456789ab"]),
        ("cpu", "0123456789abcdef0123456789abcdef01234567-dirty", ["cpu", "cpu-0123456789ab-dirty"]),
        ("cpu", "", ["cpu"]),
        ("latest", "0123456789abcdef0123456789abcdef01234567", ["latest"]),
    ],
)
def test_an_image_is_pushed_under_its_tag_and_its_revision(tag: str, revision: str, tags: list[str]) -> None:
    assert ecr.tags_of(tag, revision) == tags


def test_an_error_in_the_stream_of_a_push_is_an_error() -> None:
    events = [
        {"status": "Pushing", "id": "1", "progressDetail": {"current": 1, "total": 2}},
        {"errorDetail": {"message": "denied: no"}, "error": "denied: no"},
    ]
    with pytest.raises(ConfigError, match=r"cannot push host/it:cpu, the registry refuses: you may not push there"):
        ecr.follow("host/it:cpu", events)


def test_a_push_that_ends_without_a_digest_is_an_error() -> None:
    with pytest.raises(ConfigError, match="without a digest"):
        ecr.follow("host/it:cpu", [{"status": "Pushed"}])


def test_without_an_engine_the_sentence_names_docker_and_the_exit_code_is_1(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "components.aws.ecr"],
        cwd=ROOT,
        env=without_aws() | {"DOCKER_HOST": f"unix://{tmp_path}/docker.sock"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stdout == "error: no Docker engine answers: start Docker, or set DOCKER_HOST to one that runs\n"
    assert done.stderr == ""
