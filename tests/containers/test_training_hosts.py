"""A SageMaker job of two hosts: two containers that share a network and nothing else, started one after the other."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from serving import bundle
from tests.containers.jobs import Job, lay_out, network, run_job, start_host, take_over
from tests.support.engine import Container, Made
from tests.support.folders import write_images

pytestmark = pytest.mark.docker

HOSTS = ("algo-1", "algo-2")
FROZEN = {"weights": "none", "image-size": "64", "epochs": "2", "batch-size": "8", "head": "mlp", "dropout": "0.3"}


@contextmanager
def started(folder: Path, hyperparameters: dict[str, str]) -> Iterator[dict[str, Container]]:
    """Start a job's hosts, the first one last, each with its own folder and a name of which it knows nothing itself."""
    with network() as net, ExitStack() as stack:
        containers = {}
        for name in reversed(HOSTS):
            root = folder / name
            write_images(root / "input" / "data" / "training", per_class=7)
            lay_out(root, hyperparameters, name, HOSTS)
            alias = ("--network", net, "--network-alias", name)
            containers[name] = stack.enter_context(start_host(root, *alias))
        try:
            yield containers
        finally:
            for name, container in containers.items():
                container.signal("KILL") if container.is_running else None
                take_over(folder / name)


@pytest.fixture(scope="module")
def two_hosts(images: Made, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Job]:
    folder = tmp_path_factory.mktemp("hosts")
    with started(folder, FROZEN) as containers:
        codes = {name: container.wait() for name, container in containers.items()}
        return {name: Job(folder / name, codes[name], containers[name].logs) for name in HOSTS}


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_two_hosts_end_well_and_the_first_alone_writes(two_hosts: dict[str, Job]) -> None:
    first, second = (two_hosts[name] for name in HOSTS)
    assert (first.code, second.code) == (0, 0), first.logs + second.logs
    assert "bundle.json" in files_in(first.root / "model")
    assert "metrics.jsonl" in files_in(first.root / "output" / "data")
    assert [files_in(second.root / folder) for folder in ("model", "output", "checkpoints")] == [[], [], []]


def test_one_of_them_speaks_and_the_other_says_that_it_takes_part(two_hosts: dict[str, Job]) -> None:
    assert two_hosts["algo-1"].logs.count("epoch=1 ") == 1
    assert two_hosts["algo-2"].logs.splitlines() == [
        "host 1 of 2, 1 processes on each; algo-1 is first",
        "process 1 of 2 is connected (gloo), process 0 speaks and writes",
    ]


def test_two_hosts_learn_what_one_learns(two_hosts: dict[str, Job], tmp_path: Path) -> None:
    write_images(tmp_path / "ml" / "input" / "data" / "training", per_class=7)
    alone = run_job(tmp_path / "ml", FROZEN)
    assert alone.code == 0, alone.logs
    states = [
        load_file(bundle.read(job.root / "model").file("model.safetensors")) for job in (alone, two_hosts["algo-1"])
    ]
    assert [name for name, tensor in states[0].items() if not torch.equal(states[1][name], tensor)] == []


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("algo-1", "host 0 of 2 did not find the others within 5 s: look into their logs"),
        ("algo-2", "host 'algo-1' has no address after 5 s"),
    ],
)
def test_a_host_that_stays_alone_says_so_in_its_failure_file(
    images: Made, tmp_path: Path, name: str, sentence: str
) -> None:
    root = tmp_path / name
    write_images(root / "input" / "data" / "training", per_class=1)
    lay_out(root, FROZEN | {"peer-timeout-s": "5"}, name, HOSTS)
    with network() as net, start_host(root, "--network", net, "--network-alias", name) as container:
        code, logs = container.wait(), container.logs
    take_over(root)
    failure = (root / "output" / "failure").read_text()
    assert code == 1
    assert sentence in failure
    assert f"error: {failure}" in logs
    assert "Traceback" not in logs


def test_a_mistake_is_one_sentence_in_the_log_and_in_the_failure_file(images: Made, tmp_path: Path) -> None:
    with started(tmp_path, FROZEN | {"arch": "resnet19"}) as containers:
        for container in containers.values():
            assert container.wait() == 1
        logs = [container.logs for container in containers.values()]
    for name, log in zip(containers, logs, strict=True):
        failure = (tmp_path / name / "output" / "failure").read_text()
        assert log.count(f"error: {failure}") == log.count("error: ") == 1
        assert "Traceback" not in log
    assert "resnet19" in (tmp_path / "algo-1" / "output" / "failure").read_text()


def test_sigterm_to_one_host_stops_both_with_a_checkpoint(images: Made, tmp_path: Path) -> None:
    endless = FROZEN | {"freeze": "none", "epochs": "9999", "checkpoint-interval-s": "9999"}
    with started(tmp_path, endless) as containers:
        containers["algo-1"].wait_for_line("epoch=1 ")
        containers["algo-2"].signal("TERM")
        codes = {name: container.wait() for name, container in containers.items()}
        logs = "".join(container.logs for container in containers.values())
    assert codes == {"algo-1": 143, "algo-2": 143}, logs
    assert "Traceback" not in logs
    assert len(files_in(tmp_path / "algo-1" / "checkpoints")) == 1
    assert not (tmp_path / "algo-1" / "output" / "failure").exists()
