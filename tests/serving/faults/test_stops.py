"""SIGTERM under load: whatever was received whole is answered, and the process ends well and in time."""

import asyncio
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from serving.bundle import Bundle
from tests.support.bundles import write_bundle
from tests.support.figures import RecordFigure
from tests.support.load import PICTURE
from tests.support.servers import Server, serving
from tests.support.soak import Scale
from tests.support.wire import Connection, connections

NUM_STOPS: Final = 20
NUM_CALLERS: Final = 8
MIN_IN_FLIGHT: Final = 4
MIN_ANSWERED: Final = 20
"""Before the signal: the load is under way."""
STOP_S: Final = 28.0
"""SageMaker kills after 30."""
HALF: Final = len(PICTURE.body) // 2


class Load:
    """Callers who ask until they are told that it is enough, and a count of what is between sending and answer."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._is_enough = False
        self._is_under_way = asyncio.Event()
        self.num_in_flight = 0
        self.num_answered = 0

    async def call(self, connection: Connection) -> None:
        """Ask again and again; every answer has to be labels."""
        while not self._is_enough:
            await connection.send(PICTURE.head + PICTURE.body)
            self.num_in_flight += 1
            if self.num_answered >= MIN_ANSWERED and self.num_in_flight >= MIN_IN_FLIGHT:
                self._is_under_way.set()
            answer = await connection.answer()
            self.num_in_flight -= 1
            self.num_answered += 1
            assert answer.status_code == 200, answer.body

    async def stop(self) -> int:
        """Send SIGTERM under load; how many requests were in flight, all of which are answered when it returns."""
        async with connections(self._server.port, NUM_CALLERS) as opened, Connection(self._server.port) as late:
            callers = [asyncio.create_task(self.call(connection)) for connection in opened]
            await late.send(PICTURE.head + PICTURE.body[:HALF])
            await self._is_under_way.wait()
            self._is_enough = True
            self._server.process.send_signal(signal.SIGTERM)
            in_flight = self.num_in_flight
            await late.send(PICTURE.body[HALF:])
            assert (await late.answer()).status_code == 200
            await asyncio.gather(*callers)
        return in_flight


@pytest.fixture(scope="module")
def heavy(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle whose engine has work for several callers."""
    return write_bundle(tmp_path_factory.mktemp("heavy"), depth=8)


@pytest.mark.slow
def test_a_stop_under_load_answers_all_that_was_received_and_all_that_was_coming_in(
    heavy: Bundle, tmp_path: Path, scale: Scale, record_figure: RecordFigure
) -> None:
    in_flight, took_s = [], []
    for number in range(scale.count(NUM_STOPS)):
        with serving(heavy.folder, tmp_path / f"log{number}") as server:
            server.wait_until_ready()
            in_flight.append(asyncio.run(Load(server).stop()))
            started = time.monotonic()
            assert server.process.wait(STOP_S) == 0
            took_s.append(time.monotonic() - started)
            assert "Traceback" not in server.log
    assert min(in_flight) >= MIN_IN_FLIGHT
    record_figure(
        f"SIGTERM under load {len(in_flight)} times, {min(in_flight)} to {max(in_flight)} requests in flight: all got "
        f"200, exit code 0 within {max(took_s):.2f} s of the last answer"
    )


@pytest.fixture
def waiting(bundle: Bundle, tmp_path: Path) -> Iterator[Server]:
    with serving(bundle.folder, tmp_path / "log") as running:
        yield running.wait_until_ready()


@pytest.mark.slow
def test_a_body_that_never_comes_does_not_keep_the_server_from_stopping_in_time(
    waiting: Server, record_figure: RecordFigure
) -> None:
    async def stop() -> float:
        async with Connection(waiting.port) as connection:
            await connection.send(PICTURE.head + PICTURE.body[:HALF])
            await asyncio.to_thread(waiting.ping)  # by now it has been read
            started = time.monotonic()
            waiting.process.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(waiting.process.wait, STOP_S) == 0
            return time.monotonic() - started

    took_s = asyncio.run(stop())
    record_figure(f"SIGTERM while a body never comes: exit code 0 after {took_s:.1f} s")
