"""What a search leaves for others to read: the table, the best hyperparameters, lines in the log."""

import io
import json
import os
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any, Final

import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

from components.config import read_settings
from components.environment import Environment
from components.train.settings import TrainSettings
from components.tune.board import TRIAL_PATTERNS, line
from components.tune.objective import read_objectives
from components.tune.results import STATUSES, write_best, write_table
from components.tune.settings import TuneSettings
from components.tune.space import Categorical, Integer, Range, Value, as_text, setting_name
from components.tune.trials import State, Trial
from tests.support.engine import ROOT
from tests.support.spaces import random_space

LOSS: Final = read_objectives("valid_loss")
BOTH: Final = read_objectives("valid_accuracy,latency_ms")
BEGUN: Final = datetime(2026, 3, 1, 12, 0, 0, 250_000, tzinfo=UTC)


def trial(number: int, state: State = "complete", *values: float, reason: str = "", seconds: float = 2.0) -> Trial:
    return Trial(
        number=number,
        state=state,
        parameters={"lr": 0.1 / 3**number, "batch_size": 16 * (number + 1), "optimizer": ("sgd", "adamw")[number % 2]},
        values=values,
        losses=(1.5, 1.0)[: 0 if state == "failed" else 2],
        started=BEGUN + timedelta(seconds=10 * number),
        ended=None if state == "running" else BEGUN + timedelta(seconds=10 * number + 4.5),
        seconds=seconds,
        reason=reason,
    )


TRIALS: Final = (
    trial(0, "complete", 0.9),
    trial(1, "pruned", reason="hopeless after epoch 2 of 4"),
    trial(2, "failed", reason='the loss is not finite in epoch 1: "diverged", use a --lr below 1'),
    trial(3, "complete", 0.123456789012345678),
    trial(4, "running"),
)


def summary(found: Trial) -> dict[str, Any]:
    """A trial as the API would list it, had it been a training job (ListTrainingJobsForHyperParameterTuningJob)."""
    made: dict[str, Any] = {
        "TrainingJobName": f"trial-{found.number:05d}",
        "TrainingJobArn": "arn:aws:sagemaker:us-east-1:123456789012:training-job/trial",
        "CreationTime": found.started.isoformat(),
        "TrainingStartTime": found.started.isoformat(),
        "TrainingJobStatus": STATUSES[found.state],
        "TunedHyperParameters": {setting_name(name): as_text(value) for name, value in found.parameters.items()},
        "ObjectiveStatus": "Pending",
    }
    if found.ended is not None:
        made["TrainingEndTime"] = found.ended.isoformat()
    if found.values:
        made["FinalHyperParameterTuningJobObjectiveMetric"] = {"MetricName": "valid_loss", "Value": found.values[0]}
    return made


