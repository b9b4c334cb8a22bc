"""Epochs as TensorBoard event files, for those who look at many runs side by side."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from components.train.loop import Observer, Run
from components.train.metrics import EpochResult


class TensorBoard(Observer):
    """Writes what an epoch measured to event files in `folder`, a scalar each under its own name, over epochs."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writer: Any = None

    def on_start(self, run: Run) -> None:
        """Go on after the epochs that are done: TensorBoard forgets what a killed process wrote of later ones."""
        from tensorboardX import SummaryWriter

        # Without the suffix, a run that goes on within a second would write over its own file.
        self._writer = SummaryWriter(
            str(self._folder), purge_step=len(run.history) + 1, flush_secs=10, filename_suffix=f".{len(run.history)}"
        )

    def on_epoch(self, run: Run, result: EpochResult) -> bool:
        """Write it."""
        scalars = asdict(result)
        epoch = scalars.pop("epoch")
        for name, value in scalars.items():
            if isinstance(value, int | float):
                self._writer.add_scalar(name, value, epoch)
        self._writer.flush()  # a run may be killed before the next
        return True

    def on_end(self, run: Run) -> None:
        """Close the file."""
        if self._writer is not None:
            self._writer.close()
