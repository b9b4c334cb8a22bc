import json
import os
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from components.data.digits import write_digits
from components.environment import Hosts, StopSignal
from components.train import processes, torchrun
from components.train.checkpoint import Checkpoints
from components.train.loop import Run
from components.train.plan import Plan
from components.train.world import from_environment
from serving import bundle
from serving.errors import ConfigError, InternalError
from tests.components.train.conftest import run_train
from tests.support import forked, two_processes
from tests.support.folders import write_images

TOLERANCE = 1e-5
"""Of weights and losses: gradients of two processes are added in another order."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("data"), per_class=7, size=(32, 32))  # 21: no batch divides evenly


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def as_rank(rank: int, port: int) -> dict[str, str]:
    """The environment of one of two processes, as torchrun would set it."""
    company = {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return os.environ | company


def test_two_processes_learn_what_one_learns(tmp_path: Path) -> None:
    port = free_port()
    two_processes.main(tmp_path / "alone")
    both = [forked.start(two_processes.main, tmp_path / "both", environ=as_rank(rank, port)) for rank in (0, 1)]
    assert [process.wait(120) for process in both] == [0, 0]
    together = torch.load(tmp_path / "both", weights_only=True)
    for name, alone in torch.load(tmp_path / "alone", weights_only=True).items():
        torch.testing.assert_close(together[name], alone, rtol=TOLERANCE, atol=TOLERANCE, msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("number", ["1", "2"])
def test_torchrun_starts_them_as_well(tmp_path: Path, number: str) -> None:
    launcher = ("-m", "torch.distributed.run", "--standalone", "--log-dir", str(tmp_path / "log"), "--nproc-per-node")
    command = [sys.executable, *launcher, number, "-m", "tests.support.two_processes", str(tmp_path / "launched")]
    two_processes.main(tmp_path / "alone")
    subprocess.run(command, check=True, capture_output=True)
    launched = torch.load(tmp_path / "launched", weights_only=True)
    for name, alone in torch.load(tmp_path / "alone", weights_only=True).items():
        torch.testing.assert_close(launched[name], alone, rtol=TOLERANCE, atol=TOLERANCE, msg=name)


def resume(folder: Path) -> Run:
    """A run of a small network, where the checkpoint in `folder` or that of the leader left it."""
    world = from_environment()
    torch.manual_seed(world.rank)
    learner = two_processes.Small()
    plan = Plan(epochs=2, batch_size=8, lr=0.01, seed=0)
    run = Run(learner, torch.optim.AdamW(learner.parameters(), lr=0.01), plan, world)
    Checkpoints(folder, {}, interval_s=0, stop_signal=StopSignal()).resume(run)
    return run


def _resume(folder: Path) -> None:
    with processes.connected(60) as world:
        run = resume(folder / str(world.rank))
        found = [run.current.num_batches, float(next(run.learner.parameters()).detach().sum())]
        (folder / f"{world.rank}.json").write_text(json.dumps(found))


def test_hosts_that_share_no_folder_all_go_on_from_the_leaders_checkpoint(tmp_path: Path) -> None:
    saved = resume(tmp_path / "0")
    saved.current.num_batches = 2
    checkpoints = Checkpoints(tmp_path / "0", {}, interval_s=0, stop_signal=StopSignal())
    checkpoints.on_step(saved, 2, 3)
    port = free_port()
    both = [forked.start(_resume, tmp_path, environ=as_rank(rank, port)) for rank in (0, 1)]
    assert [process.wait(120) for process in both] == [0, 0]
    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    assert found == [[2, float(next(saved.learner.parameters()).detach().sum())]] * 2


def start_train(*arguments: str, **environ: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "components.train", *arguments]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ | environ
    )


def flags(folder: Path, data: Path) -> tuple[str, ...]:
    """Of a run with a frozen backbone that shares no folder with another, the cache either."""
    places = ("--data", str(data), "--model-dir", str(folder / "model"), "--cache-dir", str(folder / "cache"))
    learning = ("--weights", "none", "--image-size", "32", "--batch-size", "8", "--epochs", "2")
    drawn = ("--head", "mlp", "--dropout", "0.3", "--mixup", "0.2")
    return (*places, *learning, *drawn, "--peer-timeout-s", "60")


def weights(folder: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = load_file(folder / "model" / "model.safetensors")
    return state


def features(folder: Path) -> dict[str, bytes]:
    return {path.parent.name: path.read_bytes() for path in folder.glob("cache/features-*/features.npy")}


def assert_same(folder: Path, alone: Path) -> None:
    """What runs with a frozen backbone have in common, whatever their number of processes: every bit."""
    assert features(folder) == features(alone)
    state = weights(folder)
    assert [name for name, tensor in weights(alone).items() if not torch.equal(state[name], tensor)] == []


@pytest.fixture(scope="module")
def alone(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a run of one process."""
    folder = tmp_path_factory.mktemp("alone")
    done = run_train(*flags(folder, data))
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(features(folder)) == 2
    return folder


