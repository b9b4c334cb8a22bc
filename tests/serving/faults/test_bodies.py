"""Bodies spoilt in every way: each is answered, none with a 5xx, and right ones in between as if nothing had been."""

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import pytest

from serving.bundle import Bundle
from serving.readers import READERS
from tests.support import bodies
from tests.support.bodies import NPY
from tests.support.figures import RecordFigure
from tests.support.processes import MB, resident_bytes
from tests.support.servers import Server, serving, wait_for
from tests.support.soak import Scale
from tests.support.wire import Answer, Connection, Request

NUM_BODIES: Final = 10_000
NUM_CONNECTIONS: Final = 8
VALID_EVERY: Final = 50
WARM_UP: Final = 500
GROWTH: Final = 1.1
BUSY: Final = 503
"""The one 5xx that is meant: come back later."""

Make = Callable[[int], tuple[Request, bytes | None]]
"""The request of a number, and the body that must answer it; None: any answer but a 5xx."""


def mixed(right: Sequence[Request], expected: Sequence[bytes], seed: int) -> Make:
    """Spoilt requests, and every `VALID_EVERY`th a right one."""

    def make(number: int) -> tuple[Request, bytes | None]:
        if number % VALID_EVERY == 0:
            place = number // VALID_EVERY % len(right)
            return right[place], expected[place]
        return bodies.mutate(np.random.default_rng([seed, number]), right), None

    return make


async def ask_each(server: Server, requests: Sequence[Request]) -> list[Answer]:
    """One after another, on one connection."""
    async with Connection(server.port) as connection:
        return [await connection.ask(request) for request in requests]


async def send_all(server: Server, make: Make, count: int, folder: Path) -> Counter[int]:
    """So many requests over `NUM_CONNECTIONS`; the answers by status code."""
    status_codes: Counter[int] = Counter()
    numbers = iter(range(count))

    async def send() -> None:
        async with Connection(server.port) as connection:
            for number in numbers:
                request, expected = make(number)
                answer = await checked(connection, request, expected, folder / f"{number}.request")
                status_codes[answer.status_code] += 1
                if answer.headers.get("connection") == "close":
                    await connection.reopen()

    async with asyncio.TaskGroup() as group:
        for _ in range(NUM_CONNECTIONS):
            group.create_task(send())
    return status_codes


async def checked(connection: Connection, request: Request, expected: bytes | None, kept: Path) -> Answer:
    """The answer; when it is not as it must be, the request lies in the file `kept`."""
    reason = ""
    try:
        answer = await connection.ask(request)
    except (OSError, TimeoutError) as error:
        reason = repr(error)
    else:
        is_right = answer.status_code < 500 or answer.status_code == BUSY
        if expected is not None:
            is_right = (answer.status_code, answer.body) == (200, expected)
        if is_right:
            return answer
        reason = f"{answer.status_code} {answer.body[:300]!r}"
    kept.write_bytes(request.head + request.body)  # noqa: ASYNC240 - the run is over
    raise AssertionError(f"{reason} to the request in {kept}")


def storm(server: Server, right: Sequence[Request], count: int, folder: Path) -> str:
    """Send so many bodies, most of them spoilt; what came back in words. Memory must come back too."""
    answers = asyncio.run(ask_each(server, right))
    assert {answer.status_code for answer in answers} == {200}
    expected = [answer.body for answer in answers]
    asyncio.run(send_all(server, mixed(right, expected, seed=1), WARM_UP, folder))
    before = resident_bytes(server.process.pid)
    status_codes = asyncio.run(send_all(server, mixed(right, expected, seed=2), count, folder))
    after = wait_for(lambda: back(server, before), f"at most {GROWTH} times {before / MB:.0f} MB resident")
    assert server.process.poll() is None
    assert status_codes.total() == count
    told = ", ".join(f"{number} got {code}" for code, number in sorted(status_codes.items()))
    return f"{count} bodies, {told}; resident {before / MB:.0f} MB before, {after / MB:.0f} MB after"


def back(server: Server, before: int) -> int | None:
    """Memory that it has, once that is about what it had before."""
    found = resident_bytes(server.process.pid)
    return found if found <= GROWTH * before else None


def test_spoilt_bodies_are_refused_and_right_ones_in_between_answered_to_the_last_bit(
    server: Server, tmp_path: Path, scale: Scale, record_figure: RecordFigure
) -> None:
    right = bodies.corpus()
    assert {request.headers.get("Content-Type", "").partition(";")[0] for request in right} >= set(READERS)
    record_figure(f"/invocations, /v1, /v2: {storm(server, right, scale.count(NUM_BODIES), tmp_path)}")


@pytest.fixture
def many(bundle: Bundle, tmp_path: Path) -> Iterator[Server]:
    """A server of many models, with one of them."""
    with serving(bundle.folder, tmp_path / "log", "--multi-model", "true") as running:
        running.wait_until_ready()
        (loaded,) = asyncio.run(ask_each(running, [load_request("one", bundle.folder)]))
        assert loaded.status_code == 200, loaded.body
        yield running


def load_request(name: str, folder: Path) -> Request:
    """To load a model."""
    order = {"model_name": name, "url": str(folder)}
    return Request("/models", {"Content-Type": "application/json"}, json.dumps(order).encode())


def test_spoilt_orders_to_load_a_model_do_no_harm_to_those_that_are_loaded(
    many: Server, bundle: Bundle, tmp_path: Path, scale: Scale, record_figure: RecordFigure
) -> None:
    """Some orders do load: a bundle under another name."""
    order = load_request("two", bundle.folder)
    picture = bodies.pictures()["image/png"][0]
    asked = Request("/models/one/invoke", {"Content-Type": "image/png", "Accept": NPY}, picture)
    (answer,) = asyncio.run(ask_each(many, [asked]))
    count = scale.count(NUM_BODIES)

    def make(number: int) -> tuple[Request, bytes | None]:
        if number % VALID_EVERY == 0:
            return asked, answer.body
        return bodies.mutate(np.random.default_rng([3, number]), [order, asked]), None

    status_codes = asyncio.run(send_all(many, make, count, tmp_path))
    assert many.process.poll() is None
    told = ", ".join(f"{number} got {code}" for code, number in sorted(status_codes.items()))
    record_figure(f"/models: {count} bodies, {told}")
