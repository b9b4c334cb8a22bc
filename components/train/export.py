"""From a trained network to a bundle: weights, ONNX graphs, golden inputs, what each engine makes of the test split."""

import csv
import io
import logging
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Final

import numpy as np
from safetensors.torch import save_file

from components.data.decode import Progress, Split
from components.report.mistakes import calibration_bins, expected_calibration_error
from components.train import activation_map
from components.train.calibrate import fit_temperature
from components.train.graph import Graph
from components.train.metrics import EpochResult, accuracy, cross_entropy, softmax
from components.train.quantize import Valid, choose_calibration, quantize
from serving import bundle, files, golden
from serving.bundle import Bundle, Calibration, EngineMetrics, Head, InputSpec, Manifest, Metrics
from serving.engines import TOLERANCE, Engine, Logits, open_engine
from serving.engines.torch_engine import TorchEngine
from serving.engines.torch_network import Network
from serving.errors import EngineError
from serving.machine import num_cpus
from serving.preprocess import preprocess

logger = logging.getLogger(__name__)

DEFAULT_ENGINE: Final = "onnx"
ENGINES: Final = (DEFAULT_ENGINE, "torch")
INT8_ENGINE: Final = "onnx-int8"
BATCH_SIZE: Final = 32
"""Pictures that an engine answers at once."""
NUM_COMPARED: Final = 16
"""Pictures of the valid split on which ONNX and torch are compared, beside the golden inputs."""
NUM_MEASURED: Final = 64
"""Pictures of the test split, evenly spread, that torch answers on a CPU: there it is slow, and not what serves."""
PACKAGES: Final = ("torch", "torchvision", "onnx", "onnxruntime", "pillow", "numpy")


@dataclass(frozen=True)
class Card:
    """What the bundle says of the model beside what is measured here."""

    architecture: str
    head: Head
    labels: tuple[str, ...]
    input: InputSpec
    hyperparameters: Mapping[str, str | int | float | bool | None]


@dataclass(frozen=True)
class Learnt:
    """What training ended with, beside the weights."""

    best: EpochResult
    """The epoch that they are of."""
    valid_logits: Logits | None = None
    """(N, K), where the head has answered the valid split already; None: the default engine is asked."""


@dataclass(frozen=True)
class Exported:
    """A bundle, and what its default engine made of the test split."""

    bundle: Bundle
    logits: Logits
    """(N, K)"""


def export(
    graph: Graph,
    card: Card,
    learnt: Learnt,
    splits: Mapping[str, Split],
    folder: Path,
    progress: Progress,
    *,
    int8_tolerance: float,
) -> Exported:
    """Write the bundle of a network to `folder`.

    A bundle that lies there stops being one first, so that no reader meets a mixture; foreign files stay.

    Args:
        graph: Of the trained network.
        card: What is known of it.
        learnt: What training ended with.
        splits: `train` gives the ranges of 8-bit activations, `valid` the temperature and whether 8 bits are enough,
            `test` the metrics.
        folder: Where to.
        progress: Told of every picture that an engine answers.
        int8_tolerance: By how many percentage points 8-bit integers may lower the accuracy on the valid split.

    Raises:
        EngineError: The exported graph and the network answer differently.
        BundleError: The network's logits are constant or not finite.
    """
    _clear(folder)
    graph.network.eval().cpu()
    _write_weights(graph.network, folder / bundle.WEIGHTS)
    graph.write(folder)
    draft = _draft(card, folder)
    engines = {name: open_engine(name, draft, max_batch_size=BATCH_SIZE) for name in ENGINES}
    valid, test = splits["valid"], splits["test"]
    exact = _in_float32(engines, draft)
    _compare(exact, valid)
    checked = np.ascontiguousarray(valid.pixels[:NUM_COMPARED])
    activation_map.write(folder, checked, engines[DEFAULT_ENGINE].infer(checked))
    valid_logits = learnt.valid_logits
    if valid_logits is None:
        valid_logits = _infer(engines[DEFAULT_ENGINE], valid, "valid", progress)
    if _quantize(folder, splits["train"], Valid(valid.pixels, valid.targets, valid_logits), int8_tolerance):
        engines[INT8_ENGINE] = open_engine(INT8_ENGINE, _draft(card, folder))
    _write_golden(engines | exact, card.input, folder / bundle.GOLDEN)
    logits = _infer(engines[DEFAULT_ENGINE], test, "test", progress)
    measured = {DEFAULT_ENGINE: _metrics(engines.pop(DEFAULT_ENGINE), logits, test)}
    measured |= {name: _measure(engine, test, progress) for name, engine in engines.items()}
    calibration = _calibrate(valid_logits, valid, logits, test)
    predictions = _predictions(test, logits, card.labels, calibration.temperature)
    files.write_text(folder / bundle.PREDICTIONS, predictions)
    manifest = _manifest(card, learnt.best, measured, calibration)
    return Exported(bundle.write(folder, manifest, _names(folder)), logits)


