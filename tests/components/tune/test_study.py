"""A study hands every trial out until somebody says how it ended, to its own search or to whoever is alive."""

import json
import sqlite3
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import BaseStorage

from components.tune import heartbeat
from components.tune import storage as storage_module
from components.tune.objective import read_objectives
from components.tune.pruner import PrunerName
from components.tune.sampler import SeededSampler
from components.tune.storage import open_storage
from components.tune.study import Asked, Ended, Study

SPACE: dict[str, BaseDistribution] = {
    "lr": FloatDistribution(0.001, 0.3, log=True),
    "batch_size": CategoricalDistribution((16, 32)),
    "epochs": IntDistribution(2, 5),
}


def open_study(
    storage: BaseStorage | Path,
    *,
    owner: str = "me",
    objective: str = "valid_loss",
    pruner: PrunerName = "none",
    lag: int = 1,
) -> Study:
    kept = open_storage(None, storage) if isinstance(storage, Path) else storage
    sampler = SeededSampler("random", SPACE, seed=0, lag=lag)
    return Study(kept, "one", read_objectives(objective), sampler, SPACE, pruner=pruner, owner=owner)


def database(folder: Path) -> BaseStorage:
    return open_storage(f"sqlite:///{folder}/study.db", folder)


def ask(study: Study, num_trials: int = 100) -> Asked:
    asked = study.ask(num_trials)
    assert asked is not None
    return asked


def complete(*values: float) -> Ended:
    return Ended("complete", values, (0.5, 0.25), 1.5)


def test_what_was_left_unfinished_goes_on_under_its_number_with_what_it_tried(tmp_path: Path) -> None:
    study = open_study(tmp_path)
    asked = [ask(study) for _ in range(4)]
    study.tell(1, complete(0.5))
    again = open_study(tmp_path)
    is_anything_left = again.has_unfinished
    assert is_anything_left
    assert [trial.state for trial in again.trials()] == ["running", "complete", "running", "running"]
    found = [ask(again) for _ in range(3)]
    assert [one.number for one in found] == [0, 2, 3]
    assert [one.parameters for one in found] == [asked[number].parameters for number in (0, 2, 3)]
    assert all(one.is_again for one in found)
    assert not again.has_unfinished
    new = ask(again)
    assert (new.number, new.is_again) == (4, False)
    for number in (0, 2, 3, 4):
        again.tell(number, complete(float(number)))
    assert [trial.values for trial in open_study(tmp_path).trials()] == [(0.0,), (0.5,), (2.0,), (3.0,), (4.0,)]


@pytest.mark.parametrize("lines_left", range(1, 6))
def test_a_trial_killed_while_it_was_handed_out_is_handed_out_again(tmp_path: Path, lines_left: int) -> None:
    expected = ask(open_study(tmp_path)).parameters
    path = tmp_path / storage_module.JOURNAL
    lines = path.read_bytes().splitlines(keepends=True)
    created = next(place for place, line in enumerate(lines) if b"datetime_start" in line)
    path.write_bytes(b"".join(lines[: created + lines_left]))
    asked = ask(open_study(tmp_path))
    assert (asked.number, asked.parameters, asked.is_again) == (0, expected, True)


@pytest.mark.parametrize("ended", [complete(0.5), Ended("pruned", (), (0.5,), 1.0, "hopeless"), Ended("failed")])
def test_a_trial_killed_while_its_end_was_written_is_handed_out_again_and_counted_once(
    tmp_path: Path, ended: Ended
) -> None:
    study = open_study(tmp_path)
    ask(study)
    study.tell(0, ended)
    path = tmp_path / storage_module.JOURNAL
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))
    again = open_study(tmp_path)
    assert ask(again).is_again
    again.tell(0, complete(0.75))
    (trial,) = again.trials()
    assert (trial.state, trial.values, trial.losses, trial.seconds) == ("complete", (0.75,), (0.5, 0.25), 1.5)


