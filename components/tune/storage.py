"""Where a study is kept: a file in the checkpoint folder, or a database that several machines share."""

import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import optuna
from optuna.storages import BaseStorage, JournalStorage, RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.storages.journal import JournalFileBackend
from optuna.storages.journal._file import BaseJournalFileLock  # what its own locks are made of

from serving.errors import ConfigError

JOURNAL: Final = "study.journal"
LOCK: Final = "study.lock"
DRIVERS: Final = {"postgresql": "postgresql+psycopg", "postgres": "postgresql+psycopg"}
"""Of databases that are known by a shorter name."""
HEARTBEAT_S: Final = 30
GRACE_S: Final = 120
"""A machine that was silent so long is taken for dead, and its trials are given to others."""


class FileLock(BaseJournalFileLock):
    """A lock that the kernel takes from a killed process; Optuna's own would keep the next one waiting."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    def acquire(self) -> bool:
        """Wait for it."""
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        return True

    def release(self) -> None:
        """Give it up."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def own(folder: Path) -> Callable[[], None]:
    """Be the one search that works in a checkpoint folder; returns what gives it up.

    Raises:
        ConfigError: Another process is.
    """
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise ConfigError(
            f"another search is at work in {str(folder)!r}: wait for it, or give this one a --checkpoint-dir of its own"
        ) from error
    return lambda: os.close(descriptor)


def open_storage(url: str | None, folder: Path) -> BaseStorage:
    """The storage at a URL, or the file in `folder`.

    Raises:
        ConfigError: The database does not answer, or its driver is not installed; says so without the password.
    """
    if url is None:
        path = folder / JOURNAL
        _mend(path)
        return JournalStorage(JournalFileBackend(str(path), lock_obj=FileLock(folder / f"{JOURNAL}.lock")))
    scheme, separator, rest = url.partition("://")
    if not separator:
        raise ConfigError(f'--storage got "{url}", expected a URL such as postgresql://USER@HOST/NAME')
    try:
        return RDBStorage(
            f"{DRIVERS.get(scheme, scheme)}://{rest}",
            heartbeat_interval=HEARTBEAT_S,
            grace_period=GRACE_S,
            heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(),
        )
    except Exception as error:  # SQLAlchemy and each driver raise their own kinds
        reason = next(iter(str(error.__cause__ or error).strip().splitlines()), type(error).__name__)
        raise ConfigError(f"--storage {_without_password(url)} cannot be used: {reason}") from error


def is_shared(storage: BaseStorage) -> bool:
    """Whether other machines may work on the same study."""
    return isinstance(storage, RDBStorage | optuna.storages._CachedStorage)  # noqa: SLF001


def _mend(path: Path) -> None:
    """Cut off a last line that was not written to its end: what follows it could not be read."""
    if not path.exists() or path.stat().st_size == 0:
        return
    content = path.read_bytes()
    if not content.endswith(b"\n"):
        os.truncate(path, content.rfind(b"\n") + 1)


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    return url.replace(f":{parts.password}@", ":***@") if parts.password else url
