"""What a search cannot use: refused in one sentence before any work; and trials that fail while others go on."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from components.environment import stop_signal
from components.tune.__main__ import main
from serving.errors import UserError
from tests.support.folders import write_images
from tests.support.searches import LR, SMALL, rows, search

REFUSED: Final = {
    "no space": ((), "--space is missing, expected a file of the search space, or a --preset that has one"),
    "a setting that there is not": (
        ("--space", '{"learning-rats": {"type": "continuous", "min": 0.1, "max": 1}}'),
        "--space: 'learning-rats' is not a setting of train, did you mean learning-rate?",
    ),
    "min over max": (
        ("--space", '{"lr": {"type": "continuous", "min": 1, "max": 0.1}}'),
        "--space: lr has min 1.0 and max 0.1, expected a min below the max",
    ),
    "log through zero": (
        ("--space", '{"weight-decay": {"type": "continuous", "min": 0, "max": 0.1, "scale": "log"}}'),
        "--space: weight-decay has a log scale and min 0.0, expected a min above 0, or scale: linear",
    ),
    "a category of another type": (
        ("--space", '{"batch-size": {"type": "categorical", "values": [16, "many"]}}'),
        "--space: batch-size has the value 'many', expected a whole number at least 1 and at most 65536",
    ),
    "a value that train refuses": (
        ("--space", '{"lr": {"type": "continuous", "min": 1, "max": 1000000}}'),
        "--space: max of 'lr' got \"1000000.0\", expected a number above 0 and at most 1000",
    ),
    "what is not learnt from": (
        ("--space", '{"data": {"type": "categorical", "values": ["a", "b"]}}'),
        "--space: data is no hyperparameter: it does not change what is learnt; give all trials the same --data",
    ),
    "a linear head with dropout": (
        ("--space", '{"dropout": {"type": "continuous", "min": 0, "max": 0.5}}'),
        "--space: dropout would be tried with a linear head, expected the mlp: give all trials --head mlp",
    ),
    "an objective that train does not measure": (
        ("--space", LR, "--objective", "valid_lost"),
        (
            '--objective got "valid_lost", expected one of valid_loss, valid_accuracy, test_loss, test_accuracy, '
            "latency_ms, or several with commas between, did you mean valid_loss?"
        ),
    ),
    "an objective twice": (
        ("--space", LR, "--objective", "valid_loss,valid-loss"),
        "--objective names valid_loss twice",
    ),
    "an architecture that there is not": (
        ("--space", '{"arch": {"type": "categorical", "values": ["resnet18", "resnet19"]}}'),
        (
            'architecture "resnet19" does not exist, expected a torchvision classification model such as resnet18, '
            "did you mean resnet18?"
        ),
    ),
    "a file that is not there": (
        ("--space", "absent.yaml"),
        "search space absent.yaml cannot be read: No such file or directory",
    ),
    "a storage that is no URL": (
        ("--space", LR, "--storage", "localhost"),
        "--storage got no URL, expected one such as postgresql://USER@HOST/NAME",
    ),
    "no trials": (("--space", LR, "--trials", "0"), '--trials got "0", expected a whole number at least 1'),
    "an unknown sampler": (
        ("--space", LR, "--sampler", "best"),
        '--sampler got "best", expected one of tpe, random, grid',
    ),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("data"), per_class=6)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder to work in, and signals as they were afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("KENNEL_CACHE_DIR", raising=False)
    yield tmp_path
    stop_signal.release()


def said(capfd: pytest.CaptureFixture[str], here: Path, *flags: str) -> str:
    """The one sentence that `tune FLAGS` ends with, exit code 1 and nothing done."""
    before = {path for path in here.rglob("*") if path.is_file()}
    assert main(["--cache-dir", "cache", *flags]) == 1
    caught = capfd.readouterr()
    assert "Traceback" not in caught.out + caught.err
    assert caught.err.startswith("error: ")
    assert caught.err.count("\n") == 1
    assert not (here / "cache").exists() or list((here / "cache").iterdir()) == []
    left = {path for path in here.rglob("*") if path.is_file()} - before
    assert {path.name for path in left} <= {"study.lock"}
    return caught.err.removeprefix("error: ").removesuffix("\n")


@pytest.mark.parametrize("flags", [pytest.param(case, id=name) for name, case in REFUSED.items()])
def test_what_cannot_be_searched_is_refused_in_a_sentence_before_any_work(
    flags: tuple[tuple[str, ...], str], data: Path, here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    given, sentence = flags
    assert said(capfd, here, "--data", str(data), *SMALL, *given) == sentence


def test_a_damaged_space_file_is_named(data: Path, here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (here / "space.yaml").write_text("lr: {type: continuous, min: 0.001\nbatch-size: [")
    sentence = said(capfd, here, "--data", str(data), *SMALL, "--space", "space.yaml")
    assert sentence.startswith("search space space.yaml is not readable YAML: ")


def test_a_data_folder_that_is_not_there_is_named(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    sentence = said(capfd, here, "--data", "absent", *SMALL, "--space", LR)
    assert sentence.startswith("data folder 'absent' does not exist")


def test_hosts_that_share_no_storage_would_search_alone(
    data: Path, here: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = here / "ml" / "input" / "config"
    config.mkdir(parents=True)
    hosts = {"current_host": "algo-1", "hosts": ["algo-1", "algo-2"], "network_interface_name": "eth0"}
    (config / "resourceconfig.json").write_text(json.dumps(hosts))
    monkeypatch.setenv("SAGEMAKER_BASE_DIR", str(here / "ml"))
    assert main(["--cache-dir", "cache", "--data", str(data), *SMALL, "--space", LR]) == 1
    sentence = "2 hosts would each search alone: give one, or a --storage that all can reach"
    assert capfd.readouterr().err == f"error: {sentence}\n"
    assert (here / "ml" / "output" / "failure").read_text() == sentence
    assert not (here / "cache").exists()


def test_a_trial_that_diverges_fails_with_its_reason_and_the_search_goes_on(
    data: Path, cache: Path, tmp_path: Path
) -> None:
    space = {"lr": {"type": "categorical", "values": [0.001, 1000.0, 0.01]}}
    wild = ("--optimizer", "sgd", "--schedule", "constant", "--weight-decay", "1000")
    flags = (*SMALL, *wild, "--space", json.dumps(space), "--sampler", "grid", "--epochs", "4")
    searched = search(tmp_path, cache, "--data", str(data), *flags)
    (failed,) = [trial for trial in searched.trials if trial["TrainingJobStatus"] == "Failed"]
    assert failed["lr"] == "1000.0"
    assert failed["reason"].startswith("the loss is not finite in epoch ")
    assert failed["reason"].endswith(": the training diverged, use a --lr below 1000")
    assert failed["FinalObjectiveValue"] == ""
    assert [trial["TrainingJobStatus"] for trial in searched.trials].count("Completed") == 2
    assert searched.lines("trials: ")[0] == "trials: 2 complete, 1 failed"
    (line,) = [line for line in searched.log if "state=failed" in line]
    assert line.endswith(f" reason: {failed['reason']}")
    assert "the training diverged" in (searched.folder / "tuning.html").read_text()


def test_a_backbone_that_cannot_see_such_pictures_fails_and_the_others_are_tried(
    data: Path, cache: Path, tmp_path: Path
) -> None:
    space = {"arch": {"type": "categorical", "values": ["alexnet", "resnet18"]}}
    flags = (*SMALL, "--space", json.dumps(space), "--sampler", "grid")
    searched = search(tmp_path, cache, "--data", str(data), *flags)
    of_arch = {trial["arch"]: trial for trial in searched.trials}
    assert of_arch["resnet18"]["TrainingJobStatus"] == "Completed"
    assert of_arch["alexnet"]["TrainingJobStatus"] == "Failed"
    assert of_arch["alexnet"]["reason"].startswith("architecture alexnet does not take pictures of 32 x 32 px")


def test_batches_of_one_fail_where_batch_statistics_are_learnt(data: Path, cache: Path, tmp_path: Path) -> None:
    """Which of two settings is to blame cannot be known before: each is fine with others."""
    space = {"batch-size": {"type": "categorical", "values": [1, 8]}}
    flags = (*SMALL, "--space", json.dumps(space), "--sampler", "grid", "--freeze", "none", "--image-size", "32")
    searched = search(tmp_path, cache, "--data", str(data), *flags, "--epochs", "1")
    of_size = {trial["batch-size"]: trial for trial in searched.trials}
    assert of_size["8"]["TrainingJobStatus"] == "Completed"
    assert of_size["1"]["reason"].startswith("batches of one image cannot train batch normalisation")


def test_when_all_trials_fail_the_first_reason_is_the_error_and_the_results_are_there(
    data: Path, cache: Path, tmp_path: Path
) -> None:
    space = {"arch": {"type": "categorical", "values": ["alexnet", "squeezenet1_0"]}}
    flags = (*SMALL, "--space", json.dumps(space), "--sampler", "grid", "--image-size", "16")
    with pytest.raises(UserError, match=r"all of 2 trials failed; the first one's reason: architecture ") as caught:
        search(tmp_path, cache, "--data", str(data), *flags)
    trials = rows(tmp_path / "out")
    assert [trial["TrainingJobStatus"] for trial in trials] == ["Failed", "Failed"]
    assert str(caught.value).endswith(trials[0]["reason"])
    assert "No trial is complete." in (tmp_path / "out" / "tuning.html").read_text()
    assert not (tmp_path / "out" / "best_hyperparameters.json").exists()


def test_weights_that_are_not_there_are_no_trials_fault_and_nothing_is_recorded(
    data: Path, tmp_path: Path, here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    flags = ("--data", str(data), *SMALL, "--weights", "absent.pth", "--space", LR, "--trials", "2")
    for _ in range(2):  # the second time it would know of trials that failed, had they been recorded
        assert main(["--cache-dir", "cache", *flags]) == 1
        said = capfd.readouterr()
        assert "absent.pth" in said.err
        assert said.err.count("\n") == 1
        assert "are over already" not in said.out or "study: 0 trials" in said.out
        assert not (here / "out" / "tune" / "trials.csv").exists()
