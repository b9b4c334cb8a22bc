"""What a person finds when the run is over: pages, tables, a summary in the log."""

import csv
import io
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from components.data.decode import Split
from components.report import confusion, curves
from components.report.confusion import confusion_page
from components.report.curves import curves_page
from components.report.mistakes import per_class_accuracy, worst_pairs
from components.report.summary import Summary, summary_lines
from components.train.export import DEFAULT_ENGINE, Exported
from components.train.metrics import EpochResult, as_csv, final_line, softmax
from serving import files

logger = logging.getLogger(__name__)

METRICS_TABLE: Final = "metrics.csv"
CLASSES_TABLE: Final = "classes.csv"


def write_class_counts(labels: Sequence[str], targets: Mapping[str, NDArray[np.int64]], folder: Path) -> None:
    """Write classes.csv: how many images of each class (label) are in each split, by name, that stays."""
    table = io.StringIO(newline="")
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["label", *targets])
    counts = [np.bincount(found, minlength=len(labels)) for found in targets.values()]
    writer.writerows([label, *row] for label, row in zip(labels, np.stack(counts, axis=1).tolist(), strict=True))
    files.write_text(folder / CLASSES_TABLE, table.getvalue())
    logger.info("images of each class: %s", folder / CLASSES_TABLE)


def report(
    exported: Exported, history: Sequence[EpochResult], test: Split, phases: Mapping[str, float], folder: Path
) -> None:
    """Write curves.html, confusion_matrix.html and metrics.csv to `folder`, and the summary to the log."""
    manifest = exported.bundle.manifest
    logits, labels = exported.logits, manifest.labels
    names, paths = [sample.name for sample in test.samples], [sample.path for sample in test.samples]
    title = f"{manifest.architecture}, {len(labels)} labels"
    temperature = manifest.calibration.temperature
    files.write_text(folder / METRICS_TABLE, as_csv(history))
    files.write_text(folder / curves.FILE, curves_page(history, title=title, phases=phases))
    page = confusion_page(
        labels, test.targets, softmax(logits), names, paths=paths, temperature=temperature, title=f"Test split, {title}"
    )
    files.write_text(folder / confusion.FILE, page)
    measured = manifest.metrics.engines[DEFAULT_ENGINE]
    logger.info("%s", final_line(measured.test_loss, measured.test_accuracy))
    summary = Summary(
        test_accuracy=measured.test_accuracy,
        test_loss=measured.test_loss,
        best_epoch=min(history, key=lambda result: result.valid_loss).epoch,
        num_epochs=len(history),
        images_per_s=sum(result.images_per_s for result in history) / len(history),
        epochs_s=sum(result.seconds for result in history),
        waited_s=sum(result.waited_s for result in history),
        phases=phases,
        bundle=exported.bundle.folder,
        bundle_bytes=sum(record.size_bytes for record in manifest.files.values()),
        output=folder,
        test_images=len(names),
        classes=per_class_accuracy(labels, test.targets, logits.argmax(axis=1)),
        pairs=worst_pairs(labels, test.targets, softmax(logits)),
    )
    for line in summary_lines(summary):
        logger.info("%s", line)
