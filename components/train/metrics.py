"""What is measured while training, the lines that say so, and the patterns by which platforms find it in a log."""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Final

import numpy as np
from numpy.typing import NDArray

from serving.engines import Logits


@dataclass(frozen=True)
class EpochResult:
    """One pass over the train split and what the valid split says of it."""

    epoch: int
    """From 1."""
    train_loss: float
    """Mean over the images of the epoch, each as it was seen."""
    valid_loss: float
    valid_accuracy: float
    best_valid_loss: float
    lr: float
    """At the last step."""
    seconds: float
    images_per_s: float
    """While training, without the valid split."""
    waited_s: float
    """Time in which the loop had nothing to compute, waiting for data."""

    def line(self) -> str:
        """The line of the log."""
        return (
            f"epoch={self.epoch} train_loss={self.train_loss:.6f} valid_loss={self.valid_loss:.6f} "
            f"valid_accuracy={self.valid_accuracy:.4f} best_valid_loss={self.best_valid_loss:.6f} "
            f"lr={self.lr:.3g} seconds={self.seconds:.1f} images_per_s={self.images_per_s:.1f} "
            f"waited_s={self.waited_s:.1f}"
        )


def final_line(test_loss: float, test_accuracy: float) -> str:
    """The line at the end of the log."""
    return f"test_loss={test_loss:.6f} test_accuracy={test_accuracy:.4f}"


NUMBER: Final = r"([0-9]+\.?[0-9]*(?:[eE][-+]?[0-9]+)?)"
"""A number in a line of the log, as a group of a pattern."""
METRIC_PATTERNS: Final = {
    # The space keeps `valid_loss` from being found in `best_valid_loss`.
    "train_loss": f" train_loss={NUMBER}",
    "valid_loss": f" valid_loss={NUMBER}",
    "valid_accuracy": f" valid_accuracy={NUMBER}",
    "best_valid_loss": f" best_valid_loss={NUMBER}",
    "test_loss": f"test_loss={NUMBER}",
    "test_accuracy": f"test_accuracy={NUMBER}",
}
"""SageMaker metric definitions: name and pattern, whose first group is the number."""


def as_jsonl(history: Sequence[EpochResult]) -> str:
    """The content of metrics.jsonl: an object for each epoch."""
    return "".join(json.dumps(asdict(result)) + "\n" for result in history)


def as_csv(history: Sequence[EpochResult]) -> str:
    """The content of metrics.csv: what metrics.jsonl holds, a row for each epoch, under one line of names."""
    table = io.StringIO(newline="")
    names = [field.name for field in fields(EpochResult)]
    writer = csv.DictWriter(table, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(result) for result in history)
    return table.getvalue()


def softmax(logits: Logits, temperature: float = 1.0) -> NDArray[np.float64]:
    """Probabilities (N, K) of logits (N, K), divided by `temperature` first."""
    shifted = np.exp((logits.astype(np.float64) - logits.max(axis=1, keepdims=True)) / temperature)
    probabilities: NDArray[np.float64] = shifted / shifted.sum(axis=1, keepdims=True)
    return probabilities


def cross_entropy(logits: Logits, targets: NDArray[np.int64]) -> float:
    """Mean negative log-likelihood of `targets` (N,)."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    log_likelihoods = shifted[np.arange(len(targets)), targets] - np.log(np.exp(shifted).sum(axis=1))
    return float(-log_likelihoods.mean())


def accuracy(logits: Logits, targets: NDArray[np.int64]) -> float:
    """Share of samples whose largest logit is the target's."""
    return float((logits.argmax(axis=1) == targets).mean())
