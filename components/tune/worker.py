"""A process that trains trials, one after the other, and asks after every epoch whether to go on.

It never looks into the study: the search alone writes there, and a worker that dies takes one trial with it.
"""

import logging
import os
import signal
import threading
import time
from dataclasses import dataclass
from multiprocessing import parent_process
from multiprocessing.connection import Connection, wait
from pathlib import Path

import torch

from components.cache import Cache
from components.environment import Environment, Stopped, stop_signal
from components.progress import Progress
from components.train.metrics import EpochResult
from components.train.workplace import Workplace
from components.train.world import World
from components.tune.foundations import Foundations
from components.tune.messages import Done, Epoch, Failed, Message, Task
from components.tune.training import train_trial
from serving.errors import KennelError

logger = logging.getLogger(__name__)


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


def _die_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
