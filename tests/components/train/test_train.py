"""The train stage as a user runs it: a process, a folder in, a bundle out."""

import csv
import json
import os
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torchvision import models, transforms

from components.environment import Environment
from components.train.run import train
from components.train.settings import TrainSettings
from serving import bundle, golden
from serving.bundle import Bundle
from serving.engines import open_engine
from serving.errors import ConfigError, DataError
from serving.preprocess import preprocess
from tests.components.train.conftest import FLAGS, Trained, run_train
from tests.support import forked


def predictions(made: Bundle) -> list[dict[str, str]]:
    with made.file(bundle.PREDICTIONS).open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_bundle_says_what_it_is(trained: Trained) -> None:
    manifest = trained.bundle.manifest
    assert manifest.labels == ("apple", "lemon", "plum")
    assert manifest.architecture == "resnet18"
    assert (manifest.input.height, manifest.input.width) == (32, 32)
    assert manifest.hyperparameters["lr"] == 0.002
    assert set(manifest.versions) >= {"python", "torch", "onnxruntime"}
    assert set(manifest.files) == {"model.onnx", "model.safetensors", "golden.npz", "predictions.csv"}


def test_the_recorded_accuracy_is_that_of_the_recorded_predictions(trained: Trained) -> None:
    rows = predictions(trained.bundle)
    assert [row["file"] for row in rows] == [
        f"test/{label}/{n}.jpg" for label in trained.bundle.manifest.labels for n in range(8)
    ]
    correct = sum(row["label"] == row["predicted"] for row in rows) / len(rows)
    metrics = trained.bundle.manifest.metrics
    assert metrics.test_accuracy == metrics.engines["onnx"].test_accuracy == pytest.approx(correct)
    assert f"test_accuracy={correct:.4f}" in trained.log


@pytest.mark.parametrize("name", ["onnx", "torch"])
def test_golden_inputs_hold_for_each_engine(trained: Trained, name: str) -> None:
    engine = open_engine(name, trained.bundle)
    assert golden.check(trained.bundle, engine) <= engine.tolerance


def test_an_independent_reading_of_the_bundle_gives_the_same_logits(trained: Trained) -> None:
    """PIL, torchvision's transforms and eager torch, sharing no line of code with serving."""
    manifest = json.loads((trained.bundle.folder / "bundle.json").read_text())
    network = models.resnet18(num_classes=3)
    state = load_file(trained.bundle.folder / "model.safetensors")
    network.load_state_dict({name.removeprefix("body."): tensor for name, tensor in state.items()})
    network.eval()
    steps = [
        transforms.Resize(manifest["input"]["resize_size"]),
        transforms.CenterCrop((manifest["input"]["height"], manifest["input"]["width"])),
        transforms.ToTensor(),
        transforms.Normalize(manifest["input"]["mean"], manifest["input"]["std"]),
    ]
    engine = open_engine("onnx", trained.bundle)
    for row in predictions(trained.bundle):
        path = trained.data / row["file"]
        with Image.open(path) as image, torch.inference_mode():
            expected = network(transforms.Compose(steps)(image.convert("RGB"))[None]).numpy()
        logits = engine.infer(preprocess(path.read_bytes(), trained.bundle.manifest.input)[None])
        np.testing.assert_allclose(logits, expected, atol=2e-4, rtol=2e-4)
        assert manifest["labels"][int(expected.argmax())] == row["predicted"]


def test_the_graph_takes_pixels_of_any_batch_and_carries_normalisation(trained: Trained) -> None:
    session = onnxruntime.InferenceSession(trained.bundle.file("model.onnx"), providers=["CPUExecutionProvider"])
    (entry,) = session.get_inputs()
    assert (entry.type, entry.shape[1:]) == ("tensor(uint8)", [32, 32, 3])
    for count in (1, 3, 17):
        (logits,) = session.run(None, {entry.name: np.zeros((count, 32, 32, 3), dtype=np.uint8)})
        assert logits.shape == (count, 3)


def test_the_log_has_a_line_an_epoch_and_nothing_of_the_libraries(trained: Trained) -> None:
    lines = trained.log.splitlines()
    assert [line.split()[0] for line in lines if line.startswith("epoch=")] == ["epoch=1", "epoch=2"]
    assert [line for line in lines if "onnxscript" in line.lower() or "Warning" in line] == []
    with (trained.bundle.folder.parent / "model.output" / "metrics.jsonl").open() as file:
        assert [json.loads(line)["epoch"] for line in file] == [1, 2]


def test_a_sagemaker_job_learns_the_same_and_writes_where_the_platform_looks(trained: Trained, tmp_path: Path) -> None:
    config = tmp_path / "input" / "config"
    config.mkdir(parents=True)
    names = [flag.removeprefix("--") for flag in FLAGS[::2]]
    given = dict(zip(names, FLAGS[1::2], strict=True)) | {"arch": '"resnet18"', "image-size": '"\\"32\\""'}
    given["learning-rate"], given["batch_size"] = given.pop("lr"), given.pop("batch-size")
    (config / "hyperparameters.json").write_text(json.dumps(given))
    (tmp_path / "input" / "data").mkdir()
    (tmp_path / "input" / "data" / "training").symlink_to(trained.data)
    done = forked.run(forked.main, "components.train", [], environ=os.environ | {"SAGEMAKER_BASE_DIR": str(tmp_path)})
    assert done.returncode == 0, done.stderr
    made = bundle.read(tmp_path / "model").manifest
    assert made.hyperparameters["batch_size"] == 8
    assert made.files["model.safetensors"] == trained.bundle.manifest.files["model.safetensors"]
    for name in ("metrics.jsonl", "metrics.csv", "curves.html", "confusion_matrix.html"):
        assert (tmp_path / "output" / "data" / name).exists()
    assert list((tmp_path / "checkpoints").glob("checkpoint-*.pt"))
    assert not (tmp_path / "output" / "failure").exists()


def test_a_users_mistake_is_the_same_sentence_on_screen_and_in_the_failure_file(tmp_path: Path) -> None:
    config = tmp_path / "input" / "config"
    config.mkdir(parents=True)
    (config / "hyperparameters.json").write_text(json.dumps({"lr": '"fast"'}))
    done = run_train(SAGEMAKER_BASE_DIR=str(tmp_path))
    assert done.returncode == 1
    sentence = "hyperparameter 'lr' got \"fast\", expected a number above 0 and at most 1000"
    assert done.stderr == f"error: {sentence}\n"
    assert (tmp_path / "output" / "failure").read_text() == sentence


def test_a_wrong_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data folder '.*absent' does not exist"):
        train(TrainSettings(data=tmp_path / "absent", model_dir=tmp_path / "model"), Environment())


def test_a_model_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"cannot write to .*file"):
        train(TrainSettings(model_dir=tmp_path / "file" / "model"), Environment())
