import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from components import environment
from components.environment import Environment, detect
from serving.errors import ConfigError, DataError


@pytest.fixture(autouse=True)
def _what_run_changes_is_put_back() -> Iterator[None]:
    root, handler = logging.getLogger(), signal.getsignal(signal.SIGTERM)
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level
    signal.signal(signal.SIGTERM, handler)


@pytest.fixture
def opt_ml(tmp_path: Path) -> Path:
    config = tmp_path / "input" / "config"
    config.mkdir(parents=True)
    (config / "inputdataconfig.json").write_text(json.dumps({"training": {"TrainingInputMode": "File"}}))
    (config / "resourceconfig.json").write_text(json.dumps({"current_host": "algo-2", "hosts": ["algo-1", "algo-2"]}))
    (config / "hyperparameters.json").write_text("{}")
    (tmp_path / "input" / "data" / "weights").mkdir(parents=True)
    return tmp_path


def test_a_laptop_gives_nothing_but_defaults(tmp_path: Path) -> None:
    assert detect({"SAGEMAKER_BASE_DIR": str(tmp_path / "absent")}) == Environment()


def test_a_sagemaker_job_gives_folders_channels_and_hosts(opt_ml: Path) -> None:
    found = detect({"SAGEMAKER_BASE_DIR": str(opt_ml)})
    assert found.model_dir == opt_ml / "model"
    assert found.output_dir == opt_ml / "output" / "data"
    assert found.checkpoint_dir == opt_ml / "checkpoints"
    assert found.failure_file == opt_ml / "output" / "failure"
    # a channel is known from its configuration or from its folder: local mode leaves either out
    assert found.channels == {name: opt_ml / "input" / "data" / name for name in ("training", "weights")}
    assert (found.hosts, found.current_host) == (("algo-1", "algo-2"), "algo-2")


def test_the_checkpoint_folder_is_the_one_the_job_asked_for(opt_ml: Path) -> None:
    (opt_ml / "input" / "config" / "checkpointconfig.json").write_text(json.dumps({"LocalPath": "/mnt/elsewhere"}))
    assert detect({"SAGEMAKER_BASE_DIR": str(opt_ml)}).checkpoint_dir == Path("/mnt/elsewhere")


@pytest.mark.parametrize("content", ["{", "[1]"])
def test_a_broken_file_of_the_platform_is_named(opt_ml: Path, content: str) -> None:
    broken = opt_ml / "input" / "config" / "resourceconfig.json"
    broken.write_text(content)
    with pytest.raises(ConfigError, match="resourceconfig"):
        detect({"SAGEMAKER_BASE_DIR": str(opt_ml)})


def test_a_broken_file_of_the_platform_stands_in_the_failure_file(
    opt_ml: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAGEMAKER_BASE_DIR", str(opt_ml))
    (opt_ml / "input" / "config" / "resourceconfig.json").write_text("{")
    assert environment.run(lambda _: None) == 1
    assert "resourceconfig.json" in (opt_ml / "output" / "failure").read_text()


def test_a_users_mistake_is_one_sentence_exit_code_1_and_the_failure_file(
    opt_ml: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SAGEMAKER_BASE_DIR", str(opt_ml))

    def stage(_: Environment) -> None:
        raise DataError("folder 'x' has no classes")

    assert environment.run(stage) == 1
    assert (opt_ml / "output" / "failure").read_text() == "folder 'x' has no classes"
    assert capfd.readouterr().err == "error: folder 'x' has no classes\n"


def test_a_bug_shows_its_traceback_in_the_log_and_a_sentence_in_the_failure_file(
    opt_ml: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SAGEMAKER_BASE_DIR", str(opt_ml))

    def stage(_: Environment) -> None:
        raise ZeroDivisionError("x" * 5000)

    assert environment.run(stage) == 1
    failure = (opt_ml / "output" / "failure").read_text()
    assert "ZeroDivisionError" in failure
    assert len(failure) == 1024  # all that SageMaker shows
    assert "Traceback" in capfd.readouterr().err


def test_sigterm_ends_a_stage_with_143_and_no_traceback() -> None:
    code = (
        "import sys, time\n"
        "from components import environment\n"
        "def stage(_):\n"
        "    print('working', flush=True)\n"
        "    time.sleep(60)\n"
        "sys.exit(environment.run(stage))\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "working\n"
    os.kill(process.pid, signal.SIGTERM)
    output, _ = process.communicate(timeout=20)
    assert process.returncode == 143
    assert "goes on from the last checkpoint" in output
    assert "Traceback" not in output
