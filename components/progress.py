"""How far long work is: a bar on a terminal, a line now and then in a log."""

import logging
import sys
import time
from typing import Final

from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

logger = logging.getLogger(__name__)

LOG_INTERVAL_S: Final = 10.0


class Progress:
    """Call it with what is being done, how much is done and how much there is; it draws or logs as fits the place."""

    def __init__(self, *, is_quiet: bool = False) -> None:
        """Draw, log, or (`is_quiet`) leave it to another process."""
        self._is_quiet = is_quiet
        self._bar = _TerminalBar() if sys.stdout.isatty() and not is_quiet else None
        self._what = ""
        self._started = self._logged = 0.0

    def close(self) -> None:
        """Leave the terminal as it was, also in the middle of something."""
        if self._bar is not None:
            self._bar.close()

    def __call__(self, what: str, done: int, total: int) -> None:
        """Report that `done` of `total` are done."""
        if self._is_quiet:
            return
        if self._bar is not None:
            self._bar.update(what, done, total)
            return
        now = time.monotonic()
        if what != self._what:
            self._what, self._started, self._logged = what, now, now
        elapsed_s = now - self._started
        if done >= total:
            self._what = ""
            if elapsed_s >= LOG_INTERVAL_S:
                logger.info("%s: %d done in %.1f s", what, total, elapsed_s)
        elif now - self._logged >= LOG_INTERVAL_S:
            self._logged = now
            rate = done / max(elapsed_s, 1e-9)
            logger.info("%s: %d of %d, %.0f s left", what, done, total, (total - done) / max(rate, 1e-9))


class _TerminalBar:
    def __init__(self) -> None:
        self._bar: RichProgress | None = None
        self._task = TaskID(0)
        self._what = ""

    def update(self, what: str, done: int, total: int) -> None:
        if self._bar is None or what != self._what:
            self.close()
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._what, self._bar = what, RichProgress(*columns, transient=True)
            self._task = self._bar.add_task(what, total=total)
            self._bar.start()
        self._bar.update(self._task, completed=done, total=total)
        if done >= total:  # lines of the log between two bars stay whole
            self.close()

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
