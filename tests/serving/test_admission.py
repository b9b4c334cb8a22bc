"""Who may come in, and when the last one is out."""

import asyncio
from contextlib import ExitStack

import pytest

from serving.admission import Admission
from serving.errors import NotReady, QueueFull

pytestmark = pytest.mark.anyio


@pytest.fixture
async def admission() -> Admission:
    return Admission(max_requests=3, max_bytes=60)


async def test_no_more_are_admitted_than_slots_and_one_that_leaves_makes_room(admission: Admission) -> None:
    with ExitStack() as inside:
        for _ in range(3):
            inside.enter_context(admission.slot())
        with pytest.raises(QueueFull, match="3 requests"), admission.slot():
            pytest.fail("admitted")
        with pytest.raises(QueueFull, match="3 requests"), admission.incoming(1):
            pytest.fail("let in")
        assert admission.num_requests == 3
    with admission.incoming(1), admission.slot():
        assert admission.num_requests == 1


async def test_those_whose_bodies_are_still_coming_take_no_slot_and_count_with_what_came(admission: Admission) -> None:
    with ExitStack() as inside:
        bodies = [inside.enter_context(admission.incoming(60)) for _ in range(10)]
        for body in bodies:
            body.add(1)
        assert (admission.num_open, admission.num_requests, admission.num_bytes) == (10, 0, 10)
        with admission.slot():
            pass
    assert (admission.num_open, admission.num_bytes) == (0, 0)


async def test_bodies_that_are_too_large_together_are_refused_and_one_alone_is_not(admission: Admission) -> None:
    with admission.incoming(50) as body:
        body.add(50)
        sentence = "50 bytes of requests are under way, and 11 more would be over the 60"
        with pytest.raises(QueueFull, match=sentence), admission.incoming(11):
            pytest.fail("let in")
        with admission.incoming(10) as small:
            small.add(10)
            with pytest.raises(QueueFull, match="60 bytes of requests are under way, and 1 more"):
                body.add(1)
    with admission.incoming(1000) as alone:
        alone.add(500)
        alone.add(500)
    assert admission.num_bytes == 0


async def test_a_place_comes_back_when_its_request_fails(admission: Admission) -> None:
    for _ in range(10):
        with pytest.raises(ZeroDivisionError), admission.incoming(10), admission.slot():
            raise ZeroDivisionError
    assert (admission.num_open, admission.num_requests, admission.num_bytes) == (0, 0, 0)


async def test_closing_lets_nobody_in_and_waits_for_those_inside(admission: Admission) -> None:
    with admission.incoming(1):
        closing = asyncio.create_task(admission.close())
        await asyncio.sleep(0)
        with pytest.raises(NotReady, match="stopping"), admission.incoming(1):
            pytest.fail("let in")
        with admission.slot():  # who is inside is answered
            pass
        assert not closing.done()
    await asyncio.wait_for(closing, 10)


async def test_closing_when_nobody_is_inside_returns(admission: Admission) -> None:
    await asyncio.wait_for(admission.close(), 10)


async def test_whenever_the_last_one_leaves_it_is_told() -> None:
    told = []
    admission = Admission(3, 60, on_idle=lambda: told.append(True))
    with admission.incoming(1):
        with admission.incoming(1):
            pass
        assert not told
    assert len(told) == 1
