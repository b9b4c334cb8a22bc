"""What a classifier gets wrong, counted: for the page and for the log alike."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

NUM_BINS: Final = 15
"""Of the reliability diagram and of the expected calibration error. Source: Guo et al. 2017, section 2."""

Targets = NDArray[np.int64]
"""(N,), class ids."""
Probabilities = NDArray[np.float64]
"""(N, K), each row sums to 1."""


@dataclass(frozen=True)
class ClassAccuracy:
    """How one class fares."""

    label: str
    num_images: int
    num_correct: int
    num_predicted: int
    """Images of any class that were given this label."""

    @property
    def accuracy(self) -> float:
        """Share of its images that got its label (recall); NaN without images."""
        return self.num_correct / self.num_images if self.num_images else float("nan")

    @property
    def precision(self) -> float:
        """Share of the images with its label that are of it; NaN when none got it."""
        return self.num_correct / self.num_predicted if self.num_predicted else float("nan")


@dataclass(frozen=True)
class Pair:
    """Images of one class that were taken for another."""

    label: str
    predicted: str
    predicted_id: int
    """Class id of `predicted`."""
    count: int
    num_images: int
    """Of `label`, in all."""
    examples: tuple[int, ...]
    """Places of all of them, the surest mistake first."""


@dataclass(frozen=True)
class Bin:
    """Images whose top probability lies in one stretch."""

    confidence: float
    """Mean top probability."""
    accuracy: float
    count: int


def confusion_counts(num_labels: int, targets: Targets, predicted: Targets) -> NDArray[np.int64]:
    """How often each class (row) was given each label (column), (K, K)."""
    counts = np.bincount(targets * num_labels + predicted, minlength=num_labels**2)
    return counts.astype(np.int64).reshape(num_labels, num_labels)


def per_class_accuracy(labels: Sequence[str], targets: Targets, predicted: Targets) -> list[ClassAccuracy]:
    """Every class, in the order of `labels`."""
    counts = confusion_counts(len(labels), targets, predicted)
    return [
        ClassAccuracy(label, int(counts[place].sum()), int(counts[place, place]), int(counts[:, place].sum()))
        for place, label in enumerate(labels)
    ]


def worst_pairs(labels: Sequence[str], targets: Targets, probabilities: Probabilities, limit: int = 10) -> list[Pair]:
    """The commonest mistakes, most frequent first; of equally frequent ones that of the smaller class first."""
    predicted = probabilities.argmax(axis=1)
    counts = confusion_counts(len(labels), targets, predicted)
    num_images = counts.sum(axis=1)
    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    found = sorted(
        ((int(row), int(column)) for row, column in np.argwhere(wrong)),
        key=lambda place: (-wrong[place], num_images[place[0]], place),
    )
    pairs = []
    for row, column in found[:limit]:
        places = np.flatnonzero((targets == row) & (predicted == column))
        surest_first = places[np.argsort(-probabilities[places, column], kind="stable")]
        count, of = int(wrong[row, column]), int(num_images[row])
        pairs.append(Pair(labels[row], labels[column], column, count, of, tuple(map(int, surest_first))))
    return pairs


def top_k_accuracy(targets: Targets, probabilities: Probabilities, k: int) -> float:
    """Share of images whose class is among the `k` labels of highest probability; ties go to the lower class id."""
    best = np.argsort(-probabilities, axis=1, kind="stable")[:, :k]
    return float((best == targets[:, None]).any(axis=1).mean())


def macro_recall(classes: Sequence[ClassAccuracy]) -> float:
    """Mean accuracy of the classes, each counted once however many images it has; those without images do not count."""
    known = [entry.accuracy for entry in classes if entry.num_images]
    return sum(known) / len(known) if known else float("nan")


def calibration_bins(targets: Targets, probabilities: Probabilities, num_bins: int = NUM_BINS) -> list[Bin]:
    """Images by their top probability, in stretches of equal length; those without images are left out."""
    confidence = probabilities.max(axis=1)
    is_correct = probabilities.argmax(axis=1) == targets
    places = np.minimum((confidence * num_bins).astype(int), num_bins - 1)
    inside = [places == place for place in range(num_bins)]
    return [
        Bin(float(confidence[chosen].mean()), float(is_correct[chosen].mean()), int(chosen.sum()))
        for chosen in inside
        if chosen.any()
    ]


def expected_calibration_error(bins: Sequence[Bin]) -> float:
    """How far probabilities are from the truth: the mean distance of confidence and accuracy, weighted by images.

    Source: Naeini et al. 2015; Guo et al. 2017, equation 3.
    """
    total = sum(entry.count for entry in bins)
    return (
        sum(entry.count * abs(entry.accuracy - entry.confidence) for entry in bins) / total if total else float("nan")
    )


def sharpened(probabilities: Probabilities, temperature: float) -> Probabilities:
    """Probabilities after the logits were divided by `temperature`; the logits themselves are not needed for it."""
    with np.errstate(divide="ignore"):
        powers = np.log(probabilities) / temperature
    powers = np.exp(powers - powers.max(axis=1, keepdims=True))
    scaled: Probabilities = powers / powers.sum(axis=1, keepdims=True)
    return scaled
