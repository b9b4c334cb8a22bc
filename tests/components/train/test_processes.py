import multiprocessing
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from components.environment import Environment, StopSignal
from components.train import processes
from components.train.checkpoint import Checkpoints
from components.train.loop import Run
from components.train.plan import Plan
from components.train.world import from_environment
from serving import bundle
from serving.errors import ConfigError
from tests.components.train.conftest import run_train
from tests.support.folders import write_images
from tests.support.two_processes import Small

TOLERANCE = 1e-5
"""Of weights and losses: gradients of two processes are added in another order."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("data"), per_class=7, size=(32, 32))  # 21: no batch divides evenly


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_two_processes_learn_what_one_learns(tmp_path: Path) -> None:
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node")
    states = []
    for number in ("1", "2"):
        out = tmp_path / number
        command = [sys.executable, *torchrun, number, "-m", "tests.support.two_processes", str(out)]
        subprocess.run(command, check=True, capture_output=True)
        states.append(torch.load(out, weights_only=True))
    for name, alone in states[0].items():
        torch.testing.assert_close(states[1][name], alone, rtol=TOLERANCE, atol=TOLERANCE, msg=name)


def resume(folder: Path) -> Run:
    """A run of a small network, where the checkpoint in `folder` or that of the leader left it."""
    world = from_environment()
    torch.manual_seed(world.rank)
    learner = Small()
    plan = Plan(epochs=2, batch_size=8, lr=0.01, seed=0)
    run = Run(learner, torch.optim.AdamW(learner.parameters(), lr=0.01), plan, world)
    Checkpoints(folder, {}, interval_s=0, stop_signal=StopSignal()).resume(run)
    return run


def _resume(rank: int, port: int, folder: Path, queue: "multiprocessing.Queue[tuple[int, float]]") -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    world = processes.connect(60)
    run = resume(folder / str(rank))
    queue.put((run.current.num_batches, float(next(run.learner.parameters()).detach().sum())))
    processes.disconnect(world)


def test_hosts_that_share_no_folder_all_go_on_from_the_leaders_checkpoint(tmp_path: Path) -> None:
    saved = resume(tmp_path / "0")
    saved.current.num_batches = 2
    checkpoints = Checkpoints(tmp_path / "0", {}, interval_s=0, stop_signal=StopSignal())
    checkpoints.on_step(saved, 2, 3)
    context = multiprocessing.get_context("spawn")
    queue, port = context.Queue(), free_port()
    both = [context.Process(target=_resume, args=(rank, port, tmp_path, queue)) for rank in (0, 1)]
    for process in both:
        process.start()
    found = [queue.get(timeout=120) for _ in both]
    for process in both:
        process.join(60)
    assert found == [(2, float(next(saved.learner.parameters()).detach().sum()))] * 2


def test_the_stage_trains_in_two_processes_with_one_voice(data: Path, tmp_path: Path) -> None:
    done = run_train(
        *("--data", str(data), "--model-dir", str(tmp_path / "model"), "--cache-dir", str(tmp_path / "cache")),
        *("--weights", "none", "--image-size", "32", "--batch-size", "8", "--epochs", "2", "--processes", "2"),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines() if line.startswith("epoch=")] == ["epoch=1", "epoch=2"]
    assert bundle.read(tmp_path / "model").manifest.architecture == "resnet18"


def test_a_peer_that_never_appears_ends_in_a_clear_error(data: Path, tmp_path: Path) -> None:
    alone = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    done = run_train("--data", str(data), "--model-dir", str(tmp_path / "m"), "--peer-timeout-s", "2", **alone)
    assert done.returncode == 1
    assert "process 0 of 2 did not find the others within 2 s" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_host_that_is_not_of_the_job_is_named() -> None:
    place = Environment(hosts=("algo-1", "localhost"), current_host="algo-9")
    with pytest.raises(ConfigError, match="host 'algo-9' is not one of the job's hosts: algo-1, localhost"):
        processes._layout(place, 1)


def test_hosts_are_laid_out_in_the_order_of_the_job() -> None:
    place = Environment(hosts=("algo-1", "algo-10", "algo-2"), current_host="algo-10")
    assert processes._layout(place, 4) == [
        "--nnodes", "3", "--node-rank", "1", "--nproc-per-node", "4",
        "--master-addr", "algo-1", "--master-port", "7777",
    ]  # fmt: skip
