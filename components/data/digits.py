"""scikit-learn's bundled handwritten digits as a folder of JPEGs: real images that need no network."""

from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from components.data.index import Sample, hold_out

SIDE_PX: Final = 32
SHARES: Final = {"test": 0.2, "valid": 0.2}
"""Held out one after the other from what is left."""


def write_digits(folder: Path) -> int:
    """Write 1,797 digits of 32 x 32 px as FOLDER/{train,valid,test}/{zero..nine}/NNNN.jpg, the same every time.

    Returns:
        The number of images.
    """
    from sklearn.datasets import load_digits

    names = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    digits = load_digits()
    left = tuple(Sample(Path(), str(place), int(target)) for place, target in enumerate(digits.target))
    splits = {}
    for split, share in SHARES.items():
        left, splits[split] = hold_out(left, share, seed=0)
    splits["train"] = left
    for split, samples in splits.items():
        for sample in samples:
            path = folder / split / names[sample.target] / f"{int(sample.name):04d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            _as_image(digits.images[int(sample.name)]).save(path, quality=95)
    return len(digits.target)


def _as_image(grey: "np.ndarray[tuple[int, int], np.dtype[np.float64]]") -> Image.Image:
    """8 x 8 values of 0..16, dark on light like ink."""
    pixels = (255 - grey * 255 / 16).round().astype(np.uint8)
    return Image.fromarray(pixels).resize((SIDE_PX, SIDE_PX), Image.Resampling.BICUBIC)
