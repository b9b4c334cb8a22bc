"""A process that trains trials, one after the other, and asks after every epoch whether to go on.

It never looks into the study: the search alone writes there, and a worker that dies takes one trial with it.
"""

import json
import logging
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import parent_process
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Final

import torch
from safetensors.torch import load_file, save_file

from components.cache import Cache
from components.environment import Environment, Stopped, stop_signal
from components.progress import Progress
from components.train.checkpoint import Checkpoints
from components.train.learn import facts, identity, may_stop, new_run
from components.train.loop import Observer, Run, evaluate, fit
from components.train.metrics import EpochResult, as_jsonl
from components.train.prepare import Prepared
from components.train.settings import TrainSettings
from components.train.workplace import Workplace
from components.train.world import World
from components.tune.foundations import Foundations
from serving import files
from serving.errors import KennelError

logger = logging.getLogger(__name__)

WEIGHTS: Final = "weights.safetensors"
HISTORY: Final = "metrics.jsonl"


@dataclass(frozen=True)
class Task:
    """A trial, as a worker is told of it."""

    number: int
    settings: TrainSettings
    folder: Path
    """For its checkpoints, and for what it learnt."""


@dataclass(frozen=True)
class Epoch:
    """An epoch is done; the worker waits to be told whether to go on."""

    number: int
    result: EpochResult


@dataclass(frozen=True)
class Done:
    """A trial came to its end, or to the one that it was told."""

    number: int
    metrics: dict[str, float]
    """By name, of the weights that are kept."""
    history: tuple[EpochResult, ...]
    seconds: float
    """From being told of it, without preparing what others share."""


@dataclass(frozen=True)
class Failed:
    """A trial could not be trained."""

    number: int
    reason: str
    seconds: float = 0.0


Message = Epoch | Done | Failed


@dataclass(frozen=True)
class Post:
    """What a worker is given when it starts."""

    environment: Environment
    cache_dir: Path
    cache_limit_gb: float
    with_test: bool
    """Whether trials are measured on the test split, too."""
    threads: int
    gpu: int
    """Its GPU, if there are any."""


def work(connection: Connection, post: Post) -> None:
    """The life of a worker: ends when the search hangs up or dies."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to everybody; the search says what to do
    signal.signal(signal.SIGTERM, stop_signal.on_signal)
    threading.Thread(target=_die_with_parent, daemon=True).start()
    logging.getLogger("components").setLevel(logging.ERROR)  # one voice: the search's
    logging.getLogger("serving").setLevel(logging.ERROR)
    torch.set_num_threads(post.threads)
    world = World(local_rank=post.gpu)
    workplace = Workplace(world, Cache(post.cache_dir, post.cache_limit_gb), Progress(is_quiet=True))
    foundations = Foundations(post.environment, workplace, with_test=post.with_test)
    try:
        while True:
            task: Task = connection.recv()
            connection.send(_attempt(task, foundations, world, connection))
    except (Stopped, EOFError, ConnectionError):
        pass
    finally:
        os._exit(0)  # whatever threads libraries still have


def train_trial(
    task: Task, prepared: Prepared, world: World, may_go_on: Callable[[EpochResult], bool]
) -> tuple[Run, dict[str, float]]:
    """Train a trial, going on from its checkpoint if there is one, and keep what it learnt in its folder.

    Returns:
        The run, and metrics of the weights of its best epoch by name.

    Raises:
        UserError: The loss is not finite, or memory does not hold a step.
    """
    settings = task.settings
    run = new_run(prepared, settings, prepared.new_learner(settings), world)
    checkpoints = Checkpoints(
        task.folder,
        identity(prepared, settings, run.learner),
        interval_s=settings.checkpoint_interval_s,
        stop_signal=stop_signal,
        facts=facts(settings, world),
    )
    checkpoints.resume(run)
    for result in run.history:
        run.is_stopped |= not may_go_on(result)
    observers = [_Relay(may_go_on), *may_stop(settings), checkpoints]
    fit(run, prepared.inputs.train, prepared.inputs.valid, observers)
    best = min(run.history, key=lambda result: result.valid_loss)
    metrics = {"valid_loss": best.valid_loss, "valid_accuracy": best.valid_accuracy}
    if prepared.inputs.test is not None:
        run.learner.load_state_dict(run.best_state, strict=False)
        loss, accuracy = evaluate(run, prepared.inputs.test, settings.micro_batch or settings.batch_size)
        metrics |= {"test_loss": loss, "test_accuracy": accuracy}
    _keep(run, task.folder)
    return run, metrics


def load_learnt(learner: torch.nn.Module, folder: Path) -> bool:
    """Give a learner what a trial learnt that left it in `folder`; returns whether there is something."""
    path = folder / WEIGHTS
    if not path.exists():
        return False
    learner.load_state_dict(load_file(path), strict=False)
    return True


def read_history(folder: Path) -> tuple[EpochResult, ...]:
    """Epochs of the trial that left them in `folder`; empty if there are none."""
    path = folder / HISTORY
    return tuple(EpochResult(**json.loads(line)) for line in path.read_text().splitlines()) if path.exists() else ()


class _Relay(Observer):
    """Asks after every epoch whether to go on."""

    def __init__(self, may_go_on: Callable[[EpochResult], bool]) -> None:
        self._may_go_on = may_go_on

    def on_epoch(self, run: Run, result: EpochResult) -> bool:
        """Ask."""
        return self._may_go_on(result)


def _attempt(task: Task, foundations: Foundations, world: World, connection: Connection) -> Message:
    def may_go_on(result: EpochResult) -> bool:
        try:
            connection.send(Epoch(task.number, result))
            answer: bool = connection.recv()
        except (EOFError, ConnectionError):
            if stop_signal.is_pending:
                return True  # the search is being stopped: what was learnt is saved before this process is
            raise
        return answer

    started = time.perf_counter()
    try:
        prepared = foundations.of(task.settings)
        started = time.perf_counter()
        run, metrics = train_trial(task, prepared, world, may_go_on)
        return Done(task.number, metrics, tuple(run.history), time.perf_counter() - started)
    except (EOFError, ConnectionError):
        raise
    except Exception as error:  # whatever it is, it is this trial's, and others may do better
        return Failed(task.number, why(error, task.number), time.perf_counter() - started)


def why(error: Exception, number: int) -> str:
    """Why a trial failed, in a sentence; what nobody foresaw goes to the log as well."""
    if isinstance(error, KennelError):
        return str(error)
    logger.error("trial %d", number, exc_info=error)
    return f"internal error, please report it with the log: {type(error).__name__}: {error}"


def _keep(run: Run, folder: Path) -> None:
    """Keep weights and history; checkpoints stay until the study knows, else a kill would cost the whole trial."""
    folder.mkdir(parents=True, exist_ok=True)
    with files.written_aside(folder / WEIGHTS) as aside:
        save_file({name: tensor.contiguous() for name, tensor in run.best_state.items()}, aside)
    files.write_text(folder / HISTORY, as_jsonl(run.history))


def forget_checkpoints(folder: Path) -> None:
    """Delete the checkpoints of a trial that is over."""
    for path in folder.glob("checkpoint-*.pt"):
        path.unlink(missing_ok=True)


def forget(folder: Path) -> None:
    """Delete what a trial learnt."""
    shutil.rmtree(folder, ignore_errors=True)


def _die_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
