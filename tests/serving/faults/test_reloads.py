"""Another bundle under load: no request fails, each is answered by one of the two, and the old one's memory goes."""

import asyncio
import signal
import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from serving.bundle import Bundle
from tests.support.bodies import NPY
from tests.support.bundles import write_bundle
from tests.support.figures import RecordFigure
from tests.support.load import PICTURE
from tests.support.processes import MB, resident_bytes
from tests.support.servers import Server, serving
from tests.support.soak import Scale
from tests.support.wire import HOST, Connection, Request, connections

NUM_RELOADS: Final = 250
NUM_CALLERS: Final = 4
EARLY: Final = 5
"""Reloads after which memory is what it should stay."""
GROWTH: Final = 1.1
DEPTH: Final = 4
"""Heavy layers: a bundle that was kept would show, with 15 MB each."""
ASKED: Final = Request(PICTURE.path, {**PICTURE.headers, "Accept": NPY}, PICTURE.body)
RELOAD: Final = Request("/reload")


@dataclass
class Two:
    """A server of the one bundle that `place` leads to, at a time."""

    server: Server
    management_port: int
    bundles: tuple[Bundle, Bundle]
    place: Path

    def point(self, which: int) -> None:
        """Let `place` lead to the one or the other."""
        aside = self.place.with_suffix(".aside")
        aside.symlink_to(self.bundles[which].folder)
        aside.replace(self.place)


@pytest.fixture
def two(tmp_path: Path) -> Iterator[Two]:
    bundles = tuple(write_bundle(tmp_path / f"bundle{seed}", seed=seed, depth=DEPTH) for seed in range(2))
    place = tmp_path / "current"
    place.symlink_to(bundles[0].folder)
    with socket.create_server((HOST, 0)) as free:
        management_port = int(free.getsockname()[1])
    with serving(place, tmp_path / "log", "--management-port", str(management_port)) as running:
        yield Two(running.wait_until_ready(), management_port, (bundles[0], bundles[1]), place)


async def by_post(two: Two) -> None:
    async with Connection(two.management_port) as connection:
        answer = await connection.ask(RELOAD)
        assert answer.status_code == 200, answer.body


async def by_signal(two: Two) -> None:
    before = two.server.log.count("model ready")
    two.server.process.send_signal(signal.SIGHUP)
    async with asyncio.timeout(60):
        while two.server.log.count("model ready") == before:  # noqa: ASYNC110 - the log is all that tells
            await asyncio.sleep(0.01)


WAYS: Final[tuple[Callable[[Two], Awaitable[None]], ...]] = (by_post, by_signal)


async def logits(two: Two) -> bytes:
    """What the server answers now."""
    async with Connection(two.server.port) as connection:
        answer = await connection.ask(ASKED)
        assert answer.status_code == 200, answer.body
        return answer.body


async def reload_under_load(two: Two, count: int) -> tuple[Counter[bytes], int, int]:
    """Answers by what they say, and memory in bytes after `EARLY` and after all reloads."""
    answers: Counter[bytes] = Counter()
    is_over = False
    resident: dict[int, int] = {}

    async def call(connection: Connection) -> None:
        while not is_over:
            answer = await connection.ask(ASKED)
            assert answer.status_code == 200, answer.body
            answers[answer.body] += 1

    async with connections(two.server.port, NUM_CALLERS) as opened:
        callers = [asyncio.create_task(call(connection)) for connection in opened]
        for number in range(1, count + 1):
            two.point(number % 2)
            # A POST is answered when the old model is gone, the line of log comes before: memory is counted after one.
            way = by_post if number in {EARLY, count} else WAYS[number // 2 % 2]
            await way(two)
            resident[number] = resident_bytes(two.server.process.pid)
        is_over = True
        await asyncio.gather(*callers)
    return answers, resident[EARLY], resident[count]


@pytest.mark.slow
def test_reloads_under_load_fail_no_request_and_mix_no_answers(
    two: Two, scale: Scale, record_figure: RecordFigure
) -> None:
    count = scale.count(NUM_RELOADS)
    expected = [asyncio.run(logits(two))]
    two.point(1)
    asyncio.run(by_signal(two))
    expected.append(asyncio.run(logits(two)))
    assert expected[0] != expected[1]
    answers, early, late = asyncio.run(reload_under_load(two, count))
    assert set(answers) == set(expected)
    assert asyncio.run(logits(two)) == expected[count % 2]
    assert "Traceback" not in two.server.log
    one, other = (answers[body] for body in expected)
    record_figure(
        f"{count} reloads under load: {answers.total()} requests, all got 200, {one} of one bundle and {other} of the "
        f"other; resident {early / MB:.0f} MB after {EARLY}, {late / MB:.0f} MB after all"
    )
    assert late < GROWTH * early
