"""Histories and classified splits, seeded."""

from pathlib import Path

import numpy as np

from components.report.mistakes import Probabilities, Targets
from components.train.metrics import EpochResult, softmax

HOSTILE = (
    "<script>document.title = 'owned'</script>",
    '"><img src=x onerror="document.title=\'owned\'">',
    "'); document.title = 'owned' //",
    "</title></style><svg onload=\"document.title='owned'\">",
    "x" * 200,
    "\u05e9\u05dc\u05d5\u05dd \u202e\u05e2\u05d5\u05dc\u05dd",
    "a\x00b\x1b[31m\nc",
    "https://example.com/pixel.png",
)
"""What folders may be called."""


def history(num_epochs: int) -> list[EpochResult]:
    """Loss that falls and rises again; the lowest valid loss is in the middle."""
    results, best = [], float("inf")
    for epoch in range(1, num_epochs + 1):
        valid_loss = 0.3 + abs(epoch - (num_epochs + 1) // 2) / num_epochs
        best = min(best, valid_loss)
        results.append(
            EpochResult(
                epoch=epoch,
                train_loss=1 / epoch,
                valid_loss=valid_loss,
                valid_accuracy=1 - valid_loss / 2,
                best_valid_loss=best,
                lr=1e-3 / epoch,
                seconds=2.0,
                images_per_s=500.0,
                waited_s=0.25,
            )
        )
    return results


def split(num_labels: int, num_images: int, seed: int = 0) -> tuple[Targets, Probabilities]:
    """Every class, most images right, each class sometimes taken for the next."""
    generator = np.random.default_rng(seed)
    targets = np.arange(num_images, dtype=np.int64) % num_labels
    logits = generator.normal(0, 1, (num_images, num_labels)).astype(np.float32)
    rows = np.arange(num_images)
    logits[rows, targets] += 6 * generator.random(num_images)
    logits[rows, (targets + 1) % num_labels] += 3 * generator.random(num_images)
    return targets, softmax(logits)


def write(folder: Path, content: str) -> Path:
    """The page as a file."""
    path = folder / "page.html"
    path.write_text(content, encoding="utf-8")
    return path
