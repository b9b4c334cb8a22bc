"""Folders of patches cut from real photographs: small, distinct, and learnable, for each comes from one place."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_sample_images

Photograph = NDArray[np.uint8]
"""(H, W, 3), RGB."""

SIDE_PX: Final = 64
COUNTS: Final = {"train": 20, "valid": 5, "test": 5}
"""Patches of each label."""


def halves() -> dict[str, list[Photograph]]:
    """Upper and lower halves of scikit-learn's two photographs, by labels that people count otherwise than sort."""
    china, flower = load_sample_images().images
    middle = len(china) // 2
    parts = {"1.roof": china[:middle], "2.wall": china[middle:], "9.petal": flower[:middle], "10.leaf": flower[middle:]}
    return {label: [part] for label, part in parts.items()}


def write_patches(folder: Path, photographs: Mapping[str, Sequence[Photograph]]) -> Path:
    """Write FOLDER/SPLIT/LABEL/N.jpg, squares of `SIDE_PX` that do not overlap, `COUNTS` of each label."""
    generator = np.random.default_rng(0)
    for label, of_label in photographs.items():
        patches = [patch for photograph in of_label for patch in cut(photograph)]
        order = iter(generator.permutation(len(patches)))
        for split, count in COUNTS.items():
            (folder / split / label).mkdir(parents=True)
            for number in range(count):
                Image.fromarray(patches[next(order)]).save(folder / split / label / f"{number}.jpg", quality=95)
    return folder


def cut(photograph: Photograph) -> list[Photograph]:
    """All its squares of `SIDE_PX`, row by row."""
    height, width = photograph.shape[:2]
    tops, lefts = range(0, height - SIDE_PX + 1, SIDE_PX), range(0, width - SIDE_PX + 1, SIDE_PX)
    return [photograph[top : top + SIDE_PX, left : left + SIDE_PX] for top in tops for left in lefts]
