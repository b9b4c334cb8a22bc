"""Real searches, killed by SIGKILL at random instants and started again by the same command, until they end."""

import csv
import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
import pytest

from components.tune.storage import open_storage
from tests.support.attempts import Attempt, Place, timeline
from tests.support.figures import RecordFigure
from tests.support.folders import write_images
from tests.support.forked import load

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

KILLS = 10
KILLS_AMONG_TRIALS = 6
"""So many while trials are run, which is a small part of the time where the backbone is frozen."""
SAFE = 0.7
"""Of the time from the last trial to the end: attempts differ, and none is to end before it is killed."""
OF_TIME = ("TrainingStartTime", "TrainingEndTime", "TrainingElapsedTimeSeconds", "seconds", "epochs_s")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("images") / "data")


def table(place: Place) -> list[dict[str, str]]:
    """trials.csv without times."""
    rows = csv.DictReader(io.StringIO((place.output / "trials.csv").read_text()))
    return [{name: value for name, value in row.items() if name not in OF_TIME} for row in rows]


def epochs(place: Place) -> list[dict[int, float]]:
    """What each trial reported after its epochs."""
    storage = open_storage(None, place.checkpoints)
    (study,) = optuna.get_all_study_names(storage)
    trials = optuna.load_study(study_name=study, storage=storage).trials
    return [{**dict(enumerate(trial.user_attrs["outcome"]["losses"])), -1: trial.number} for trial in trials]


def killed(place: Place, command: Sequence[str], times: Sequence[float], seed: int) -> list[Attempt]:
    """Attempts that are killed at random instants of an undisturbed search, and one that is not.

    An instant is taken to be so long after the trial that had ended last by then, counted over all attempts; the first
    ones, before any ended, count from the start of their process.
    """
    generator = np.random.default_rng(seed)
    among_trials = generator.uniform(times[0], times[-2], KILLS_AMONG_TRIALS)
    instants = sorted([*generator.uniform(0, times[-1], KILLS - KILLS_AMONG_TRIALS), *among_trials])
    attempts: list[Attempt] = []
    for instant in instants:
        num_ended = sum(time <= instant for time in times[:-1])
        attempt = Attempt(place.root, command, len(attempts))
        attempts.append(attempt)
        attempt.until(lambda num=num_ended: len(place.journal().ends) >= num)  # type: ignore[misc]
        seconds = instant - (times[num_ended - 1] if num_ended else 0)
        attempt.go_on(seconds * (SAFE if num_ended == len(times) - 1 else 1))
        attempt.kill()
    attempts.append(Attempt(place.root, command, len(attempts)))
    attempts[-1].end()
    return attempts


@pytest.mark.parametrize(
    ("name", "num_trials", "flags"),
    [
        ("one trial at once, frozen", 16, ("--parallel-trials", "1", "--epochs", "3")),
        ("two at once, frozen", 16, ("--parallel-trials", "2", "--epochs", "3")),
        ("two at once, nothing frozen, asha", 12, ("--parallel-trials", "2", "--epochs", "8", "--freeze", "none")),
    ],
)
def test_a_search_killed_ten_times_finds_what_the_undisturbed_one_finds(
    tmp_path: Path, data: Path, record_figure: RecordFigure, name: str, num_trials: int, flags: Sequence[str]
) -> None:
    load()
    flags = ("--trials", str(num_trials), "--sampler-seed", "7", "--checkpoint-interval-s", "0", *flags)
    undisturbed, disturbed = Place(tmp_path / "undisturbed", data), Place(tmp_path / "disturbed", data)
    timeline(undisturbed, Attempt(undisturbed.root, undisturbed.command(*flags)))
    # Attempts find in the cache what the ones before computed, so kills are timed by a search that does, too.
    rehearsal = replace(undisturbed, name="rehearsal")
    times = timeline(rehearsal, Attempt(rehearsal.root, rehearsal.command(*flags), 1))
    assert rehearsal.best() == undisturbed.best()
    attempts = killed(disturbed, disturbed.command(*flags), times, seed=10)

    journal = disturbed.journal()
    num_killed = sum(attempt.process.poll() != 0 for attempt in attempts)
    num_again = sum(attempt.log.count("was left unfinished and goes on") for attempt in attempts)
    starts = [attempt.log.count(" trials are over already") for attempt in attempts]
    record_figure(
        f"search, {name}: {num_killed} SIGKILLs spread over {times[-1]:.1f} s ({times[0]:.1f} s to the first of "
        f"{num_trials} trials); {sum(starts)} attempts found trials, {num_again} unfinished trials went on"
    )
    assert num_killed == KILLS
    assert journal.num_begun == num_trials
    assert sorted(journal.ends.values()) == [1] * num_trials
    said = [line.split()[0] for attempt in attempts for line in attempt.log.splitlines() if line.startswith("trial=")]
    assert len(said) == len(set(said))
    assert table(disturbed) == table(undisturbed)
    assert epochs(disturbed) == epochs(undisturbed)
    assert disturbed.best() == undisturbed.best()
    Attempt(disturbed.root, disturbed.command(*flags), 99).end()  # nothing is left to do
    assert disturbed.journal().num_begun == num_trials
