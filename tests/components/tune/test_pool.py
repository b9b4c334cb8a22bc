"""Workers that are killed, and searches that end while theirs are at work."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from components.environment import Environment
from components.train.settings import TrainSettings
from components.tune.messages import Done, Epoch, Failed, Message, Task
from components.tune.pool import Pool
from components.tune.remains import read_history
from components.tune.worker import Post
from tests.support.attempts import Place
from tests.support.engine import ROOT
from tests.support.folders import write_images
from tests.support.processes import Watch, descendants

FOREVER = 100_000
"""Epochs, none of which is the last."""
DEATH_S = 30.0


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("images") / "data", per_class=4)


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[Pool]:
    post = Post(Environment(), tmp_path / "cache", 1.0, with_test=False, threads=1, gpu=0)
    with Pool([post]) as opened:
        yield opened


@pytest.fixture
def task(tmp_path: Path, data: Path) -> Callable[[int, int], Task]:
    def make(number: int, epochs: int) -> Task:
        told = {"arch": "shufflenet_v2_x0_5", "weights": "none", "freeze": "none", "image_size": 32, "batch_size": 12}
        settings = TrainSettings.model_validate({"data": data, "epochs": epochs, **told})
        return Task(number, settings, tmp_path / "trials" / str(number))

    return make


def next_message(pool: Pool) -> Message:
    (message,) = pool.messages(None)
    return message


def run(pool: Pool, task: Task) -> Done | Failed:
    pool.start(task)
    while isinstance(message := next_message(pool), Epoch):
        pool.answer(task.number, may_go_on=True)
    return message


def the_worker(pool: Pool) -> int:
    (worker,) = pool._workers  # nobody else has to know
    assert worker.process.pid is not None
    return worker.process.pid


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (signal.SIGKILL, "its process was killed, most likely because memory ran out: use fewer --parallel-trials"),
        (signal.SIGSEGV, "its process died of SIGSEGV"),
    ],
)
def test_a_worker_that_is_killed_fails_its_trial_and_a_new_one_runs_the_next(
    pool: Pool, task: Callable[[int, int], Task], number: signal.Signals, reason: str
) -> None:
    pool.start(task(0, FOREVER))
    assert isinstance(next_message(pool), Epoch)
    killed = the_worker(pool)
    os.kill(killed, number)
    pool.answer(0, may_go_on=True)  # to nobody
    assert next_message(pool) == Failed(0, reason)
    assert the_worker(pool) != killed
    done = run(pool, task(1, 2))
    assert isinstance(done, Done)
    assert [result.epoch for result in done.history] == [1, 2]


def test_a_worker_that_is_killed_while_it_is_idle_is_replaced(pool: Pool, task: Callable[[int, int], Task]) -> None:
    assert isinstance(run(pool, task(0, 1)), Done)
    killed = the_worker(pool)
    watch = Watch([killed])
    os.kill(killed, signal.SIGKILL)
    assert watch.left_after(DEATH_S) == set()
    assert isinstance(run(pool, task(1, 1)), Done)
    assert the_worker(pool) != killed


def test_a_trial_that_is_told_to_stop_keeps_what_it_learnt(pool: Pool, task: Callable[[int, int], Task]) -> None:
    asked = task(0, FOREVER)
    pool.start(asked)
    assert isinstance(next_message(pool), Epoch)
    pool.answer(0, may_go_on=False)
    done = next_message(pool)
    assert isinstance(done, Done)
    assert read_history(asked.folder) == done.history
    assert len(done.history) == 1


def test_a_trial_that_waits_for_an_answer_when_the_search_stops_is_saved(
    pool: Pool, task: Callable[[int, int], Task]
) -> None:
    asked = task(0, FOREVER)
    pool.start(asked)
    assert isinstance(next_message(pool), Epoch)
    pool.close()
    assert [len(history) for history in histories(asked.folder)] == [1]


def test_a_trial_that_was_trained_but_not_told_is_not_trained_again(
    pool: Pool, task: Callable[[int, int], Task]
) -> None:
    first = run(pool, task(0, 3))
    again = run(pool, task(0, 3))
    assert isinstance(first, Done)
    assert isinstance(again, Done)
    assert again.history == first.history  # its times, too
    assert again.metrics == first.metrics


def histories(folder: Path) -> list[list[dict[str, float]]]:
    """Epochs of its checkpoints, from the oldest to the newest."""
    return [torch.load(path, weights_only=True)["history"] for path in sorted(folder.glob("checkpoint-*.pt"))]


class Search:
    """`python -m components.tune` with two trials at once, as people start it."""

    def __init__(self, place: Place, epochs: int) -> None:
        flags = ("--trials", "2", "--parallel-trials", "2", "--freeze", "none", "--checkpoint-interval-s", "2")
        command = [
            sys.executable,
            "-m",
            "components.tune",
            *place.command(*flags, "--pruner", "none", "--epochs", str(epochs)),
        ]
        self.log = place.root / "log"
        place.root.mkdir(exist_ok=True)
        with self.log.open("w") as output:
            self.process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)

    def until(self, has_happened: Callable[[], bool]) -> None:
        while not has_happened():
            try:
                code = self.process.wait(0.05)
            except subprocess.TimeoutExpired:
                continue
            pytest.fail(f"ended with {code}: {self.log.read_text()}")


def trial_folders(place: Place) -> list[Path]:
    return sorted(place.checkpoints.glob("trials/*/*"))


def when_saved(place: Place) -> list[float]:
    """When the newest checkpoint of each trial was written."""
    found = (sorted(folder.glob("checkpoint-*.pt")) for folder in trial_folders(place))
    return [paths[-1].stat().st_mtime for paths in found if paths]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_workers_end_with_a_search_that_is_killed(tmp_path: Path, data: Path) -> None:
    place = Place(tmp_path, data)
    search = Search(place, FOREVER)
    search.until(lambda: len(trial_folders(place)) == 2)
    watch = Watch(found := descendants(search.process.pid))
    assert len(found) >= 3  # two workers, and the server that they are forked from
    search.process.kill()
    assert search.process.wait() == -signal.SIGKILL
    assert watch.left_after(DEATH_S) == set()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_search_that_is_told_to_end_saves_long_trials_which_go_on_with_it(tmp_path: Path, data: Path) -> None:
    place, epochs = Place(tmp_path, data), 150
    search = Search(place, epochs)
    search.until(lambda: len(when_saved(place)) == 2)
    watch = Watch(descendants(search.process.pid))
    told = time.time()
    search.process.terminate()
    assert search.process.wait() == 143, search.log.read_text()
    assert "stopped by SIGTERM: the same command goes on" in search.log.read_text()
    assert watch.left_after(DEATH_S) == set()
    assert len(when_saved(place)) == 2
    assert min(when_saved(place)) >= told
    saved = {folder.name: histories(folder)[-1] for folder in trial_folders(place)}

    again = Search(place, epochs)
    assert again.process.wait() == 0, again.log.read_text()
    assert again.log.read_text().count("was left unfinished and goes on") == 2
    best = next(iter(place.checkpoints.glob("trials/*/*/metrics.jsonl"))).parent
    kept = [result.__dict__ for result in read_history(best)]
    assert len(kept) == epochs
    assert kept[: len(saved[best.name])] == saved[best.name]  # their times, too: they were not run again
    assert not list(place.checkpoints.rglob("checkpoint-*.pt"))
    assert list(place.journal().ends.values()) == [1, 1]
