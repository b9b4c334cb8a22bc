"""Where a study is kept: a file in the checkpoint folder, or a database that several machines share."""

import fcntl
import json
import os
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import optuna
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.storages.journal._file import BaseJournalFileLock  # what its own locks are made of
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.pool import NullPool

from components.tune.sampler import INSTEAD_OF
from serving.errors import ConfigError

JOURNAL: Final = "study.journal"
LOCK: Final = "study.lock"
DRIVERS: Final = {"postgresql": "postgresql+psycopg", "postgres": "postgresql+psycopg"}
"""Of databases that are known by a shorter name."""
HEARTBEAT_S: Final = 30
GRACE_S: Final = 120
"""A machine that was silent so long is taken for dead, and its trials are given to others."""
CONNECT_TIMEOUT_S: Final = 10
"""Else a host that drops what it is sent keeps the search waiting for minutes."""
ATTEMPTS: Final = 5
"""To make the tables: of machines that start at once, all but one find that they are there already."""
SECRETS: Final = (
    re.compile(r"(?<=://)[^:/@]*:(?P<secret>.*)(?=@)"),
    re.compile(r"(?<=password=)(?P<secret>[^&]*)"),
)
"""Where a URL has a password, also one whose @ and / are not quoted."""


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
        return _open_journal(folder)
    scheme, separator, rest = url.partition("://")
    if not separator:
        raise ConfigError("--storage got no URL, expected one such as postgresql://USER@HOST/NAME")
    if any("@" in found["secret"] for pattern in SECRETS for found in pattern.finditer(url)):
        raise ConfigError(f"--storage {without_password(url)} has an @ in its password, expected %40 in its place")
    is_postgresql = scheme.partition("+")[0] in DRIVERS
    arguments: dict[str, Any] = {"connect_args": {"connect_timeout": CONNECT_TIMEOUT_S}} if is_postgresql else {}
    try:
        return _open_database(f"{DRIVERS.get(scheme, scheme)}://{rest}", arguments)
    except Exception as error:  # SQLAlchemy and each driver raise their own kinds
        raise ConfigError(f"--storage {without_password(url)} cannot be used: {_reason(error)}") from error


@contextmanager
def answering(url: str | None) -> Iterator[None]:
    """Where the database at `url` is asked.

    Raises:
        ConfigError: It stopped answering.
    """
    try:
        yield
    except StorageInternalError as error:
        raise ConfigError(
            f"--storage {without_password(url or '')} stopped answering: {_reason(error)}; the same command "
            "goes on when it is back"
        ) from error


def hang_up(storage: BaseStorage) -> None:
    """Close the connections to a database; it may be asked again all the same."""
    if isinstance(storage, RDBStorage):
        storage.engine.dispose()


def is_shared(storage: BaseStorage) -> bool:
    """Whether other machines may work on the same study."""
    return isinstance(storage, RDBStorage | optuna.storages._CachedStorage)  # noqa: SLF001


def without_password(url: str) -> str:
    """A URL for messages."""
    for pattern in SECRETS:
        url = pattern.sub(
            lambda found: found[0].removesuffix(found["secret"]) + ("***" if found["secret"] else ""), url
        )
    return url


def _open_journal(folder: Path) -> BaseStorage:
    path = folder / JOURNAL
    _mend(path)
    try:
        json.loads(_last_line(path) or b"{}")  # Optuna takes it for torn and writes behind it, which nobody reads again
        return JournalStorage(JournalFileBackend(str(path), lock_obj=FileLock(folder / f"{JOURNAL}.lock")))
    except OSError:
        raise
    except Exception as error:  # lines that are no JSON, or are of something else, raise whatever they meet
        raise ConfigError(
            f"{str(path)!r} is damaged, its trials cannot be read: put a copy of it in its place, or delete it to "
            "begin the search anew"
        ) from error


def _open_database(url: str, arguments: dict[str, Any]) -> BaseStorage:
    for attempt in range(1, ATTEMPTS + 1):
        try:
            RDBStorage(url, engine_kwargs={"poolclass": NullPool, **arguments})  # makes the tables, and hangs up
            break
        except Exception as error:
            if attempt == ATTEMPTS or "exists" not in str(error):
                raise
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return RDBStorage(
            url,
            engine_kwargs={"pool_pre_ping": True, **arguments},
            heartbeat_interval=HEARTBEAT_S,
            grace_period=GRACE_S,
            heartbeat_stale_trial_callback=_hand_out_again,
        )


def _hand_out_again(study: optuna.Study, trial: FrozenTrial) -> None:
    """Wait for another machine with what a dead one tried; it stands for the first trial that tried it."""
    study.add_trial(
        optuna.trial.create_trial(
            state=TrialState.WAITING,
            params=trial.params,
            distributions=trial.distributions,
            user_attrs={INSTEAD_OF: trial.user_attrs.get(INSTEAD_OF, trial.number)},
        )
    )


def _mend(path: Path) -> None:
    """Cut off a last line that was not written to its end: what follows it could not be read."""
    content = path.read_bytes() if path.exists() else b"\n"
    if not content.endswith(b"\n"):
        os.truncate(path, content.rfind(b"\n") + 1)


def _last_line(path: Path) -> bytes:
    return path.read_bytes().rstrip(b"\n").rpartition(b"\n")[2] if path.exists() else b""


def _reason(error: Exception) -> str:
    """What the driver says, in one line; none of them says the password."""
    cause = error.__cause__ or error
    return next(iter(str(cause).strip().splitlines()), type(cause).__name__)
