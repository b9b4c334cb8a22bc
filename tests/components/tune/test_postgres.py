"""Searches of several machines in a real PostgreSQL, killed and started again."""

import csv
import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState

from components.config import read_settings
from components.environment import Environment
from components.tune import run, storage
from components.tune.sampler import INSTEAD_OF
from components.tune.settings import TuneSettings
from components.tune.storage import hang_up, open_storage
from serving.errors import ConfigError
from tests.support import postgres
from tests.support.attempts import Attempt, Place
from tests.support.figures import RecordFigure
from tests.support.folders import write_images
from tests.support.forked import load
from tests.support.postgres import PASSWORD, Server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

OF_TIME = ("TrainingStartTime", "TrainingEndTime", "TrainingElapsedTimeSeconds", "seconds", "epochs_s")
LONG = ("--freeze", "none", "--pruner", "none", "--parallel-trials", "1")


@pytest.fixture(scope="module")
def programs() -> Path:
    found = postgres.find()
    if found is None:
        pytest.skip("there is no PostgreSQL: install it (Debian: apt-get install postgresql)")
    return found


@pytest.fixture(scope="module")
def server(programs: Path) -> Iterator[Server]:
    with postgres.running(programs) as started:
        yield started


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    load()
    return write_images(tmp_path_factory.mktemp("images") / "data")


@pytest.fixture
def places(tmp_path: Path, data: Path) -> tuple[Place, Place]:
    return Place(tmp_path / "one", data), Place(tmp_path / "two", data)


@pytest.fixture
def url(server: Server, tmp_path: Path) -> str:
    """An empty database."""
    return server.create(tmp_path.name)


def trials(url: str) -> list[FrozenTrial]:
    """Of the one study in a database; empty while there is none."""
    kept = open_storage(url, Path())
    names = optuna.get_all_study_names(kept)
    found = optuna.load_study(study_name=names[0], storage=kept).trials if names else []
    hang_up(kept)
    return found


def begun(url: str, place: Place) -> list[FrozenTrial]:
    """Trials that a machine began."""
    path = place.checkpoints / "owner"
    return [trial for trial in trials(url) if path.exists() and trial.user_attrs.get("owner") == path.read_text()]


def has_under_way(url: str, place: Place) -> bool:
    """Whether it is in the middle of one, and another is over."""
    states = [trial.state for trial in begun(url, place)]
    return TrialState.RUNNING in states and TrialState.COMPLETE in states


def table(place: Place) -> list[dict[str, str]]:
    """trials.csv without times."""
    rows = csv.DictReader(io.StringIO((place.output / "trials.csv").read_text()))
    return [{name: value for name, value in row.items() if name not in OF_TIME} for row in rows]


def check(url: str, places: tuple[Place, Place], num_trials: int) -> None:
    """Both machines end with the same, and nothing was run twice."""
    found = trials(url)
    assert [trial.number for trial in found if trial.state == TrialState.COMPLETE] == list(range(num_trials))
    assert table(places[0]) == table(places[1])
    assert [row["TrainingJobStatus"] for row in table(places[0])] == ["Completed"] * num_trials
    assert places[0].best() == places[1].best()


def test_two_machines_share_a_search(url: str, places: tuple[Place, Place], record_figure: RecordFigure) -> None:
    flags = (*LONG, "--storage", url, "--trials", "10", "--epochs", "12")
    attempts = [Attempt(place.root, place.command(*flags)) for place in places]
    for attempt in attempts:
        attempt.end()
    numbers = [[trial.number for trial in begun(url, place)] for place in places]
    record_figure(f"search of two machines in PostgreSQL: trials {numbers[0]} and {numbers[1]}")
    check(url, places, 10)
    assert all(numbers)
    said = [line.split()[0] for attempt in attempts for line in attempt.log.splitlines() if line.startswith("trial=")]
    assert sorted(said) == sorted(f"trial={number}" for number in range(10))
    assert PASSWORD not in "".join(attempt.log for attempt in attempts)


