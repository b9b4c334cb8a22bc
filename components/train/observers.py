"""What looks on while the loop runs: the log, the bar, early stopping, the time limit."""

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from components.train.loop import Observer, Run
from components.train.metrics import EpochResult, as_jsonl
from serving import files

logger = logging.getLogger(__name__)

METRICS_FILE: Final = "metrics.jsonl"


class EpochLog(Observer):
    """A line an epoch in the log and in metrics.jsonl."""

    def __init__(self, output_dir: Path) -> None:
        self._path = output_dir / METRICS_FILE

    def on_start(self, run: Run) -> None:
        """Leave in metrics.jsonl what the checkpoint knows of: later epochs are about to be done again."""
        if run.world.is_leader:
            files.write_text(self._path, as_jsonl(run.history))

    def on_epoch(self, run: Run, result: EpochResult) -> bool:
        """Write both."""
        if run.world.is_leader:
            logger.info("%s", result.line())
            with self._path.open("a") as file:
                file.write(as_jsonl([result]))
        return True


class BatchProgress(Observer):
    """How far the epoch is."""

    def __init__(self, progress: Callable[[str, int, int], None]) -> None:
        self._progress = progress

    def on_step(self, run: Run, batch: int, num_batches: int) -> None:
        """Report the batch."""
        if run.world.is_leader:
            self._progress(f"epoch {run.epoch} of {run.plan.epochs}", batch, num_batches)


class EarlyStopping(Observer):
    """Stops after `patience` epochs without a lower valid_loss; counts in the history, so a restart changes nothing."""

    def __init__(self, patience: int) -> None:
        self._patience = patience

    def on_epoch(self, run: Run, result: EpochResult) -> bool:
        """Go on while there is hope."""
        losses = [result.valid_loss for result in run.history]
        if len(losses) - 1 - losses.index(min(losses)) < self._patience:
            return True
        if run.world.is_leader:
            logger.info("early stopping: no lower valid_loss in %d epochs", self._patience)
        return False


class TimeLimit(Observer):
    """Stops in the middle of an epoch when the time is over; the best epoch so far is what is kept."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._deadline = time.monotonic() + seconds

    def on_epoch(self, run: Run, result: EpochResult) -> bool:
        """Look at the clock: begin no epoch that would be cut short at once."""
        return not run.world.any(time.monotonic() >= self._deadline)

    def on_step(self, run: Run, batch: int, num_batches: int) -> None:
        """Look at the clock."""
        if run.world.any(time.monotonic() >= self._deadline):
            run.is_stopped = True
            if run.world.is_leader:
                logger.info("time limit: %g s are over in epoch %d, batch %d", self._seconds, run.epoch, batch)
