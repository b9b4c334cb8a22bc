"""Clients that are slow, vanish, or come by hundreds: everybody else is answered, and memory is bounded."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from typing import Any, Final

import pytest

from serving.bundle import Bundle
from tests.support import images
from tests.support.bodies import INVOCATIONS
from tests.support.figures import RecordFigure
from tests.support.processes import MB, num_descriptors, peak_bytes, reset_peak
from tests.support.servers import Server, serving, wait_for
from tests.support.soak import Scale
from tests.support.wire import Connection, Request, connections

BODY_TIMEOUT_S: Final = 2.0
NUM_SLOW: Final = 40
NUM_AT_ONCE: Final = 500
NUM_CUTS: Final = 2000
PING_S: Final = 2.0
ANSWER_S: Final = 5.0
"""For everybody else: the model is tiny and nothing waits for it."""
ALLOWED_MB: Final = 64
"""More than hundreds of connections and their heads take; their bodies would be hundreds of MB."""
MAX_QUEUE_MB: Final = 64
SENDING_MB: Final = 3 * MAX_QUEUE_MB
"""What so many bytes of bodies take: as they came, joined, and decoded."""
PING: Final = Request("/ping", method="GET")
PICTURE: Final = Request(INVOCATIONS, {"Content-Type": "image/jpeg"}, images.jpeg())
LARGE: Final = Request(INVOCATIONS, {"Content-Type": "image/bmp"}, images.encode(images.noise(300, 400), "BMP"))
"""Of 0.4 MB: hundreds of them are more than may be under way."""


@pytest.fixture(scope="module")
def impatient(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that waits two seconds for a body, and holds few of them."""
    log = tmp_path_factory.mktemp("impatient") / "log"
    flags = ("--body-timeout-s", str(BODY_TIMEOUT_S), "--max-queue-mb", str(MAX_QUEUE_MB))
    with serving(bundle.folder, log, *flags) as running:
        running.wait_until_ready()
        for _ in range(20):
            running.post(images.jpeg())
        yield running


@asynccontextmanager
async def others(server: Server) -> AsyncIterator[Callable[[], dict[str, float]]]:
    """Somebody pings and somebody sends pictures for as long as the block runs; the longest time of each, in s."""
    is_over = False
    longest_s = {"/ping": 0.0, "/invocations": 0.0}

    async def ask(request: Request) -> None:
        loop = asyncio.get_running_loop()
        async with Connection(server.port) as connection:
            while not is_over:
                started = loop.time()
                answer = await connection.ask(request)
                assert answer.status_code == 200, answer.body
                longest_s[request.path] = max(longest_s[request.path], loop.time() - started)

    async with asyncio.TaskGroup() as group:
        for request in (PING, PICTURE):
            group.create_task(ask(request))
        try:
            yield lambda: longest_s
        finally:
            is_over = True


def beside_others(server: Server, misbehave: Callable[[], Coroutine[Any, Any, None]]) -> str:
    """Let somebody misbehave; what it cost the others, in words."""
    before = reset_peak(server.process.pid)

    async def run() -> dict[str, float]:
        async with others(server) as longest_s:
            await misbehave()
        return longest_s()

    longest_s = asyncio.run(run())
    grown = (peak_bytes(server.process.pid) - before) / MB
    assert server.process.poll() is None
    assert longest_s["/ping"] < PING_S
    assert longest_s["/invocations"] < ANSWER_S
    assert grown < ALLOWED_MB
    told = ", ".join(f"{path} within {seconds:.2f} s" for path, seconds in longest_s.items())
    return f"others: {told}; {grown:.0f} MB more"


def test_bodies_of_a_byte_a_second_are_refused_in_time_and_hold_up_nobody(
    impatient: Server, scale: Scale, record_figure: RecordFigure
) -> None:
    count = scale.count(NUM_SLOW)
    status_codes: Counter[int] = Counter()

    async def trickle(connection: Connection) -> None:
        await connection.send(PICTURE.head)
        sending = asyncio.create_task(byte_by_byte(connection, PICTURE.body))
        loop = asyncio.get_running_loop()
        started = loop.time()
        answer = await connection.answer()
        assert loop.time() - started < BODY_TIMEOUT_S + ANSWER_S
        assert "bytes of the request body arrived in 2 s" in json.loads(answer.body)["message"]
        status_codes[answer.status_code] += 1
        sending.cancel()

    async def misbehave() -> None:
        async with connections(impatient.port, count) as opened:
            await asyncio.gather(*(trickle(connection) for connection in opened))

    cost = beside_others(impatient, misbehave)
    assert status_codes == {400: count}
    record_figure(f"{count} bodies of a byte a second: all got 400 after {BODY_TIMEOUT_S:g} s; {cost}")


