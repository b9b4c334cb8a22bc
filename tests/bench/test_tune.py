"""What `make bench-tune` makes of what searches leave; measuring itself takes half an hour and is not a test."""

import math
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from components.report.scales import duration
from components.tune.objective import Objective
from components.tune.results import write_table
from components.tune.trials import Trial
from tests.bench import searches
from tests.bench.figures import Figure
from tests.bench.searches import Row, Search

LOG = """best: trial 1, valid_loss=1.5
time: index 0.6 s, workers 12.3 s, features 1 min 05 s, trials 2 h 10 min, score 3.6 s, export and test 0.0 s
bundle: out/model
"""
STARTED = datetime(2026, 1, 2, 3, 4, 5)  # noqa: DTZ001 - as Optuna's are


def make_trial(number: int, valid_loss: float | None, *, elapsed_s: float = 2.0, epochs: int = 4) -> Trial:
    return Trial(
        number=number,
        state="complete" if valid_loss is not None else "pruned",
        parameters={"lr": 0.001 * (number + 1), "batch_size": 16},
        values=() if valid_loss is None else (valid_loss,),
        losses=(2.0,) * epochs,
        started=STARTED,
        ended=STARTED + timedelta(seconds=elapsed_s),
        seconds=1.8,
        epochs_s=1.75,
    )


def make_search(*trials: Trial, wall_s: float = 100.0, trials_s: float = 10.0, passes: int = 0) -> Search:
    rows = tuple(
        Row(
            number=trial.number,
            status="Completed",
            parameters={},
            valid_loss=trial.values[0] if trial.values else None,
            elapsed_s=(trial.ended - trial.started).total_seconds() if trial.ended else math.nan,
            seconds=trial.seconds,
            epochs_s=trial.epochs_s,
            epochs=len(trial.losses),
        )
        for trial in trials
    )
    return Search(wall_s, {"features": 50.0, "trials": trials_s}, rows, passes, busy_cores=0.0)


def judged(usual_s: float | None, cold: Search, warm: Search, *apart: float) -> dict[str, Figure]:
    return {figure.name: figure for figure in searches.judge(usual_s, [cold], [warm], apart, workers=1)}


def test_the_table_that_a_search_writes_is_read(tmp_path: Path) -> None:
    trials = [make_trial(0, 1.5), make_trial(1, None, elapsed_s=0.5, epochs=2)]
    rows = searches.read_table(write_table(tmp_path, trials, [Objective("valid_loss", "minimize")]).read_text())
    assert rows[0] == Row(0, "Completed", {"lr": "0.001", "batch-size": "16"}, 1.5, 2.0, 1.8, 1.75, 4)
    assert (rows[1].valid_loss, rows[1].elapsed_s, rows[1].epochs, rows[1].status) == (None, 0.5, 2, "Stopped")


def test_the_parts_of_a_search_are_read_from_its_log() -> None:
    assert searches.read_phases(LOG) == {
        "index": 0.6,
        "workers": 12.3,
        "features": 65.0,
        "trials": 7800.0,
        "score": 3.6,
        "export and test": 0.0,
    }
    with pytest.raises(ValueError, match="killed"):
        searches.read_phases("killed")


@pytest.mark.parametrize("spent", [0.4, 12.3, 59.9, 245.0, 7800.0])
def test_times_are_read_as_they_are_said(spent: float) -> None:
    assert searches.seconds(duration(spent)) == pytest.approx(spent)


def test_overhead_is_what_is_not_epochs_and_first_trials_are_apart() -> None:
    search = make_search(
        make_trial(0, 1.0, elapsed_s=60.0),
        make_trial(1, 1.0, elapsed_s=1.85),
        make_trial(2, 1.0, elapsed_s=1.94),
        make_trial(3, 1.0, elapsed_s=2.25),
        make_trial(4, None, elapsed_s=9.0),  # pruned: no whole trial
    )
    found = searches.overhead([search], workers=1)
    assert found.median_s == pytest.approx(0.19)
    assert found.largest_s == pytest.approx(0.5)
    assert found.worker_s == pytest.approx(0.05)
    assert found.search_s == pytest.approx(0.14)
    assert list(found.first_s) == pytest.approx([58.25])
    verdicts = judged(None, search, search)
    assert verdicts["overhead of a trial, median"].verdict == "met"
    assert verdicts["overhead of a trial, largest"].verdict == "MISSED"


def test_one_run_of_the_script_counts_as_often_as_there_are_trials() -> None:
    search = make_search(make_trial(0, 1.0), make_trial(1, 2.0), wall_s=50.0)
    found = judged(750.0, search, search)["2 runs of the usual script by one cold search of as many"]
    assert (found.value, found.verdict) == (30.0, "met")
    found = judged(749.0, search, search)["2 runs of the usual script by one cold search of as many"]
    assert found.verdict == "MISSED"


def test_a_second_search_that_computes_features_is_told_of() -> None:
    search = make_search(make_trial(0, 1.0), make_trial(1, 1.0))
    name = "splits that a second search sends through the backbone"
    assert judged(1.0, search, search)[name].verdict == "met"
    assert judged(1.0, search, replace(search, passes=1))[name].verdict == "MISSED"


@pytest.mark.parametrize(
    ("apart", "verdict"), [((9e-4, -9e-4), "met"), ((1e-5, -2e-3), "MISSED"), ((), "not measured")]
)
def test_objectives_may_be_off_either_way(apart: tuple[float, ...], verdict: str) -> None:
    search = make_search(make_trial(0, 1.0), make_trial(1, 1.0))
    assert (
        judged(1.0, search, search, *apart)["valid_loss of trials against train with their settings"].verdict == verdict
    )


def test_without_measurements_every_figure_says_so() -> None:
    found = searches.judge(None, [], [], [], workers=2)
    assert len(found) == 5
    assert {figure.verdict for figure in found} == {"not measured"}


def test_pruning_is_counted_in_epochs_and_time_and_in_what_it_misses() -> None:
    whole = make_search(make_trial(0, 1.5), make_trial(1, 1.2), wall_s=100.0, trials_s=80.0)
    pruned = make_search(make_trial(0, 1.5), make_trial(1, None, epochs=1), wall_s=90.0, trials_s=60.0)
    found = searches.pruning(pruned, whole)
    assert found.epochs_saved == 3 / 8
    assert found.trials_saved == 0.25
    assert found.wall_saved == pytest.approx(0.1)
    assert found.objective_lost == pytest.approx(0.3)


def test_what_no_part_holds_is_the_start_and_the_end() -> None:
    assert make_search(make_trial(0, 1.0), wall_s=63.0).rest_s == 3.0
    assert searches.median_phases([make_search(), make_search(trials_s=20.0)]) == {"features": 50.0, "trials": 15.0}
