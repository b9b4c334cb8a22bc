"""Whatever somebody points train at becomes one index: folders, archives, listings, CIFAR-10's batches.

What must be unpacked is unpacked once, into the cache, under the hash of its content.
"""

import hashlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from components.cache import Cache, key
from components.data import archives, cifar
from components.data.index import ClassOrder, Index, Labelled, index_labelled, read_folder
from components.data.listings import Row, find_listings, is_listing, read_listing
from components.data.lookup import resolve
from components.data.splits import SPELLINGS, by_spelling, choose_channels, find_splits, is_hidden, subfolders
from serving.errors import DataError

logger = logging.getLogger(__name__)

LISTING_CHANNELS: Final = ("_lst", "_csv", "_manifest")
"""A channel `train_lst` lists the images of the channel `train`. Source: SageMaker image classification, channels."""
UNPACKED_BY: Final = 1
"""Part of the cache's keys: raise it when the same bytes unpack to something else."""

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class _Found:
    """Files of a source by split, and the folder or listing that each split is from."""

    labelled: dict[str, list[Labelled]]
    origins: dict[str, Path]


def open_index(
    data: Path | None,
    channels: Mapping[str, Path],
    cache: Cache,
    *,
    seed: int,
    class_order: ClassOrder = "imagefolder",
    progress: Progress = lambda *_: None,
) -> Index:
    """Index the images in `data`, or in the channels when it is None.

    A source is a folder with a folder for each split, or for each class; a zip or tar of one, alone in a folder or by
    itself; the folder or archive of CIFAR-10's python batches; a listing (CSV, .lst, manifest) or a folder with one.
    Each split may be such a source. With a channel `train_lst` (or `_csv`, `_manifest`), that lists what is in `train`.

    Args:
        data: The one source.
        channels: Sources by name, one for each split or one of all.
        cache: Where archives and batches are unpacked.
        seed: Draws missing splits, stratified by class.
        class_order: How labels are sorted.
        progress: Told of what is unpacked.

    Raises:
        DataError: There is nothing to learn from, or it is damaged or contradicts itself; says what and where.
    """
    reader = _Reader(cache, progress)
    if data is not None:
        found = reader.whole(data)
    else:
        listings = {name: path for name, path in channels.items() if name.lower().endswith(LISTING_CHANNELS)}
        chosen = choose_channels({name: path for name, path in channels.items() if name not in listings})
        by_split = by_spelling({name.lower().rpartition("_")[0]: path for name, path in listings.items()})
        if len(chosen) == 1 and not by_split:
            found = reader.whole(next(iter(chosen.values())))
        else:
            found = reader.parts(chosen, by_split)
    return index_labelled(found.labelled, found.origins, seed, class_order)


