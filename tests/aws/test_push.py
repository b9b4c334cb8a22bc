"""`make push` to a real registry that answers under ECR's host name; ECR's API is moto's."""

import re
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest

from tests.support import engine
from tests.support.engine import Made
from tests.support.figures import RecordFigure
from tests.support.moto import ACCOUNT, REGION, Aws, aws, without_aws
from tests.support.registry import registry, why_not

pytestmark = [pytest.mark.docker, pytest.mark.skipif(why_not() != "", reason=why_not())]

HOST = f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com"
SMALL = "kennel-serving:cpu kennel-serving:latest kennel-training:launcher"
"""The other two hold gigabytes that take minutes to compress."""


@pytest.fixture
def cloud() -> Iterator[Aws]:
    with aws() as running:
        yield running


@pytest.fixture
def revision(images: Made) -> str:
    label = '{{index .Config.Labels "org.opencontainers.image.revision"}}'
    return engine.docker("inspect", "--format", label, "kennel-serving:cpu")


def test_images_pushed_to_ecr_can_be_pulled_and_run(
    images: Made, cloud: Aws, revision: str, tmp_path: Path, record_figure: RecordFigure
) -> None:
    with registry(HOST, f"{ACCOUNT}-auth-token", tmp_path):
        pushed = engine.make("push", variables=cloud.environment | {"IMAGES": SMALL})
        assert pushed.code == 0, pushed.output
        record_figure(f"make push of the cpu and launcher images: {pushed.seconds:.0f} s")
        digests = dict(re.findall(r"^  (\S+)@(sha256:[0-9a-f]{64})$", pushed.output, re.MULTILINE))
        commit, _, dirty = revision.partition("-")
        suffix = "-".join(filter(None, (commit[:12], dirty)))
        assert set(digests) == {
            f"{HOST}/kennel-serving:cpu",
            f"{HOST}/kennel-serving:cpu-{suffix}",
            f"{HOST}/kennel-serving:latest",
            f"{HOST}/kennel-training:launcher",
            f"{HOST}/kennel-training:launcher-{suffix}",
        }
        pulled = f"{HOST}/kennel-serving@{digests[f'{HOST}/kennel-serving:cpu-{suffix}']}"
        login = ("--username", "AWS", "--password", f"{ACCOUNT}-auth-token", HOST)
        engine.docker("--config", str(tmp_path / "docker"), "login", *login)
        engine.docker("--config", str(tmp_path / "docker"), "pull", pulled)
    try:
        assert "--model" in engine.docker("run", "--rm", "--network", "none", pulled, "serve", "--help")
    finally:
        engine.docker("image", "rm", pulled)
    ecr = boto3.client(
        "ecr", endpoint_url=cloud.url, region_name=REGION, aws_access_key_id="testing", aws_secret_access_key="testing"
    )
    names = {each["repositoryName"] for each in ecr.describe_repositories()["repositories"]}
    assert names == {"kennel-serving", "kennel-training"}
    assert engine.docker("image", "ls", "--quiet", "--filter", f"reference={HOST}/*") == ""


def test_a_registry_that_refuses_the_password_is_one_sentence_and_exit_code_1(
    images: Made, cloud: Aws, tmp_path: Path
) -> None:
    with registry(HOST, "another password", tmp_path):
        pushed = engine.make("push", variables=cloud.environment | {"IMAGES": "kennel-training:launcher"})
    assert pushed.code != 0
    assert f"error: cannot push {HOST}/kennel-training:launcher, the registry refuses:" in pushed.output
    assert "Traceback" not in pushed.output


def test_another_registry_takes_dockers_own_login(images: Made, tmp_path: Path) -> None:
    host = "registry.kennel.test"
    config = tmp_path / "docker"
    variables = without_aws() | {"REGISTRY": f"{host}/team", "IMAGES": "kennel-training:launcher"}
    variables["DOCKER_CONFIG"] = str(config)
    with registry(host, "a password", tmp_path):
        refused = engine.make("push", variables=variables)
        assert "log in with `docker login`" in refused.output
        assert refused.code != 0
        engine.docker("--config", str(config), "login", "--username", "AWS", "--password", "a password", host)
        pushed = engine.make("push", variables=variables)
    assert pushed.code == 0, pushed.output
    assert f"{host}/team/kennel-training:launcher@sha256:" in pushed.output


def test_an_image_that_was_not_built_is_named(cloud: Aws) -> None:
    pushed = engine.make("push", variables=cloud.environment | {"IMAGES": "kennel-serving:never"})
    assert pushed.code != 0
    assert "error: there is no image kennel-serving:never: run `make build` first" in pushed.output
