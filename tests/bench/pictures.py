"""Thousands of distinct pictures of a realistic size, cut from a few real photographs."""

import io
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

SIZE: Final = (500, 375)
"""Width and height of what is cut, in px: the usual size in the dog breeds' data set."""
NUM_LABELS: Final = 10
SPLITS: Final = {"train": 0.8, "valid": 0.1, "test": 0.1}
QUALITY: Final = 90
CAMERA_QUALITY: Final = 96
"""Makes pictures of `SIZE` about 68 KB, as cameras and the dog breeds' data set do."""


def photographs(folder: Path | None = None) -> list[Image.Image]:
    """The two of scikit-learn, and those in `folder`."""
    own = sorted(folder.glob("*.jpg")) if folder is not None else []
    found = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    return found + [Image.open(path).convert("RGB") for path in own]


def cut(folder: Path, count: int, photos: list[Image.Image], seed: int = 0) -> Path:
    """Write FOLDER/SPLIT/LABEL/N.jpg, `count` of them together, each a random part of a photograph at a random scale.

    A label's pictures are from one photograph and of one shade, so that there is something to learn.
    """
    generator = np.random.default_rng(seed)
    for split, share in SPLITS.items():
        for number in range(round(count * share)):
            label = number % NUM_LABELS
            path = folder / split / f"label-{label}" / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            _cut_one(photos[label % len(photos)], label, generator).save(path, quality=QUALITY)
    return folder


def materials(folder: Path, count: int, photos: Path | None) -> tuple[Path, Path]:
    """What benchmarks of trainings begin with.

    Returns:
        Folder of the cut pictures, file of the weights of a random ResNet-18.
    """
    import torch  # the server's benchmarks cut pictures where there is none
    from safetensors.torch import save_file
    from torchvision import models

    print(f"cutting {count} pictures of {SIZE[0]} x {SIZE[1]} px", flush=True)
    data = cut(folder / "data", count, photographs(photos))
    torch.manual_seed(0)
    weights = folder / "resnet18.safetensors"
    save_file(models.resnet18().state_dict(), weights)
    return data, weights


def jpegs(count: int, photos: list[Image.Image], seed: int = 0) -> list[bytes]:
    """Such parts as files in memory, as a camera compresses them."""
    generator = np.random.default_rng(seed)
    parts = [_cut_one(photos[n % len(photos)], n % NUM_LABELS, generator) for n in range(count)]
    return [encode(part) for part in parts]


def encode(image: Image.Image) -> bytes:
    """A JPEG as a camera compresses it."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=CAMERA_QUALITY)
    return file.getvalue()


def _cut_one(photo: Image.Image, label: int, generator: np.random.Generator) -> Image.Image:
    largest = min(photo.width / SIZE[0], photo.height / SIZE[1])
    scale = generator.uniform(0.4, 0.95) * largest
    width, height = SIZE[0] * scale, SIZE[1] * scale
    left, top = generator.uniform(0, photo.width - width), generator.uniform(0, photo.height - height)
    part = photo.resize(SIZE, Image.Resampling.BICUBIC, box=(left, top, left + width, top + height))
    shade = np.linspace(0.6, 1.0, NUM_LABELS)[label]
    return part.point(lambda value: value * shade)
