"""The end of a run as a table in the log."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from components.report.mistakes import ClassAccuracy, Pair
from components.report.scales import duration, percent

_NUM_SHOWN = 3
"""Classes and pairs named in the table; confusion_matrix.html has them all."""
_LONGEST = 40


@dataclass(frozen=True)
class Summary:
    """What somebody wants to know who was not there."""

    test_accuracy: float
    test_loss: float
    best_epoch: int
    num_epochs: int
    images_per_s: float
    """While training."""
    epochs_s: float
    """Time of all epochs together."""
    waited_s: float
    """Of it, waiting for data."""
    phases: Mapping[str, float]
    """Seconds of each part of the run, in the order in which they happened; none counts twice."""
    bundle: Path
    bundle_bytes: int
    output: Path
    """Folder of the pages and lists."""
    test_images: int = 0
    classes: Sequence[ClassAccuracy] = field(default=())
    pairs: Sequence[Pair] = field(default=())

    @property
    def seconds(self) -> float:
        """Wall time of the whole run."""
        return sum(self.phases.values())


def summary_lines(summary: Summary) -> list[str]:
    """The table, a line each; widths fit a log and a terminal."""
    correct = f" ({round(summary.test_accuracy * summary.test_images)} of {summary.test_images} images)"
    rows = [
        ("test accuracy", f"{summary.test_accuracy:.4f}{correct if summary.test_images else ''}"),
        ("test loss", f"{summary.test_loss:.4f}"),
        ("best epoch", f"{summary.best_epoch} of {summary.num_epochs}"),
        ("wall time", duration(summary.seconds)),
        *((f"  {name}", _part(seconds, summary.seconds)) for name, seconds in summary.phases.items()),
        ("images/s", f"{summary.images_per_s:.1f} while training"),
        ("waiting for data", f"{_part(summary.waited_s, summary.epochs_s)} of the epochs' time"),
        *_mistakes(summary),
        ("bundle", f"{summary.bundle} ({summary.bundle_bytes / 1e6:.1f} MB)"),
        ("reports", str(summary.output)),
    ]
    width = max(len(name) for name, _ in rows)
    return [f"{name:<{width}}  {value}" for name, value in rows]


def _part(seconds: float, total: float) -> str:
    share = percent(seconds / total) if total > 0 else "-"
    return f"{duration(seconds):>12}  {share:>7}"


def _mistakes(summary: Summary) -> list[tuple[str, str]]:
    counted = [entry for entry in summary.classes if entry.num_correct < entry.num_images]
    hardest = sorted(counted, key=lambda entry: (entry.accuracy, -entry.num_images))[:_NUM_SHOWN]
    names = ["hardest classes"] + [""] * len(hardest)
    rows = [
        (name, f"{_plain(entry.label)}: {percent(entry.accuracy)} of {entry.num_images}")
        for name, entry in zip(names, hardest, strict=False)
    ]
    names = ["worst confused"] + [""] * len(summary.pairs)
    return rows + [
        (name, f"{_plain(pair.label)} taken for {_plain(pair.predicted)}: {pair.count} of {pair.num_images}")
        for name, pair in zip(names, summary.pairs[:_NUM_SHOWN], strict=False)
    ]


def _plain(label: str) -> str:
    """A label that stays on its line and within it: a folder may be called anything."""
    text = "".join(character if character.isprintable() else "?" for character in label)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
