"""Decode every image once in its life: pixels of the working size, in a cache, behind a memory map.

An entry's name is a hash of every file's bytes, of what is made of them and of who makes it: one changed pixel in one
file, another size or another decoder is another entry.
"""

import csv
import hashlib
import io
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL
from numpy.typing import NDArray

from components.cache import Cache, key
from components.data.index import Index, Sample
from serving import files
from serving import preprocess as preprocess_module
from serving.bundle import InputSpec
from serving.errors import DataError, InvalidInput
from serving.machine import num_cpus
from serving.preprocess import Pixels, preprocess

logger = logging.getLogger(__name__)

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how many are done, how many there are."""


@dataclass(frozen=True)
class Unreadable:
    """A file that is not a picture, and why."""

    sample: Sample
    reason: str


Digest = str
"""sha256 of a file's bytes, in hexadecimal; empty for a file that cannot be read."""


@dataclass(frozen=True)
class Split:
    """A decoded split."""

    samples: tuple[Sample, ...]
    pixels: Pixels
    """(N, H, W, 3), mapped from the cache, read-only."""
    targets: NDArray[np.int64]
    """(N,)"""
    digests: tuple[Digest, ...]
    """(N,), of the files."""
    key: str
    """Of the cache entry that the pixels are from."""

    def keep(self, places: NDArray[np.int64]) -> "Split":
        """The same split with the samples at `places` alone."""
        if len(places) == len(self.samples):
            return self
        return Split(
            samples=tuple(self.samples[place] for place in places),
            pixels=self.pixels[places],
            targets=self.targets[places],
            digests=tuple(self.digests[place] for place in places),
            key=self.key,
        )


def decode_split(
    samples: Sequence[Sample], spec: InputSpec, cache: Cache, *, what: str, progress: Progress
) -> tuple[Split, list[Unreadable]]:
    """Decode samples, or find them decoded.

    Args:
        samples: In order.
        spec: To which pixels.
        cache: Where pixels are kept.
        what: What to call it while it lasts: `train`.
        progress: Told of every image that is decoded.

    Returns:
        What could be decoded, in order, and what could not.
    """
    digests = _hash_files(samples)
    name = key("pixels", {"files": digests, "input": spec.model_dump(mode="json"), **_decoder()})
    entry = cache.entry(name, lambda folder: _build(folder, samples, spec, what, progress))
    reasons: list[str] = json.loads((entry / "reasons.json").read_text())
    kept = [place for place, reason in enumerate(reasons) if not reason]
    split = Split(
        samples=tuple(samples[place] for place in kept),
        pixels=np.load(entry / "pixels.npy", mmap_mode="r")[: len(kept)],
        targets=np.array([samples[place].target for place in kept], dtype=np.int64),
        digests=tuple(digests[place] for place in kept),
        key=name,
    )
    return split, [Unreadable(sample, reason) for sample, reason in zip(samples, reasons, strict=True) if reason]


def decode_splits(
    index: Index,
    specs: Mapping[str, InputSpec],
    cache: Cache,
    *,
    max_unreadable: float,
    report: Path | None,
    progress: Progress,
) -> dict[str, Split]:
    """Decode all splits of an index.

    Args:
        index: What to decode.
        specs: To which pixels, by split.
        cache: Where pixels are kept.
        max_unreadable: Largest share of files that may be unreadable; those are left out.
        report: CSV that lists them, written when there are any; None: another process writes it.
        progress: Told of every image that is decoded.

    Raises:
        DataError: More are unreadable, or a class is left without an image.
    """
    unreadable: list[Unreadable] = []
    splits = {}
    for name, samples in index.splits.items():
        splits[name], missing = decode_split(samples, specs[name], cache, what=name, progress=progress)
        unreadable += missing
    _list(unreadable, report)
    for name, split in splits.items():
        for target in sorted({sample.target for sample in index.splits[name]} - set(split.targets.tolist())):
            first = next(entry for entry in unreadable if entry.sample.target == target)
            raise DataError(
                f"class {index.labels[target]!r} of {name} has no readable image; the first is "
                f"{str(first.sample.path)!r}: {first.reason}{_see(report)}"
            )
    _check_share(unreadable, sum(map(len, index.splits.values())), max_unreadable, report)
    return splits


def _hash_files(samples: Sequence[Sample]) -> list[Digest]:
    def digest(sample: Sample) -> Digest:
        try:
            with sample.path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError:
            return ""

    with ThreadPoolExecutor(num_cpus()) as pool:
        return list(pool.map(digest, samples))


def _decoder() -> dict[str, str]:
    """What the pixels depend on beside the files and the spec."""
    source = hashlib.sha256(Path(preprocess_module.__file__).read_bytes()).hexdigest()
    return {"decoder": f"pillow {PIL.__version__}", "source": source}


def _build(folder: Path, samples: Sequence[Sample], spec: InputSpec, what: str, progress: Progress) -> None:
    shape = (len(samples), spec.height, spec.width, 3)
    pixels: Pixels = np.lib.format.open_memmap(  # type: ignore[no-untyped-call]
        folder / "pixels.npy", mode="w+", dtype=np.uint8, shape=shape
    )
    reasons = []
    num_readable = 0
    for done, outcome in enumerate(_in_threads(samples, spec), start=1):
        if isinstance(outcome, str):
            reasons.append(outcome)
        else:
            pixels[num_readable] = outcome
            num_readable += 1
            reasons.append("")
        progress(f"decode {what}", done, len(samples))
    (folder / "reasons.json").write_text(json.dumps(reasons))


def _in_threads(samples: Sequence[Sample], spec: InputSpec) -> Iterator[str | Pixels]:
    """Pixels, or the reason why there are none, in the order of `samples`; Pillow works outside Python's lock."""

    def outcome(sample: Sample) -> str | Pixels:
        try:
            return preprocess(sample.path.read_bytes(), spec)
        except InvalidInput as error:
            return str(error)
        except OSError as error:
            return error.strerror or str(error)

    ahead = 256  # as many may wait, decoded, for one that is slow
    with ThreadPoolExecutor(num_cpus()) as pool:
        for start in range(0, len(samples), ahead):
            yield from pool.map(outcome, samples[start : start + ahead])


def _list(unreadable: Sequence[Unreadable], report: Path | None) -> None:
    if report is None:
        return
    if not unreadable:
        report.unlink(missing_ok=True)
        return
    table = io.StringIO(newline="")
    writer = csv.writer(table)
    writer.writerow(["file", "reason"])
    writer.writerows([str(entry.sample.path), entry.reason] for entry in unreadable)
    files.write_text(report, table.getvalue())


def _check_share(unreadable: Sequence[Unreadable], total: int, max_unreadable: float, report: Path | None) -> None:
    if not unreadable:
        return
    first = unreadable[0]
    message = (
        f"{len(unreadable)} of {total} files are unreadable, the first is {str(first.sample.path)!r}: {first.reason}"
    )
    if len(unreadable) > max_unreadable * total:
        raise DataError(f"{message}; at most {100 * max_unreadable:g} % may be (--max-unreadable){_see(report)}")
    logger.warning("%s; they are left out%s", message, _see(report))


def _see(report: Path | None) -> str:
    return "" if report is None else f"; see {str(report)!r}"
