"""SageMaker training jobs, run on this machine."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

from tests.support import engine


@dataclass(frozen=True)
class Job:
    """A SageMaker training job that ended, run on this machine."""

    root: Path
    """What was mounted at /opt/ml."""
    code: int
    logs: str


def run_job(root: Path, hyperparameters: dict[str, str], *options: str) -> Job:
    """Run `docker run IMAGE train` over /opt/ml as SageMaker lays it out, without network.

    Source: SageMaker Developer Guide, "How SageMaker Provides Training Information".
    """
    config = root / "input" / "config"
    config.mkdir(parents=True, exist_ok=True)
    (config / "hyperparameters.json").write_text(json.dumps(hyperparameters))
    channel = {"TrainingInputMode": "File", "S3DistributionType": "FullyReplicated", "RecordWrapperType": "None"}
    (config / "inputdataconfig.json").write_text(json.dumps({"training": channel}))
    resources = {"current_host": "algo-1", "hosts": ["algo-1"], "network_interface_name": "eth0"}
    (config / "resourceconfig.json").write_text(json.dumps(resources))
    for folder in ("model", "output/data"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    mount = ("--volume", f"{root}:/opt/ml", "--network", "none", "--hostname", "algo-1")
    with engine.container("kennel-training:latest", "train", options=[*mount, *options]) as job:
        code, logs = job.wait(), job.logs
    _take_over(root)
    return Job(root, code, logs)


def _take_over(root: Path) -> None:
    """What root in a container wrote belongs to whoever runs the tests, so that it can be read and removed."""
    owner = f"{os.getuid()}:{os.getgid()}"
    engine.docker(
        "run", "--rm", "--entrypoint", "chown", "--volume", f"{root}:/d", "kennel-serving:cpu", "-R", owner, "/d"
    )
