"""A folder of images to a CSV of labels: decoding in threads while the engine runs, in the order of the names.

Rows: `file`, `label` (where the folder says it), `predicted`, `probability`, and `predicted_2`, `probability_2` and so
on. The first four are those of the bundle's predictions.csv.
"""

import csv
import logging
import stat
import sys
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Final

import numpy as np

from serving import files
from serving.bundle import Manifest
from serving.engines import Engine
from serving.errors import DataError, InvalidInput
from serving.machine import num_cpus
from serving.preprocess import Pixels, preprocess
from serving.writers import softmax

logger = logging.getLogger(__name__)

TEST_FOLDERS: Final = ("test", "testing")
"""Of a folder of splits, the one that a bundle is scored on."""
MAX_FILE_BYTES: Final = 256 * 2**20  # far above any picture; what lies beside pictures may be a film
NUM_TOLD: Final = 5
"""Unreadable files named in the log; the CSV beside the output has them all."""
LOG_INTERVAL_S: Final = 10.0


@dataclass(frozen=True)
class Item:
    """A file, and what its folder says that it shows."""

    path: Path
    name: str
    """From the folder of images on: `test/beagle/1.jpg`."""
    label: str | None


@dataclass
class Scores:
    """What became of the files."""

    labels: Sequence[str]
    num_images: Counter[str] = field(default_factory=Counter)
    """Images by the label of their folder."""
    num_correct: Counter[str] = field(default_factory=Counter)
    num_scored: int = 0
    num_strange: int = 0
    """Images in folders that are called like no label of the bundle; they do not count for accuracy."""
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    """Name and reason."""
    seconds: float = 0.0

    @property
    def accuracy(self) -> float | None:
        """Share of labelled images whose most probable label is theirs; None when there are none."""
        total = self.num_images.total()
        return self.num_correct.total() / total if total else None


