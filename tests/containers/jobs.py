"""SageMaker training jobs, run on this machine."""

import json
import os
import uuid
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support import engine
from tests.support.engine import Container


@dataclass(frozen=True)
class Job:
    """A SageMaker training job that ended, run on this machine."""

    root: Path
    """What was mounted at /opt/ml."""
    code: int
    logs: str


def run_job(root: Path, hyperparameters: dict[str, str], *options: str) -> Job:
    """Run a job on one host, without network."""
    lay_out(root, hyperparameters)
    with start_host(root, "--network", "none", "--hostname", "algo-1", *options) as job:
        code, logs = job.wait(), job.logs
    take_over(root)
    return Job(root, code, logs)


def lay_out(
    root: Path, hyperparameters: dict[str, str], current: str = "algo-1", hosts: Sequence[str] = ("algo-1",)
) -> None:
    """Write what SageMaker mounts at /opt/ml of one of a job's hosts; the data is there.

    Source: SageMaker Developer Guide, "How SageMaker Provides Training Information".
    """
    config = root / "input" / "config"
    config.mkdir(parents=True, exist_ok=True)
    (config / "hyperparameters.json").write_text(json.dumps(hyperparameters))
    channel = {"TrainingInputMode": "File", "S3DistributionType": "FullyReplicated", "RecordWrapperType": "None"}
    (config / "inputdataconfig.json").write_text(json.dumps({"training": channel}))
    resources = {"current_host": current, "hosts": hosts, "network_interface_name": "eth0"}
    (config / "resourceconfig.json").write_text(json.dumps(resources))
    for folder in ("model", "output/data"):
        (root / folder).mkdir(parents=True, exist_ok=True)


def start_host(root: Path, *options: str) -> AbstractContextManager[Container]:
    """Start `docker run IMAGE train` over a folder that was laid out."""
    return engine.container("kennel-training:latest", "train", options=["--volume", f"{root}:/opt/ml", *options])


@contextmanager
def network() -> Iterator[str]:
    """Name of a network on which containers see each other and nothing else, until the block ends."""
    name = f"kennel-hosts-{uuid.uuid4().hex[:8]}"
    engine.docker("network", "create", "--internal", name)
    try:
        yield name
    finally:
        engine.docker("network", "rm", name)


def take_over(root: Path) -> None:
    """What root in a container wrote belongs to whoever runs the tests, so that it can be read and removed."""
    owner = f"{os.getuid()}:{os.getgid()}"
    engine.docker(
        "run", "--rm", "--entrypoint", "chown", "--volume", f"{root}:/d", "kennel-serving:cpu", "-R", owner, "/d"
    )
