import json
from pathlib import Path

import pytest

from serving import bundle, golden
from serving.engines import open_engine
from tests.containers.jobs import Job, run_job
from tests.support import engine
from tests.support.engine import Made
from tests.support.folders import COLORS, write_images

pytestmark = pytest.mark.docker


def test_a_sagemaker_job_leaves_a_whole_bundle_in_its_model_folder(trained: Job) -> None:
    assert trained.code == 0, trained.logs
    made = bundle.read(trained.root / "model")
    assert made.manifest.labels == tuple(sorted(COLORS))
    assert made.manifest.hyperparameters["lr"] == 0.001
    golden.check(made, open_engine("onnx", made, threads=1))
    assert not (trained.root / "output" / "failure").exists()


def test_its_log_has_the_line_that_metric_regexes_read(trained: Job) -> None:
    assert "epoch=1 train_loss=" in trained.logs
    assert "test_accuracy=" in trained.logs


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [("lr", '"fast"', "'lr' got \"fast\", expected a number"), ("learning-rats", "0.1", "'learning-rats' is unknown")],
)
def test_a_bad_hyperparameter_is_exit_code_1_and_the_sentence_in_the_failure_file(
    images: Made, tmp_path: Path, name: str, value: str, sentence: str
) -> None:
    write_images(tmp_path / "ml" / "input" / "data" / "training", per_class=1)
    job = run_job(tmp_path / "ml", {name: value})
    failure = (job.root / "output" / "failure").read_text()
    assert job.code == 1
    assert sentence in failure
    assert failure in job.logs
    assert "Traceback" not in job.logs


def test_any_user_may_train_without_network(images: Made, tmp_path: Path) -> None:
    data = write_images(tmp_path / "io" / "data", per_class=2)
    out = tmp_path / "io" / "out"
    out.mkdir()
    out.chmod(0o777)
    flags = ("--data", "/io/data", "--model-dir", "/io/out/model", "--arch", "resnet18", "--weights", "none")
    small = ("--freeze", "none", "--image-size", "32", "--epochs", "1", "--batch-size", "4")
    options = ("--volume", f"{data.parent}:/io", "--network", "none", "--user", "12345")
    with engine.container("kennel-training:cuda", "train", *flags, *small, options=options) as job:
        assert job.wait() == 0, job.logs
        engine.docker("cp", f"{job.name}:/io/out/model/bundle.json", str(tmp_path / "bundle.json"))
    assert json.loads((tmp_path / "bundle.json").read_text())["labels"] == sorted(COLORS)


def test_the_launcher_lists_the_stages(images: Made) -> None:
    assert "train" in engine.docker("run", "--rm", "--network", "none", "kennel-training:launcher", "--help")
