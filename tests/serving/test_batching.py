"""Requests to batches, with an engine that runs only when the test lets it."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import httpx
import numpy as np
import pytest

from serving.app import create_app
from serving.batching import Batcher, Infers
from serving.bundle import Bundle
from serving.engines import Logits
from serving.errors import EngineError
from serving.model import Model, load_model
from serving.models import Models
from serving.preprocess import Pixels
from serving.settings import ServerSettings
from tests.support import images
from tests.support.apps import Message, connected, post_messages

pytestmark = pytest.mark.anyio

DEADLINE_S = 10.0


class HeldEngine:
    """Answers each picture with its first pixel; while held, a batch waits inside."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.let_go = threading.Event()
        self.let_go.set()
        self.failure: Exception | None = None

    def infer(self, pixels: Pixels) -> Logits:
        self.batches.append([int(picture[0, 0, 0]) for picture in pixels])
        assert self.let_go.wait(DEADLINE_S)
        if self.failure:
            raise self.failure
        return pixels[:, 0, 0, :].astype(np.float32)


def picture(value: int) -> Pixels:
    return np.full((2, 2, 3), value, dtype=np.uint8)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110 - another thread makes it true
            await asyncio.sleep(0)


@pytest.fixture
def engine() -> HeldEngine:
    return HeldEngine()


@pytest.fixture
async def batcher(engine: HeldEngine) -> AsyncIterator[Batcher]:
    batcher = Batcher(max_batch_size=4)
    yield batcher
    engine.let_go.set()
    batcher.close()


async def ask(batcher: Batcher, engine: Infers, value: int) -> int:
    async with asyncio.timeout(DEADLINE_S):
        return int((await batcher.infer(engine, picture(value))).logits[0])


async def held_with(batcher: Batcher, engine: HeldEngine, *values: int) -> list["asyncio.Task[int]"]:
    """One picture in the engine, which holds it, and the others in the queue."""
    engine.let_go.clear()
    tasks = [asyncio.create_task(ask(batcher, engine, value)) for value in values]
    await until(lambda: len(engine.batches) == 1)
    return tasks


async def test_an_idle_engine_gets_a_lone_picture_at_once(batcher: Batcher, engine: HeldEngine) -> None:
    for value in (5, 6):
        assert await ask(batcher, engine, value) == value
    assert engine.batches == [[5], [6]]


async def test_what_waits_while_the_engine_is_busy_becomes_the_next_batches_in_order(
    batcher: Batcher, engine: HeldEngine
) -> None:
    tasks = await held_with(batcher, engine, 1, 2, 3, 4, 5, 6)
    engine.let_go.set()
    assert await asyncio.gather(*tasks) == [1, 2, 3, 4, 5, 6]
    assert engine.batches == [[1], [2, 3, 4, 5], [6]]


async def test_a_caller_that_went_away_is_dropped_before_the_engine_sees_it(
    batcher: Batcher, engine: HeldEngine
) -> None:
    tasks = await held_with(batcher, engine, 1, 2, 3)
    tasks[1].cancel()
    await until(tasks[1].done)
    engine.let_go.set()
    assert [await tasks[0], await tasks[2]] == [1, 3]
    assert engine.batches == [[1], [3]]


async def test_when_all_that_wait_go_away_the_next_comer_is_still_served(batcher: Batcher, engine: HeldEngine) -> None:
    tasks = await held_with(batcher, engine, 1, 2)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    engine.let_go.set()
    assert await ask(batcher, engine, 9) == 9
    assert engine.batches == [[1], [9]]


async def test_a_failing_batch_fails_its_own_requests_and_not_the_next(batcher: Batcher, engine: HeldEngine) -> None:
    engine.failure = EngineError("out of memory")
    with pytest.raises(EngineError, match="out of memory"):
        await ask(batcher, engine, 1)
    engine.failure = None
    assert await ask(batcher, engine, 2) == 2


async def test_a_mistake_in_an_engine_is_an_engine_error(batcher: Batcher, engine: HeldEngine) -> None:
    engine.failure = ZeroDivisionError("division by zero")
    with pytest.raises(EngineError, match="division by zero"):
        await ask(batcher, engine, 1)


async def test_a_wrong_number_of_rows_is_an_engine_error_for_the_whole_batch(batcher: Batcher) -> None:
    class TooMany:
        def infer(self, pixels: Pixels) -> Logits:
            return np.zeros((len(pixels) + 1, 3), np.float32)

    with pytest.raises(EngineError, match="2 rows to a batch of 1"):
        await ask(batcher, TooMany(), 1)


