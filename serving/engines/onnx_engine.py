"""ONNX Runtime on the CPU: the default engine, and the same in 8-bit integers."""

from pathlib import Path
from typing import ClassVar, Final

import numpy as np
import onnxruntime

from serving.bundle import INT8_MODEL, ONNX_MODEL, Bundle
from serving.engines import REMEDY, TOLERANCE, Logits, check_pixels
from serving.errors import BundleError, EngineError, OutOfMemory
from serving.preprocess import Pixels

OUT_OF_MEMORY: Final = ("bad_alloc", "bad allocation", "Failed to allocate memory")
"""How the runtime says so: of C++'s allocator and of its own."""

onnxruntime.set_default_logger_severity(3)  # its warnings about graph optimisation are not for users


class OnnxEngine:
    """Runs the bundle's model.onnx."""

    name = "onnx"
    file: ClassVar[str] = ONNX_MODEL
    dtype: ClassVar[str] = "float32"
    tolerance: float = TOLERANCE

    def __init__(self, bundle: Bundle, threads: int) -> None:
        self._session = open_session(bundle.file(self.file), threads)
        self._input = self._session.get_inputs()[0].name
        self._spec = bundle.manifest.input
        self._num_labels = len(bundle.manifest.labels)
        self._threads = threads

    @property
    def options(self) -> dict[str, str]:
        """Session options, as they bear on the last digits of the logits."""
        return {
            "runtime": f"onnxruntime {onnxruntime.__version__}",
            "threads": str(self._threads),
            "spinning": "off",
            "dtype": self.dtype,
        }

    def infer(self, pixels: Pixels) -> Logits:
        """See `Engine.infer`."""
        check_pixels(pixels, self._spec)
        try:
            (logits,) = self._session.run(None, {self._input: pixels})
        except Exception as error:  # the runtime's exceptions share no base class
            if _is_out_of_memory(error):
                raise OutOfMemory(f"there is not enough memory for a batch of {len(pixels)}: {REMEDY}") from error
            raise EngineError(f"ONNX Runtime failed on a batch of {len(pixels)}: {error}") from error
        if logits.shape != (len(pixels), self._num_labels):
            raise EngineError(f"the model answered {logits.shape}, expected ({len(pixels)}, {self._num_labels})")
        return np.asarray(logits, dtype=np.float32)


def open_session(path: Path, threads: int, appended: Path | None = None) -> onnxruntime.InferenceSession:
    """Load a graph on the CPU, with the nodes and outputs that the file `appended` adds to it.

    Raises:
        BundleError: It is not one that ONNX Runtime loads.
        OutOfMemory: It does not fit.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # A spinning thread takes a core from decoding and from neighbours: throughput halves beside a busy process.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Work is dealt out in blocks that get smaller, not halved: an interrupted thread keeps the others less long.
    options.add_session_config_entry("session.dynamic_block_base", "8")
    model: Path | bytes = path
    if appended is not None:
        model = path.read_bytes() + appended.read_bytes()
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(path.parent))
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # as above
        if _is_out_of_memory(error):
            raise OutOfMemory(f"there is not enough memory for the model: {REMEDY}") from error
        raise BundleError(f"{str(path)!r} is not a model that ONNX Runtime loads: {error}") from error


def _is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError) or any(words in str(error) for words in OUT_OF_MEMORY)


class Int8Engine(OnnxEngine):
    """Runs the bundle's model.int8.onnx: faster, and a little off. Nobody gets it who does not ask for it."""

    name = "onnx-int8"
    file = INT8_MODEL
    dtype = "uint8 activations, int8 weights"
    tolerance = 2e-2  # where a last bit differs, a value may fall on the next of 255 steps

    def __init__(self, bundle: Bundle, threads: int) -> None:
        if INT8_MODEL not in bundle.manifest.files:
            raise BundleError(
                f"bundle in {str(bundle.folder)!r} carries no {INT8_MODEL}, since it would have lost accuracy or could "
                "not be checked (train's log says which): use engine 'onnx'"
            )
        super().__init__(bundle, threads)
