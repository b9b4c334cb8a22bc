"""Stored inputs with the logits expected for them: a wrong runtime, file or decoder is found before traffic is.

golden.npz holds `pixels` (N, H, W, 3) uint8, `logits_<engine>` (N, K) float32 for each engine, `jpeg` (the bytes of one
made photograph) and `jpeg_pixels` (H, W, 3), what serving/preprocess.py made of it.
"""

import io
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from serving import files
from serving.bundle import GOLDEN, Bundle, InputSpec
from serving.engines import TOLERANCE, Engine, Logits
from serving.errors import BundleError
from serving.preprocess import Pixels, preprocess

NUM_INPUTS: Final = 4
PIXEL_TOLERANCE: Final = 1
"""Decoders built for other processors may round differently by one step of 255."""


@dataclass(frozen=True)
class Golden:
    """The content of golden.npz."""

    pixels: Pixels
    logits: Mapping[str, Logits]
    jpeg: bytes
    jpeg_pixels: Pixels


def make_inputs(spec: InputSpec) -> Pixels:
    """A few pictures that excite a network differently: blocks of seeded noise from coarse to fine, (N, H, W, 3)."""
    generator = np.random.default_rng(0)
    shape = (spec.height, spec.width)
    return np.stack([_blocks(generator, shape, cells=2 ** (2 + step)) for step in range(NUM_INPUTS)])


def make_jpeg(spec: InputSpec) -> bytes:
    """A seeded picture, not square and larger than the input, so that decoding, resizing and cropping all count."""
    shape = (spec.resize_size + 33, spec.resize_size * 2 + 7)
    smooth = _blocks(np.random.default_rng(1), (12, 16), cells=12)
    image = Image.fromarray(smooth).resize((shape[1], shape[0]), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def write(path: Path, golden: Golden) -> None:
    """Write golden.npz.

    Raises:
        BundleError: Logits are not finite, or the same for every input: they would check nothing.
    """
    for engine, logits in golden.logits.items():
        if not np.isfinite(logits).all():
            raise BundleError(f"the {engine} engine answers logits that are not finite: the training diverged")
        if np.ptp(logits, axis=0).max() <= TOLERANCE * _scale(logits):
            raise BundleError(
                f"the {engine} engine answers the same logits to every input: the model ignores "
                "its input, train it longer or at a larger --image-size"
            )
    arrays: dict[str, NDArray[np.generic]] = {f"logits_{name}": logits for name, logits in golden.logits.items()}
    with files.written_aside(path) as aside, aside.open("wb") as file:
        np.savez_compressed(
            file,
            allow_pickle=False,
            pixels=golden.pixels,
            jpeg=np.frombuffer(golden.jpeg, dtype=np.uint8),
            jpeg_pixels=golden.jpeg_pixels,
            **arrays,
        )


def read(bundle: Bundle) -> Golden:
    """Read golden.npz.

    Raises:
        BundleError: It is not what `write` writes.
    """
    path = bundle.file(GOLDEN)
    try:
        # From a file of our own: numpy leaves the one that it opens itself open when it is no archive.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            logits = {name.removeprefix("logits_"): arrays[name] for name in arrays if name.startswith("logits_")}
            return Golden(arrays["pixels"], logits, arrays["jpeg"].tobytes(), arrays["jpeg_pixels"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise BundleError(f"{str(path)!r} does not hold golden inputs: {error}") from error


def check(bundle: Bundle, engine: Engine) -> float:
    """Compare what decoder and engine answer here with what they answered where the bundle was made.

    Returns:
        The largest difference of logits, relative to the largest logit.

    Raises:
        BundleError: It is over the engine's tolerance, pixels differ by more than `PIXEL_TOLERANCE`, or nothing is
            expected of this engine.
    """
    golden = read(bundle)
    if engine.name not in golden.logits:
        raise BundleError(
            f"bundle in {str(bundle.folder)!r} has golden logits of {sorted(golden.logits)}, none of {engine.name!r}"
        )
    _check_pixels(golden, bundle.manifest.input)
    expected = golden.logits[engine.name]
    difference = float(np.abs(engine.infer(golden.pixels) - expected).max() / _scale(expected))
    if not difference <= engine.tolerance:  # written so that NaN fails
        raise BundleError(
            f"the {engine.name} engine answers golden inputs with logits {difference:.1e} off (relative), at most "
            f"{engine.tolerance:.0e}: model and expectation do not belong together, or this machine computes otherwise"
        )
    return difference


def _check_pixels(golden: Golden, spec: InputSpec) -> None:
    pixels = preprocess(golden.jpeg, spec)
    if pixels.shape != golden.jpeg_pixels.shape:
        raise BundleError(f"the golden JPEG becomes {pixels.shape} pixels, expected {golden.jpeg_pixels.shape}")
    difference = int(np.abs(pixels.astype(int) - golden.jpeg_pixels.astype(int)).max())
    if difference > PIXEL_TOLERANCE:
        raise BundleError(
            f"the golden JPEG decodes {difference} steps of 255 off, at most {PIXEL_TOLERANCE}: another decoder"
        )


def _blocks(generator: np.random.Generator, shape: tuple[int, int], cells: int) -> Pixels:
    """Squares of random colour, `cells` of them along each side."""
    coarse = generator.integers(0, 256, (cells, cells, 3), dtype=np.uint8)
    rows = np.arange(shape[0]) * cells // shape[0]
    columns = np.arange(shape[1]) * cells // shape[1]
    blocks: Pixels = coarse[rows][:, columns]
    return blocks


def _scale(logits: Logits) -> float:
    return max(1e-6, float(np.abs(logits).max()))