class Scorer:
    """Labels files with one engine.

    Args:
        manifest: Of the bundle that `engine` runs.
        engine: Already checked.
        batch_size: Images that run through it at once.
        top_k: Labels in a row; more than there are means all of them.
    """

    def __init__(self, manifest: Manifest, engine: Engine, batch_size: int, top_k: int) -> None:
        self._manifest = manifest
        self._engine = engine
        self._batch_size = batch_size
        self._top_k = min(top_k, len(manifest.labels))

    def score(self, images: Path, output: Path) -> Scores:
        """Write a row for every readable image below `images`; `output` appears whole or not at all.

        Raises:
            DataError: There is no image, or none that can be read.
            EngineError: The engine failed.
            OSError: `output` cannot be written.
        """
        written = {output.resolve(), unreadable_path(output).resolve()}  # of an earlier run, perhaps among the images
        items = [item for item in find_items(images, self._manifest.labels) if item.path.resolve() not in written]
        is_labelled = any(item.label is not None for item in items)
        scores = Scores(self._manifest.labels)
        started = time.monotonic()
        progress = _Progress(len(items))
        # A file name may hold bytes that are not UTF-8: they are written as escapes, the table stays readable.
        with (
            files.written_aside(output) as aside,
            aside.open("w", newline="", encoding="utf-8", errors="backslashreplace") as table,
        ):
            writer = csv.writer(table, lineterminator="\n")
            writer.writerow(self._header(is_labelled))
            for batch in self._batches(items, scores, progress):
                writer.writerows(self._rows(batch, scores, is_labelled))
            if not scores.num_scored:
                first = "".join(f", the first is {name!r}: {reason}" for name, reason in scores.unreadable[:1])
                raise DataError(
                    f"none of the {len(items)} files in {str(images)!r} is an image that can be read{first}"
                )
        scores.seconds = time.monotonic() - started
        _list_unreadable(scores.unreadable, unreadable_path(output))
        return scores

    def _batches(
        self, items: Sequence[Item], scores: Scores, progress: "_Progress"
    ) -> Iterator[list[tuple[Item, Pixels]]]:
        batch: list[tuple[Item, Pixels]] = []
        for done, (item, outcome) in enumerate(self._decoded(items), start=1):
            if isinstance(outcome, str):
                scores.unreadable.append((item.name, outcome))
            else:
                batch.append((item, outcome))
            if len(batch) == self._batch_size:
                yield batch
                batch = []
            progress(done)
        if batch:
            yield batch

    def _decoded(self, items: Sequence[Item]) -> Iterator[tuple[Item, Pixels | str]]:
        """Pixels of each file, or why there are none; two batches are decoded ahead of the engine, not more."""
        waiting: deque[tuple[Item, Future[Pixels | str]]] = deque()
        rest = iter(items)
        pool = ThreadPoolExecutor(num_cpus(), thread_name_prefix="decoder")
        try:
            while True:
                for item in islice(rest, 2 * self._batch_size - len(waiting)):
                    waiting.append((item, pool.submit(self._decode, item.path)))
                if not waiting:
                    return
                item, future = waiting.popleft()
                yield item, future.result()
        finally:
            pool.shutdown(cancel_futures=True)

    def _decode(self, path: Path) -> Pixels | str:
        try:
            status = path.stat()
            if not stat.S_ISREG(status.st_mode):  # a pipe would be waited for
                return "it is not a regular file"
            if status.st_size > MAX_FILE_BYTES:
                return f"the file has {status.st_size} bytes, at most {MAX_FILE_BYTES} are read"
            return preprocess(path.read_bytes(), self._manifest.input)
        except InvalidInput as error:
            return str(error)
        except OSError as error:
            return error.strerror or str(error)

    def _rows(self, batch: list[tuple[Item, Pixels]], scores: Scores, is_labelled: bool) -> Iterator[list[str]]:
        logits = self._engine.infer(np.stack([pixels for _, pixels in batch]))
        for (item, _), row in zip(batch, logits, strict=True):
            probabilities = softmax(row, self._manifest.calibration.temperature)
            ranked = np.argsort(-probabilities, kind="stable")[: self._top_k]
            best = self._manifest.labels[int(ranked[0])]
            self._count(item, best, scores)
            answers = [(self._manifest.labels[int(place)], f"{probabilities[place]:.6f}") for place in ranked]
            label = [item.label or ""] if is_labelled else []
            yield [item.name, *label, *(cell for answer in answers for cell in answer)]

    def _count(self, item: Item, predicted: str, scores: Scores) -> None:
        scores.num_scored += 1
        if item.label is None:
            return
        if item.label not in self._manifest.labels:
            scores.num_strange += 1
            return
        scores.num_images[item.label] += 1
        scores.num_correct[item.label] += item.label == predicted

    def _header(self, is_labelled: bool) -> list[str]:
        more = [f"{name}_{place}" for place in range(2, self._top_k + 1) for name in ("predicted", "probability")]
        return ["file", *["label"] * is_labelled, "predicted", "probability", *more]


def find_items(images: Path, labels: Sequence[str]) -> list[Item]:
    """Every file below a folder, in the order of the names, but the hidden ones.

    When a folder in it is called like a label, the first folder of each file is its label. When none is but there is a
    `test` folder of such folders, what is in that is scored.

    Raises:
        DataError: There is no file.
    """
    root = images
    if not _has_labels(images, labels):
        inner = [images / name for name in TEST_FOLDERS if _has_labels(images / name, labels)]
        if inner:
            root = inner[0]
            logger.info("scoring %s alone: the other folders of %s are not the test split", root, images)
        else:
            logger.info(
                "no folder in %s is called like a label of the bundle: the images are taken as unlabelled", images
            )
    is_labelled = root != images or _has_labels(images, labels)
    items = []
    for path in sorted(_walk(root)):
        parts = path.relative_to(root).parts
        label = parts[0] if is_labelled and len(parts) > 1 else None
        items.append(Item(path, path.relative_to(images).as_posix(), label))
    if not items:
        raise DataError(f"there is no file in {str(images)!r}, expected images in it or in folders inside")
    return items


