"""The search: hands out trials, takes in what comes of them, ends hopeless ones, and knows when to stop."""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from components.train.metrics import EpochResult
from components.train.settings import TrainSettings
from components.tune import remains
from components.tune.board import Board
from components.tune.ground import Ground
from components.tune.messages import Done, Epoch, Failed, Message, Task
from components.tune.objective import Objective
from components.tune.pool import Pool
from components.tune.settings import TuneSettings
from components.tune.study import Asked, Ended, Study
from components.tune.trials import Trial, chosen
from components.tune.worker import why
from serving.errors import DataError

logger = logging.getLogger(__name__)

LOOK_S: Final = 2.0
"""How often it is looked at what other machines do, while trials take their time."""


@dataclass
class _Running:
    asked: Asked
    settings: TrainSettings
    history: list[EpochResult] = field(default_factory=list)
    is_pruned: bool = False


class Search:
    """This machine's part of a search."""

    def __init__(
        self,
        study: Study,
        settings: TuneSettings,
        num_trials: int,
        ground: Ground,
        pool: Pool,
        board: Board,
        folder: Path,
    ) -> None:
        """Begin, or go on.

        Args:
            study: What is known so far.
            settings: Of the search.
            num_trials: In all, those that are over counted.
            ground: Makes ready what trials stand on.
            pool: Runs them.
            board: Shows them.
            folder: Of what trials leave, one below it for each.
        """
        self._study = study
        self._settings = settings
        self._num_trials = num_trials
        self._ground = ground
        self._pool = pool
        self._board = board
        self._folder = folder
        self._objectives = settings.objectives
        self._running: dict[int, _Running] = {}
        self._began = time.monotonic()
        self._said: set[str] = set()

    def run(self) -> list[Trial]:
        """Run trials until it is enough; returns all of them.

        Raises:
            DataError: The images cannot be used, whatever the trial.
        """
        while True:
            if self._may_begin():
                self._begin()
            elif self._running or self._awaits_others():
                self._wait()
            else:
                return self._study.trials()

    def folder_of(self, number: int) -> Path:
        """Where a trial leaves its checkpoints and what it learnt."""
        return remains.folder_of(self._folder, number)

    def _may_begin(self) -> bool:
        if len(self._running) >= self._pool.size:
            return False
        # A trial is shown those that are over by as many numbers as run at once; see `SeededSampler`. Where other
        # machines begin trials too, numbers run ahead, and what is shown depends on who is faster anyway.
        oldest_shown = self._study.next_number - self._pool.size
        if not self._study.is_shared and any(number <= oldest_shown for number in self._running):
            return False
        self._study.look_after_others()
        return self._study.has_unfinished or self._why_enough() is None

    def _why_enough(self) -> str | None:
        trials = self._study.trials()
        if len(trials) >= self._num_trials:
            return "trials"
        limit_s, patience = self._settings.search_time_limit, self._settings.search_patience
        if limit_s is not None and time.monotonic() - self._began >= limit_s:
            self._say_once("search time limit: %g s are over, no more trials are begun", limit_s)
            return "time"
        if patience is not None:
            newest = max((trial.number for trial in chosen(trials, self._objectives)), default=-1)
            since = sum(trial.number > newest and trial.state != "running" for trial in trials)
            if since >= patience:
                self._say_once("search patience: no better trial among the last %d", since)
                return "patience"
        return None

    def _say_once(self, text: str, *values: object) -> None:
        if text not in self._said:
            logger.info(text, *values)
        self._said.add(text)

    def _begin(self) -> None:
        asked = self._study.ask(self._num_trials)
        if asked is None:
            return
        settings = self._settings.of_trial(asked.parameters)
        if not self._ground.is_ready(settings):
            while self._running:  # the pass takes all cores, and latency is measured in quiet
                self._wait()
            self._board.pause()
            try:
                self._ground.make_ready(settings)
            except (DataError, OSError):
                raise
            except Exception as error:  # memory ran out, a graph cannot be exported: others may do better
                if settings.foundation == self._settings.of_trial({}).foundation:
                    raise  # of all trials: nothing is recorded, and the search goes on when it is mended
                self._running[asked.number] = _Running(asked, settings)
                self._fail(Failed(asked.number, why(error, asked.number)))
                return
        self._ground.count(settings)
        self._running[asked.number] = _Running(asked, settings)
        self._board.begins(asked, settings)
        self._pool.start(Task(asked.number, settings, self.folder_of(asked.number)))

    def _wait(self) -> None:
        for message in self._pool.messages(LOOK_S if self._study.is_shared else None):
            self._take(message)

    def _awaits_others(self) -> bool:
        """Whether other machines have trials under way: the best is known when they are over, too."""
        numbers = [trial.number for trial in self._study.trials() if trial.state == "running"]
        if numbers:
            self._say_once("waiting for what other machines have under way: trials %s", ", ".join(map(str, numbers)))
        return bool(numbers)

    def _take(self, message: Message) -> None:
        match message:
            case Epoch():
                self._go_on_or_not(message)
            case Done():
                self._finish(message)
            case Failed():
                self._fail(message)

    def _go_on_or_not(self, message: Epoch) -> None:
        running = self._running[message.number]
        running.history.append(message.result)
        so_far = _so_far(self._objectives[0], running.history)
        if so_far is not None and not running.is_pruned:
            is_last = message.result.epoch >= running.settings.epochs
            running.is_pruned = not is_last and self._study.is_hopeless(message.number, message.result.epoch, so_far)
        self._board.epoch(message.number, message.result)
        self._pool.answer(message.number, may_go_on=not running.is_pruned)

    def _finish(self, message: Done) -> None:
        running = self._running[message.number]
        losses = tuple(result.valid_loss for result in message.history)
        if running.is_pruned:
            reason = f"hopeless after epoch {len(losses)} of {running.settings.epochs}"
            epochs_s = _epochs_s(message.history)
            self._tell(message.number, Ended("pruned", (), losses, message.seconds, reason, epochs_s))
            return
        metrics = message.metrics | self._ground.latency_ms(running.settings)
        values = tuple(metrics[objective.metric] for objective in self._objectives)
        self._tell(
            message.number, Ended("complete", values, losses, message.seconds, epochs_s=_epochs_s(message.history))
        )

    def _fail(self, message: Failed) -> None:
        history = self._running[message.number].history
        losses = tuple(result.valid_loss for result in history)
        self._tell(message.number, Ended("failed", (), losses, message.seconds, message.reason, _epochs_s(history)))

    def _tell(self, number: int, ended: Ended) -> None:
        self._running.pop(number)
        is_own = self._study.tell(number, ended)
        remains.forget_checkpoints(self.folder_of(number))
        trials = self._study.trials()
        kept = {trial.number for trial in chosen(trials, self._objectives)} | self._running.keys()
        for trial in trials:
            if trial.number not in kept and trial.state != "running":
                remains.forget(self.folder_of(trial.number))
        if is_own:
            self._board.ended(number, trials)
        else:
            self._board.lost(number)


def _epochs_s(history: Sequence[EpochResult]) -> float:
    return sum(result.seconds for result in history)


def _so_far(objective: Objective, history: list[EpochResult]) -> float | None:
    """What the objective would be if the trial ended here, on the valid split; None if epochs do not change it."""
    best = min(history, key=lambda result: result.valid_loss)
    if objective.metric.endswith("_loss"):
        return best.valid_loss
    return best.valid_accuracy if objective.metric.endswith("_accuracy") else None