async def test_pictures_of_several_models_never_share_a_batch_and_take_turns(
    batcher: Batcher, engine: HeldEngine
) -> None:
    other = HeldEngine()
    tasks = await held_with(batcher, engine, 1)
    for model, value in ((engine, 2), (other, 11), (engine, 3), (other, 12), (other, 13)):
        tasks.append(asyncio.create_task(ask(batcher, model, value)))
        await asyncio.sleep(0)
    assert batcher.num_waiting == 5
    engine.let_go.set()
    assert await asyncio.gather(*tasks) == [1, 2, 11, 3, 12, 13]
    assert (engine.batches, other.batches) == ([[1], [2, 3]], [[11, 12, 13]])
    assert batcher.num_waiting == 0


async def test_sizes_of_batches_are_told(engine: HeldEngine) -> None:
    sizes: list[int] = []
    batcher = Batcher(4, sizes.append)
    tasks = await held_with(batcher, engine, *range(1, 7))
    engine.let_go.set()
    await asyncio.gather(*tasks)
    batcher.close()
    assert sizes == [1, 4, 1]


class Held:
    """Loads the real model and lets a test hold its engine."""

    def __init__(self) -> None:
        self.let_go = threading.Event()
        self.let_go.set()
        self.batch_sizes: list[int] = []

    def load(self, name: str, path: Path, settings: ServerSettings) -> Model:
        model = load_model(name, path, settings)
        infer = model.engine.infer

        def held(pixels: Pixels) -> Logits:
            self.batch_sizes.append(len(pixels))
            assert self.let_go.wait(DEADLINE_S)
            return infer(pixels)

        model.engine.infer = held  # type: ignore[method-assign]  # the engine itself stays the real one
        return model


async def invoke(client: httpx.AsyncClient, body: bytes) -> httpx.Response:
    return await client.post("/invocations", content=body, headers={"Content-Type": "image/jpeg"})


async def test_load_beyond_the_queue_is_503_with_retry_after_before_the_body_is_read_or_decoded(bundle: Bundle) -> None:
    settings = ServerSettings(model=bundle.folder, max_queue_size=2)
    held = Held()
    async with connected(create_app(settings, Models(settings, held.load))) as client:
        held.let_go.clear()
        admitted = [asyncio.create_task(invoke(client, images.jpeg(seed=seed))) for seed in range(2)]
        await until(lambda: held.batch_sizes == [1])
        refused = await invoke(client, b"would be 400 if anybody looked at it")
        assert (refused.status_code, refused.json()["error"]) == (503, "queue_full")
        assert refused.headers["retry-after"] == "1"
        assert (await client.get("/ping")).status_code == 200
        held.let_go.set()
        assert [answer.status_code for answer in await asyncio.gather(*admitted)] == [200, 200]
        assert (await invoke(client, images.jpeg())).status_code == 200


async def test_a_caller_that_hangs_up_while_waiting_frees_its_slot_and_never_reaches_the_engine(bundle: Bundle) -> None:
    """Over ASGI messages, as a server sends them when a connection closes."""
    settings = ServerSettings(model=bundle.folder, max_queue_size=2)
    held = Held()
    app = create_app(settings, Models(settings, held.load))
    admitted, hangs_up = asyncio.Event(), asyncio.Event()
    body: list[Message] = [{"type": "http.request", "body": images.jpeg(seed=1), "more_body": False}]

    async def receive() -> Message:
        if body:
            return body.pop()
        admitted.set()
        await hangs_up.wait()
        return {"type": "http.disconnect"}

    async with connected(app) as client:
        held.let_go.clear()
        first = asyncio.create_task(invoke(client, images.jpeg()))
        await until(lambda: held.batch_sizes == [1])
        second = asyncio.create_task(post_messages(app, receive))
        await admitted.wait()
        assert (await invoke(client, images.jpeg())).status_code == 503
        hangs_up.set()
        assert await asyncio.wait_for(second, DEADLINE_S) == [499]
        third = asyncio.create_task(invoke(client, images.jpeg(seed=2)))  # has room again
        await asyncio.sleep(0)
        held.let_go.set()
        assert [(await task).status_code for task in (first, third)] == [200, 200]
    assert held.batch_sizes == [1, 1]
