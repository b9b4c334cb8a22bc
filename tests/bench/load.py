"""Load on a server, by wrk; and what else goes on meanwhile: a watcher of its health, a process that burns a core."""

import http.client
import json
import math
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

SCRIPT: Final = Path(__file__).with_name("post.lua")
TIMEOUT_S: Final = 60
PING_INTERVAL_S: Final = 0.1
SETTLED_S: Final = 1.0
"""Until a burner's start (an interpreter) is over."""


@dataclass(frozen=True)
class Load:
    """What clients saw that ask again as soon as they are answered."""

    requests_per_s: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    refused: int
    """Answers that were not 200."""
    broken: int
    """Requests without an answer."""


def parse(output: str) -> Load:
    """What wrk printed with `post.lua`; answers that are not 200 are no throughput, no answer at all takes for ever.

    Raises:
        ValueError: It printed something else.
    """
    lines = [line for line in output.splitlines() if line.startswith("{")]
    if not lines:
        raise ValueError(f"wrk printed no result: {output.strip()[-500:]!r}")
    found = json.loads(lines[-1])
    if not found["requests"]:  # wrk says 0, the best there is
        found |= dict.fromkeys(("p50_us", "p90_us", "p99_us"), math.inf)
    return Load(
        requests_per_s=(found["requests"] - found["refused"]) / (found["duration_us"] / 1e6),
        p50_ms=found["p50_us"] / 1e3,
        p90_ms=found["p90_us"] / 1e3,
        p99_ms=found["p99_us"] / 1e3,
        refused=found["refused"],
        broken=found["broken"],
    )


def run(url: str, content_type: str, bodies: Sequence[Path], connections: int, seconds: float) -> Load:
    """Post bodies in turn for so many whole seconds, over so many connections.

    Raises:
        RuntimeError: wrk failed.
    """
    command = ["wrk", "--threads", "1", "--connections", str(connections), "--duration", f"{max(1, round(seconds))}s"]
    command += ["--timeout", f"{TIMEOUT_S}s", "--script", str(SCRIPT), url, "--", content_type, *map(str, bodies)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"wrk ended with code {done.returncode}: {done.stdout}{done.stderr}")
    return parse(done.stdout)


class Pings:
    """Asks for a server's health ten times a second over one connection while a block runs."""

    def __init__(self, port: int, path: str) -> None:
        self._port, self._path = port, path
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.milliseconds: list[float] = []
        """Of each answer; infinite where there was none, or another than 200."""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    @property
    def p99_ms(self) -> float:
        """Of all answers."""
        ordered = sorted(self.milliseconds)
        return ordered[math.ceil(0.99 * len(ordered)) - 1]

    @property
    def max_ms(self) -> float:
        """The slowest."""
        return max(self.milliseconds)

    def _watch(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=TIMEOUT_S)
        while True:
            started = time.perf_counter()
            self.milliseconds.append(self._ping(connection, started))
            if self._ended.wait(max(0.0, PING_INTERVAL_S - (time.perf_counter() - started))):
                break
        connection.close()

    def _ping(self, connection: http.client.HTTPConnection, started: float) -> float:
        try:
            connection.request("GET", self._path)
            answer = connection.getresponse()
            answer.read()
        except (OSError, http.client.HTTPException):
            connection.close()  # the next ping opens it anew
            return math.inf
        return (time.perf_counter() - started) * 1e3 if answer.status == 200 else math.inf


@contextmanager
def burner() -> Iterator[None]:
    """A process that burns one core, wherever the kernel lets it run, until the block ends."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        time.sleep(SETTLED_S)
        yield
    finally:
        process.kill()
        process.wait()
