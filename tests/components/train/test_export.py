"""From a network to a bundle, without a training before it."""

import csv
import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from components.cache import Cache
from components.data.decode import Split
from components.data.index import Sample
from components.model import input_spec
from components.report.mistakes import calibration_bins, expected_calibration_error
from components.train.export import Card, Learnt, export
from components.train.graph import Graph
from components.train.metrics import EpochResult, softmax
from serving import bundle, golden
from serving.bundle import Bundle, Head
from serving.engines import open_engine
from serving.engines.activation_map import ActivationMaps
from serving.engines.torch_network import Network
from serving.errors import BundleError
from serving.writers import Answer, write_json
from tests.support.images import noise
from tests.support.networks import settled

LABELS = ("dark", "grey", "light")
LINEAR = Head(kind="linear")
BEST = EpochResult(1, 0.0, 0.0, 1.0, 0.0, 0.1, 1.0, 1.0, 0.0)


def split(name: str, count: int, size: int = 32) -> Split:
    """Noise around three levels of brightness; of every twentieth picture the target is another."""
    shown = np.arange(count) % len(LABELS)
    textures = np.stack([noise(size, size, seed=seed) for seed in range(count)])
    pixels = (textures // 4 + shown[:, None, None, None] * 80).astype(np.uint8)
    targets = np.where(np.arange(count) % 20 == 7, (shown + 1) % len(LABELS), shown)
    samples = tuple(Sample(Path(f"{n}.jpg"), f"{name}/{n}.jpg", int(target)) for n, target in enumerate(targets))
    return Split(samples, pixels, targets, tuple(sample.name for sample in samples), "pixels-1")


def fitted(train: Split, size: int) -> Network:
    """Random convolutions with a head fitted to what they say."""
    network = settled("resnet18", size)
    features: list[torch.Tensor] = []
    handle = network.head.register_forward_hook(lambda _module, inputs, _output: features.append(inputs[0]))
    with torch.inference_mode():
        network(torch.from_numpy(train.pixels))
        handle.remove()
        # Ridge regression: without the ridge the head would live on differences that no 8 bits hold.
        inputs = torch.cat([features[0], torch.ones(len(train.targets), 1)], dim=1)
        wanted = 4 * nn.functional.one_hot(torch.from_numpy(train.targets)).float()
        squares = inputs.T @ inputs
        ridge = 1e-3 * squares.diagonal().mean() * torch.eye(len(squares))
        solution = torch.linalg.solve(squares + ridge, inputs.T @ wanted)
        network.head.get_parameter("weight").copy_(solution[:-1].T)
        network.head.get_parameter("bias").copy_(solution[-1])
    return network


@dataclass(frozen=True)
class Exported:
    splits: dict[str, Split]
    bundle: Bundle


def export_to(folder: Path, splits: dict[str, Split], size: int = 32) -> Bundle:
    spec = input_spec(size)
    card = Card("resnet18", LINEAR, LABELS, spec, {})
    graph = Graph(fitted(splits["train"], size), spec, Cache(Path(os.environ["KENNEL_CACHE_DIR"])))
    return export(graph, card, Learnt(BEST), splits, folder, lambda *_: None, int8_tolerance=0.5).bundle


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    splits = {"train": split("train", 600), "valid": split("valid", 520), "test": split("test", 120)}
    return Exported(splits, export_to(tmp_path_factory.mktemp("export") / "model", splits))


def test_the_integer_graph_is_a_third_engine_with_metrics_and_golden_logits(exported: Exported) -> None:
    manifest = exported.bundle.manifest
    assert set(manifest.metrics.engines) == {"onnx", "torch", "onnx-int8"}
    assert manifest.metrics.engines["onnx-int8"].test_accuracy == pytest.approx(
        manifest.metrics.test_accuracy, abs=0.02
    )
    assert manifest.files["model.int8.onnx"].size_bytes < manifest.files["model.onnx"].size_bytes / 3
    for name in manifest.metrics.engines:
        assert golden.check(exported.bundle, open_engine(name, exported.bundle)) < 1e-3


def test_the_nodes_that_tell_where_the_model_looked_are_sealed_with_it(tmp_path: Path) -> None:
    splits = {name: split(name, 24, size=64) for name in ("train", "valid", "test")}
    made = export_to(tmp_path, splits, size=64)
    logits, maps = (
        made_by(splits["test"].pixels) for made_by in (open_engine("onnx", made).infer, ActivationMaps(made, 1).infer)
    )
    bias = load_file(made.file(bundle.WEIGHTS))["body.fc.bias"].numpy()
    np.testing.assert_allclose(maps.mean(axis=(2, 3)) + bias, logits, atol=1e-4 * np.abs(logits).max())


def test_features_of_a_single_place_have_no_map(exported: Exported) -> None:
    assert bundle.ACTIVATION_MAP not in exported.bundle.manifest.files


def test_the_temperature_is_kept_with_what_it_is_worth_on_the_test_split(exported: Exported) -> None:
    calibration, test = exported.bundle.manifest.calibration, exported.splits["test"]
    logits = open_engine("onnx", exported.bundle).infer(test.pixels)
    assert calibration.temperature != 1.0
    for error, temperature in ((calibration.ece_before, 1.0), (calibration.ece_after, calibration.temperature)):
        bins = calibration_bins(test.targets, softmax(logits, temperature))
        assert error == pytest.approx(expected_calibration_error(bins))
    assert calibration.ece_before is not None
    assert calibration.ece_after is not None
    assert calibration.ece_after < calibration.ece_before


def test_recorded_probabilities_are_those_that_the_server_answers(exported: Exported) -> None:
    manifest, test = exported.bundle.manifest, exported.splits["test"]
    logits = open_engine("onnx", exported.bundle).infer(test.pixels)
    with exported.bundle.file(bundle.PREDICTIONS).open(newline="") as file:
        recorded = list(csv.DictReader(file))
    assert len(recorded) == len(logits)
    for row, answer in zip(recorded, logits, strict=True):
        written = write_json(Answer(answer[np.newaxis], LABELS, 1, manifest.calibration.temperature, is_single=True))
        served = json.loads(written)["predictions"][0]
        assert served["label"] == row["predicted"]
        assert served["probability"] == pytest.approx(float(row["probability"]), abs=1e-5)


def test_a_bundle_over_another_keeps_no_graph_of_it(exported: Exported, tmp_path: Path) -> None:
    (tmp_path / "model.int8.onnx").write_bytes(b"of an earlier model")
    (tmp_path / "model.onnx.data").write_bytes(b"of an earlier model")
    (tmp_path / "activation_map.onnx").write_bytes(b"of an earlier model")
    few = exported.splits | {"valid": split("valid", 40)}
    made = export_to(tmp_path, few)
    assert set(made.manifest.metrics.engines) == {"onnx", "torch"}
    assert {path.name for path in tmp_path.iterdir()} == {*made.manifest.files, "bundle.json"}
    assert "model.int8.onnx" not in made.manifest.files


def test_weights_over_the_limit_lie_beside_the_graph_and_are_sealed_with_it(
    exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("components.train.graph.MAX_GRAPH_BYTES", 10**6)  # ResNet-18 has 45 MB
    made = export_to(tmp_path / "model", exported.splits | {"train": split("train", 60)})
    assert made.manifest.files["model.onnx"].size_bytes < 10**6 < made.manifest.files["model.onnx.data"].size_bytes
    assert "model.int8.onnx" not in made.manifest.files
    weights = [
        tensor
        for tensor in onnx.load(made.file("model.onnx"), load_external_data=False).graph.initializer
        if tensor.external_data
    ]
    assert {entry.value for tensor in weights for entry in tensor.external_data if entry.key == "location"} == {
        "model.onnx.data"
    }
    moved = (tmp_path / "model").rename(tmp_path / "elsewhere")
    again = bundle.read(moved)
    assert golden.check(again, open_engine("onnx", again)) < 1e-5
    (moved / "model.onnx.data").write_bytes((moved / "model.onnx.data").read_bytes()[:-1] + b"!")
    with pytest.raises(BundleError, match=r"model\.onnx\.data.*it was changed"):
        bundle.read(moved)
