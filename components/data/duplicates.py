"""Images that are in two splits: a model that has seen its test images is not tested by them.

Three kinds: the same bytes; the same pixels in other bytes (a copy without its EXIF block); nearly the same (resized,
compressed again, brightened). The last are found by a hash of 64 bits that such changes hardly touch and are confirmed
by comparing thumbnails, since among 60,000 images thousands of pairs share a hash by chance.

Source of the hash: difference hash, Neal Krawetz, "Kind of Like That", hackerfactor.com, 2013.
"""

import csv
import hashlib
import io
import logging
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from components.data.index import Sample
from serving import files
from serving.errors import DataError
from serving.machine import num_cpus
from serving.preprocess import Pixels

logger = logging.getLogger(__name__)

Kind = Literal["bytes", "pixels", "near"]
KINDS: Final[tuple[Kind, ...]] = ("bytes", "pixels", "near")
Policy = Literal["keep", "report", "drop"]
"""`keep`: do not look. `report`: list them. `drop`: list them, and leave them out of train and valid."""
PRECEDENCE: Final = ("test", "valid", "train")
"""Of a pair, the image in the split that comes first stays."""

HASH_ROWS: Final = 8
HASH_COLUMNS: Final = 9
THUMB_SIDE: Final = 16
SAMPLED_PX: Final = 64
"""Of larger images only every second, third ... row and column is looked at: at 224 px a ninth of the time."""
MAX_HASH_DISTANCE: Final = 8
MAX_THUMB_DIFFERENCE: Final = 8.0
"""Mean over a thumbnail, in steps of 0..255, once both have the same brightness and contrast."""
THUMB_CONTRAST: Final = 50.0
MIN_CONTRAST: Final = 8.0
"""Standard deviation of a thumbnail; below it, a flat image is like any other and only exact copies count."""

Places = NDArray[np.int64]
_BLOCK: Final = 64
_HASHES_AT_ONCE: Final = 512
_THUMBS_AT_ONCE: Final = 4096
"""By these, what a thread works on fits its processor's cache."""


class Images(Protocol):
    """What is compared of one split; a decoded split is one."""

    @property
    def samples(self) -> Sequence[Sample]:
        """N files."""

    @property
    def digests(self) -> Sequence[str]:
        """(N,), hashes of the files' bytes."""

    @property
    def pixels(self) -> Pixels:
        """(N, H, W, 3), decoded."""


@dataclass(frozen=True)
class Duplicate:
    """An image that is in two splits."""

    kind: Kind
    kept_split: str
    kept: Sample
    other_split: str
    """The one it would be dropped from."""
    other: Sample
    other_place: int
    """Where it is in that split."""


@dataclass(frozen=True)
class _Looks:
    """What is compared of N images."""

    digests: list[bytes]
    """Of sampled pixels: equal for equal pixels."""
    hashes: NDArray[np.uint64]
    """(N,), whether each of 8 x 8 areas is brighter than its right neighbour."""
    thumbs: NDArray[np.float32]
    """(N, 16 * 16 * 3), of equal brightness and contrast."""
    has_contrast: NDArray[np.bool_]
    """(N,)"""


def find_duplicates(splits: Mapping[str, Images]) -> list[Duplicate]:
    """Images of one split that are also in another, the surest first.

    Takes time in proportion to the product of the splits' sizes: about two seconds for 50,000 against 10,000.
    """
    looks = {split: _look(images.pixels) for split, images in splits.items()}
    ordered = [split for split in PRECEDENCE if split in splits]
    found: list[Duplicate] = []
    for place, kept in enumerate(ordered):
        for other in ordered[place + 1 :]:
            found_now = _compare(splits[kept], splits[other], looks[kept], looks[other])
            found += [
                Duplicate(kind, kept, splits[kept].samples[one], other, splits[other].samples[two], two)
                for kind, one, two in found_now
            ]
    return sorted(found, key=lambda pair: KINDS.index(pair.kind))


def _compare(kept: Images, other: Images, kept_looks: _Looks, other_looks: _Looks) -> Iterator[tuple[Kind, int, int]]:
    """Kind, place in `kept` and place in `other` of each image of `other` that is also in `kept`."""
    same_bytes = _equal(kept.digests, other.digests)
    yield from (("bytes", one, two) for two, one in same_bytes.items())
    alike = _equal(kept_looks.digests, other_looks.digests)  # sampled pixels; the rest decides
    same_pixels = {two for two, one in alike.items() if np.array_equal(kept.pixels[one], other.pixels[two])}
    yield from (("pixels", alike[two], two) for two in sorted(same_pixels - same_bytes.keys()))
    near = _near(kept_looks, other_looks)
    yield from (("near", one, two) for two, one in near.items() if two not in same_pixels | same_bytes.keys())