def unreadable_path(output: Path) -> Path:
    """Where the files without a row are listed: predictions.unreadable.csv for predictions.csv."""
    return output.with_name(f"{output.stem}.unreadable.csv")


def report(scores: Scores, output: Path) -> list[str]:
    """What there is to say at the end, a line each."""
    speed = scores.num_scored / scores.seconds if scores.seconds > 0 else 0.0
    lines = [f"images={scores.num_scored} unreadable={len(scores.unreadable)} images_per_s={speed:.1f}"]
    if scores.accuracy is not None:
        known = [label for label in scores.labels if scores.num_images[label]]
        width = max(len("label"), *(len(_printable(label)) for label in known))
        lines += [f"{'label':<{width}}  images  correct  accuracy"]
        for label in known:
            images, correct = scores.num_images[label], scores.num_correct[label]
            lines.append(f"{_printable(label):<{width}}  {images:>6}  {correct:>7}  {correct / images:>8.4f}")
        lines.append(f"accuracy={scores.accuracy:.4f} ({scores.num_correct.total()} of {scores.num_images.total()})")
    if scores.num_strange:
        lines.append(f"{scores.num_strange} images lie in folders that are no label of the bundle: not in the accuracy")
    lines.append(f"predictions: {output}")
    if scores.unreadable:
        lines.append(f"unreadable files: {unreadable_path(output)}")
    return lines


class _Progress:
    """One line that changes on a terminal, a line now and then elsewhere."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._is_terminal = sys.stderr.isatty()
        self._started = self._told = time.monotonic()

    def __call__(self, done: int) -> None:
        now = time.monotonic()
        is_over = done == self._total
        if now - self._told < (0.1 if self._is_terminal else LOG_INTERVAL_S) and not (is_over and self._is_terminal):
            return
        self._told = now
        speed = done / max(now - self._started, 1e-9)
        line = f"{done} of {self._total} files, {speed:.0f} files/s, {(self._total - done) / speed:.0f} s left"
        if self._is_terminal:
            sys.stderr.write("\r\x1b[K" + ("" if is_over else line))
            sys.stderr.flush()
        else:
            logger.info("%s", line)


def _has_labels(folder: Path, labels: Sequence[str]) -> bool:
    return folder.is_dir() and any(path.is_dir() and path.name in labels for path in _inside(folder))


def _walk(folder: Path, above: frozenset[Path] = frozenset()) -> Iterator[Path]:
    """What lies below a folder; a link to a folder is followed, but not in circles."""
    here = folder.resolve()
    if here in above:
        return
    for path in _inside(folder):
        if path.name.startswith("."):
            continue
        if path.is_dir():
            yield from _walk(path, above | {here})
        else:
            yield path


def _inside(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError as error:
        raise DataError(f"cannot look into folder {str(folder)!r}: {error.strerror}") from error


def _list_unreadable(unreadable: Sequence[tuple[str, str]], path: Path) -> None:
    if not unreadable:
        path.unlink(missing_ok=True)  # of an earlier run
        return
    with (
        files.written_aside(path) as aside,
        aside.open("w", newline="", encoding="utf-8", errors="backslashreplace") as table,
    ):
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow(["file", "reason"])
        writer.writerows(unreadable)
    for name, reason in unreadable[:NUM_TOLD]:
        logger.warning("unreadable, left out: %s: %s", _printable(name), reason)
    if len(unreadable) > NUM_TOLD:
        logger.warning("%d more are unreadable and left out", len(unreadable) - NUM_TOLD)


def _printable(text: str) -> str:
    """A name that cannot move the cursor of a terminal."""
    return "".join(character if character.isprintable() else "?" for character in text)
