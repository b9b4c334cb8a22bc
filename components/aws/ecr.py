"""Pushes the images to a registry, by default to ECR of the caller's account and region: `make push`.

Missing repositories are created. ECR's token is good for twelve hours, is handed to the engine with each push and
stored nowhere; another registry's credentials come from docker's own configuration (`docker login`).
"""

import base64
import logging
import os
import re
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from pydantic import BaseModel, ConfigDict

from components.aws.session import explained, open_session
from serving.errors import ConfigError, KennelError
from serving.flags import Layer, parse_arguments, resolve, setting

if TYPE_CHECKING:
    import boto3
    from docker import DockerClient
    from docker.models.images import Image
    from mypy_boto3_ecr import ECRClient

logger = logging.getLogger(__name__)

IMAGES: Final = (
    "kennel-serving:cpu",
    "kennel-serving:cuda",
    "kennel-serving:latest",
    "kennel-training:cuda",
    "kennel-training:launcher",
    "kennel-training:latest",
)
REVISION_LABEL: Final = "org.opencontainers.image.revision"
REVISION_CHARS: Final = 12
TAGS: Final = {"project": "kennel"}
"""On every repository made here, so that its storage is found on the bill."""
PROGRESS_INTERVAL_S: Final = 5.0
SILENCE_LIMIT_S: Final = 900
"""The engine says nothing while a registry checks a layer of gigabytes; docker-py would give up after 60 s."""

NO_ENGINE: Final = "no Docker engine answers: start Docker, or set DOCKER_HOST to one that runs"
ECR_HOST: Final = re.compile(r"^(?P<account>\d{12})\.dkr[.-]ecr(-fips)?\.(?P<region>[a-z0-9-]+)\.[a-z0-9.-]+$")


class PushSettings(BaseModel):
    """What can be told; each also as an environment variable in capitals, as `make push REGISTRY=...` hands it on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    registry: str = setting("", help="HOST or HOST/PREFIX to push to; empty: ECR of your AWS account and region")
    images: str = setting(" ".join(IMAGES), help="Images to push, NAME:TAG separated by blanks")


@dataclass(frozen=True)
class Registry:
    """Where images go."""

    host: str
    prefix: str = ""
    ecr: "ECRClient | None" = None
    """Creates repositories, when the registry is ECR."""
    credentials: Mapping[str, str] | None = None
    """username and password; None: docker's own configuration is asked."""

    def repository(self, name: str) -> str:
        """Path of an image's repository on the host."""
        return f"{self.prefix}/{name}" if self.prefix else name


@dataclass(frozen=True)
class Pushed:
    """One tag that arrived."""

    reference: str
    digest: str


def push_images(registry: str, names: Sequence[str]) -> list[Pushed]:
    """Push images that the local engine holds, under their tag and under tag and git revision.

    Args:
        registry: HOST or HOST/PREFIX; empty for ECR of the caller's account and region.
        names: NAME:TAG of each.

    Raises:
        ConfigError: Engine, image, credentials, region or permission is missing, or the registry refuses; nothing is
            pushed unless all images are there.
    """
    with _engine() as engine:
        images = {name: _find(engine, name) for name in names}
        target = find_registry(registry)
        for repository in sorted({name.partition(":")[0] for name in names}):
            if target.ecr is not None:
                ensure_repository(target.ecr, target.repository(repository))
        pushed = []
        for name, image in images.items():
            repository, _, tag = name.partition(":")
            tags = tags_of(tag, image.labels.get(REVISION_LABEL, ""))
            pushed += [_push(engine, image, target, repository, each) for each in tags]
        return pushed


def find_registry(address: str) -> Registry:
    """Resolve HOST/PREFIX, or ECR of the caller when empty, and fetch a token if it is ECR.

    Raises:
        ConfigError: No credentials or region, or AWS refuses.
    """
    host, _, prefix = address.rstrip("/").partition("/")
    named = ECR_HOST.match(host)
    if address and not named:
        return Registry(host, prefix)
    session = open_session(named["region"] if named else "")
    with explained("ask AWS who you are"):
        identity = session.client("sts").get_caller_identity()
    logger.info("account %s, region %s, as %s", identity["Account"], session.region_name, identity["Arn"])
    ecr, credentials, own_host = _log_in(session)
    return Registry(host or own_host, prefix, ecr, credentials)


def ensure_repository(ecr: "ECRClient", name: str) -> None:
    """Create the repository unless it is there; images are scanned as they arrive.

    Raises:
        ConfigError: AWS refuses.
    """
    with explained(f"look for the repository {name}"):
        try:
            ecr.describe_repositories(repositoryNames=[name])
        except ecr.exceptions.RepositoryNotFoundException:
            logger.info("creating the repository %s", name)
        else:
            return
    with explained(f"create the repository {name}"):
        try:
            ecr.create_repository(
                repositoryName=name,
                imageScanningConfiguration={"scanOnPush": True},
                tags=[{"Key": key, "Value": value} for key, value in TAGS.items()],
            )
        except ecr.exceptions.RepositoryAlreadyExistsException:
            logger.debug("%s was created meanwhile", name)


