"""What there is to learn from: every file with the index of its label, by split."""

import logging
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np

from components.data.splits import SPLITS, is_hidden, subfolders
from serving.errors import DataError

logger = logging.getLogger(__name__)

HELD_OUT: Final = 0.15
"""Share of the train split that each missing split is given."""
MAX_LISTED_CLASSES: Final = 20
"""Up to so many, the log counts each class; above, the rarest and the commonest."""
IMBALANCE_WARNED: Final = 5.0
"""From so many images of the commonest class for one of the rarest, the log says what can be done."""

ClassOrder = Literal["imagefolder", "natural"]
"""`imagefolder`: as torchvision's ImageFolder sorts, by code point: 1, 10, 2. `natural`: numbers by value: 1, 2, 10."""


@dataclass(frozen=True)
class Sample:
    """One image file and the index of its label."""

    path: Path
    name: str
    """Where it lies, from the data folder on: `test/beagle/1.jpg`."""
    target: int


@dataclass(frozen=True)
class Index:
    """Labels in the order of their indices, and the samples of each split."""

    labels: tuple[str, ...]
    splits: Mapping[str, tuple[Sample, ...]]


@dataclass(frozen=True)
class Labelled:
    """One image file and its label, before labels have indices."""

    path: Path
    name: str
    """As in `Sample`."""
    label: str


def make_index(folders: Mapping[str, Path], seed: int, class_order: ClassOrder = "imagefolder") -> Index:
    """List the files of every split under one class index, and draw missing splits from train.

    A class is a folder; its files may lie deeper.

    Args:
        folders: By split, `train` among them.
        seed: Draws missing splits, stratified by class.
        class_order: How labels are sorted.

    Raises:
        DataError: No classes, a class without files, or splits that disagree on classes; names the folder.
    """
    labelled = {split: read_folder(folder, split) for split, folder in folders.items()}
    return index_labelled(labelled, folders, seed, class_order)


def index_labelled(
    labelled: Mapping[str, Sequence[Labelled]], origins: Mapping[str, Path], seed: int, class_order: ClassOrder
) -> Index:
    """Give labels their indices, the same in every split, and draw missing splits from train.

    The labels are those of train, and every split has to have them all: one that lacks a class says nothing about it,
    and was most likely put together by mistake.

    Args:
        labelled: Files by split, `train` among them.
        origins: Folder or listing that each split is from, for messages.
        seed: Draws missing splits, stratified by class.
        class_order: How labels are sorted.

    Raises:
        DataError: Fewer than two classes, or splits that disagree on them; names the folder or listing.
    """
    labels = _order({entry.label for entry in labelled["train"]}, class_order)
    if len(labels) == 1:
        raise DataError(
            f"data folder {str(origins['train'])!r} has one class, {labels[0]!r}; there is nothing to tell it from"
        )
    targets = {label: target for target, label in enumerate(labels)}
    for split, entries in labelled.items():
        _check_agreement(split, origins[split], {entry.label for entry in entries}, labels)
    splits = {
        split: tuple(Sample(entry.path, entry.name, targets[entry.label]) for entry in entries)
        for split, entries in labelled.items()
    }
    for split in SPLITS[1:]:
        if split not in splits:
            splits["train"], splits[split] = hold_out(splits["train"], HELD_OUT, seed, labels)
            logger.info("there is no %s split: %d images of train are held out for it", split, len(splits[split]))
    index = Index(labels, {split: splits[split] for split in SPLITS})
    _log(index, class_order)
    return index


def hold_out(
    samples: Sequence[Sample], share: float, seed: int, labels: Sequence[str] | None = None
) -> tuple[tuple[Sample, ...], tuple[Sample, ...]]:
    """Divide samples in two, every class in the same proportion, at least one of each class on both sides.

    Args:
        samples: What to divide.
        share: How much of it is held out, 0..1.
        seed: Draws them.
        labels: Names of the classes, for messages.

    Returns:
        What is kept and what is held out, each in the order of `samples`.

    Raises:
        DataError: A class has a single image.
    """
    generator = np.random.default_rng(seed)
    targets = np.array([sample.target for sample in samples])
    held: set[int] = set()
    for target in np.unique(targets).tolist():
        places = np.flatnonzero(targets == target)
        if len(places) < 2:
            label = labels[target] if labels is not None else str(target)
            raise DataError(
                f"class {label!r} has too few images to hold some out for a split that is missing: add some"
            )
        count = max(1, round(share * len(places)))
        held.update(generator.permutation(places)[:count].tolist())
    kept = tuple(sample for place, sample in enumerate(samples) if place not in held)
    return kept, tuple(samples[place] for place in sorted(held))


