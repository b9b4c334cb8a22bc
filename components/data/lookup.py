"""From what a listing calls a file to the file on this disk."""

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from components.data.index import Labelled, walk
from components.data.listings import Row
from serving.errors import DataError

logger = logging.getLogger(__name__)

SCHEME: Final = re.compile(r"^[a-z][a-z0-9+.-]*://[^/]*/?|^[a-zA-Z]:(?=/)")


class Lookup:
    """Finds files below `root`, and nowhere else, by their path, by the end of it, or by the end of an address."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._by_name: dict[str, list[tuple[str, ...]]] = {}
        self._by_stem: dict[str, list[tuple[str, ...]]] = {}
        for path in sorted(walk(root)):
            parts = path.relative_to(root).parts
            self._by_name.setdefault(parts[-1], []).append(parts)
            self._by_stem.setdefault(path.stem, []).append(parts)

    def find(self, entry: str) -> Path | None:
        """The file that `entry` means, or None.

        One must be the end of the other: `s3://bucket/run/dogs/1.jpg` is `dogs/1.jpg` here, and `1.jpg` is too, when no
        other file is called so. An entry without suffix may be a file with one.

        Raises:
            DataError: Several files fit.
        """
        parts = _parts(entry)
        if not parts:
            return None
        named = self._by_name.get(parts[-1])
        if named is None and "." not in parts[-1]:
            named = [found[:-1] + parts[-1:] for found in self._by_stem.get(parts[-1], [])]
            real = dict(zip(named, self._by_stem.get(parts[-1], []), strict=True))
            if len(real) < len(named):
                raise DataError(f"{entry!r} is the name of several files with different suffixes: name the suffix")
        else:
            real = {found: found for found in named or []}
        chosen = _choose(entry, parts, list(real))
        return None if chosen is None else self._root.joinpath(*real[chosen])

    def missing(self, entry: str) -> Path:
        """Where an entry that is not there would lie, so that it is reported with the files that cannot be read."""
        return self._root.joinpath(*_parts(entry))


def resolve(listing: Path, rows: Sequence[Row], root: Path, split: str | None) -> dict[str, list[Labelled]]:
    """Turn the rows of a listing into labelled files by split.

    Files that are not there are kept, to be reported as unreadable and counted with them.

    Args:
        listing: Where the rows are from.
        rows: Of one listing.
        root: Folder below which the images lie.
        split: That of rows which say none; then it also begins the names. None: train.

    Raises:
        DataError: None of the files is there, several fit an entry, or a file has two labels.
    """
    lookup = Lookup(root)
    found: dict[str, dict[Path, Labelled]] = {}
    labels: dict[Path, Row] = {}
    repeated, missing = 0, []
    for row in rows:
        path = lookup.find(row.file)
        if path is None:
            path = lookup.missing(row.file)
            missing.append(row)
        first = labels.setdefault(path, row)
        if first.label != row.label:
            raise DataError(
                f"listing {str(listing)!r} gives {row.file!r} two labels, {first.label!r} in line {first.line} and "
                f"{row.label!r} in line {row.line}: an image can have one"
            )
        entries = found.setdefault(row.split or split or "train", {})
        repeated += path in entries
        name = path.relative_to(root).as_posix()
        entries[path] = Labelled(path, f"{split}/{name}" if split else name, row.label)
    if len(missing) == len(rows):
        raise DataError(
            f"none of the {len(rows)} files that {str(listing)!r} lists is below {str(root)!r}, the first is "
            f"{rows[0].file!r}: put the images there"
        )
    if missing:
        logger.warning(
            "%s: %d of %d files are not there, the first is %s", listing, len(missing), len(rows), missing[0].file
        )
    if repeated:
        logger.warning("%s: %d rows repeat an earlier one and count once", listing, repeated)
    return {split: list(entries.values()) for split, entries in found.items()}


def _parts(entry: str) -> tuple[str, ...]:
    """Folders and name, without scheme, bucket, drive and steps upwards: nothing that could lead out of the root."""
    plain = SCHEME.sub("", entry.strip().replace("\\", "/"))
    return tuple(part for part in plain.split("/") if part not in {"", ".", ".."} and "\0" not in part)


def _choose(entry: str, parts: tuple[str, ...], found: Sequence[tuple[str, ...]]) -> tuple[str, ...] | None:
    ending_it = [path for path in found if parts[-len(path) :] == path]
    if ending_it:
        return max(ending_it, key=len)
    ending_in_it = [path for path in found if path[-len(parts) :] == parts]
    if len(ending_in_it) > 1:
        some = " and ".join(repr("/".join(path)) for path in ending_in_it[:2])
        raise DataError(f"{entry!r} could be {some}: write more of its path")
    return ending_in_it[0] if ending_in_it else None
