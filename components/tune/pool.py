"""Worker processes: as many as run trials at once, started once and kept."""

import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Final, Self

from components.tune import nursery
from components.tune.messages import Epoch, Failed, Message, Task
from components.tune.worker import Post, work

PATIENCE_S: Final = 20.0
"""So long a worker may take to save a trial that is under way, when the search is stopped."""


@dataclass
class _Worker:
    process: BaseProcess
    connection: Connection
    post: Post
    task: Task | None = None
    """What it is doing; None: nothing."""


class Pool:
    """Runs tasks; to be used as a context manager."""

    def __init__(self, posts: Sequence[Post]) -> None:
        """Start a worker for each post.

        They are forked from a server process, which has imported torch once, and not from this one: neither threads
        of libraries nor a GPU survive being forked.
        """
        nursery.prepare()
        self._workers = [self._hire(post) for post in posts]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def size(self) -> int:
        """Trials that can run at once."""
        return len(self._workers)

    @property
    def running(self) -> list[int]:
        """Numbers of the trials under way."""
        return [worker.task.number for worker in self._workers if worker.task is not None]

    def start(self, task: Task) -> None:
        """Give a task to a worker that has none; there has to be one."""
        worker = next(worker for worker in self._workers if worker.task is None)
        worker.task = task
        try:
            worker.connection.send(task)
        except BrokenPipeError:  # it died while it had nothing to do; a new one takes it over
            self._replace(worker)
            self.start(task)

    def answer(self, number: int, *, may_go_on: bool) -> None:
        """Tell the worker of a trial whether to go on after an epoch."""
        worker = next(worker for worker in self._workers if worker.task is not None and worker.task.number == number)
        with suppress(BrokenPipeError):  # its death is the next message
            worker.connection.send(may_go_on)

    def messages(self, timeout_s: float | None) -> Iterator[Message]:
        """What workers have to say, waiting for it if need be; a worker that died has failed its trial."""
        busy = [(worker, worker.task) for worker in self._workers if worker.task is not None]
        ready = wait([worker.connection for worker, _ in busy], timeout_s)
        for worker, task in busy:
            if worker.connection not in ready:
                continue
            try:
                message: Message = worker.connection.recv()
            except (EOFError, ConnectionResetError):
                self._replace(worker)
                yield Failed(task.number, _cause_of_death(worker.process))
                continue
            if not isinstance(message, Epoch):
                worker.task = None
            yield message

    def close(self) -> None:
        """Stop: what is under way is saved, and goes on when the search does."""
        for worker in self._workers:
            if worker.process.is_alive():
                worker.process.terminate()
            worker.connection.close()
        deadline = time.monotonic() + PATIENCE_S
        for worker in self._workers:
            worker.process.join(max(0.0, deadline - time.monotonic()))
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()

    def _hire(self, post: Post) -> _Worker:
        ours, theirs = nursery.CONTEXT.Pipe()
        process = nursery.CONTEXT.Process(target=work, args=(theirs, post), daemon=True)
        process.start()
        theirs.close()
        return _Worker(process, ours, post)

    def _replace(self, worker: _Worker) -> None:
        worker.connection.close()
        worker.process.join(PATIENCE_S)
        self._workers[self._workers.index(worker)] = self._hire(worker.post)


def _cause_of_death(process: BaseProcess) -> str:
    code = process.exitcode
    if code == -signal.SIGKILL:
        return "its process was killed, most likely because memory ran out: use fewer --parallel-trials"
    if code is not None and code < 0:
        return f"its process died of {signal.Signals(-code).name}"
    return f"its process ended with exit code {code}"
