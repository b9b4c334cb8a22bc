"""What the gate lets through, and what it keeps back, on a real graph that tells bright pictures from dark ones."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray

from components.train.quantize import MIN_VALID, NUM_CALIBRATION, Valid, choose_calibration, quantize
from serving.preprocess import Pixels
from tests.support import bundles
from tests.support.images import noise

NUM_LABELS = 3
COUNT = MIN_VALID + 10


def run(path: Path, pixels: Pixels, output: str | None = None) -> NDArray[np.float32]:
    model = onnx.load(path)
    if output is not None:
        model.graph.output.append(onnx.helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    answer: NDArray[np.float32] = session.run(None, {"pixels": pixels})[-1]
    return answer


@pytest.fixture(scope="module")
def pictures() -> tuple[Pixels, NDArray[np.int64]]:
    """Noise around three levels of brightness, and which."""
    targets = np.arange(COUNT) % NUM_LABELS
    textures = np.stack([noise(bundles.SPEC.height, bundles.SPEC.width, seed=seed) for seed in range(COUNT)])
    return (textures // 4 + targets[:, None, None, None] * 90).astype(np.uint8), targets


@pytest.fixture(scope="module")
def model(pictures: tuple[Pixels, NDArray[np.int64]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random convolutions, and a classifier fitted to them."""
    path = tmp_path_factory.mktemp("quantize") / "model.onnx"
    bundles.write_model(path, seed=0, num_labels=NUM_LABELS)
    pixels, targets = pictures
    features = np.concatenate([run(path, pixels, "flat"), np.ones((COUNT, 1), np.float32)], axis=1)
    solution = np.linalg.lstsq(features, np.eye(NUM_LABELS)[targets], rcond=None)[0].astype(np.float32)
    graph = onnx.load(path)
    for tensor in graph.graph.initializer:
        if tensor.name in {"weight", "bias"}:
            values = solution[:-1] if tensor.name == "weight" else solution[-1]
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.ascontiguousarray(values), tensor.name))
    onnx.save(graph, path)
    return path


@pytest.fixture
def valid(model: Path, pictures: tuple[Pixels, NDArray[np.int64]]) -> Valid:
    pixels, targets = pictures
    logits = run(model, pixels)
    assert (logits.argmax(axis=1) == targets).mean() > 0.99
    return Valid(pixels, targets, logits)


def test_a_graph_that_keeps_its_accuracy_is_written_and_answers_pixels(
    model: Path, valid: Valid, tmp_path: Path
) -> None:
    verdict = quantize(model, tmp_path / "int8.onnx", choose_calibration(valid.pixels), valid, 0.5)
    assert verdict.is_written, verdict.reason
    assert "% of the labels are those of float32" in verdict.reason
    logits = run(tmp_path / "int8.onnx", valid.pixels)
    assert (logits.argmax(axis=1) == valid.targets).mean() > 0.99
    assert np.abs(logits - valid.logits).max() > 0
    assert [path.name for path in tmp_path.iterdir()] == ["int8.onnx"]


def test_temporary_files_lie_beside_the_graph_where_the_next_start_finds_them(
    model: Path, valid: Valid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "absent"))  # nothing can be written there
    verdict = quantize(model, tmp_path / "int8.onnx", choose_calibration(valid.pixels), valid, 0.5)
    assert verdict.is_written, verdict.reason


def test_too_few_pictures_to_judge_by_write_nothing_and_take_away_what_was_there(
    model: Path, valid: Valid, tmp_path: Path
) -> None:
    stale = tmp_path / "int8.onnx"
    stale.write_bytes(b"of another model")
    few = Valid(valid.pixels[:499], valid.targets[:499], valid.logits[:499])
    verdict = quantize(model, stale, choose_calibration(valid.pixels), few, 0.5)
    assert not verdict.is_written
    assert verdict.reason.startswith("the valid split has 499 images, at least 500 are needed")
    assert not stale.exists()


def black(valid: Valid) -> Pixels:
    """Pictures whose activations say nothing about those of others: the ranges will be far too small."""
    return np.zeros_like(valid.pixels[:8])


def test_a_graph_that_loses_accuracy_is_kept_back_with_the_figures(
    model: Path, valid: Valid, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        verdict = quantize(model, tmp_path / "int8.onnx", black(valid), valid, 0.5)
    assert not verdict.is_written
    assert "accuracy on the valid split drops by" in verdict.reason
    assert "may drop by at most 0.5 points (--int8-tolerance)" in verdict.reason
    assert list(tmp_path.iterdir()) == []
    assert [record.message for record in caplog.records] == [f"int8.onnx: not written, {verdict.reason}"]


def test_the_tolerance_is_the_users(model: Path, valid: Valid, tmp_path: Path) -> None:
    verdict = quantize(model, tmp_path / "int8.onnx", black(valid), valid, 100)
    assert not verdict.is_written
    assert "at least 98% have to be" in verdict.reason


def test_a_graph_that_answers_other_labels_is_kept_back_even_when_it_is_as_often_right(
    model: Path, valid: Valid, tmp_path: Path
) -> None:
    never_right = Valid(valid.pixels, np.full_like(valid.targets, NUM_LABELS), valid.logits)
    verdict = quantize(model, tmp_path / "int8.onnx", black(valid), never_right, 0.5)
    assert not verdict.is_written
    assert "drops by 0.00 points" in verdict.reason
    assert "at least 98% have to be" in verdict.reason


def test_a_graph_that_cannot_be_quantised_is_a_reason_and_no_error(valid: Valid, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"no graph")
    verdict = quantize(tmp_path / "model.onnx", tmp_path / "int8.onnx", valid.pixels[:8], valid, 0.5)
    assert not verdict.is_written
    assert verdict.reason.startswith("the graph cannot be quantised: ")
    assert "\n" not in verdict.reason


def test_calibration_pictures_are_spread_over_a_split_in_order_of_its_labels() -> None:
    pixels = np.arange(10 * NUM_CALIBRATION, dtype=np.uint16).view(np.uint8).reshape(-1, 1, 1, 2)
    chosen = choose_calibration(pixels)[:, 0, 0].copy().view(np.uint16)[:, 0]
    assert len(chosen) == NUM_CALIBRATION
    assert (np.diff(chosen.astype(int)) >= 9).all()
    assert (chosen[0], chosen[-1]) == (0, 10 * NUM_CALIBRATION - 1)
    assert len(choose_calibration(pixels[:5])) == 5
