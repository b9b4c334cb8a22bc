"""What a process uses, as the kernel counts it (Linux, proc(5))."""

import os
import re
import select
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

MB: Final = 2**20
RESET_PEAK: Final = "5"
"""Written to clear_refs, it makes the peak what is resident now."""


def resident_bytes(pid: int) -> int:
    """Memory that the process `pid` has now."""
    return _status_bytes(pid, "VmRSS")


def peak_bytes(pid: int) -> int:
    """The most memory that it had since it began, or since `reset_peak`."""
    return _status_bytes(pid, "VmHWM")


def reset_peak(pid: int) -> int:
    """Begin to look for the peak anew; what is resident now."""
    Path(f"/proc/{pid}/clear_refs").write_text(RESET_PEAK)
    return resident_bytes(pid)


def num_descriptors(pid: int) -> int:
    """Open files and connections of it."""
    return len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208 - names alone, and they come and go


def descendants(pid: int) -> set[int]:
    """Its children, theirs, and so on."""
    try:
        children = {int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}
    except OSError:  # it ended meanwhile
        return set()
    return children.union(*(descendants(child) for child in children))


class Watch:
    """Some processes, told from others that are given their numbers later (pidfd_open(2))."""

    def __init__(self, pids: Iterable[int]) -> None:
        self._descriptors = {pid: os.pidfd_open(pid) for pid in pids}

    def left_after(self, timeout_s: float) -> set[int]:
        """Those that are still there when so much time is over; waits no longer than it has to."""
        deadline = time.monotonic() + timeout_s
        left = set()
        for pid, descriptor in self._descriptors.items():
            poll = select.poll()
            poll.register(descriptor, select.POLLIN)
            if not poll.poll(max(0, deadline - time.monotonic()) * 1000):
                left.add(pid)
            os.close(descriptor)
        self._descriptors.clear()
        return left


def _status_bytes(pid: int, name: str) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(rf"^{name}:\s+(\d+) kB$", status, re.MULTILINE)
    assert found, f"no {name} in the status of process {pid}: {status}"
    return int(found[1]) * 1024