def read_folder(folder: Path, split: str) -> list[Labelled]:
    """Every file below the class folders in `folder`, by class and path.

    Which of them are images, the decoder says: a suffix proves nothing, and hides nothing.

    Args:
        folder: Holds a folder for each class.
        split: Which split it is.

    Raises:
        DataError: There is no class folder, or one is empty.
    """
    classes = subfolders(folder)
    if not classes:
        raise DataError(f"data folder {str(folder)!r} has no classes, expected a folder for each class with its images")
    found: list[Labelled] = []
    for place in classes:
        paths = sorted(walk(place))
        if not paths:
            raise DataError(f"class folder {str(place)!r} has no images: add some, or delete it")
        found += [Labelled(path, f"{split}/{path.relative_to(folder).as_posix()}", place.name) for path in paths]
    if not found:
        raise DataError(f"data folder {str(folder)!r} has class folders but no images in them")
    return found


def walk(folder: Path) -> Iterator[Path]:
    """Every file below a folder that is not hidden."""
    with os.scandir(folder) as entries:
        for entry in entries:
            path = Path(entry.path)
            if is_hidden(path):
                continue
            if entry.is_dir():
                yield from walk(path)
            elif entry.is_file():
                yield path


def _order(labels: set[str], class_order: ClassOrder) -> tuple[str, ...]:
    return tuple(sorted(labels) if class_order == "imagefolder" else sorted(labels, key=_by_value))


def _by_value(label: str) -> tuple[list[tuple[int, str]], str]:
    """Digits count as a number, the rest as lower-case text; labels that are equal so are told apart as they are."""
    parts = re.findall(r"[0-9]+|[^0-9]+", label)
    return [(int(part), "") if part.isdigit() else (-1, part.lower()) for part in parts], label


def _check_agreement(split: str, origin: Path, found: set[str], labels: Sequence[str]) -> None:
    missing, extra = sorted(set(labels) - found), sorted(found - set(labels))
    if missing or extra:
        facts = [f"lacks {_some(missing)}"] * bool(missing) + [f"has {_some(extra)}, which train lacks"] * bool(extra)
        raise DataError(
            f"the classes of {split} in {str(origin)!r} are not those of train: it {' and '.join(facts)}; "
            "every class has to be in every split"
        )


def _log(index: Index, class_order: ClassOrder) -> None:
    sizes = ", ".join(f"{split} {len(samples)}" for split, samples in index.splits.items())
    logger.info("data: %d classes; images: %s", len(index.labels), sizes)
    natural, sorted_as_text = (_order(set(index.labels), order) for order in ("natural", "imagefolder"))
    if natural != sorted_as_text and class_order == "imagefolder":
        place = next(
            place for place, pair in enumerate(zip(natural, sorted_as_text, strict=True)) if len(set(pair)) > 1
        )
        logger.info(
            "classes are sorted as text, so %s comes before %s; --class-order natural sorts numbers by value",
            sorted_as_text[place],
            natural[place],
        )
    counts = {split: Counter(sample.target for sample in samples) for split, samples in index.splits.items()}
    if len(index.labels) <= MAX_LISTED_CLASSES:
        for split, found in counts.items():
            of_each = ", ".join(f"{label} {found[target]}" for target, label in enumerate(index.labels))
            logger.info("images of each class in %s: %s", split, of_each)
    _log_imbalance(index.labels, counts["train"])


def _log_imbalance(labels: Sequence[str], counts: Counter[int]) -> None:
    fewest, most = min(counts, key=lambda target: counts[target]), max(counts, key=lambda target: counts[target])
    logger.info(
        "images of a class in train: from %d (%s) to %d (%s)",
        counts[fewest],
        labels[fewest],
        counts[most],
        labels[most],
    )
    if counts[most] >= IMBALANCE_WARNED * counts[fewest]:
        logger.warning(
            "the classes are out of balance: %s has %.0f times as many images as %s; --class-weights balanced helps",
            labels[most],
            counts[most] / counts[fewest],
            labels[fewest],
        )


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
