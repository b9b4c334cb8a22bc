"""What a container may use."""

import os
import threading
from pathlib import Path

import pytest

from serving.machine import Budget, memory_bytes, num_cpus, release_memory, resident_bytes

ALLOWED = len(os.sched_getaffinity(0))
INSTALLED = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@pytest.mark.parametrize(
    ("quota", "cpus"), [("max 100000", ALLOWED), ("50000 100000", 1), ("100000 100000", 1), ("9900000 100000", ALLOWED)]
)
def test_cpus_are_the_quota_of_control_groups_v2_rounded_up(tmp_path: Path, quota: str, cpus: int) -> None:
    (tmp_path / "cpu.max").write_text(f"{quota}\n")
    assert num_cpus(tmp_path) == cpus


@pytest.mark.parametrize(("quota", "cpus"), [("-1", ALLOWED), ("50000", 1), ("9900000", ALLOWED)])
def test_cpus_are_the_quota_of_control_groups_v1_rounded_up(tmp_path: Path, quota: str, cpus: int) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu/cpu.cfs_quota_us").write_text(f"{quota}\n")
    (tmp_path / "cpu/cpu.cfs_period_us").write_text("100000\n")
    assert num_cpus(tmp_path) == cpus


def test_without_a_quota_cpus_are_those_of_the_process(tmp_path: Path) -> None:
    assert num_cpus(tmp_path) == ALLOWED


@pytest.mark.parametrize("name", ["memory.max", "memory/memory.limit_in_bytes"])
@pytest.mark.parametrize(("limit", "expected"), [("1048576\n", 2**20), ("max", INSTALLED), (str(2**62), INSTALLED)])
def test_memory_is_the_containers_limit_where_there_is_one(
    tmp_path: Path, name: str, limit: str, expected: int
) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(limit)
    assert memory_bytes(tmp_path) == expected


def test_without_a_limit_memory_is_the_machines(tmp_path: Path) -> None:
    assert memory_bytes(tmp_path) == INSTALLED


def test_memory_that_was_freed_goes_back_to_the_system() -> None:
    """The C library keeps what lies below something that is still in use."""
    blocks = [bytearray(60_000) for _ in range(2000)]
    above = bytearray(60_000)
    del blocks
    before = resident_bytes()
    release_memory()
    assert before - resident_bytes() > 50_000_000
    assert len(above) == 60_000


def test_a_budget_is_shared_out_and_waited_for() -> None:
    budget = Budget(10)
    order: list[str] = []
    inside, may_leave = threading.Event(), threading.Event()

    def first() -> None:
        with budget.take(7):
            inside.set()
            assert may_leave.wait(20)
            order.append("first leaves")

    def second() -> None:
        with budget.take(4):
            order.append("second enters")

    threads = [threading.Thread(target=first), threading.Thread(target=second)]
    threads[0].start()
    assert inside.wait(20)
    threads[1].start()
    with budget.take(3):  # beside the first there is room for this one
        order.append("third enters")
    may_leave.set()
    for thread in threads:
        thread.join(20)
    assert order == ["third enters", "first leaves", "second enters"]


def test_more_than_all_of_a_budget_is_had_alone() -> None:
    with Budget(10).take(11):
        pass
