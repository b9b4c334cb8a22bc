"""Searches in the training image, on small pictures and without network."""

import csv
import json
from pathlib import Path

import pytest

from tests.support import engine
from tests.support.engine import Made
from tests.support.folders import write_images

pytestmark = [pytest.mark.docker, pytest.mark.slow]

SPACE = """\
lr: {type: continuous, min: 0.001, max: 0.1, scale: log}
batch-size: {type: categorical, values: [4, 8]}
"""
SMALL = ("--arch", "resnet18", "--weights", "none", "--image-size", "32", "--epochs", "2")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Pictures and a space, for any user to read, and a place for any user to write to."""
    place = tmp_path / "io"
    write_images(place / "data", per_class=4)
    (place / "space.yaml").write_text(SPACE)
    (place / "out").mkdir()
    (place / "out").chmod(0o777)
    return place


def test_any_user_may_search_without_network_and_almost_without_shared_memory(
    images: Made, folder: Path, tmp_path: Path
) -> None:
    """Docker gives 64 MB of shared memory; workers are to need none of it."""
    flags = ("--data", "/io/data", "--space", "/io/space.yaml", "--trials", "3", "--parallel-trials", "2", *SMALL)
    places = ("--output-dir", "/io/out/tune", "--model-dir", "/io/out/model", "--keep-best")
    options = ("--volume", f"{folder}:/io", "--network", "none", "--user", "12345", "--shm-size", "64k")
    with engine.container("kennel-training:cuda", "tune", *flags, *places, options=options) as job:
        assert job.wait() == 0, job.logs
        logs = job.logs
        for name in ("best_hyperparameters.json", "trials.csv", "tuning.html"):
            engine.docker("cp", f"{job.name}:/io/out/tune/{name}", str(tmp_path / name))
        engine.docker("cp", f"{job.name}:/io/out/model/bundle.json", str(tmp_path / "bundle.json"))
    assert "Traceback" not in logs
    assert [line for line in logs.splitlines() if line.startswith("error")] == []
    with (tmp_path / "trials.csv").open(newline="") as file:
        trials = list(csv.DictReader(file))
    assert [trial["TrainingJobStatus"] for trial in trials] == ["Completed"] * 3
    best = min(trials, key=lambda trial: float(trial["valid_loss"]))
    found = json.loads((tmp_path / "best_hyperparameters.json").read_text())
    assert (found["lr"], found["batch-size"]) == (best["lr"], best["batch-size"])
    assert json.loads((tmp_path / "bundle.json").read_text())["hyperparameters"]["lr"] == float(best["lr"])
    assert logs.count("state=complete") == 3


def test_the_image_reaches_databases(images: Made) -> None:
    """A study in PostgreSQL needs its driver, which brings the client's library along."""
    code = "import optuna, psycopg, sqlalchemy.dialects.postgresql.psycopg; print(psycopg.pq.__impl__)"
    options = ("--rm", "--network", "none", "--entrypoint", "python")
    assert engine.docker("run", *options, "kennel-training:cuda", "-c", code) == "binary"


def test_a_database_that_does_not_answer_is_said_without_its_password(images: Made, folder: Path) -> None:
    flags = ("--data", "/io/data", "--space", "/io/space.yaml", "--output-dir", "/io/out/tune", *SMALL)
    storage = ("--storage", "postgresql://me:secret@127.0.0.1:1/none")
    options = ("--volume", f"{folder}:/io", "--network", "none")
    with engine.container("kennel-training:cuda", "tune", *flags, *storage, options=options) as job:
        assert job.wait() == 1
        logs = job.logs
    (sentence,) = [line for line in logs.splitlines() if line.startswith("error: ")]
    assert sentence.startswith("error: --storage postgresql://me:***@127.0.0.1:1/none cannot be used: ")
    assert "secret" not in logs
    assert "Traceback" not in logs


def test_the_launcher_translates_spaces_without_what_runs_them(images: Made) -> None:
    code = (
        "import json, sys\n"
        "from components.aws.ranges import to_sagemaker\n"
        "from components.kubeflow.katib import to_katib\n"
        "from components.tune.space import read_text\n"
        "space = read_text(sys.argv[1], 'space')\n"
        "assert not {'torch', 'optuna'} & set(sys.modules)\n"
        "print(json.dumps([sorted(to_sagemaker(space)), len(to_katib(space))]))\n"
    )
    options = ("--rm", "--network", "none", "--entrypoint", "python")
    ranges, count = json.loads(engine.docker("run", *options, "kennel-training:launcher", "-c", code, SPACE))
    assert ranges == ["CategoricalParameterRanges", "ContinuousParameterRanges", "IntegerParameterRanges"]
    assert count == 2
