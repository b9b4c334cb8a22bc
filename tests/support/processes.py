"""What a process uses, as the kernel counts it (Linux, proc(5))."""

import os
import re
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


def _status_bytes(pid: int, name: str) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(rf"^{name}:\s+(\d+) kB$", status, re.MULTILINE)
    assert found, f"no {name} in the status of process {pid}: {status}"
    return int(found[1]) * 1024
