"""The graph in 8-bit integers: two to three times as fast on a CPU, written only when it lost next to nothing.

Activations are uint8, weights int8 with a scale for each output channel. Weights use 7 of their 8 bits
(`reduce_range`): processors without VNNI add two products in 16 bits and saturate. Between Zen 4 and an emulated
Haswell the logits of a ResNet-18 differed by 10 % with 8 bits; with 7 they were the same bit by bit.

What comes before the first convolution (cast, normalisation) and the classifier stay in float: pixels would be rounded
twice, and the last layer costs no time but decides between close labels.
"""

import logging
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from serving import files
from serving.bundle import ONNX_DATA
from serving.engines import Logits
from serving.machine import num_cpus
from serving.preprocess import Pixels

logger = logging.getLogger(__name__)

NUM_CALIBRATION: Final = 256
"""Pictures by which the ranges of activations are found."""
MIN_VALID: Final = 500
"""With fewer pictures half a percentage point is two pictures or less: nothing to decide by."""
MIN_AGREEMENT: Final = 0.98
BATCH_SIZE: Final = 16
NUM_TIMED: Final = 9

QUANTIZED: Final = (
    *("Conv", "Gemm", "MatMul"),  # where the time goes
    *("Relu", "Clip", "Concat", "MaxPool", "AveragePool", "GlobalAveragePool", "ReduceMean"),  # what joins them
    *("Mul", "Sigmoid"),  # squeeze-and-excitation, SiLU: EfficientNet-B0 becomes 1.2 times as fast by them alone
    *("Flatten", "Reshape", "Squeeze", "Unsqueeze", "Transpose", "Split", "Slice", "Gather"),  # what only moves values
)
"""Operators that may run on integers. The rest of a network (softmax, layer norm, GELU) stays float.

Additions too: between convolutions they become integer all the same, and in a transformer the sum that runs through all
blocks does not fit 8 bits (ViT-B/32 on digits: 96.4 % of the labels of float32 with them, 100 % without).
"""


@dataclass(frozen=True)
class Valid:
    """The valid split, and what the float graph makes of it."""

    pixels: Pixels
    """(N, H, W, 3)"""
    targets: NDArray[np.int64]
    """(N,)"""
    logits: Logits
    """(N, K), of the float graph."""


@dataclass(frozen=True)
class Verdict:
    """Whether the integer graph was written, and why."""

    is_written: bool
    reason: str
    """A sentence for the log."""


def choose_calibration(pixels: Pixels) -> Pixels:
    """Pictures to find ranges by, spread evenly over a split that may lie in order of its labels."""
    places = np.linspace(0, len(pixels) - 1, min(NUM_CALIBRATION, len(pixels))).round().astype(int)
    return np.ascontiguousarray(pixels[places])


def quantize(model: Path, into: Path, calibration: Pixels, valid: Valid, tolerance: float) -> Verdict:
    """Write the graph `model` in 8-bit integers to `into`, if it is as good; otherwise `into` is left away.

    Args:
        model: float32, uint8 pixels (N, H, W, 3) in, logits (N, K) out.
        into: Where the integer graph belongs.
        calibration: (N, H, W, 3), pictures of the train split; a few hundred do.
        valid: Decides.
        tolerance: By how many percentage points accuracy on the valid split may drop.

    Returns:
        What was decided. A graph that cannot be quantised is a reason, not an error.
    """
    into.unlink(missing_ok=True)
    verdict = _reason_not_to_try(model, calibration, valid) or _try(model, into, calibration, valid, tolerance)
    logger.info("%s: %s, %s", into.name, "written" if verdict.is_written else "not written", verdict.reason)
    return verdict


def _reason_not_to_try(model: Path, calibration: Pixels, valid: Valid) -> Verdict | None:
    if len(valid.targets) < MIN_VALID:
        found = f"the valid split has {len(valid.targets)} images"
        return Verdict(False, f"{found}, at least {MIN_VALID} are needed to tell whether accuracy holds")
    if len(calibration) == 0:
        return Verdict(False, "there are no images of the train split to find the ranges of activations by")
    if (model.parent / ONNX_DATA).exists():
        return Verdict(False, "weights over 2 GB are not quantised: it would take many times their size in memory")
    return None


def _try(model: Path, into: Path, calibration: Pixels, valid: Valid, tolerance: float) -> Verdict:
    # Beside the graph: what a killed process leaves there is swept at the next start.
    with tempfile.TemporaryDirectory(prefix=files.ASIDE_PREFIX, dir=into.parent) as folder:
        draft = Path(folder) / "int8.onnx"
        try:
            convert(model, draft, calibration)
            logits = _infer(draft, valid.pixels)
            speedup = _speedup(model, draft, valid.pixels[:1])
        except Exception as error:  # onnx and its quantiser raise many kinds on operators that they do not know
            logger.debug("quantisation failed", exc_info=True)
            return Verdict(False, f"the graph cannot be quantised: {type(error).__name__}: {_first_line(error)}")
        verdict = _judge(logits, valid, tolerance, speedup)
        if verdict.is_written:
            files.write_bytes(into, draft.read_bytes())
    return verdict