def handle_duplicates(
    policy: Policy, splits: Mapping[str, Images], labels: Sequence[str], report: Path | None
) -> dict[str, Places]:
    """Look for duplicates across splits, list them in a CSV and the log, and say which images stay.

    Args:
        policy: What to do.
        splits: Decoded splits by name.
        labels: In the order of their indices.
        report: The CSV; a table of an earlier run goes when nothing is found. None: another process writes it.

    Returns:
        Places of the images that stay, by split, in order: all of them unless duplicates are dropped.

    Raises:
        DataError: Dropping would leave train without a class, or valid without an image.
    """
    stay: dict[str, Places] = {
        split: np.arange(len(images.samples), dtype=np.int64) for split, images in splits.items()
    }
    if policy == "keep":
        return stay
    found = find_duplicates(splits)
    if report is not None:
        _write(report, found, labels, is_dropped=policy == "drop")
    if not found:
        logger.info("duplicates across splits: none")
        return stay
    kinds = Counter(pair.kind for pair in found)
    between = Counter(f"{pair.other_split} and {pair.kept_split}" for pair in found)
    conflicting = sum(pair.kept.target != pair.other.target for pair in found)
    logger.warning(
        "duplicates across splits: %d of the same bytes, %d of the same pixels, %d nearly the same; %s%s; %s; see %s",
        kinds["bytes"], kinds["pixels"], kinds["near"],
        ", ".join(f"{count} in {names}" for names, count in between.items()),
        f"; {conflicting} under two labels" if conflicting else "",
        "dropped from train and valid" if policy == "drop" else "kept (--duplicates drop leaves them out)",
        report,
    )  # fmt: skip
    if policy == "drop":
        for split in splits:
            dropped = sorted({pair.other_place for pair in found if pair.other_split == split})
            stay[split] = np.delete(stay[split], dropped)
            logger.info("%s: %d duplicates dropped, %d images stay", split, len(dropped), len(stay[split]))
        _check_rest(splits, stay, labels, report)
    return stay


