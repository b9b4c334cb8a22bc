"""What this process may use of the machine: a container's share, not the host's whole.

Source: control groups v1 and v2 (Linux kernel documentation).
"""

import ctypes
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from serving.errors import OutOfMemory

CGROUP: Final = Path("/sys/fs/cgroup")
MEMORY_LIMITS: Final = ("memory.max", "memory/memory.limit_in_bytes")
"""Of control groups v2 and v1."""
MAX_BATCH_SIZE: Final = 32
"""Images at once, unless more are asked for: beyond, they take memory and time of others and gain next to nothing."""
MEMORY_SHARE: Final = 0.9
"""Of the container's memory that models may fill; the rest is for pictures."""
MEMORY_FACTOR: Final = 3
"""A model while it loads, as a multiple of its file: the file, the weights read from it, and these laid out anew."""


def num_cpus(cgroup: Path = CGROUP) -> int:
    """CPUs this process may use: the container's quota, rounded up, not the host's count.

    Source: `cpu.max` of control groups v2, `cpu.cfs_quota_us` of v1.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for quota_file, period_file in (("cpu.max", None), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        try:
            words = (cgroup / quota_file).read_text().split()
            if period_file:
                words += (cgroup / period_file).read_text().split()
            quota, period = int(words[0]), int(words[1])
        except (OSError, ValueError, IndexError):  # no such file, or "max": no quota
            continue
        if quota > 0 and period > 0:
            return max(1, min(allowed, -(-quota // period)))
    return allowed


def memory_bytes(cgroup: Path = CGROUP) -> int:
    """Memory this process may use: the container's limit where there is one, else the machine's."""
    installed = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for name in MEMORY_LIMITS:
        try:
            return min(installed, int((cgroup / name).read_text()))
        except (OSError, ValueError):  # no such file, or "max": no limit
            continue
    return installed


def resident_bytes() -> int:
    """Memory that this process has."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):  # not Linux
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def release_memory() -> None:
    """Give what was freed back to the system; the C library keeps it otherwise, and the next model does not fit."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's; others give back by themselves
    if trim is not None:
        trim(0)


def check_memory(what: str, model_bytes: int, remedy: str) -> None:
    """Do nothing where one model more fits; too much is asked for rather than too little.

    Args:
        what: The model.
        model_bytes: Size of its file.
        remedy: What to do where it does not fit.

    Raises:
        OutOfMemory: It does not.
    """
    needed = MEMORY_FACTOR * model_bytes
    allowed, used = int(MEMORY_SHARE * memory_bytes()), resident_bytes()
    if used + needed > allowed:
        raise OutOfMemory(
            f"{what} may need {needed >> 20} MB while it loads, and {used >> 20} of {allowed >> 20} MB are in use: "
            f"{remedy}"
        )


class Budget:
    """Memory that threads share out among what they do at the same time.

    Args:
        num_bytes: All of it.
    """

    def __init__(self, num_bytes: int) -> None:
        self.num_bytes: Final = num_bytes
        self._num_taken = 0
        self._changed = threading.Condition()

    @contextmanager
    def take(self, num_bytes: int) -> Iterator[None]:
        """Have so much of it for as long as the block runs; waits for those who have it now."""
        with self._changed:
            self._changed.wait_for(lambda: self._num_taken == 0 or self._num_taken + num_bytes <= self.num_bytes)
            self._num_taken += num_bytes
        try:
            yield
        finally:
            with self._changed:
                self._num_taken -= num_bytes
                self._changed.notify_all()
