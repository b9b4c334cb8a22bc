"""Makers of image folders to learn from."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

COLORS = {"apple": (200, 30, 40), "lemon": (230, 210, 40), "plum": (90, 40, 140)}
"""Label and what its pictures are tinted with: learnable in a few steps, by color alone."""


def write_images(
    folder: Path,
    *,
    splits: Sequence[str] = ("train", "valid", "test"),
    per_class: int = 8,
    size: tuple[int, int] = (40, 32),
) -> Path:
    """Write FOLDER/SPLIT/LABEL/N.jpg, tinted noise of `size` (width, height), different in every file."""
    for split_number, split in enumerate(splits):
        for target, (label, color) in enumerate(COLORS.items()):
            generator = np.random.default_rng((split_number, target))
            for number in range(per_class):
                noise = generator.normal(0, 60, (size[1], size[0], 3))
                pixels = np.clip(np.array(color) + noise, 0, 255).astype(np.uint8)
                path = folder / split / label / f"{number}.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path, quality=95)
    return folder
