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
            inside.enter_context(admission.slot(1))
        with pytest.raises(QueueFull, match="3 requests"), admission.slot(1):
            pytest.fail("admitted")
        assert (admission.num_requests, admission.num_bytes) == (3, 3)
    with admission.slot(1):
        assert admission.num_requests == 1


async def test_bodies_that_are_too_large_together_are_refused_and_one_alone_is_not(admission: Admission) -> None:
    with admission.slot(50):
        sentence = "50 bytes of requests are under way, and 11 more would be over the 60"
        with pytest.raises(QueueFull, match=sentence), admission.slot(11):
            pytest.fail("admitted")
        with admission.slot(10):
            pass
    with admission.slot(1000):
        pass


async def test_a_slot_comes_back_when_its_request_fails(admission: Admission) -> None:
    for _ in range(10):
        with pytest.raises(ZeroDivisionError), admission.slot(10):
            raise ZeroDivisionError
    assert (admission.num_requests, admission.num_bytes) == (0, 0)


async def test_closing_admits_nobody_and_waits_for_those_inside(admission: Admission) -> None:
    with admission.slot(1):
        closing = asyncio.create_task(admission.close())
        await asyncio.sleep(0)
        with pytest.raises(NotReady, match="stopping"), admission.slot(1):
            pytest.fail("admitted")
        assert not closing.done()
    await asyncio.wait_for(closing, 10)


async def test_closing_when_nobody_is_inside_returns(admission: Admission) -> None:
    await asyncio.wait_for(admission.close(), 10)