async def byte_by_byte(connection: Connection, data: bytes) -> None:
    for place in range(len(data)):
        await connection.send(data[place : place + 1])
        await asyncio.sleep(1)  # the misbehaviour itself


def test_connections_cut_in_the_middle_leave_nothing_behind(
    impatient: Server, scale: Scale, record_figure: RecordFigure
) -> None:
    """In the head, in the body, before the answer and in the middle of it."""
    count = scale.count(NUM_CUTS)
    pid = impatient.process.pid
    before = num_descriptors(pid)

    async def misbehave() -> None:
        numbers = iter(range(count))

        async def cut() -> None:
            for number in numbers:
                async with Connection(impatient.port) as connection:
                    await connection.send(part_of(number))
                    if number % 4 == 3:
                        await connection.receive(20)
                    connection.cut()

        async with asyncio.TaskGroup() as group:
            for _ in range(8):
                group.create_task(cut())

    cost = beside_others(impatient, misbehave)
    wait_for(lambda: num_descriptors(pid) <= before, f"{before} open files, as before")
    assert "Traceback" not in impatient.log
    record_figure(f"{count} connections cut in head, body, before and in the answer: {cost}")


def part_of(number: int) -> bytes:
    """What is sent before the cut: some of the head, some of the body, or all of it."""
    whole = LARGE.head + LARGE.body
    places = (number % len(LARGE.head), len(LARGE.head) + number * 997 % len(LARGE.body), len(whole), len(whole))
    return whole[: places[number % 4]]


SILENT: Final = {
    "nothing": b"",
    "half of a head": PICTURE.head[:40],
    "a head and half of a body": PICTURE.head + PICTURE.body[: len(PICTURE.body) // 2],
}
"""What was sent before no more came."""


@pytest.mark.parametrize("sent", SILENT)
def test_hundreds_of_connections_on_which_no_more_comes_hold_up_nobody(
    impatient: Server, record_figure: RecordFigure, sent: str
) -> None:
    """More of them than there are slots: a body on its way takes none."""

    async def misbehave() -> None:
        async with connections(impatient.port, NUM_AT_ONCE) as opened:
            await asyncio.gather(*(connection.send(SILENT[sent]) for connection in opened))
            async with Connection(impatient.port) as another:
                for _ in range(50):
                    assert (await another.ask(PICTURE)).status_code == 200

    record_figure(f"{NUM_AT_ONCE} connections that sent {sent}: {beside_others(impatient, misbehave)}")


def test_hundreds_that_send_at_once_are_answered_or_told_to_come_back(
    impatient: Server, record_figure: RecordFigure
) -> None:
    """Among 500 at once nobody is an other: each gets labels, or 503 and when to come back; /ping is answered."""
    status_codes: Counter[int] = Counter()
    ping_s = 0.0

    async def run() -> None:
        nonlocal ping_s
        loop = asyncio.get_running_loop()
        async with connections(impatient.port, NUM_AT_ONCE) as opened, Connection(impatient.port) as pinging:
            answers = asyncio.gather(*(connection.ask(LARGE) for connection in opened))
            while not answers.done():
                started = loop.time()
                assert (await pinging.ask(PING)).status_code == 200
                ping_s = max(ping_s, loop.time() - started)
            for answer in await answers:
                status_codes[answer.status_code] += 1
                assert answer.status_code == 200 or "retry-after" in answer.headers

    before = reset_peak(impatient.process.pid)
    asyncio.run(run())
    grown = (peak_bytes(impatient.process.pid) - before) / MB
    assert set(status_codes) <= {200, 503}
    assert status_codes[200] > 0
    assert ping_s < PING_S
    assert grown < SENDING_MB
    record_figure(
        f"{NUM_AT_ONCE} at once with {len(LARGE.body) / 1e6:.1f} MB each: {status_codes[200]} got 200, "
        f"{status_codes[503]} got 503; /ping within {ping_s:.2f} s; {grown:.0f} MB more"
    )