def _judge(logits: Logits, valid: Valid, tolerance: float, speedup: float) -> Verdict:
    labels, expected = logits.argmax(axis=1), valid.logits.argmax(axis=1)
    drop = 100 * float((expected == valid.targets).mean() - (labels == valid.targets).mean())
    agreement = float((labels == expected).mean())
    facts = (
        f"accuracy on the valid split {'drops' if drop >= 0 else 'rises'} by {abs(drop):.2f} points, "
        f"{agreement:.2%} of the labels are those of float32, and one picture takes 1/{speedup:.1f} of the time"
    )
    if not np.isfinite(logits).all():
        return Verdict(False, "its logits are not finite")
    if drop > tolerance + 1e-9:  # a drop of exactly the tolerance may come out a rounding error above it
        return Verdict(False, f"{facts}; accuracy may drop by at most {tolerance:g} points (--int8-tolerance)")
    if agreement < MIN_AGREEMENT:
        return Verdict(False, f"{facts}; at least {MIN_AGREEMENT:.0%} have to be")
    return Verdict(True, facts)


def convert(model: Path, into: Path, calibration: Pixels) -> None:
    """Write the integer graph, good or bad; see `quantize`.

    Ranges go from the smallest to the largest value seen. Ranges that leave out outliers (the outermost 0.001 %) took
    four times as long and changed the share of float32's labels by a point at most: up for MobileNetV2, down for
    ResNet-18 and EfficientNet-B0, not at all for DenseNet-121.
    """
    prepared = into.with_name("prepared.onnx")
    # Folds batch norms and constants, and gives every tensor its shape: without one it would not be quantised.
    with _quiet(), _temporary_files_in(into.parent):
        quant_pre_process(model, prepared, skip_symbolic_shape=True)
        _quantize_static(prepared, into, calibration)


def _quantize_static(prepared: Path, into: Path, calibration: Pixels) -> None:
    quantize_static(
        prepared,
        into,
        _Reader(calibration),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=list(QUANTIZED),
        per_channel=True,
        reduce_range=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        nodes_to_exclude=_kept_in_float(onnx.load(prepared, load_external_data=False)),
        calibrate_method=CalibrationMethod.MinMax,
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """onnxruntime warns, through the root logger, of every layer that it leaves alone: not for users."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


@contextmanager
def _temporary_files_in(folder: Path) -> Iterator[None]:
    """onnxruntime makes folders of its own, as large as the graph: a killed process would leave them in /tmp."""
    before, tempfile.tempdir = tempfile.tempdir, str(folder)
    try:
        yield
    finally:
        tempfile.tempdir = before


def _kept_in_float(model: onnx.ModelProto) -> list[str]:
    """Names of the nodes before the first layer with weights, and of the last such layer."""
    nodes = list(model.graph.node)
    layers = [place for place, node in enumerate(nodes) if node.op_type in {"Conv", "Gemm", "MatMul"}]
    return [node.name for node in nodes[: layers[0]]] + [nodes[layers[-1]].name]


def _session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_cpus()
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _speedup(model: Path, draft: Path, picture: Pixels) -> float:
    """How many times as fast the integers are here, a picture at a time, by the median of a few runs.

    It is said and decides nothing: another machine may have other instructions (ConvNeXt is slower with integers).
    """
    medians = []
    for session in map(_session, (model, draft)):
        seconds = []
        for _ in range(NUM_TIMED):
            started = time.perf_counter()
            session.run(None, {"pixels": np.ascontiguousarray(picture)})
            seconds.append(time.perf_counter() - started)
        medians.append(float(np.median(seconds)))
    return medians[0] / medians[1]


def _infer(path: Path, pixels: Pixels) -> Logits:
    session = _session(path)
    answered = [session.run(None, {"pixels": batch})[0] for batch in _batches(pixels)]
    return np.concatenate(answered)


def _batches(pixels: Pixels) -> Iterator[Pixels]:
    for start in range(0, len(pixels), BATCH_SIZE):
        yield np.ascontiguousarray(pixels[start : start + BATCH_SIZE])


class _Reader(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
    """Hands pictures to the quantiser, which asks until it gets None."""

    def __init__(self, pixels: Pixels) -> None:
        self._batches = _batches(pixels)

    def get_next(self) -> dict[str, Pixels] | None:
        batch = next(self._batches, None)
        return None if batch is None else {"pixels": batch}


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "")
