"""Which folder is which split."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from serving.errors import DataError

SPLITS: Final = ("train", "valid", "test")
SPELLINGS: Final = {
    "train": "train",
    "training": "train",
    "valid": "valid",
    "val": "valid",
    "validation": "valid",
    "test": "test",
    "testing": "test",
}
SEPARATORS: Final = re.compile(r"[^0-9a-z]+")
JUNK: Final = ("lost+found", "__MACOSX", "Thumbs.db", "desktop.ini")  # left by file systems, not by people


def find_splits(
    data: Path | None, channels: Mapping[str, Path], is_split: Callable[[Path], bool] | None = None
) -> dict[str, Path]:
    """Find the folder of each split.

    Args:
        data: One folder: with a folder for each split inside, or with the classes right inside (then all is `train`).
        channels: Folders by name, used when `data` is None: one for each split, or a single one like `data`.
        is_split: Whether a folder called `train` is the split and not a class of that name; by default when it holds
            folders.

    Returns:
        Folder by split; always `train`, perhaps `valid` and `test`.

    Raises:
        DataError: A folder is missing, or none can be told to be `train`.
    """
    # A class may be called "train" (beside "bus" and "car"): a split holds folders, a class holds pictures.
    is_split = is_split or (lambda path: bool(subfolders(path)))
    given = {"": data} if data is not None else choose_channels(channels)
    if len(given) == 1:
        return _inside(next(iter(given.values())), is_split)
    for folder in given.values():
        _require_folder(folder)
    return given


def choose_channels(channels: Mapping[str, Path]) -> dict[str, Path]:
    """The channels with images, by split; a single one, under whatever name, may hold all splits.

    Raises:
        DataError: None can be told to be `train`.
    """
    named = by_spelling(channels)
    if not named and len(channels) == 1:
        return dict(channels)
    if "train" not in named:
        found = ", ".join(channels) or "none"
        raise DataError(f"no images to train on (channels: {found}): give --data DIR, or a channel called train")
    return named


def is_hidden(path: Path) -> bool:
    """Whether nobody put the file there on purpose: dot-files, notebook checkpoints, leftovers of file systems."""
    return path.name.startswith(".") or path.name in JUNK


def subfolders(folder: Path) -> list[Path]:
    """Folders in a folder, but the hidden ones, in the order of their names."""
    return sorted(path for path in folder.iterdir() if path.is_dir() and not is_hidden(path))


def by_spelling(paths: Mapping[str, Path]) -> dict[str, Path]:
    """Those of `paths` that are called as a split is, by split.

    Raises:
        DataError: Two are the same split.
    """
    named: dict[str, Path] = {}
    for name, path in paths.items():
        split = SPELLINGS.get(name.lower())
        if split in named:
            raise DataError(f"{str(named[split])!r} and {str(path)!r} are both the {split} split: keep one")
        if split is not None:
            named[split] = path
    return named


def split_at_end(stem: str) -> str | None:
    """Split that the last word of a name says: `birds_val` is valid."""
    return SPELLINGS.get(SEPARATORS.split(stem.lower())[-1])


def _inside(folder: Path, is_split: Callable[[Path], bool]) -> dict[str, Path]:
    _require_folder(folder)
    every = {path.name: path for path in subfolders(folder)}
    inner = {name: path for name, path in every.items() if is_split(path)}
    named = by_spelling(inner)
    if "train" in named:
        return by_spelling(every)  # a flat "valid" beside it is a split without classes, and will be told so
    if not inner and every and all(name.lower() in SPELLINGS for name in every):
        raise DataError(f"{str(folder)!r} has splits without classes, expected a folder for each class inside each")
    if named:
        raise DataError(f"{str(folder)!r} has {', '.join(inner)} but no folder called train")
    if len(inner) == 1 and len(subfolders(folder)) == 1:  # an archive unpacked into a folder of its own name
        return _inside(next(iter(inner.values())), is_split)
    return {"train": folder}


def _require_folder(folder: Path) -> None:
    if not folder.is_dir():
        found = "is a file" if folder.exists() else "does not exist"
        raise DataError(f"data folder {str(folder)!r} {found}, expected a folder with a folder for each class")
