"""What a killed run goes on from."""

import logging
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import torch

from components.environment import StopSignal
from components.model import learnt_state
from components.train.loop import Epoch, Observer, Run
from components.train.metrics import EpochResult
from serving import files

logger = logging.getLogger(__name__)

FORMAT: Final = 1
MAX_COST: Final = 0.05
"""Largest share of the time that checkpoints may take: large ones are written less often than was asked for."""
KEPT: Final = 2
"""So many of the newest stay: should the newest be torn, the one before it is whole."""


class Checkpoints(Observer):
    """Saves the run now and then and when it is told to stop; goes on from the newest whole one of the same run.

    To be the last of the observers: what the others decide at the end of an epoch is saved with it.
    """

    def __init__(
        self,
        folder: Path,
        identity: str,
        *,
        interval_s: float,
        stop_signal: StopSignal,
        facts: Mapping[str, str] | None = None,
    ) -> None:
        """Keep checkpoints.

        Args:
            folder: Of this run's checkpoints.
            identity: Hash of all that makes a run this one: data, settings, frozen weights.
            interval_s: A step or epoch ends with a checkpoint when the last one is so old; 0: every one does.
            stop_signal: After it, the step under way is finished and saved.
            facts: Versions and threads, on which the last digits depend; a change is logged, not refused.
        """
        self._folder = folder
        self._identity = identity
        self._interval_s = interval_s
        self._stop_signal = stop_signal
        self._facts = dict(facts or {})
        self._saved_at = time.monotonic()
        self._took_s = 0.0
        self._is_saved = False

    def resume(self, run: Run) -> None:
        """Put the run where the newest whole checkpoint left it; to be called before training starts."""
        if run.world.is_leader:
            self._folder.mkdir(parents=True, exist_ok=True)
            files.sweep(self._folder)
        run.world.wait()
        for path in reversed(self._paths()):
            state = self._read(path)
            if state is not None:
                self._restore(run, state, path)
                break
        run.world.wait()  # nobody writes before everybody has read
        self._saved_at = time.monotonic()

    def on_start(self, run: Run) -> None:
        """From here on a signal waits for the end of the step or the epoch: all processes have to stop at the same."""
        self._stop_signal.hold()

    def on_batch(self, run: Run, batch: int, num_batches: int) -> None:
        """Until the step is done, there is nothing whole to save."""
        self._is_saved = False

    def on_step(self, run: Run, batch: int, num_batches: int) -> None:
        """Save when told to stop, or when the last checkpoint is old."""
        self._save_or_stop(run)

    def on_epoch(self, run: Run, result: EpochResult) -> bool:
        """Save when told to stop, or when the last checkpoint is old."""
        self._is_saved = False
        self._save_or_stop(run)
        return True

    def on_end(self, run: Run) -> None:
        """Save a run that came to its end, so that it is not run again."""
        if self._is_finished(run) and not self._is_saved:
            self._save(run)
        self._stop_signal.release()

    def _save_or_stop(self, run: Run) -> None:
        is_stopping = run.world.any(self._stop_signal.is_pending)
        if is_stopping or self._is_due():
            self._save(run)
        if is_stopping:
            self._stop_signal.is_pending = True
            self._stop_signal.release()

    def _is_due(self) -> bool:
        interval_s = max(self._interval_s, self._took_s / MAX_COST) if self._interval_s else 0.0
        return time.monotonic() - self._saved_at >= interval_s

    def _is_finished(self, run: Run) -> bool:
        return run.is_stopped or len(run.history) >= run.plan.epochs

    def _paths(self) -> list[Path]:
        """From the oldest to the newest: epoch and batch stand in the name, in digits that sort."""
        return sorted(self._folder.glob("checkpoint-*.pt"))

    def _save(self, run: Run) -> None:
        self._saved_at, self._is_saved = time.monotonic(), True
        if run.world.is_leader:
            self._write(run)
        self._took_s = time.monotonic() - self._saved_at

    def _write(self, run: Run) -> None:
        path = self._folder / f"checkpoint-{run.epoch:06d}-{run.current.num_batches:06d}.pt"
        with files.written_aside(path) as aside:
            torch.save(self._state(run), aside)
        for old in self._paths()[:-KEPT]:
            old.unlink(missing_ok=True)

    def _state(self, run: Run) -> dict[str, Any]:
        average = run.average
        return {
            "format": FORMAT,
            "identity": self._identity,
            "facts": self._facts,
            "learner": learnt_state(run.learner),
            "optimizer": run.optimizer.state_dict(),
            "average": None if average is None else {"state": average.state, "num_updates": average.num_updates},
            "history": [asdict(epoch) for epoch in run.history],
            "current": asdict(run.current) | {"loss": float(run.current.loss)},
            "best_state": run.best_state,
            # An epoch that the time limit cut short is yet to be closed.
            "is_stopped": run.is_stopped and run.current.num_batches == 0,
        }

    def _read(self, path: Path) -> dict[str, Any] | None:
        try:
            state: dict[str, Any] = torch.load(path, "cpu", weights_only=True)
            is_ours = state["format"] == FORMAT and state["identity"] == self._identity
        except Exception as error:  # torch raises many kinds on a file that is torn or something else
            logger.warning("checkpoint %s is unreadable and ignored: %s", path, error)
            return None
        if not is_ours:
            logger.info("checkpoint %s is of other data or other settings and ignored", path)
            return None
        return state

    def _restore(self, run: Run, state: dict[str, Any], path: Path) -> None:
        run.learner.load_state_dict(state["learner"], strict=False)  # what is frozen is not in it
        run.optimizer.load_state_dict(state["optimizer"])
        if run.average is not None:
            run.average.state, run.average.num_updates = state["average"]["state"], state["average"]["num_updates"]
        run.history = [EpochResult(**epoch) for epoch in state["history"]]
        run.current = Epoch(**state["current"])
        run.best_state = state["best_state"]
        run.is_stopped = state["is_stopped"]
        if run.world.is_leader:
            where = f"after {len(run.history)} of {run.plan.epochs} epochs and {run.current.num_batches} batches"
            what = "it is complete" if self._is_finished(run) else "going on"
            logger.info("checkpoint %s: %s, %s", path, where, what)
            self._log_changes(state["facts"])

    def _log_changes(self, before: Mapping[str, str]) -> None:
        for name, value in self._facts.items():
            if before.get(name) != value:
                logger.warning(
                    "%s is %s and was %s when the run began: the last digits of its weights may differ",
                    name,
                    value,
                    before.get(name, "unknown"),
                )
