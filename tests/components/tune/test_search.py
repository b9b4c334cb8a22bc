"""What the search does with what workers say, where a whole search would be hard to bring to it."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from optuna.trial import TrialState

from components.tune.board import Board
from components.tune.distributions import to_optuna
from components.tune.messages import Failed, Message, Task
from components.tune.sampler import SeededSampler
from components.tune.search import Search
from components.tune.settings import TuneSettings
from components.tune.space import Continuous
from components.tune.storage import open_storage
from components.tune.study import Study

SETTINGS: Final = TuneSettings(weights="none", trials=1)


class Ground:
    """Everything is ready."""

    def is_ready(self, _: object) -> bool:
        return True

    def count(self, _: object) -> None:
        pass


class Pool:
    """One worker, which fails every trial; before it says so, something may happen elsewhere."""

    size = 1

    def __init__(self, study: Study) -> None:
        self.study = study
        self.tasks: list[Task] = []
        self.is_takes_away = True

    def start(self, task: Task) -> None:
        self.tasks.append(task)

    def messages(self, _: float | None) -> Iterator[Message]:
        if self.is_takes_away:
            self.is_takes_away = False
            trial = self.study._running[self.tasks[-1].number]
            self.study._study._storage.set_trial_state_values(
                trial._trial_id, state=TrialState.FAIL
            )  # as another machine does
        yield Failed(self.tasks[-1].number, "it did not learn")


def test_a_trial_that_another_machine_took_over_leaves_no_line_and_the_search_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    distributions = to_optuna({"lr": Continuous(0.1, 1.0)})
    sampler = SeededSampler("random", distributions, seed=0)
    study = Study(
        open_storage(None, tmp_path), "one", SETTINGS.objectives, sampler, distributions, pruner="none", owner="us"
    )
    pool = Pool(study)
    search = Search(study, SETTINGS, 1, Ground(), pool, Board(SETTINGS.objectives, 1), tmp_path)  # type: ignore[arg-type]
    trials = search.run()
    assert [task.number for task in pool.tasks] == [0, 1]
    assert [(trial.number, trial.reason) for trial in trials] == [(1, "it did not learn")]
    assert sum("state=failed" in message for message in caplog.messages) == 1
    assert any("trial 0 was taken from this machine" in message for message in caplog.messages)
