"""Searches from end to end, on small pictures: what they find, what they cost, when they end, what they leave."""

import itertools
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from components import presets
from components.config import read_settings
from components.environment import Environment
from components.train.run import train
from components.train.settings import TrainSettings
from components.tune.board import TRIAL_PATTERNS
from serving import bundle, golden
from serving.engines import open_engine
from serving.errors import UserError
from tests.components.train.test_presets import (
    SIDE_PX,
    SYSTEMS,
    System,
    write_digits,
    write_photographs,
    write_weights,
)
from tests.support.folders import write_images
from tests.support.searches import LR, SMALL, Searched, entries, rows, search

AGREEMENT: Final = 1e-3
"""Of valid_loss, between a trial and a training: the one has one thread, the other all of them."""
WHOLE: Final = re.compile(r"the best, whole network: valid_loss=([0-9.]+) valid_accuracy=([0-9.]+)")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("data"), per_class=6)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def whole(searched: Searched) -> float:
    """What the log says that the winner's valid_loss is, through the whole network."""
    found = [match for line in searched.log if (match := WHOLE.fullmatch(line))]
    assert len(found) == 1
    return float(found[0][1])


def trained_loss(searched: Searched, folder: Path, *flags: str) -> float:
    """valid_loss of `train --hyperparameters best_hyperparameters.json`."""
    given = ["--hyperparameters", str(searched.folder / "best_hyperparameters.json"), "--model-dir", str(folder)]
    cache = str(searched.settings.cache_dir)
    arguments = [*given, "--cache-dir", cache, "--data", str(searched.settings.data), *flags]
    settings = read_settings(TrainSettings, arguments, Environment(), prog="train", description="", environ={})
    made = train(settings, Environment())
    assert made is not None
    return made.manifest.metrics.valid_loss


@dataclass(frozen=True)
class OfPreset:
    name: str
    system: System
    searched: Searched


def systems() -> list[Any]:
    """Two are quick; the others' backbones are deep."""
    return [
        pytest.param(name, id=name, marks=[] if system.architecture == "resnet18" else [pytest.mark.slow])
        for name, system in SYSTEMS.items()
    ]