def _look(pixels: Pixels) -> _Looks:
    height, width = pixels.shape[1:3]
    step_y, step_x = max(1, height // SAMPLED_PX), max(1, width // SAMPLED_PX)
    rows, columns = len(range(0, height, step_y)), len(range(0, width, step_x))
    to_hash = _areas(rows, HASH_ROWS), _areas(columns, HASH_COLUMNS)
    to_thumb = _areas(rows, THUMB_SIDE), _areas(columns, THUMB_SIDE)

    def look(start: int) -> _Looks:
        block = np.ascontiguousarray(pixels[start : start + _BLOCK, ::step_y, ::step_x])
        digests = [hashlib.blake2b(image, digest_size=16).digest() for image in block]
        planes = np.moveaxis(block, 3, 1).astype(np.float32)
        grey = to_hash[0] @ planes.mean(axis=1) @ to_hash[1].T
        bits = (grey[:, :, 1:] > grey[:, :, :-1]).reshape(len(block), -1)
        thumbs = (to_thumb[0] @ planes @ to_thumb[1].T).reshape(len(block), -1)
        thumbs -= thumbs.mean(axis=1, keepdims=True)
        contrast = thumbs.std(axis=1, keepdims=True, dtype=np.float32)
        thumbs *= THUMB_CONTRAST / np.maximum(contrast, MIN_CONTRAST)
        hashes = np.packbits(bits, axis=1).view(np.uint64)[:, 0]
        return _Looks(digests, hashes, np.asarray(thumbs, np.float32), contrast[:, 0] >= MIN_CONTRAST)

    with ThreadPoolExecutor(num_cpus()) as pool:
        looks = list(pool.map(look, range(0, len(pixels), _BLOCK)))
    return _Looks(
        digests=[digest for part in looks for digest in part.digests],
        hashes=np.concatenate([np.empty(0, np.uint64), *(part.hashes for part in looks)]),
        thumbs=np.concatenate([np.empty((0, 3 * THUMB_SIDE**2), np.float32), *(part.thumbs for part in looks)]),
        has_contrast=np.concatenate([np.empty(0, np.bool_), *(part.has_contrast for part in looks)]),
    )


def _areas(length: int, count: int) -> NDArray[np.float32]:
    """Matrix (count, length) that averages `length` values over `count` equal areas, borders shared in proportion."""
    edges = np.linspace(0, length, count + 1)
    starts, ends = edges[:-1, None], edges[1:, None]
    cells = np.arange(length)[None]
    overlap = np.clip(np.minimum(ends, cells + 1) - np.maximum(starts, cells), 0, None)
    return np.asarray(overlap / overlap.sum(axis=1, keepdims=True), np.float32)


def _equal(kept: Sequence[Hashable], other: Sequence[Hashable]) -> dict[int, int]:
    """For each place in `other` that has one, the first place in `kept` with the same value."""
    # Ten copies here and ten there are ten images to drop, not a hundred pairs to read.
    first: dict[Hashable, int] = {}
    for place, value in enumerate(kept):
        first.setdefault(value, place)
    return {place: first[value] for place, value in enumerate(other) if value in first}


def _near(kept: _Looks, other: _Looks) -> dict[int, int]:
    """For each place in `other` that has one, the place in `kept` that looks most alike."""
    kept_places, other_places = np.flatnonzero(kept.has_contrast), np.flatnonzero(other.has_contrast)

    def compare(start: int) -> list[tuple[float, int, int]]:
        mine = kept_places[start : start + _HASHES_AT_ONCE]
        found: list[tuple[float, int, int]] = []
        for begin in range(0, len(other_places), _HASHES_AT_ONCE):
            theirs = other_places[begin : begin + _HASHES_AT_ONCE]
            distance = np.bitwise_count(kept.hashes[mine][:, None] ^ other.hashes[theirs][None])
            ones, twos = np.nonzero(distance <= MAX_HASH_DISTANCE)
            for part in range(0, len(ones), _THUMBS_AT_ONCE):
                left, right = mine[ones[part : part + _THUMBS_AT_ONCE]], theirs[twos[part : part + _THUMBS_AT_ONCE]]
                difference = np.abs(kept.thumbs[left] - other.thumbs[right]).mean(axis=1)
                close = np.flatnonzero(difference <= MAX_THUMB_DIFFERENCE)
                found += zip(difference[close].tolist(), left[close].tolist(), right[close].tolist(), strict=True)
        return found

    best: dict[int, tuple[float, int]] = {}
    with ThreadPoolExecutor(num_cpus()) as pool:
        for found in pool.map(compare, range(0, len(kept_places), _HASHES_AT_ONCE)):
            for difference, one, two in found:
                best[two] = min(best.get(two, (np.inf, 0)), (difference, one))
    return {two: one for two, (_, one) in sorted(best.items())}


def _write(report: Path, found: Sequence[Duplicate], labels: Sequence[str], *, is_dropped: bool) -> None:
    if not found:
        report.unlink(missing_ok=True)
        return
    table = io.StringIO(newline="")
    writer = csv.writer(table)
    writer.writerow(["kind", "split", "file", "label", "also_in", "also_as", "also_label", "dropped"])
    for pair in found:
        mine = (pair.other_split, pair.other.name, labels[pair.other.target])
        also = (pair.kept_split, pair.kept.name, labels[pair.kept.target])
        writer.writerow([pair.kind, *mine, *also, "yes" if is_dropped else "no"])
    files.write_text(report, table.getvalue())


def _check_rest(
    splits: Mapping[str, Images], stay: Mapping[str, Places], labels: Sequence[str], report: Path | None
) -> None:
    see = "" if report is None else f"; see {str(report)!r}"
    for split, places in stay.items():
        targets = [splits[split].samples[place].target for place in places.tolist()]
        missing = sorted({sample.target for sample in splits[split].samples} - set(targets))
        if missing and split == "train":
            raise DataError(
                f"all images of {labels[missing[0]]!r} in train are duplicates of others in valid or test, so none is "
                f"left to learn from: add images, or do not drop duplicates{see}"
            )
        if not targets:
            raise DataError(f"all images of {split} are duplicates of others in test{see}")
        if missing:
            logger.warning("%s: no image of %s stays", split, ", ".join(labels[target] for target in missing[:3]))