def test_a_trial_keeps_how_it_ended(tmp_path: Path) -> None:
    study = open_study(tmp_path)
    for _ in range(3):
        ask(study)
    study.tell(0, complete(0.5))
    study.tell(1, Ended("pruned", (), (0.5,), 2.0, "hopeless"))
    study.tell(2, Ended("failed", (), (), 0.0, "no memory"))
    ends = [(trial.state, trial.values, trial.losses, trial.seconds, trial.reason) for trial in study.trials()]
    assert ends == [
        ("complete", (0.5,), (0.5, 0.25), 1.5, ""),
        ("pruned", (), (0.5,), 2.0, "hopeless"),
        ("failed", (), (), 0.0, "no memory"),
    ]


def kill(study: Study, folder: Path) -> None:
    """Let a machine be silent for an hour."""
    study.close()
    with closing(sqlite3.connect(folder / "study.db")) as connection, connection:
        connection.execute("UPDATE trial_heartbeats SET heartbeat = datetime(heartbeat, '-1 hour')")


def begin_without_owner(folder: Path) -> int:
    """What a machine does that dies between beginning a trial and saying whose it is."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a heartbeat is for who optimizes
        return optuna.load_study(study_name="one", storage=database(folder)).ask().number


def test_in_a_shared_study_nobody_touches_what_another_machine_has_under_way(tmp_path: Path) -> None:
    mine, theirs = open_study(database(tmp_path)), open_study(database(tmp_path), owner="them")
    assert [ask(mine).number, ask(theirs).number, begin_without_owner(tmp_path)] == [0, 1, 2]
    again = open_study(database(tmp_path), owner="them")
    assert again.has_unfinished
    assert [ask(again).number, ask(again).number] == [1, 3]


def test_machines_that_ask_at_once_begin_no_trial_too_many(tmp_path: Path) -> None:
    mine, theirs = open_study(database(tmp_path)), open_study(database(tmp_path), owner="them")
    assert [ask(mine, 3).number, ask(theirs, 3).number, ask(mine, 3).number] == [0, 1, 2]
    assert theirs.ask(3) is None
    for number, study in ((0, mine), (1, theirs), (2, mine)):
        study.tell(number, complete(1.0))
    assert [trial.number for trial in mine.trials()] == [0, 1, 2]
    assert ask(mine, 4).number == 4  # the one too many keeps its number


def test_a_dead_machines_trial_goes_to_another_with_what_it_tried(tmp_path: Path) -> None:
    dead, alive = open_study(database(tmp_path)), open_study(database(tmp_path), owner="them")
    tried = ask(dead).parameters
    assert ask(alive, 2).number == 1
    alive.tell(1, complete(1.0))
    alive.look_after_others()
    assert [trial.state for trial in alive.trials()] == ["running", "complete"]
    kill(dead, tmp_path)
    other = open_study(database(tmp_path), owner="others")
    other.look_after_others()
    assert [trial.number for trial in other.trials()] == [1]
    asked = ask(other, 2)
    assert asked.parameters == tried
    other.tell(asked.number, complete(0.5))
    assert [(trial.number, trial.state) for trial in alive.trials()] == [(1, "complete"), (asked.number, "complete")]
    assert other.ask(2) is None


def test_a_trial_whose_machine_died_before_it_beat_once_goes_to_another_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeat, "LOOKS_PER_BEAT", 10**9)
    study = open_study(database(tmp_path))
    number = begin_without_owner(tmp_path)
    study.look_after_others()
    assert [trial.number for trial in study.trials()] == [number]
    kill(study, tmp_path)
    study.look_after_others()
    assert study.trials() == []
    (tmp_path / "alone").mkdir()
    assert ask(study, 1).parameters == ask(open_study(tmp_path / "alone"), 1).parameters


def test_a_trial_whose_end_was_half_written_when_its_machine_died_is_counted_once(tmp_path: Path) -> None:
    dead = open_study(database(tmp_path))
    ask(dead)
    with closing(sqlite3.connect(tmp_path / "study.db")) as connection, connection:
        outcome = {"state": "complete", "losses": [], "seconds": 1.0, "reason": ""}
        connection.execute(
            "INSERT INTO trial_user_attributes (trial_id, key, value_json) VALUES (1, 'outcome', ?)",
            (json.dumps(outcome),),
        )
    kill(dead, tmp_path)
    other = open_study(database(tmp_path), owner="them")
    other.look_after_others()
    assert other.trials() == []
    assert ask(other, 1).number == 1


def test_a_machine_that_comes_back_too_late_finds_its_trial_taken(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    late = open_study(database(tmp_path), pruner="median")
    for _ in range(3):
        ask(late)
    kill(late, tmp_path)
    returned = open_study(database(tmp_path))
    other = open_study(database(tmp_path), owner="them")
    kill(other, tmp_path)
    other.look_after_others()
    assert late.is_hopeless(0, 1, 0.5)
    late.tell(0, complete(1.0))
    late.tell(1, Ended("failed", (), (), 1.0, "no memory"))
    assert returned.ask(3) is None
    assert other.trials() == []
    assert [ask(other, 3).number for _ in range(3)] == [3, 4, 5]
    taken = [message for message in caplog.messages if "was taken from this machine" in message]
    assert len(taken) == 3


def test_a_machine_that_is_alive_keeps_its_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage_module, "HEARTBEAT_S", 1)
    study = open_study(database(tmp_path))
    ask(study)
    with closing(sqlite3.connect(tmp_path / "study.db")) as connection:
        with connection:
            connection.execute("UPDATE trial_heartbeats SET heartbeat = datetime(heartbeat, '-1 hour')")
        (begun,) = connection.execute("SELECT heartbeat FROM trial_heartbeats").fetchone()
        assert eventually(lambda: connection.execute("SELECT heartbeat FROM trial_heartbeats").fetchone()[0] > begun)
    open_study(database(tmp_path), owner="them").look_after_others()
    study.tell(0, complete(1.0))
    study.close()
    assert [trial.state for trial in study.trials()] == ["complete"]


def eventually(has_happened: Callable[[], bool], *, timeout_s: float = 30) -> bool:
    deadline = time.monotonic() + timeout_s
    while not has_happened():
        if time.monotonic() > deadline:
            return False
        threading.Event().wait(0.05)
    return True


def run_epochs(study: Study, losses: Sequence[float]) -> int:
    """Run a trial with a loss for each epoch; returns how many it was given."""
    number = ask(study).number
    for epoch, loss in enumerate(losses, start=1):
        if study.is_hopeless(number, epoch, loss):
            study.tell(number, Ended("pruned", (), tuple(losses[:epoch]), 1.0, "hopeless"))
            return epoch
    study.tell(number, complete(losses[-1]))
    return len(losses)


GOOD, BAD = [0.5, 0.4, 0.3, 0.2], [0.9, 0.8, 0.7, 0.6]


def test_asha_ends_a_hopeless_trial_at_its_first_step_and_lets_a_good_one_go_on(tmp_path: Path) -> None:
    study = open_study(tmp_path, pruner="asha")
    assert [run_epochs(study, losses) for losses in (GOOD, BAD, BAD, GOOD)] == [4, 1, 1, 4]
    assert run_epochs(study, [0.4, 0.5, 0.5, 0.5]) == 2  # after two epochs it is not what it was after one
    assert run_epochs(study, [0.4, 0.3, 9.9, 0.1]) == 4  # three is no power of two


def test_the_median_ends_a_hopeless_trial_once_five_are_complete(tmp_path: Path) -> None:
    study = open_study(tmp_path, pruner="median")
    assert [run_epochs(study, losses) for losses in (GOOD, BAD, GOOD, BAD, GOOD)] == [4] * 5
    assert run_epochs(study, BAD) == 1
    assert run_epochs(study, [0.5, 0.4, 0.31, 0.2]) == 3
    assert run_epochs(study, GOOD) == 4


@pytest.mark.parametrize("pruner", ["asha", "median"])
def test_accuracy_is_the_better_the_higher(tmp_path: Path, pruner: PrunerName) -> None:
    study = open_study(tmp_path, pruner=pruner, objective="valid_accuracy")
    assert [run_epochs(study, BAD) for _ in range(5)] == [4] * 5
    assert run_epochs(study, GOOD) == 1
    assert run_epochs(study, [0.95] * 4) == 4


@pytest.mark.parametrize("objective", ["valid_loss,latency_ms", "valid_loss"])
def test_with_several_objectives_or_no_pruner_nothing_is_ended_early(tmp_path: Path, objective: str) -> None:
    is_one = objective == "valid_loss"
    study = open_study(tmp_path, pruner="none" if is_one else "asha", objective=objective)
    for _ in range(8):
        number = ask(study).number
        assert not any(study.is_hopeless(number, epoch, 1.0 + number) for epoch in range(1, 9))
        study.tell(number, complete(*([1.0] if is_one else [1.0, 2.0])))


@pytest.mark.parametrize("pruner", ["asha", "median"])
def test_what_is_ended_early_does_not_depend_on_kills_and_on_which_trial_is_over_first(
    tmp_path: Path, pruner: PrunerName
) -> None:
    curves = np.random.default_rng(0).uniform(0, 1, (24, 8)).cumsum(axis=1)[:, ::-1]

    def ended(folder: Path, generator: np.random.Generator, *, kills: bool) -> list[tuple[str, int]]:
        folder.mkdir()
        study, under_way = open_study(folder, pruner=pruner, lag=2), dict[int, int]()
        while (begun := len(study.trials())) < len(curves) or under_way:
            if len(under_way) < 2 and begun < len(curves) and min(under_way, default=begun) > begun - 2:
                under_way[ask(study).number] = 0
            number = int(generator.choice(list(under_way)))
            under_way[number] += 1
            epoch = under_way[number]
            is_hopeless = study.is_hopeless(number, epoch, curves[number, epoch - 1])
            if kills and generator.uniform() < 0.3:  # what was decided is lost, and trials begin anew
                study = open_study(folder, pruner=pruner, lag=2)
                under_way = {ask(study).number: 0 for _ in under_way}
            elif is_hopeless:
                study.tell(number, Ended("pruned", (), tuple(curves[number, :epoch]), 1.0))
                del under_way[number]
            elif epoch == curves.shape[1]:
                study.tell(number, Ended("complete", (curves[number, -1],), tuple(curves[number]), 1.0))
                del under_way[number]
        return [(trial.state, len(trial.losses)) for trial in study.trials()]

    expected = ended(tmp_path / "first", np.random.default_rng(0), kills=False)
    assert {state for state, _ in expected} == {"complete", "pruned"}
    for seed in (1, 2):
        assert ended(tmp_path / f"order-{seed}", np.random.default_rng(seed), kills=False) == expected
        assert ended(tmp_path / f"kills-{seed}", np.random.default_rng(seed), kills=True) == expected


def test_importances_add_up_to_one_and_find_what_matters(tmp_path: Path) -> None:
    study = open_study(tmp_path)
    for _ in range(3):
        study.tell(ask(study).number, complete(0.5))
    assert study.importances() == {}
    for _ in range(40):
        asked = ask(study)
        study.tell(asked.number, complete(float(asked.parameters["epochs"]) ** 2))
    found = study.importances()
    assert set(found) == set(SPACE)
    assert sum(found.values()) == pytest.approx(1)
    assert found["epochs"] > 0.8


def test_where_all_trials_are_equal_nothing_matters_more(tmp_path: Path) -> None:
    study = open_study(tmp_path)
    for _ in range(6):
        study.tell(ask(study).number, complete(0.5))
    assert study.importances() == {}


def test_with_several_objectives_importances_are_of_the_first(tmp_path: Path) -> None:
    study = open_study(tmp_path, objective="valid_accuracy,latency_ms")
    for _ in range(30):
        asked = ask(study)
        study.tell(asked.number, complete(1 / float(asked.parameters["epochs"]), float(asked.parameters["lr"])))
    found = study.importances()
    assert sum(found.values()) == pytest.approx(1)
    assert found["epochs"] > found["lr"]
