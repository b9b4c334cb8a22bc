"""Load on a server, from a process of its own: `python -m tests.support.load PORT SECONDS closed CONNECTIONS` or
`... open RATE`; what became of each request is written as JSON.

Closed: so many callers, each of whom asks again when it has its answer. Open: so many requests a second, whether or not
anything is answered.
"""

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from typing import Final

from tests.support import images
from tests.support.servers import ROOT
from tests.support.wire import Connection, Request

PICTURE: Final = Request("/invocations", {"Content-Type": "image/jpeg"}, images.jpeg(seed=5))
PROCESS_S: Final = 120.0
"""What such a process may take beside the time of its load."""


@dataclass(frozen=True)
class Asked:
    """One request; times in s since the load began."""

    sent_s: float
    """Its last byte left."""
    answered_s: float
    """The last byte of the answer came."""
    status_code: int
    is_told_when: bool
    """The answer says when to come back."""

    @property
    def took_s(self) -> float:
        """From its last byte to the answer's."""
        return self.answered_s - self.sent_s


async def closed(port: int, seconds: float, num_connections: int) -> list[Asked]:
    """Callers who wait for their answers."""
    asked: list[Asked] = []
    loop = asyncio.get_running_loop()
    began = loop.time()

    async def call() -> None:
        async with Connection(port) as connection:
            while loop.time() - began < seconds:
                asked.append(await ask(connection, began))

    async with asyncio.TaskGroup() as group:
        for _ in range(num_connections):
            group.create_task(call())
    return asked


async def open_(port: int, seconds: float, rate: float) -> list[Asked]:
    """Callers who come when they come; connections are used again."""
    asked: list[Asked] = []
    free: list[Connection] = []
    loop = asyncio.get_running_loop()
    began = loop.time()

    async def call() -> None:
        connection = free.pop() if free else await Connection(port).__aenter__()
        asked.append(await ask(connection, began))
        free.append(connection)

    async with asyncio.TaskGroup() as group:
        for number in range(int(rate * seconds)):
            await asyncio.sleep(max(0.0, began + number / rate - loop.time()))
            group.create_task(call())
    for connection in free:
        connection.cut()
    return asked


async def ask(connection: Connection, began: float) -> Asked:
    """One request."""
    loop = asyncio.get_running_loop()
    await connection.send(PICTURE.head + PICTURE.body)
    sent = loop.time()
    answer = await connection.answer()
    return Asked(sent - began, loop.time() - began, answer.status_code, "retry-after" in answer.headers)


@contextmanager
def loading(port: int, seconds: float, kind: str, number: float) -> Iterator["subprocess.Popen[bytes]"]:
    """Load in a process of its own, until the block ends."""
    command = [sys.executable, "-m", "tests.support.load", str(port), str(seconds), kind, str(number)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


def load(port: int, seconds: float, kind: str, number: float) -> list[Asked]:
    """What became of the requests of a load in a process of its own, in the order in which they were sent."""
    with loading(port, seconds, kind, number) as process:
        output, _ = process.communicate(timeout=seconds + PROCESS_S)
    assert process.returncode == 0
    return sorted((Asked(*fields) for fields in json.loads(output)), key=lambda one: one.sent_s)


def main(arguments: Sequence[str]) -> None:
    """Run a load and write what became of it."""
    port, seconds, kind, number = int(arguments[0]), float(arguments[1]), arguments[2], float(arguments[3])
    run = closed(port, seconds, int(number)) if kind == "closed" else open_(port, seconds, number)
    json.dump([astuple(one) for one in asyncio.run(run)], sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1:])