def _clear(folder: Path) -> None:
    """Make way for a bundle; what this one may not have goes, what is not of a bundle stays."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in (bundle.MANIFEST, bundle.ONNX_DATA, bundle.INT8_MODEL, bundle.ACTIVATION_MAP):
        (folder / name).unlink(missing_ok=True)
    files.sweep(folder)


def _write_weights(network: Network, path: Path) -> None:
    with files.written_aside(path) as aside:
        save_file({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, aside)


def _draft(card: Card, folder: Path) -> Bundle:
    """A bundle as far as engines look at it; its metrics are what the engines are about to measure."""
    manifest = Manifest.model_construct(
        architecture=card.architecture,
        head=card.head,
        labels=card.labels,
        input=card.input,
        files={name: bundle.describe_file(folder / name) for name in _names(folder)},
    )
    return Bundle(folder, manifest)


def _quantize(folder: Path, train: Split, valid: Valid, tolerance: float) -> bool:
    calibration = choose_calibration(train.pixels)
    return quantize(folder / bundle.ONNX_MODEL, folder / bundle.INT8_MODEL, calibration, valid, tolerance).is_written


def _calibrate(valid_logits: Logits, valid: Split, test_logits: Logits, test: Split) -> Calibration:
    """Fit the temperature on valid, and say on test, which it has not seen, what it is worth."""
    temperature = fit_temperature(valid_logits, valid.targets)
    before, after = (
        expected_calibration_error(calibration_bins(test.targets, softmax(test_logits, divisor)))
        for divisor in (1.0, temperature)
    )
    calibration = Calibration(temperature=temperature, ece_before=before, ece_after=after)
    logger.info(
        "calibration: temperature %.3f; expected calibration error on test %.4f, before %.4f",
        temperature,
        after,
        before,
    )
    return calibration


def _in_float32(engines: Mapping[str, Engine], draft: Bundle) -> dict[str, Engine]:
    """The same engines, as golden logits want them: on a GPU torch computes in bfloat16."""
    if engines["torch"].options["dtype"] == "float32":
        return dict(engines)
    return {**engines, "torch": TorchEngine(draft, num_cpus(), device="cpu")}


def _compare(engines: Mapping[str, Engine], valid: Split) -> None:
    pixels = np.ascontiguousarray(valid.pixels[:NUM_COMPARED])
    reference, other = (engines[name].infer(pixels) for name in ENGINES)
    difference = float(np.abs(reference - other).max() / max(1e-6, np.abs(other).max()))
    if not difference <= TOLERANCE:
        raise EngineError(
            f"the exported graph's logits are {difference:.1e} off torch's (relative), at most {TOLERANCE}"
        )
    logger.info("export: ONNX and torch logits differ by at most %.1e (relative)", difference)


def _write_golden(engines: Mapping[str, Engine], spec: InputSpec, path: Path) -> None:
    pixels, jpeg = golden.make_inputs(spec), golden.make_jpeg(spec)
    logits = {name: engine.infer(pixels) for name, engine in engines.items()}
    golden.write(path, golden.Golden(pixels, logits, jpeg, preprocess(jpeg, spec)))


def _infer(engine: Engine, split: Split, name: str, progress: Progress) -> Logits:
    answered = []
    for start in range(0, len(split.pixels), BATCH_SIZE):
        answered.append(engine.infer(np.ascontiguousarray(split.pixels[start : start + BATCH_SIZE])))
        progress(f"{name} with {engine.name}", min(start + BATCH_SIZE, len(split.pixels)), len(split.pixels))
    return np.concatenate(answered)


def _predictions(split: Split, logits: Logits, labels: Sequence[str], temperature: float) -> str:
    table = io.StringIO(newline="")
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["file", "label", "predicted", "probability"])
    probabilities = softmax(logits, temperature)
    for sample, winner, row in zip(split.samples, logits.argmax(axis=1), probabilities, strict=True):
        writer.writerow([sample.name, labels[sample.target], labels[winner], f"{row[winner]:.6f}"])
    return table.getvalue()


def _measure(engine: Engine, test: Split, progress: Progress) -> EngineMetrics:
    if engine.options.get("device") == "cpu":
        test = test.keep(np.unique(np.linspace(0, len(test.targets) - 1, NUM_MEASURED).astype(int)))
    return _metrics(engine, _infer(engine, test, "test", progress), test)


def _metrics(engine: Engine, logits: Logits, split: Split) -> EngineMetrics:
    return EngineMetrics(
        test_images=len(split.targets),
        test_accuracy=accuracy(logits, split.targets),
        test_loss=cross_entropy(logits, split.targets),
        options=engine.options,
    )


def _manifest(
    card: Card, best: EpochResult, measured: Mapping[str, EngineMetrics], calibration: Calibration
) -> Manifest:
    metrics = Metrics(
        test_accuracy=measured[DEFAULT_ENGINE].test_accuracy,
        valid_accuracy=best.valid_accuracy,
        valid_loss=best.valid_loss,
        engines=dict(measured),
    )
    return Manifest(
        architecture=card.architecture,
        head=card.head,
        labels=card.labels,
        input=card.input,
        metrics=metrics,
        calibration=calibration,
        hyperparameters=dict(card.hyperparameters),
        versions={"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _names(folder: Path) -> list[str]:
    """Files of a bundle that lie in `folder` already."""
    graphs = (bundle.ONNX_MODEL, bundle.ONNX_DATA, bundle.INT8_MODEL)
    written = (*graphs, bundle.ACTIVATION_MAP, bundle.WEIGHTS, bundle.GOLDEN, bundle.PREDICTIONS)
    return [name for name in written if (folder / name).exists()]
