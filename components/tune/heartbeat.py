"""Signs of life in a study that several machines share: their trials go to others when they stop giving any."""

import logging
import threading
import time
import warnings
from collections.abc import Iterable
from typing import Final

import optuna
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import fail_stale_trials
from optuna.storages._heartbeat import BaseHeartbeat

logger = logging.getLogger(__name__)

LOOKS_PER_BEAT: Final = 3
"""So often trials of the dead are looked for."""


class Heartbeat:
    """Beats for the trials of this machine, whatever it is busy with."""

    def __init__(self, study: optuna.Study) -> None:
        """Begin to beat; in a study of this machine alone, nothing ever happens."""
        self._study = study
        storage = study._storage  # noqa: SLF001  # a study does not give it
        self._storage = storage if isinstance(storage, BaseHeartbeat) else None
        self._interval_s = 0 if self._storage is None else self._storage.get_heartbeat_interval() or 0
        self._alive: set[int] = set()
        self._seen: set[int] = set()
        self._looked_at = -float("inf")
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)
        if self._storage is not None:
            self._thread.start()

    @property
    def is_shared(self) -> bool:
        """Whether other machines may work on the same study."""
        return self._storage is not None

    def begin(self, trial_id: int) -> None:
        """Beat for a trial from now on."""
        if self._storage is not None:
            self._alive.add(trial_id)
            self._storage.record_heartbeat(trial_id)

    def end(self, trial_id: int) -> None:
        """Beat for it no more."""
        self._alive.discard(trial_id)

    def look_after(self, silent: Iterable[int]) -> None:
        """Queue again what the dead left.

        Args:
            silent: Ids of trials that were begun so lately, or by a machine that died so soon, that it has not beaten
                for them yet. They would never be missed, so who sees them first beats in its place, once.
        """
        if self._storage is None or time.monotonic() - self._looked_at < self._interval_s / LOOKS_PER_BEAT:
            return
        self._looked_at = time.monotonic()
        self._beat_once()  # this machine may have slept, and would take its own trials for dead
        for trial_id in set(silent) - self._seen:
            self._seen.add(trial_id)
            self._storage.record_heartbeat(trial_id)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            fail_stale_trials(self._study)

    def close(self) -> None:
        """Be silent."""
        self._is_over.set()
        if self._thread.is_alive():
            self._thread.join(self._interval_s)  # not longer: the database may be away

    def _beat(self) -> None:
        while not self._is_over.wait(self._interval_s):
            self._beat_once()

    def _beat_once(self) -> None:
        if self._storage is None:
            return
        for trial_id in tuple(self._alive):
            try:
                self._storage.record_heartbeat(trial_id)
            except StorageInternalError:  # whoever asks the storage next says so
                logger.debug("no heartbeat", exc_info=True)