@pytest.fixture(scope="module", params=systems())
def of_preset(request: pytest.FixtureRequest, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> OfPreset:
    """A search of a preset's own space on real pictures, three trials of it."""
    name, folder = request.param, tmp_path_factory.mktemp("preset")
    system = SYSTEMS[name]
    weights, data = folder / "weights.safetensors", folder / "data"
    write_weights(weights, system.architecture)
    write_digits(data) if name.startswith("cifar10") else write_photographs(data)
    given = ("--preset", name, "--weights", str(weights), "--image-size", str(SIDE_PX), "--data", str(data))
    return OfPreset(name, system, search(folder, cache, *given, "--trials", "3", "--keep-best"))


def test_a_preset_is_searched_in_as_many_trials_as_asked_for_within_its_ranges(of_preset: OfPreset) -> None:
    trials, system = of_preset.searched.trials, of_preset.system
    assert [trial["TrainingJobName"] for trial in trials] == ["trial-00000", "trial-00001", "trial-00002"]
    assert {trial["TrainingJobStatus"] for trial in trials} == {"Completed"}
    assert list(trials[0])[: len(presets.read(of_preset.name).space)] == list(presets.read(of_preset.name).space)
    assert all(system.lr[0] <= float(trial["lr"]) <= system.lr[1] for trial in trials)
    assert all(int(trial["batch-size"]) in system.batch_sizes for trial in trials)
    if system.epochs is not None:
        assert all(system.epochs[0] <= int(trial["epochs"]) <= system.epochs[1] for trial in trials)
        assert all(trial["epochs"] == trial["epochs_done"] for trial in trials)
    assert len({trial["lr"] for trial in trials}) == 3


def test_the_best_of_a_preset_has_the_best_value_and_keeps_it_through_the_whole_network(of_preset: OfPreset) -> None:
    searched = of_preset.searched
    best = min(searched.trials, key=lambda trial: float(trial["FinalObjectiveValue"]))
    tried = list(presets.read(of_preset.name).space)
    assert {name: searched.best[name] for name in tried} == {name: best[name] for name in tried}
    assert list(searched.best)[: len(tried)] == tried
    assert searched.best.get("arch", "resnet18") == of_preset.system.architecture
    assert whole(searched) == pytest.approx(min(searched.values), abs=AGREEMENT)
    assert "<h1" in (searched.folder / "tuning.html").read_text()


def test_training_with_what_a_search_found_comes_to_the_same(of_preset: OfPreset, tmp_path: Path) -> None:
    loss = trained_loss(of_preset.searched, tmp_path / "model")
    assert loss == pytest.approx(min(of_preset.searched.values), abs=AGREEMENT)


def test_the_kept_bundle_is_the_best_trials_and_answers(of_preset: OfPreset) -> None:
    searched = of_preset.searched
    made = bundle.read(searched.settings.model_dir or Path())
    assert made.manifest.metrics.valid_loss == pytest.approx(min(searched.values), abs=AGREEMENT)
    assert made.manifest.hyperparameters["lr"] == float(searched.best["lr"])
    assert made.manifest.architecture == of_preset.system.architecture
    engine = open_engine("onnx", made)
    assert golden.check(made, engine) <= engine.tolerance


def test_features_are_computed_once_and_a_second_search_computes_none(data: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    first = search(tmp_path / "a", cache, "--data", str(data), *SMALL, "--space", LR, "--trials", "4")
    computed = entries(cache, "features")
    assert len(computed) == 2  # of train and of valid: the test split is not looked at
    space = {
        "batch-size": {"type": "categorical", "values": [2, 4]},
        "head": {"type": "categorical", "values": ["mlp"]},
    }
    second = search(tmp_path / "b", cache, "--data", str(data), *SMALL, "--space", json.dumps(space), "--trials", "2")
    assert entries(cache, "features") == computed
    assert (len(first.trials), len(second.trials)) == (4, 2)
    assert {trial["head"] for trial in second.trials} == {"mlp"}


def test_a_search_says_what_it_searches_and_what_the_cache_saved(data: Path, cache: Path, tmp_path: Path) -> None:
    searched = search(tmp_path, cache, "--data", str(data), *SMALL, "--space", LR, "--trials", "2")
    assert searched.lines("space: ") == ["space: lr: 0.001 to 0.1, log scale"]
    assert searched.lines("search: ") == [
        "search: 2 trials by tpe for minimal valid_loss; no trial is ended early",
    ]
    assert searched.lines("trials: ")[0] == "trials: 2 complete"


def test_each_trial_that_is_over_has_a_line_that_metric_definitions_read(
    data: Path, cache: Path, tmp_path: Path
) -> None:
    searched = search(tmp_path, cache, "--data", str(data), *SMALL, "--space", LR, "--trials", "3")
    lines = searched.lines("trial=")
    assert sorted(line.split()[0] for line in lines) == ["trial=0", "trial=1", "trial=2"]
    found = [float(re.search(TRIAL_PATTERNS["valid_loss"], line)[1]) for line in lines]  # type: ignore[index]
    assert sorted(found) == pytest.approx(sorted(searched.values), abs=1e-6)
    so_far = [float(match[1]) for line in lines if (match := re.search(TRIAL_PATTERNS["best_valid_loss"], line))]
    assert so_far == pytest.approx([min(found[: place + 1]) for place in range(3)], abs=1e-6)
    # The last number of a job's log is what a tuner of tuners would go by.
    everywhere = re.findall(TRIAL_PATTERNS["best_valid_loss"], "\n".join(searched.log))
    assert float(everywhere[-1]) == pytest.approx(min(searched.values), abs=1e-6)


def test_accuracy_is_made_large(data: Path, cache: Path, tmp_path: Path) -> None:
    flags = (*SMALL, "--space", LR, "--trials", "3", "--objective", "valid_accuracy")
    searched = search(tmp_path, cache, "--data", str(data), *flags)
    assert searched.lines("search: ")[0].startswith("search: 3 trials by tpe for maximal valid_accuracy")
    best = max(searched.trials, key=lambda trial: float(trial["valid_accuracy"]))
    assert searched.best["lr"] == best["lr"]
    assert [line for line in searched.log if "chooses by the test split" in line] == []


def test_choosing_by_the_test_split_is_done_and_said_to_be_unwise(data: Path, cache: Path, tmp_path: Path) -> None:
    flags = (*SMALL, "--space", LR, "--trials", "2", "--objective", "test_loss", "--keep-best")
    searched = search(tmp_path, cache, "--data", str(data), *flags)
    (warning,) = [line for line in searched.log if "chooses by the test split" in line]
    assert "what the test split says of it is too good" in warning
    best = min(searched.trials, key=lambda trial: float(trial["test_loss"]))
    assert searched.best["lr"] == best["lr"]
    # Independent of the trial: the engine that serves, over the same pictures.
    measured = bundle.read(tmp_path / "model").manifest.metrics.engines["onnx"].test_loss
    assert measured == pytest.approx(float(best["test_loss"]), abs=AGREEMENT)


def test_accuracy_against_latency_over_backbones_leaves_a_front(data: Path, cache: Path, tmp_path: Path) -> None:
    space = json.loads(LR) | {"arch": {"type": "categorical", "values": ["resnet18", "squeezenet1_1", "resnet34"]}}
    flags = (*SMALL, "--space", json.dumps(space), "--objective", "valid_accuracy,latency_ms", "--sampler", "grid")
    searched = search(tmp_path, cache, "--data", str(data), *flags, "--trials", "6", "--epochs", "1")
    assert len(searched.trials) == 6
    of_arch: dict[str, set[str]] = {}
    for trial in searched.trials:
        of_arch.setdefault(trial["arch"], set()).add(trial["latency_ms"])
    assert all(len(values) == 1 for values in of_arch.values()), "a network was measured twice"
    assert len(searched.lines("latency: ")) == len(of_arch) >= 2
    points = [(-float(trial["valid_accuracy"]), float(trial["latency_ms"])) for trial in searched.trials]
    for trial, (accuracy, latency) in zip(searched.trials, points, strict=True):
        is_beaten = any(a <= accuracy and b <= latency and (a, b) != (accuracy, latency) for a, b in points)
        assert not (trial["is_on_front"] == "True" and is_beaten)
    assert any(trial["is_on_front"] == "True" for trial in searched.trials)
    page = (searched.folder / "tuning.html").read_text()
    assert "latency, ms" in page
    assert '<b class="badge">front</b>' in page


def test_a_grid_ends_when_each_combination_was_tried_once(data: Path, cache: Path, tmp_path: Path) -> None:
    space = {
        "batch-size": {"type": "categorical", "values": [4, 8]},
        "optimizer": {"type": "categorical", "values": ["sgd", "adamw"]},
    }
    flags = (*SMALL, "--space", json.dumps(space), "--sampler", "grid", "--trials", "50")
    searched = search(tmp_path, cache, "--data", str(data), *flags)
    tried = [(trial["batch-size"], trial["optimizer"]) for trial in searched.trials]
    assert sorted(tried) == [("4", "adamw"), ("4", "sgd"), ("8", "adamw"), ("8", "sgd")]
    assert searched.lines("search: ")[0].startswith("search: 4 trials by grid")


def test_a_grid_of_which_nobody_says_how_much_is_tried_to_its_end(data: Path, cache: Path, tmp_path: Path) -> None:
    space = {"lr": {"type": "categorical", "values": [0.001 * number for number in range(1, 25)]}}
    flags = (*SMALL, "--space", json.dumps(space), "--sampler", "grid", "--epochs", "1")
    assert len(search(tmp_path, cache, "--data", str(data), *flags).trials) == 24


def test_no_trial_is_begun_after_the_time_limit(data: Path, cache: Path, tmp_path: Path) -> None:
    flags = (*SMALL, "--space", LR, "--trials", "100000", "--search-time-limit", "3")
    searched = search(tmp_path, cache, "--data", str(data), *flags)
    assert 1 <= len(searched.trials) < 100_000
    assert {trial["TrainingJobStatus"] for trial in searched.trials} == {"Completed"}
    assert searched.lines("search time limit") == ["search time limit: 3 s are over, no more trials are begun"]


def test_a_limit_that_lets_no_trial_begin_is_named(data: Path, cache: Path, tmp_path: Path) -> None:
    flags = (*SMALL, "--space", LR, "--trials", "3", "--search-time-limit", "1e-9")
    with pytest.raises(UserError, match="no trial was begun: use a longer --search-time-limit"):
        search(tmp_path, cache, "--data", str(data), *flags)


def test_a_search_ends_when_nothing_got_better_for_long(data: Path, cache: Path, tmp_path: Path) -> None:
    flags = (*SMALL, "--space", LR, "--trials", "60", "--search-patience", "2", "--parallel-trials", "1")
    searched = search(tmp_path, cache, "--data", str(data), *flags, "--sampler", "random", "--epochs", "1")
    values = searched.values
    newest = values.index(min(values))
    assert len(values) - 1 - newest == 2
    # Never before did two in a row fail to be better.
    best_at = [place for place, value in enumerate(values) if value == min(values[: place + 1])]
    assert all(later - earlier <= 2 for earlier, later in itertools.pairwise(best_at))


def test_asha_ends_hopeless_trials_of_a_backbone_that_learns(data: Path, cache: Path, tmp_path: Path) -> None:
    space = {"lr": {"type": "categorical", "values": [0.003, 0.001, 1e-8, 1e-9, 2e-9, 3e-9]}}
    flags = (*SMALL, "--space", json.dumps(space), "--freeze", "none", "--sampler", "grid", "--pruner", "asha")
    searched = search(tmp_path, cache, "--data", str(data), *flags, "--epochs", "4", "--parallel-trials", "1")
    stopped = [trial for trial in searched.trials if trial["TrainingJobStatus"] == "Stopped"]
    assert stopped
    for trial in stopped:
        assert int(trial["epochs_done"]) < 4
        assert trial["reason"] == f"hopeless after epoch {trial['epochs_done']} of 4"
        assert trial["FinalObjectiveValue"] == ""
    assert float(searched.best["lr"]) >= 0.001
    assert whole(searched) == pytest.approx(min(searched.values), abs=AGREEMENT)
    assert len(searched.trials) == 6


def test_another_search_in_the_same_place_begins_anew_and_the_same_one_is_over(
    data: Path, cache: Path, tmp_path: Path
) -> None:
    first = search(tmp_path, cache, "--data", str(data), *SMALL, "--space", LR, "--trials", "2")
    other = LR.replace("0.001", "0.002")
    second = search(tmp_path, cache, "--data", str(data), *SMALL, "--space", other, "--trials", "2")
    assert {trial["lr"] for trial in first.trials}.isdisjoint(trial["lr"] for trial in second.trials)
    again = search(tmp_path, cache, "--data", str(data), *SMALL, "--space", LR, "--trials", "2")
    assert again.trials == first.trials
    assert again.best == first.best
    assert again.lines("trial=") == []


def lay_out(root: Path, data: Path, hyperparameters: dict[str, str]) -> None:
    config = root / "input" / "config"
    config.mkdir(parents=True)
    (config / "hyperparameters.json").write_text(json.dumps(hyperparameters))
    (config / "checkpointconfig.json").write_text(json.dumps({"LocalPath": str(root / "kept"), "S3Uri": "s3://b/p"}))
    (root / "input" / "data").mkdir()
    (root / "input" / "data" / "training").symlink_to(data)


def run_tune(**environ: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "components", "tune"]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | environ)


def test_a_sagemaker_job_searches_and_writes_where_the_platform_looks(data: Path, cache: Path, tmp_path: Path) -> None:
    flags = dict(zip([flag.removeprefix("--") for flag in SMALL[::2]], SMALL[1::2], strict=True))
    given = flags | {"space": LR, "trials": '"3"', "parallel_trials": "1", "keep-best": "true"}
    given |= {"image-size": '"\\"32\\""', "sagemaker_region": '"us-east-1"'}
    lay_out(tmp_path, data, given)
    done = run_tune(SAGEMAKER_BASE_DIR=str(tmp_path), KENNEL_CACHE_DIR=str(cache))
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    output = tmp_path / "output" / "data"
    assert {"best_hyperparameters.json", "trials.csv", "tuning.html"} <= {path.name for path in output.iterdir()}
    values = [float(row["FinalObjectiveValue"]) for row in rows(output)]
    assert len(values) == 3
    numbers = [float(text) for text in re.findall(TRIAL_PATTERNS["best_valid_loss"], done.stdout)]
    assert numbers[-1] == pytest.approx(min(values), abs=1e-6)
    assert bundle.read(tmp_path / "model").manifest.metrics.valid_loss == pytest.approx(min(values), abs=AGREEMENT)
    assert (tmp_path / "kept" / "study.journal").exists()
    assert not (tmp_path / "output" / "failure").exists()


def test_a_sagemaker_job_with_a_mistake_says_it_in_the_failure_file(data: Path, tmp_path: Path) -> None:
    lay_out(tmp_path, data, {"space": '{"learning-rats": {"type": "continuous", "min": 0.1, "max": 1}}'})
    done = run_tune(SAGEMAKER_BASE_DIR=str(tmp_path), KENNEL_CACHE_DIR=str(tmp_path / "cache"))
    assert done.returncode == 1
    sentence = (tmp_path / "output" / "failure").read_text()
    assert sentence == "--space: 'learning-rats' is not a setting of train, did you mean learning-rate?"
    assert done.stderr == f"error: {sentence}\n"
    assert not (tmp_path / "cache").exists()
