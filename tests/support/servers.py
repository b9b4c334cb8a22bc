"""A real `python -m serving serve` in a process of its own, on a free port of 127.0.0.1."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import httpx

from tests.support import forked

ROOT = Path(__file__).parents[2]
DEADLINE_S = 60.0
Found = TypeVar("Found")


def clean_environment(**variables: str) -> dict[str, str]:
    """This process's environment without what would configure a server, and with `variables`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("KENNEL_", "SAGEMAKER_"))}
    return kept | variables


def wait_for(condition: Callable[[], Found | None], what: str) -> Found:
    """What `condition` returns as soon as it is truthy; fails after `DEADLINE_S`."""
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.01)
    raise AssertionError(f"waited {DEADLINE_S} s in vain for {what}")


class Server:
    """The process, its address and its log."""

    def __init__(self, process: "subprocess.Popen[bytes] | forked.Process", log: Path) -> None:
        self.process = process
        self._log = log
        self.port = int(wait_for(lambda: re.search(r"listening on \S+ port (\d+)", self.log), "the port in the log")[1])
        self.url = f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        """What it logged so far."""
        assert self.process.poll() in {None, 0}, self._log.read_text()
        return self._log.read_text() if self._log.exists() else ""

    def wait_until_ready(self) -> "Server":
        """Return when /ping is 200."""
        wait_for(lambda: self.ping().status_code == 200, "/ping to be 200")
        return self

    def ping(self) -> httpx.Response:
        """GET /ping."""
        return httpx.get(f"{self.url}/ping", timeout=DEADLINE_S)

    def post(self, body: bytes, content_type: str = "image/jpeg", **headers: str) -> httpx.Response:
        """POST /invocations."""
        named = {"Content-Type": content_type, **headers}
        return httpx.post(f"{self.url}/invocations", content=body, headers=named, timeout=DEADLINE_S)

    def stop(self) -> int:
        """Send SIGTERM; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(DEADLINE_S)


@contextmanager
def serving(model: Path, log: Path, *flags: str, **variables: str) -> Iterator[Server]:
    """Run a server on the bundle at `model`, ready or not, until the block ends."""
    command = [sys.executable, "-m", "serving", *_arguments(model, flags)]
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, cwd=ROOT, env=clean_environment(**variables), stdout=file, stderr=subprocess.STDOUT
        )
    with _until_the_end(process, log) as server:
        yield server


@contextmanager
def forked_serving(model: Path, log: Path, *flags: str, **variables: str) -> Iterator[Server]:
    """The same, a second faster: forked from a process in which torch is loaded too, so not to be measured."""
    process = forked.start(
        forked.main, "serving", _arguments(model, flags), environ=clean_environment(**variables), out=log
    )
    with _until_the_end(process, log) as server:
        yield server


def _arguments(model: Path, flags: Sequence[str]) -> list[str]:
    return ["serve", "--model", str(model), "--host", "127.0.0.1", "--port", "0", *flags]


@contextmanager
def _until_the_end(process: "subprocess.Popen[bytes] | forked.Process", log: Path) -> Iterator[Server]:
    try:
        yield Server(process, log)
    finally:
        process.kill()
        process.wait()
