"""Pictures that come as numbers: what clients of AWS's PyTorch container send, a tensor as NumPy writes it.

Source of the format: NumPy's NEP 1; `numpy.lib.format` reads its header and nothing that would be executed.
"""

import io
import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray
from PIL import Image

from serving.bundle import InputSpec
from serving.errors import InvalidInput
from serving.headers import PIXEL_RANGES, PixelRange
from serving.preprocess import Pixels, check_count, check_size, resize_and_crop

DTYPES: Final = ("uint8", "float32", "float64")
CHANNELS: Final = 3
HEADERS: Final[dict[Any, Any]] = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
"""By version of the format; they read a literal, and evaluate nothing."""
MAX_HEADER_BYTES: Final = 4096
NUM_SIDES_TOLD: Final = 8
"""Of a shape, in messages."""
SLACK: Final = 1 / 255
"""So far outside of 0..1 rounding may take a float; further off, it is something else."""


def read_npy(data: bytes) -> list[NDArray[np.generic]]:
    """Pictures (H, W, 3) of an array (3, H, W), (H, W, 3) or a batch of such, uint8 or float; no copies are made.

    Raises:
        InvalidInput: It is no such array, or claims another size than it has.
    """
    stream = io.BytesIO(data)
    try:
        version = npy.read_magic(stream)  # type: ignore[no-untyped-call]  # numpy's
        shape, is_fortran, dtype = HEADERS[version](stream, max_header_size=MAX_HEADER_BYTES)
        name = dtype.newbyteorder("=").name
    except Exception as error:  # the header goes to Python's own parser, which raises several kinds
        raise InvalidInput(f"the body is not an array in NumPy's .npy format: {error}") from error
    if name not in DTYPES:
        raise InvalidInput(f"the array is of {dtype}, expected {' or '.join(DTYPES)}")
    check_shape(shape)
    content = memoryview(data)[stream.tell() :]
    num_bytes = math.prod(shape) * dtype.itemsize
    if num_bytes != len(content):
        raise InvalidInput(f"the array of {dtype} {shape} has {num_bytes} bytes, and {len(content)} came")
    array = np.frombuffer(content, dtype).reshape(shape, order="F" if is_fortran else "C")
    return split(array)


def to_pixels(array: NDArray[np.generic], spec: InputSpec, pixel_range: PixelRange) -> Pixels:
    """Pixels as the network sees them, by the way that every picture goes: 8 bits, resized, cropped.

    Args:
        array: (H, W, 3), uint8 or float.
        spec: The bundle's.
        pixel_range: What floats are.

    Raises:
        InvalidInput: Floats are not finite or not in that range; it is too large or too long.
    """
    check_size(array.shape[1], array.shape[0])
    pixels = array if array.dtype == np.uint8 else _to_8_bits(array, spec, pixel_range)
    return resize_and_crop(Image.fromarray(np.ascontiguousarray(pixels)), spec)


def _to_8_bits(array: NDArray[np.generic], spec: InputSpec, pixel_range: PixelRange) -> Pixels:
    values = _to_unit(array, spec, pixel_range)
    if not np.isfinite(values).all():
        raise InvalidInput("the array has values that are not finite")
    if not _is_unit(values):
        low, high = float(values.min()), float(values.max())
        raise InvalidInput(
            f"read as pixel_range={pixel_range}, the array's pixels reach from {low:.3g} to {high:.3g}, expected 0 to 1"
            f": {_advice(array, spec, pixel_range)}"
        )
    pixels: Pixels = np.rint(values.clip(0, 1) * 255).astype(np.uint8)
    return pixels


def _to_unit(array: NDArray[np.generic], spec: InputSpec, pixel_range: PixelRange) -> NDArray[np.float32]:
    """0..1, if the array is what it is said to be."""
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is refused by the caller
        values = array.astype(np.float32)
        if pixel_range == "normalized":
            values = values * np.array(spec.std, np.float32) + np.array(spec.mean, np.float32)
        return values


def _is_unit(values: NDArray[np.float32]) -> bool:
    return bool(values.min() >= -SLACK and values.max() <= 1 + SLACK)


def _advice(array: NDArray[np.generic], spec: InputSpec, pixel_range: PixelRange) -> str:
    """What would be read: the same array under the other name, only where that is so."""
    other = next(name for name in PIXEL_RANGES if name != pixel_range)
    if _is_unit(_to_unit(array, spec, other)):
        return f"send uint8, or the custom attribute pixel_range={other}"
    values = array.astype(np.float64)
    if values.min() >= 0 and values.max() <= 255:
        return "0 to 255 is read as uint8 alone, send the array as that"
    return "send uint8 from 0 to 255, or floats from 0 to 1 with the custom attribute pixel_range=unit"


def check_shape(shape: Sequence[int]) -> None:
    """Whether so many sides can be those of pictures; before numpy is asked to make an array of that shape.

    Raises:
        InvalidInput: There are more or fewer, or one is not at least 1.
    """
    if len(shape) not in {3, 4} or min(shape) < 1:
        said = str(tuple(shape)) if len(shape) <= NUM_SIDES_TOLD else f"of {len(shape)} sides"
        raise InvalidInput(
            f"the array has the shape {said:.80}, expected (3, height, width), (height, width, 3) or a batch of such"
        )


def split(array: NDArray[np.generic]) -> list[NDArray[np.generic]]:
    """Pictures (H, W, 3) of an array (3, H, W), (H, W, 3) or a batch of such; no copies are made.

    Raises:
        InvalidInput: It has another shape, or holds too many.
    """
    check_shape(array.shape)
    batch = array if array.ndim == 4 else array[np.newaxis]
    check_count(len(batch))  # a picture may be of one pixel, and a list of millions takes seconds
    if batch.shape[1] == CHANNELS:  # as torch has it; (3, h, 3) is taken for this as well
        return list(np.moveaxis(batch, 1, 3))
    if batch.shape[3] == CHANNELS:
        return list(batch)
    raise InvalidInput(f"the array has the shape {array.shape}, expected 3 colour channels first or last")
