"""Work that need not be done twice, kept in a folder: keys, place, size limit, eviction.

An entry is a folder named by a hash of all that shaped its content. It appears whole (built aside, then renamed), is
never changed, and goes when the cache outgrows its limit, the one least recently used first. The place lies outside
checkpoint and model folders, since platforms upload those.
"""

import fcntl
import hashlib
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from serving.files import ASIDE_PREFIX

logger = logging.getLogger(__name__)

DEFAULT_LIMIT_GB: Final = 50.0
ABANDONED_AFTER_S: Final = 24 * 3600
"""A folder under construction that nobody has touched for so long belongs to a killed process."""


def default_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """Where caches go on this machine: `XDG_CACHE_HOME`, else ~/.cache, else (no home that can be written) /tmp."""
    home = environ.get("XDG_CACHE_HOME") or os.path.join(environ.get("HOME", "/"), ".cache")  # noqa: PTH118
    usable = Path(home).parent if not Path(home).exists() else Path(home)
    if usable.is_dir() and os.access(usable, os.W_OK):
        return Path(home) / "kennel"
    return Path(tempfile.gettempdir()) / "kennel-cache"


def key(kind: str, facts: Mapping[str, Any]) -> str:
    """Name of an entry: its kind, for people who look into the folder, and a hash of everything that shapes it."""
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    return f"{kind}-{digest[:32]}"


class Cache:
    """Entries in `folder`, at most `limit_gb` of them together."""

    def __init__(self, folder: Path, limit_gb: float = DEFAULT_LIMIT_GB) -> None:
        self.folder = folder
        self._limit_bytes = int(limit_gb * 1e9)

    def entry(self, name: str, build: Callable[[Path], None]) -> Path:
        """Folder of the entry called `name`; when there is none, `build` fills one.

        Two processes that want the same entry at once do not both build it: the second waits for the first.
        """
        path = self.folder / name
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / f"{ASIDE_PREFIX}{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if path.is_dir():
                os.utime(path)
                return path
            self._build(path, build)
        self._evict(keep=path)
        return path

    def has(self, name: str) -> bool:
        """Whether the entry is there already."""
        return (self.folder / name).is_dir()

    def _build(self, path: Path, build: Callable[[Path], None]) -> None:
        aside = Path(tempfile.mkdtemp(prefix=ASIDE_PREFIX, dir=self.folder))
        try:
            build(aside)
            aside.rename(path)
        finally:
            shutil.rmtree(aside, ignore_errors=True)

    def _evict(self, keep: Path) -> None:
        self._sweep()
        entries = sorted(
            (path for path in self.folder.iterdir() if path.is_dir() and not path.name.startswith(ASIDE_PREFIX)),
            key=lambda path: path.stat().st_mtime,
        )
        sizes = {path: _size_bytes(path) for path in entries}
        excess = sum(sizes.values()) - self._limit_bytes
        for path in entries:
            if excess <= 0:
                return
            if path != keep:
                logger.info("cache: %s (%.1f GB) goes, the limit is reached", path.name, sizes[path] / 1e9)
                shutil.rmtree(path, ignore_errors=True)
                excess -= sizes[path]

    def _sweep(self) -> None:
        for path in self.folder.glob(f"{ASIDE_PREFIX}*"):
            if path.is_dir() and time.time() - path.stat().st_mtime > ABANDONED_AFTER_S:
                shutil.rmtree(path, ignore_errors=True)


def _size_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