def test_a_machine_that_is_killed_goes_on_with_its_own_trial_while_the_other_works(
    url: str, places: tuple[Place, Place]
) -> None:
    flags = (*LONG, "--storage", url, "--trials", "8", "--epochs", "12", "--checkpoint-interval-s", "0")
    killed, other = (Attempt(place.root, place.command(*flags)) for place in places)
    killed.until(lambda: has_under_way(url, places[0]))
    killed.kill()
    (left,) = (trial.number for trial in begun(url, places[0]) if trial.state == TrialState.RUNNING)
    again = Attempt(places[0].root, places[0].command(*flags), 1)
    again.end()
    other.end()
    assert f"trial {left} was left unfinished and goes on" in again.log
    check(url, places, 8)


def test_a_dead_machines_trial_is_given_to_another_after_a_while(
    url: str, places: tuple[Place, Place], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    flags = (*LONG, "--storage", url, "--trials", "3", "--epochs", "12", "--checkpoint-interval-s", "0")
    dead = Attempt(places[0].root, places[0].command(*flags))
    dead.until(lambda: bool(begun(url, places[0])))
    dead.kill()
    (left,) = begun(url, places[0])

    monkeypatch.setattr(storage, "HEARTBEAT_S", 1)
    monkeypatch.setattr(storage, "GRACE_S", 3)
    caplog.set_level("INFO")
    place = Environment()
    run.tune(read_settings(TuneSettings, places[1].command(*flags), place, prog="tune", description=""), place)
    found = trials(url)
    states = [trial.state for trial in found]
    assert states == [TrialState.FAIL, TrialState.COMPLETE, TrialState.COMPLETE, TrialState.COMPLETE]
    (instead,) = (trial for trial in found if trial.user_attrs.get(INSTEAD_OF) == left.number)
    assert instead.params == {**instead.params, **left.params}
    assert [row["TrainingJobName"] for row in table(places[1])] == ["trial-00001", "trial-00002", "trial-00003"]
    again = Attempt(places[0].root, places[0].command(*flags), 1)  # which is back, and finds nothing to do
    again.end()
    assert table(places[0]) == table(places[1])


def test_a_database_that_goes_away_is_one_sentence_and_the_search_goes_on_with_it(
    programs: Path, places: tuple[Place, Place]
) -> None:
    place = places[0]
    with postgres.running(programs) as server:
        flags = (*LONG, "--storage", server.url(), "--trials", "5", "--epochs", "12")
        attempt = Attempt(place.root, place.command(*flags))
        attempt.until(lambda: has_under_way(server.url(), place))
        num_over = sum(trial.state.is_finished() for trial in trials(server.url()))
        server.stop()
        attempt.end(1)
        assert "stopped answering: " in attempt.log.splitlines()[-1]
        assert "Traceback" not in attempt.log
        assert PASSWORD not in attempt.log
        server.start()
        again = Attempt(place.root, place.command(*flags), 1)
        again.end()
        assert again.log.count("\ntrial=") <= 5 - num_over
        assert [trial.state for trial in trials(server.url())] == [TrialState.COMPLETE] * 5


def test_a_wrong_password_is_one_sentence_without_it(server: Server, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="password authentication failed") as caught:
        open_storage(server.url().replace(PASSWORD, "Wr0ng"), tmp_path)
    assert "Wr0ng" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_machines_that_start_at_once_make_the_tables_together(server: Server, tmp_path: Path) -> None:
    for number in range(4):
        url = server.create(f"empty-{number}")
        with ThreadPoolExecutor(4) as threads:
            opened = list(threads.map(lambda _: open_storage(url, tmp_path), range(4)))  # noqa: B023  # ends before
        for one in opened:
            assert optuna.get_all_study_names(one) == []
            hang_up(one)
