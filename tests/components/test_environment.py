import errno
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
from components.environment import Environment, Hosts, detect
from serving.errors import ConfigError, DataError, PeerError


@pytest.fixture(autouse=True)
def _what_run_changes_is_put_back() -> Iterator[None]:
    root, handler = logging.getLogger(), signal.getsignal(signal.SIGTERM)
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level
    signal.signal(signal.SIGTERM, handler)


RESOURCES = {"current_host": "algo-2", "hosts": ["algo-1", "algo-2"], "network_interface_name": "eth0"}

# Of the second of two nodes, as the controllers set them.
TRAIN_JOB = {
    "PET_NNODES": "2",
    "PET_NPROC_PER_NODE": "4",
    "PET_NODE_RANK": "1",
    "PET_MASTER_ADDR": "job-node-0-0.job",
    "PET_MASTER_PORT": "29500",
}
OLD_PYTORCH_JOB = {
    "PET_NNODES": "2",
    "PET_NODE_RANK": "1",
    "MASTER_ADDR": "job-master-0",
    "MASTER_PORT": "23456",
    "RANK": "1",
    "WORLD_SIZE": "2",
}


@pytest.fixture
def opt_ml(tmp_path: Path) -> Path:
    config = tmp_path / "input" / "config"
    config.mkdir(parents=True)
    (config / "inputdataconfig.json").write_text(json.dumps({"training": {"TrainingInputMode": "File"}}))
    (config / "resourceconfig.json").write_text(json.dumps(RESOURCES))
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
    assert found.hosts == Hosts(count=2, rank=1, first="algo-1", port=7777, interface="eth0")


def test_a_host_that_is_not_of_the_job_is_named(opt_ml: Path) -> None:
    (opt_ml / "input" / "config" / "resourceconfig.json").write_text(json.dumps(RESOURCES | {"current_host": "algo-9"}))
    with pytest.raises(ConfigError, match="host 'algo-9' is not one of the job's hosts: algo-1, algo-2"):
        detect({"SAGEMAKER_BASE_DIR": str(opt_ml)})


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        (TRAIN_JOB, Hosts(2, 1, "job-node-0-0.job", 29500, processes=4)),
        (OLD_PYTORCH_JOB, Hosts(2, 1, "job-master-0", 23456)),
        (TRAIN_JOB | {"PET_NPROC_PER_NODE": "auto"}, Hosts(2, 1, "job-node-0-0.job", 29500)),
        ({"PET_NNODES": "1", "PET_NPROC_PER_NODE": "2"}, Hosts(processes=2)),
    ],
)
def test_a_kubeflow_job_gives_hosts(tmp_path: Path, variables: dict[str, str], expected: Hosts) -> None:
    assert detect(variables | {"SAGEMAKER_BASE_DIR": str(tmp_path)}).hosts == expected


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        ({"PET_NNODES": "1:3"}, r"PET_NNODES is '1:3', expected a whole number from 1; .*elasticPolicy"),
        ({"PET_NNODES": "0"}, "PET_NNODES is '0', expected a whole number from 1"),
        ({"PET_NODE_RANK": "-1"}, "PET_NODE_RANK is '-1', expected a whole number from 0"),
        ({"PET_NODE_RANK": "2"}, "PET_NODE_RANK is 2, expected less than the 2 of PET_NNODES"),
        ({"PET_NODE_RANK": None}, "PET_NODE_RANK is missing"),
        ({"PET_MASTER_ADDR": ""}, "PET_NNODES is 2 and PET_MASTER_ADDR is missing"),
        ({"PET_MASTER_PORT": "http"}, "PET_MASTER_PORT is 'http'"),
        ({"PET_NPROC_PER_NODE": "many"}, "PET_NPROC_PER_NODE is 'many'"),
    ],
)
def test_hosts_that_make_no_sense_are_refused(tmp_path: Path, variables: dict[str, str | None], sentence: str) -> None:
    merged = TRAIN_JOB | variables | {"SAGEMAKER_BASE_DIR": str(tmp_path)}
    with pytest.raises(ConfigError, match=sentence):
        detect({name: value for name, value in merged.items() if value is not None})


def test_the_checkpoint_folder_is_the_one_the_job_asked_for(opt_ml: Path) -> None:
    (opt_ml / "input" / "config" / "checkpointconfig.json").write_text(json.dumps({"LocalPath": "/mnt/elsewhere"}))
    assert detect({"SAGEMAKER_BASE_DIR": str(opt_ml)}).checkpoint_dir == Path("/mnt/elsewhere")


@pytest.mark.parametrize("content", ["{", "[1]"])
def test_a_broken_file_of_the_platform_is_named(opt_ml: Path, content: str) -> None:
    broken = opt_ml / "input" / "config" / "resourceconfig.json"
    broken.write_text(content)
    with pytest.raises(ConfigError, match="resourceconfig"):
        detect({"SAGEMAKER_BASE_DIR": str(opt_ml)})


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (PermissionError(errno.EACCES, "Permission denied", "/data"), "/data: Permission denied"),
        (OSError(errno.ENOSPC, "No space left on device"), "the disk: No space left on device"),
    ],
)
def test_what_the_disk_is_to_blame_for_is_a_sentence_without_traceback(
    error: OSError, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def stage(_: Environment) -> None:
        raise error

    assert environment.run(stage) == 1
    assert capsys.readouterr().err == f"error: {sentence}\n"


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


@pytest.mark.parametrize(
    ("order", "left"),
    [((PeerError("lost"), DataError("cause")), "cause"), ((DataError("cause"), PeerError("lost")), "cause")],
)
def test_of_several_processes_the_cause_is_left_for_the_one_that_started_them(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    order: tuple[Exception, ...],
    left: str,
) -> None:
    monkeypatch.setenv(environment.FAILURE_VARIABLE, str(tmp_path / "failure"))
    for error in order:

        def stage(_: Environment, error: Exception = error) -> None:
            raise error

        assert environment.run(stage) == 1
    assert (tmp_path / "failure").read_text() == left
    assert capfd.readouterr().err == ""


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