@pytest.fixture(scope="module")
def of_sagemaker(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """The dataframe that AWS's own code makes of the same trials."""
    folder = tmp_path_factory.mktemp("sdk")
    (folder / "summaries.json").write_text(json.dumps([summary(found) for found in TRIALS]))
    environ = {"HOME": str(folder), "AWS_EC2_METADATA_DISABLED": "true", "SAGEMAKER_SUPPRESS_V2_WARNING": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.tuning_analytics", str(folder / "summaries.json")],
        cwd=ROOT,
        env=os.environ | environ,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return pd.read_json(io.StringIO(done.stdout.partition("FRAME ")[2]), orient="split", precise_float=True)


def test_the_table_begins_with_the_columns_of_sagemakers_analytics_and_holds_the_same(
    of_sagemaker: pd.DataFrame, tmp_path: Path
) -> None:
    table = pd.read_csv(write_table(tmp_path, TRIALS, LOSS), float_precision="round_trip")
    expected = list(of_sagemaker.columns)
    assert list(table.columns)[: len(expected)] == expected
    assert expected[:4] == ["lr", "batch-size", "optimizer", "TrainingJobName"]
    for frame in (table, of_sagemaker):
        for name in ("TrainingStartTime", "TrainingEndTime"):
            frame[name] = pd.to_datetime(frame[name], utc=True)
    # The SDK makes a float of whatever can be one.
    assert_frame_equal(table[expected], of_sagemaker, check_dtype=False, rtol=1e-12)
    assert list(table["TrainingJobStatus"]) == ["Completed", "Stopped", "Failed", "Completed", "InProgress"]


def test_what_sagemaker_has_no_column_for_stands_behind(tmp_path: Path) -> None:
    table = pd.read_csv(write_table(tmp_path, TRIALS, LOSS), keep_default_na=False)
    own = ["valid_loss", "epochs_done", "seconds", "epochs_s", "is_on_front", "reason"]
    assert list(table.columns)[-len(own) :] == own
    assert list(table["reason"]) == [found.reason for found in TRIALS]
    assert list(table["is_on_front"]) == [False, False, False, True, False]
    assert list(table["epochs_done"]) == [2, 2, 0, 2, 2]


def test_of_several_objectives_the_first_is_the_final_value_and_the_front_is_marked(tmp_path: Path) -> None:
    trials = [trial(0, "complete", 0.9, 20.0), trial(1, "complete", 0.8, 10.0), trial(2, "complete", 0.7, 15.0)]
    table = pd.read_csv(write_table(tmp_path, trials, BOTH))
    assert list(table["FinalObjectiveValue"]) == list(table["valid_accuracy"]) == [0.9, 0.8, 0.7]
    assert list(table["latency_ms"]) == [20.0, 10.0, 15.0]
    assert list(table["is_on_front"]) == [True, True, False]


def test_a_table_of_no_trials_has_its_heading(tmp_path: Path) -> None:
    """A search whose time was over before its first trial."""
    assert write_table(tmp_path, [], LOSS).read_text().startswith("TrainingJobName,TrainingJobStatus,")


def drawn(tried: Range, random: Random) -> Value:
    if isinstance(tried, Categorical):
        return random.choice(tried.values)
    if isinstance(tried, Integer):
        return random.choice([tried.min, tried.max, random.randint(tried.min, tried.max)])
    return random.choice([tried.min, tried.max, min(tried.max, max(tried.min, random.uniform(tried.min, tried.max)))])


def read_back(path: Path, *flags: str) -> TrainSettings:
    given = ("--hyperparameters", str(path), *flags)
    return read_settings(TrainSettings, given, Environment(), prog="train", description="", environ={})


@pytest.mark.parametrize("seed", range(20))
def test_the_best_hyperparameters_are_texts_that_train_reads_to_the_same_settings(seed: int, tmp_path: Path) -> None:
    random = Random(seed)
    space = random_space(random)
    common = TuneSettings(head="mlp", clip_norm=1.5, schedule="onecycle", tensorboard=True)
    settings = common.of_trial({name: drawn(tried, random) for name, tried in space.items()})
    path = write_best(tmp_path, settings, list(space))
    content = json.loads(path.read_text())
    assert {type(value) for value in content.values()} == {str}
    assert list(content)[: len(space)] == [setting_name(name) for name in space]
    assert read_back(path).learnt_from() == settings.learnt_from()
    path.write_text(str(content))  # as Python prints a tuning job's best
    assert read_back(path).learnt_from() == settings.learnt_from()


def test_where_things_lie_is_no_hyperparameter(tmp_path: Path) -> None:
    common = TuneSettings(data=Path("a"), model_dir=Path("b"), cache_dir=Path("c"), trials=9, keep_best=True)
    path = write_best(tmp_path, common.of_trial({"lr": 0.25}), ["lr"])
    assert json.loads(path.read_text()) == {"lr": "0.25"}


def test_a_searched_value_that_is_trains_default_is_said_all_the_same(tmp_path: Path) -> None:
    """With a preset it would be another."""
    default = TrainSettings().lr
    path = write_best(tmp_path, TuneSettings(preset="dogs-resnet50").of_trial({"lr": default}), ["lr"])
    assert read_back(path, "--preset", "dogs-resnet50").lr == default


def test_the_line_of_a_trial_says_what_it_came_to_and_what_it_cost() -> None:
    assert line(0, TRIALS[:1], LOSS) == (
        "trial=0 state=complete valid_loss=0.900000 best_valid_loss=0.900000 seconds=2.00 share=1.000 "
        "lr=0.1 batch_size=16 optimizer=sgd"
    )
    assert line(1, TRIALS[:2], LOSS) == (
        "trial=1 state=pruned best_valid_loss=0.900000 seconds=2.00 share=0.500 "
        "lr=0.03333 batch_size=32 optimizer=adamw reason: hopeless after epoch 2 of 4"
    )
    assert line(2, TRIALS[2:3], LOSS).startswith("trial=2 state=failed seconds=2.00 share=1.000 lr=0.01111 ")


def test_lines_are_read_by_the_patterns_of_their_names_alone() -> None:
    found = {name: re.findall(pattern, line(3, TRIALS, LOSS)) for name, pattern in TRIAL_PATTERNS.items()}
    assert {name: numbers for name, numbers in found.items() if numbers} == {
        "valid_loss": ["0.123457"],
        "best_valid_loss": ["0.123457"],
    }
    both = line(1, [trial(0, "complete", 0.75, 20.5), trial(1, "complete", 0.5, 10.25)], BOTH)
    found = {name: re.findall(pattern, both) for name, pattern in TRIAL_PATTERNS.items()}
    assert {name: numbers for name, numbers in found.items() if numbers} == {
        "valid_accuracy": ["0.500000"],
        "best_valid_accuracy": ["0.750000"],
        "latency_ms": ["10.250000"],
    }


def test_a_trial_that_took_no_time_has_no_share_of_it() -> None:
    assert " share=0.000 " in line(0, [trial(0, "complete", 1.0, seconds=0.0)], LOSS)