class _Reader:
    def __init__(self, cache: Cache, progress: Progress) -> None:
        self._cache = cache
        self._progress = progress

    def whole(self, source: Path, split: str | None = None) -> _Found:
        """Read a source; `split` is given when it is one split of several, and then begins the names."""
        if not source.exists():
            raise DataError(
                f"data folder {str(source)!r} does not exist, expected a folder with a folder for each class, an "
                "archive of one, or a listing (CSV, .lst, manifest)"
            )
        folder = self._unpacked(source)
        if folder.is_file():
            return _require(split or "train", self._listed(folder, folder.parent, split), folder)
        if cifar.is_batches(folder):
            folder = self._images_of(folder)
        packed = _archives_in(folder)
        if len(packed) == 1 and not subfolders(folder) and not find_listings(folder):
            return self.whole(packed[0], split)
        if packed and not subfolders(folder):
            named = by_spelling({archives.stem_of(path): path for path in packed})
            if "train" in named:
                return self.parts(named, {})
        listings = self._listings(folder)
        if listings:
            return self._all_listed(listings, folder, split)
        child = _only_child(folder)
        if child is not None and self._is_source(child):
            return self.whole(child, split)
        return self._folders(folder, split)

    def parts(self, sources: Mapping[str, Path], listings: Mapping[str, Path]) -> _Found:
        """Read sources of which each is one split; `listings` say the labels of some."""
        found = _Found({}, {})
        for split, source in sources.items():
            if split in listings:
                part = self._listed(_only_listing(listings[split]), self._unpacked(source), split)
            else:
                part = self.whole(source, split)
            if set(part.labelled) != {split}:
                raise DataError(
                    f"{str(source)!r} is given for the {split} split but has splits of its own "
                    f"({', '.join(part.labelled)}): give it alone, as --data"
                )
            found.labelled.update(part.labelled)
            found.origins.update(part.origins)
        return found

    def _folders(self, folder: Path, split: str | None) -> _Found:
        """Labels from folder names."""
        splits = find_splits(folder, {}, self._is_part)
        if splits == {"train": folder}:
            name = split or "train"
            return _Found({name: read_folder(folder, name)}, {name: folder})
        return self.parts(splits, {})

    def _listings(self, folder: Path) -> dict[str, Path]:
        """Listings right in a folder, unless folders already say everything."""
        listings = find_listings(folder)
        names = ", ".join(path.name for path in listings.values())
        train = by_spelling({path.name: path for path in subfolders(folder)}).get("train")
        if listings and train is not None and subfolders(train):
            logger.info("%s: labels are the names of folders; %s is not read, give it as --data FILE", folder, names)
            return {}
        if listings:
            logger.info("%s: labels are those that %s lists; names of folders mean nothing", folder, names)
        return listings

    def _all_listed(self, listings: Mapping[str, Path], root: Path, split: str | None) -> _Found:
        if len(listings) == 1:
            (name, listing), *_ = listings.items()
            # train.csv alone lists everything, as labels.csv does; test.csv alone is a mistake that is found later.
            return _require(split or "train", self._listed(listing, root, split, default=name or "train"), listing)
        found = _Found({}, {})
        for name, listing in listings.items():
            part = self._listed(listing, root, None, default=name)
            if set(part.labelled) != {name}:
                raise DataError(f"{str(listing)!r} is called {name} but has rows of {', '.join(part.labelled)}")
            found.labelled.update(part.labelled)
            found.origins.update(part.origins)
        return _require("train", found, root)

    def _listed(self, listing: Path, root: Path, split: str | None, default: str = "train") -> _Found:
        rows = read_listing(listing)
        if split is None:
            rows = [Row(row.line, row.file, row.label, row.split or default) for row in rows]
        labelled = resolve(listing, rows, root, split)
        return _Found(labelled, dict.fromkeys(labelled, listing))

    def _is_part(self, folder: Path) -> bool:
        return bool(subfolders(folder)) or self._is_source(folder)

    def _is_source(self, folder: Path) -> bool:
        """Whether a folder without folders still says labels."""
        return cifar.is_batches(folder) or bool(find_listings(folder)) or bool(_archives_in(folder))

    def _unpacked(self, source: Path) -> Path:
        """Folder of what is in an archive; a folder or a listing as it is."""
        if source.is_dir() or is_listing(source):
            return source
        if not archives.is_archive(source):
            raise DataError(
                f"{str(source)!r} is a file but neither a zip or tar nor a listing (CSV with columns file and label, "
                ".lst, .manifest, .jsonl): give a folder or one of these"
            )
        sha256 = _sha256([source])
        is_the_original = source.name == cifar.ARCHIVE and source.stat().st_size == cifar.ARCHIVE_BYTES
        if is_the_original and sha256 != cifar.ARCHIVE_SHA256:
            raise DataError(f"{str(source)!r} is damaged: its sha256 is {sha256}, CIFAR-10's is {cifar.ARCHIVE_SHA256}")
        name = key("unpacked", {"sha256": sha256, "by": UNPACKED_BY})

        def build(folder: Path) -> None:
            count = archives.unpack(source, folder, self._progress)
            logger.info("%s: %d files unpacked", source, count)

        return self._cache.entry(name, build)

    def _images_of(self, batches: Path) -> Path:
        """Folder with CIFAR-10's rows as image files."""
        paths = cifar.batch_files(batches)
        names = [path.name for path in paths]
        name = key("cifar10", {"sha256": _sha256(paths), "files": names, "by": UNPACKED_BY})
        cifar.check_original(batches)
        return self._cache.entry(name, lambda folder: _write_images(batches, folder, self._progress))


def _write_images(batches: Path, folder: Path, progress: Progress) -> None:
    count = cifar.write_images(batches, folder, progress=progress)
    logger.info("%s: %d images unpacked", batches, count)


def _archives_in(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.iterdir()
        if path.name.lower().endswith(archives.SUFFIXES) and not is_hidden(path) and archives.is_archive(path)
    )


def _only_child(folder: Path) -> Path | None:
    """The one thing in a folder, when it is a folder that is not called as a split is."""
    visible = [path for path in folder.iterdir() if not is_hidden(path)]
    if len(visible) == 1 and visible[0].is_dir() and visible[0].name.lower() not in SPELLINGS:
        return visible[0]
    return None


def _only_listing(channel: Path) -> Path:
    found = [channel] if channel.is_file() else list(find_listings(channel).values())
    if len(found) != 1:
        raise DataError(f"channel {str(channel)!r} holds {len(found)} listings, expected one (.lst, CSV or manifest)")
    return found[0]


def _require(split: str, found: _Found, origin: Path) -> _Found:
    if split not in found.labelled:
        raise DataError(f"{str(origin)!r} lists {', '.join(found.labelled)} but nothing for the {split} split")
    return found


def _sha256(paths: list[Path]) -> str:
    """Of one file as anybody computes it; of several, of their hashes."""
    digests = []
    for path in paths:
        with path.open("rb") as file:
            digests.append(hashlib.file_digest(file, "sha256").hexdigest())
    return digests[0] if len(digests) == 1 else hashlib.sha256("\n".join(digests).encode()).hexdigest()