def tags_of(tag: str, revision: str) -> list[str]:
    """`cpu` as it is, and `cpu-1a2b3c4d5e6f` of the revision it was built from; `latest` has no revision of its own."""
    commit, _, dirty = revision.partition("-")
    if tag == "latest" or not commit:
        return [tag]
    return [tag, "-".join(filter(None, (tag, commit[:REVISION_CHARS], dirty)))]


def follow(reference: str, events: Iterable[Mapping[str, Any]]) -> str:
    """Read the engine's account of a push to its end, and log how far it is.

    The engine answers 200 before it starts; whether the push went well stands in the stream alone.

    Returns:
        The manifest's digest.

    Raises:
        ConfigError: The registry refused, or the stream ended without a digest.
    """
    done: dict[str, int] = {}
    total: dict[str, int] = {}
    digest = ""
    reported = time.monotonic()
    for event in events:
        if "error" in event:
            raise ConfigError(f"cannot push {reference}, the registry refuses: {_reason(str(event['error']))}")
        digest = event.get("aux", {}).get("Digest", digest)
        progress = event.get("progressDetail") or {}
        if "total" in progress:
            done[event["id"]], total[event["id"]] = progress["current"], progress["total"]
        if total and time.monotonic() - reported >= PROGRESS_INTERVAL_S:
            reported = time.monotonic()
            logger.info("  %s: %d of %d MB", reference, sum(done.values()) // 10**6, sum(total.values()) // 10**6)
    if not digest:
        raise ConfigError(f"cannot push {reference}, the engine ended without a digest: try again")
    return digest


@contextmanager
def _engine() -> "Iterator[DockerClient]":
    import docker
    from docker.errors import DockerException

    try:
        # docker-py reads DOCKER_HOST but not the context that Docker Desktop and its like set up
        if "DOCKER_HOST" in os.environ:
            engine = docker.from_env()
        else:
            engine = docker.DockerClient(base_url=docker.ContextAPI.get_current_context().Host)
    except (DockerException, OSError) as error:
        raise ConfigError(NO_ENGINE) from error
    with closing(engine):
        try:
            engine.ping()
        except (DockerException, OSError) as error:
            raise ConfigError(NO_ENGINE) from error
        engine.api.timeout = SILENCE_LIMIT_S
        yield engine


def _find(engine: "DockerClient", name: str) -> "Image":
    from docker.errors import ImageNotFound

    try:
        return engine.images.get(name)
    except ImageNotFound as error:
        raise ConfigError(f"there is no image {name}: run `make build` first") from error


def _log_in(session: "boto3.Session") -> "tuple[ECRClient, dict[str, str], str]":
    ecr = session.client("ecr")
    with explained("get a token for ECR"):
        (data,) = ecr.get_authorization_token()["authorizationData"]
    username, _, password = base64.b64decode(data["authorizationToken"]).decode().partition(":")
    return ecr, {"username": username, "password": password}, data["proxyEndpoint"].removeprefix("https://")


def _push(engine: "DockerClient", image: "Image", target: Registry, repository: str, tag: str) -> Pushed:
    from docker.errors import APIError

    remote = f"{target.host}/{target.repository(repository)}"
    reference = f"{remote}:{tag}"
    logger.info("pushing %s", reference)
    image.tag(remote, tag)
    try:
        # no credentials given: docker-py looks them up where `docker login` put them
        extra = {"auth_config": dict(target.credentials)} if target.credentials else {}
        digest = follow(reference, engine.api.push(remote, tag=tag, stream=True, decode=True, **extra))
    except (APIError, OSError) as error:
        raise ConfigError(f"cannot push {reference}: {_reason(str(error))}") from error
    finally:
        # The name was needed for the push alone; left here it would keep every image ever pushed on this disk.
        engine.api.remove_image(reference, noprune=True)
    logger.info("  %s", digest)
    return Pushed(reference, digest)


def _reason(text: str) -> str:
    advice = {
        "no basic auth credentials": "log in with `docker login`",
        "unauthorized": "the credentials are not accepted, log in with `docker login`",
        "denied": "you may not push there",
    }
    known = next((words for start, words in advice.items() if start in text.lower()), "")
    return f"{known} ({text.strip()})" if known else text.strip()


def main(arguments: Sequence[str], environ: Mapping[str, str] = os.environ) -> int:
    """Push, and print the digest of every tag; 1 and one sentence when something is missing."""
    logging.basicConfig(format="%(message)s", stream=sys.stdout, force=True)
    logger.setLevel(logging.INFO)
    try:
        flags = parse_arguments(PushSettings, arguments, prog="python -m components.aws.ecr", description=str(__doc__))
        variables = {name: environ[name.upper()] for name in PushSettings.model_fields if environ.get(name.upper())}
        settings = resolve(PushSettings, [Layer("environment variable", variables), flags])
        pushed = push_images(settings.registry, settings.images.split())
    except KennelError as error:
        logger.error("error: %s", error)  # noqa: TRY400  # a user's mistake has no traceback
        return 1
    logger.info("pushed:")
    for each in pushed:
        logger.info("  %s@%s", each.reference, each.digest)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