@pytest.mark.slow
def test_the_stage_trains_in_two_processes_with_one_voice_what_one_trains(
    data: Path, tmp_path: Path, alone: Path
) -> None:
    done = run_train(*flags(tmp_path, data), "--processes", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines() if line.startswith("epoch=")] == ["epoch=1", "epoch=2"]
    assert done.stderr == ""
    assert_same(tmp_path, alone)


@dataclass(frozen=True)
class Node:
    code: int
    log: str


def run_nodes(*arguments: tuple[str, ...]) -> list[Node]:
    """Run the containers of a PyTorchJob, the last started first, each with its arguments."""
    common = {"PET_NNODES": str(len(arguments)), "WORLD_SIZE": str(len(arguments))}
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    meeting |= {f"PET_{name}": value for name, value in meeting.items()}
    started = []
    for rank, own in reversed(list(enumerate(arguments))):
        ranks = {"PET_NODE_RANK": str(rank), "RANK": str(rank)}
        started.append(start_train(*own, **common, **meeting, **ranks))
    logs = [process.communicate()[0] for process in started]
    return [Node(process.returncode, log) for process, log in zip(reversed(started), reversed(logs), strict=True)]


@pytest.mark.slow
def test_the_nodes_of_a_pytorchjob_train_together_and_the_first_speaks_and_writes(
    data: Path, tmp_path: Path, alone: Path
) -> None:
    folders = [tmp_path / "first", tmp_path / "second"]
    first, second = run_nodes(*(flags(folder, data) for folder in folders))
    assert (first.code, second.code) == (0, 0), first.log + second.log
    assert second.log.splitlines() == [
        "host 1 of 2, 1 processes on each; 127.0.0.1 is first",
        "process 1 of 2 is connected (gloo), process 0 speaks and writes",
    ]
    assert [path for path in folders[1].glob("model*/*") if path.is_file()] == []
    assert_same(folders[0], alone)
    assert features(folders[1]) == features(alone)  # for its own next start


@pytest.mark.slow
def test_an_error_on_one_host_ends_the_others_with_a_sentence(data: Path, tmp_path: Path) -> None:
    first, second = run_nodes(flags(tmp_path / "first", data), flags(tmp_path / "second", tmp_path / "nowhere"))
    assert (first.code, second.code) == (1, 1)
    assert "error: process 0 of 2 lost the others: look into their logs for the cause" in first.log
    assert "nowhere' does not exist" in second.log
    assert "Traceback" not in first.log + second.log


@pytest.mark.slow
def test_hosts_that_have_different_images_do_not_train(data: Path, tmp_path: Path) -> None:
    other = write_images(tmp_path / "other", per_class=6, size=(32, 32))
    nodes = run_nodes(flags(tmp_path / "first", data), flags(tmp_path / "second", other))
    for node in nodes:
        assert node.code == 1
        assert "error: hosts have different images, and each needs all of them" in node.log


@pytest.mark.slow
def test_sigterm_reaches_every_process_and_the_run_goes_on_where_it_was(data: Path, tmp_path: Path) -> None:
    arguments = (*flags(tmp_path, data), "--freeze", "none", "--checkpoint-interval-s", "3600", "--processes", "2")
    process = start_train(*arguments, "--epochs", "3000")
    assert process.stdout is not None
    seen = next(line for line in process.stdout if line.startswith("epoch=2 "))
    process.send_signal(signal.SIGTERM)
    rest = process.communicate()[0]
    assert seen
    assert process.returncode == 143, rest
    assert rest.count("stopped by SIGTERM") == 1
    assert "Traceback" not in rest
    (checkpoint,) = (tmp_path / "model.checkpoints").glob("*.pt")
    again = start_train(*arguments, "--epochs", "3000")
    assert again.stdout is not None
    assert any(f"checkpoint {checkpoint}: after" in line for line in again.stdout)
    again.send_signal(signal.SIGTERM)
    again.communicate()


@pytest.mark.slow
def test_a_users_mistake_is_said_once_however_many_processes_make_it(tmp_path: Path) -> None:
    done = run_train(*flags(tmp_path, tmp_path / "nowhere"), "--processes", "2")
    assert done.returncode == 1
    (sentence,) = done.stderr.splitlines()
    assert "nowhere' does not exist" in sentence


