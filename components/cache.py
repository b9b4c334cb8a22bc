"""Work that need not be done twice, kept in a folder: keys, place, size limit, eviction.

An entry is a folder named by a hash of all that shaped its content. It appears whole (built aside, then renamed), is
never changed, and goes when the cache outgrows its limit, the one least recently used first. The place lies outside
checkpoint and model folders, since platforms upload those.

Whoever builds holds a lock, which the kernel takes from a killed process. So what is under construction and not locked
was abandoned, however young it is.
"""

import fcntl
import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from serving.errors import ConfigError
from serving.files import ASIDE_PREFIX

logger = logging.getLogger(__name__)

DEFAULT_LIMIT_GB: Final = 50.0
LOCK_SUFFIX: Final = ".lock"


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
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"{str(folder)!r} cannot be the cache's folder ({error.strerror}): name another with --cache-dir"
            ) from error
        self._in_use: set[Path] = set()

    def entry(self, name: str, build: Callable[[Path], None]) -> Path:
        """Folder of the entry called `name`; when there is none, `build` fills one.

        Two processes that want the same entry at once do not both build it: the second waits for the first.
        """
        path = self.folder / name
        self._in_use.add(path)
        self._sweep()
        with self._locked(name):
            if path.is_dir():
                os.utime(path)
                return path
            self._build(path, build)
        self._evict()
        return path

    def has(self, name: str) -> bool:
        """Whether the entry is there already."""
        return (self.folder / name).is_dir()

    def _build(self, path: Path, build: Callable[[Path], None]) -> None:
        aside = self.folder / f"{ASIDE_PREFIX}{path.name}"
        shutil.rmtree(aside, ignore_errors=True)  # of a process that was killed since the sweep
        aside.mkdir()
        try:
            build(aside)
            aside.rename(path)
        finally:
            shutil.rmtree(aside, ignore_errors=True)

    @contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        """Be the one process that builds the entry called `name`; wait while another is."""
        path = self.folder / f"{ASIDE_PREFIX}{name}{LOCK_SUFFIX}"
        while True:
            with path.open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                if not _is_at(lock.fileno(), path):  # who held it before took it away: that lock keeps nobody out
                    continue
                try:
                    yield
                finally:
                    path.unlink(missing_ok=True)
                return

    def _sweep(self) -> None:
        """Delete what killed processes left under construction."""
        leftovers = {path.name.removesuffix(LOCK_SUFFIX) for path in self.folder.glob(f"{ASIDE_PREFIX}*")}
        for name in leftovers:
            path = self.folder / f"{name}{LOCK_SUFFIX}"
            with suppress(OSError), path.open("w") as lock:  # its process is alive, or another user's
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if _is_at(lock.fileno(), path):
                    shutil.rmtree(self.folder / name, ignore_errors=True)
                    path.unlink(missing_ok=True)

    def _evict(self) -> None:
        """Make room: what was used least goes first, and what this run was handed stays."""
        sizes = {
            path: _size_bytes(path)
            for path in self.folder.iterdir()
            if path.is_dir() and not path.name.startswith(ASIDE_PREFIX)
        }
        excess = sum(sizes.values()) - self._limit_bytes
        for path in sorted(sizes.keys() - self._in_use, key=_last_used):
            if excess <= 0:
                return
            logger.info("cache: %s (%.1f GB) goes, the limit is reached", path.name, sizes[path] / 1e9)
            shutil.rmtree(path, ignore_errors=True)
            excess -= sizes[path]
        if excess > 0:
            logger.warning(
                "cache: this run needs %.1f GB more than the limit of %.1f GB (--cache-limit-gb)",
                excess / 1e9,
                self._limit_bytes / 1e9,
            )


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether the open file still is the one that lies at `path`."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _last_used(folder: Path) -> float:
    with suppress(OSError):  # another process may be taking it away
        return folder.stat().st_mtime
    return 0.0


def _size_bytes(folder: Path) -> int:
    size = 0
    for path in folder.rglob("*"):
        with suppress(OSError):
            size += path.stat().st_size if path.is_file() else 0
    return size
