"""Pictures made in memory, seeded, so that a test knows every pixel it sends."""

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def noise(height: int, width: int, channels: int = 3, seed: int = 0) -> NDArray[np.uint8]:
    """Noise coarse enough to survive JPEG, (height, width, channels)."""
    coarse = np.random.default_rng(seed).integers(0, 256, (-(-height // 4), -(-width // 4), channels), dtype=np.uint8)
    return coarse.repeat(4, axis=0).repeat(4, axis=1)[:height, :width]


def encode(image: Image.Image | NDArray[np.uint8], form: str = "JPEG", **options: Any) -> bytes:
    """Bytes of a picture."""
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, form, **options)
    return buffer.getvalue()


def jpeg(height: int = 60, width: int = 80, seed: int = 0) -> bytes:
    """A small JPEG."""
    return encode(noise(height, width, seed=seed), quality=95)


def huge_jpeg(target_bytes: int) -> bytes:
    """A valid JPEG of about `target_bytes`: noise that does not compress, 3 bytes a pixel at the highest quality."""
    side = int((target_bytes / 2.4) ** 0.5)
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    return encode(pixels, quality=95, subsampling=0)


def png_bomb(side: int) -> bytes:
    """A PNG of a few kilobytes that decodes to side x side pixels."""
    return encode(Image.new("1", (side, side)), "PNG")