def test_a_process_that_was_killed_is_named(tmp_path: Path) -> None:
    (tmp_path / "failure").write_text("process 0 lost the others")
    with pytest.raises(InternalError, match="process 1 was killed by SIGKILL: memory may have run out"):
        torchrun._outcome({0: 1, 1: -9}, tmp_path / "failure")


def test_processes_that_were_stopped_have_not_failed(tmp_path: Path) -> None:
    (tmp_path / "failure").write_text("process 0 lost the others")
    assert torchrun._outcome({0: 1, 1: 143}, tmp_path / "failure") == 143


@pytest.mark.parametrize("rank", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_peer_that_never_appears_ends_in_a_clear_error(data: Path, tmp_path: Path, rank: int) -> None:
    meeting = {"PET_NNODES": "2", "PET_MASTER_ADDR": "127.0.0.1", "PET_MASTER_PORT": str(free_port())}
    environ = os.environ | meeting | {"PET_NODE_RANK": str(rank)}
    arguments = [*flags(tmp_path, data), "--peer-timeout-s", "2"]
    done = forked.run(forked.main, "components.train", arguments, environ=environ)
    assert done.returncode == 1
    (sentence,) = done.stderr.splitlines()
    assert f"error: host {rank} of 2 did not find the others within 2 s" in sentence


@pytest.mark.slow
def test_processes_that_somebody_else_started_are_told_the_same(data: Path, tmp_path: Path) -> None:
    alone = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    done = run_train(*flags(tmp_path, data), "--peer-timeout-s", "2", **alone)
    assert done.returncode == 1
    assert "process 0 of 2 did not find the others within 2 s" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        ({"RANK": "0", "WORLD_SIZE": "2"}, "RANK and WORLD_SIZE are set and MASTER_ADDR is missing"),
        ({"RANK": "first", "WORLD_SIZE": "2"}, "environment variable RANK is 'first', expected a whole number"),
    ],
)
def test_a_rank_without_its_company_is_refused(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], sentence: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=sentence), processes.connected(2):
        pass


@pytest.mark.parametrize(
    ("variables", "is_child"),
    [
        ({}, False),
        ({"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "PET_NNODES": "2"}, True),
        ({"RANK": "0", "WORLD_SIZE": "2", "PET_NNODES": "2"}, False),
        ({"RANK": "0", "WORLD_SIZE": "2"}, True),
    ],
)
def test_torchrun_is_started_once(variables: dict[str, str], is_child: bool) -> None:
    assert processes.is_child(variables) == is_child


def test_hosts_are_laid_out_as_the_job_says() -> None:
    layout = torchrun._layout(Hosts(3, 1, "algo-1", 7777), 4, 1.5)
    found = dict(zip(layout[::2], layout[1::2], strict=True))
    assert found == {
        "--nnodes": "3", "--node-rank": "1", "--nproc-per-node": "4", "--master-addr": "algo-1",
        "--master-port": "7777", "--rdzv-backend": "static", "--rdzv-conf": "timeout=2", "--shutdown-timeout": "110",
    }  # fmt: skip


def test_processes_are_as_many_as_was_asked_for_or_as_the_platform_says() -> None:
    assert processes.count(3, Hosts(processes=2)) == 3
    assert processes.count(None, Hosts(processes=2)) == 2
    assert processes.count(None, Hosts()) == max(1, torch.cuda.device_count())


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert processes.count(None, Hosts()) == 2
    with pytest.raises(ConfigError, match="4 processes are asked for and this host has 2 GPUs"):
        processes.count(4, Hosts())


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_batch_norm_that_learns_in_two_processes_costs_no_accuracy_and_is_said_in_the_log(tmp_path: Path) -> None:
    write_digits(tmp_path / "digits")
    accuracies = []
    for number in ("1", "2"):
        folder = tmp_path / number
        done = run_train(
            *flags(folder, tmp_path / "digits"), "--freeze", "none", "--augment", "none", "--processes", number,
            *("--head", "linear", "--dropout", "0", "--mixup", "0"),
            *("--epochs", "8", "--batch-size", "32", "--duplicates", "keep", "--seed", "1"),
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        is_said = "batch normalisation: each of 2 processes takes its own share's statistics" in done.stdout
        assert is_said == (number == "2")
        accuracies.append(bundle.read(folder / "model").manifest.metrics.test_accuracy)
    assert abs(accuracies[0] - accuracies[1]) <= 0.01, accuracies
