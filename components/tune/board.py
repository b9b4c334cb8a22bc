"""What a person sees while a search runs: a table on a terminal, a line for each trial that is over in a log."""

import logging
import sys
from collections.abc import Mapping, Sequence
from typing import Final, TextIO

from rich.console import Console
from rich.live import Live
from rich.table import Table

from components.report.scales import duration
from components.train.metrics import NUMBER, EpochResult
from components.train.settings import TrainSettings
from components.tune.objective import DIRECTIONS, Objective
from components.tune.space import Value
from components.tune.study import Asked
from components.tune.trials import Trial, best

logger = logging.getLogger(__name__)

NUM_BEST: Final = 5
"""Trials that the table shows beside those under way."""
TRIAL_PATTERNS: Final = {
    name: f" {name}={NUMBER}" for objective in DIRECTIONS for name in (objective, f"best_{objective}")
}
"""SageMaker metric definitions for the lines of trials that are over; `best_valid_loss` is what a job has come to."""


class Board:
    """Shows trials."""

    def __init__(self, objectives: Sequence[Objective], num_trials: int) -> None:
        self._objectives = objectives
        self._num_trials = num_trials
        self._running: dict[int, _Row] = {}
        self._trials: Sequence[Trial] = ()
        self._console = Console(file=sys.stdout) if sys.stdout.isatty() else None
        self._live: Live | None = None

    def begins(self, asked: Asked, settings: TrainSettings) -> None:
        """A trial begins."""
        if asked.is_again:
            self._say(f"trial {asked.number} was left unfinished and goes on")
        self._running[asked.number] = _Row(asked.parameters, settings.epochs)
        self._draw()

    def epoch(self, number: int, result: EpochResult) -> None:
        """A trial has finished an epoch."""
        self._running[number].result = result
        self._draw()

    def ended(self, number: int, trials: Sequence[Trial]) -> None:
        """A trial is over."""
        self._running.pop(number, None)
        self._trials = trials
        self._say(line(number, trials, self._objectives))
        self._draw()

    def pause(self) -> None:
        """Leave the terminal to others for a while."""
        if self._live is not None:
            above = sys.stdout
            self._live.stop()
            _redirect_log(above, sys.stdout)
            self._live = None

    def _say(self, text: str) -> None:
        if self._live is not None:
            self._live.console.print(text, highlight=False, markup=False, soft_wrap=True)
        else:
            logger.info("%s", text)

    def _draw(self) -> None:
        if self._console is None:
            return
        if self._live is None:
            terminal = sys.stdout
            self._live = Live(console=self._console, auto_refresh=False, transient=True)
            self._live.start()  # what is written to sys.stdout from here on comes to stand above the table
            _redirect_log(terminal, sys.stdout)
        self._live.update(self._table(), refresh=True)

    def _table(self) -> Table:
        over = sum(trial.state != "running" for trial in self._trials)
        names = list(next(iter(self._running.values())).parameters) if self._running else []
        names = names or [name for trial in self._trials[:1] for name in trial.parameters]
        table = Table(title=f"{over} of {self._num_trials} trials", title_justify="left")
        for name in ("trial", "state", *names, *(objective.metric for objective in self._objectives), "time"):
            table.add_column(name, justify="left" if name == "state" else "right")
        for number, row in sorted(self._running.items()):
            done = 0 if row.result is None else row.result.epoch
            so_far = ["" if row.result is None else f"{row.result.best_valid_loss:.4f}"]
            values = so_far if self._objectives[0].metric == "valid_loss" else [""]
            values += [""] * (len(self._objectives) - 1)
            table.add_row(str(number), f"epoch {done}/{row.epochs}", *_shown(row.parameters, names), *values, "")
        table.add_section()
        objective = self._objectives[0]
        sign = 1 if objective.direction == "minimize" else -1
        complete = [trial for trial in self._trials if trial.state == "complete"]
        for trial in sorted(complete, key=lambda trial: sign * trial.values[0])[:NUM_BEST]:
            values = [f"{value:.4f}" for value in trial.values]
            cells = (*_shown(trial.parameters, names), *values, duration(trial.seconds))
            table.add_row(str(trial.number), "complete", *cells)
        return table


class _Row:
    def __init__(self, parameters: Mapping[str, Value], epochs: int) -> None:
        self.parameters = parameters
        self.epochs = epochs
        self.result: EpochResult | None = None


def line(number: int, trials: Sequence[Trial], objectives: Sequence[Objective]) -> str:
    """The line of a trial that is over; numbers stand behind `name=`, so that platforms find them in a log."""
    trial = next(trial for trial in trials if trial.number == number)
    parts = [f"trial={number}", f"state={trial.state}"]
    parts += [f"{objective.metric}={value:.6f}" for objective, value in zip(objectives, trial.values, strict=False)]
    found = best(trials, objectives[0])
    if found is not None:
        parts += [f"best_{objectives[0].metric}={found.values[0]:.6f}"]
    total_s = sum(other.seconds for other in trials)
    parts += [f"seconds={trial.seconds:.2f}", f"share={trial.seconds / total_s if total_s else 0:.3f}"]
    parts += [f"{name}={_text(value)}" for name, value in trial.parameters.items()]
    return " ".join(parts) + (f" reason: {trial.reason}" if trial.reason else "")


def _redirect_log(before: TextIO, now: TextIO) -> None:
    """Lines of the log go where `sys.stdout` goes; else the table would be drawn over them."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.StreamHandler) and handler.stream is before:
            handler.setStream(now)


def _shown(parameters: Mapping[str, Value], names: Sequence[str]) -> list[str]:
    return [_text(parameters[name]) if name in parameters else "" for name in names]


def _text(value: Value) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
