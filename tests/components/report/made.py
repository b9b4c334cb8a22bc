"""Histories, classified splits and searches, seeded."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import numpy as np

from components.report.mistakes import Probabilities, Targets
from components.train.metrics import EpochResult, softmax
from components.tune.objective import Objective
from components.tune.space import Categorical, Continuous, Integer, Space
from components.tune.trials import State, Trial

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


SPACE: Final[Space] = {
    "lr": Continuous(1e-4, 0.3, "log"),
    "batch_size": Categorical((16, 32, 64, 128)),
    "epochs": Integer(2, 8),
    "arch": Categorical(("resnet18", "resnet50", "densenet161")),
}
LOSS: Final = Objective("valid_loss", "minimize")
ACCURACY: Final = Objective("valid_accuracy", "maximize")
LATENCY: Final = Objective("latency_ms", "minimize")
_STARTED: Final = datetime(2025, 3, 1, 12, tzinfo=UTC)
_FLOOR: Final = {"resnet18": 0.31, "resnet50": 0.19, "densenet161": 0.16}
_LATENCY_MS: Final = {"resnet18": 9.0, "resnet50": 21.0, "densenet161": 48.0}


def search(num_trials: int, objectives: Sequence[Objective] = (LOSS,), seed: int = 0) -> list[Trial]:
    """Trials near the best settings more and more often; some are pruned, a few diverge or run out of memory."""
    generator = np.random.default_rng(seed)
    trials: list[Trial] = []
    seen: list[float] = []
    for place in range(num_trials):
        keenness = min(1.0, place / max(20.0, num_trials / 3))
        rate = float(np.exp(np.log(0.012) + generator.normal(0, 2.4 - 1.5 * keenness)))
        arch = str(generator.choice(list(_FLOOR), p=np.array([1, 1 + keenness, 1 + 2 * keenness]) / (3 + 3 * keenness)))
        parameters: dict[str, str | int | float | bool] = {
            "lr": float(np.clip(rate, 1e-4, 0.3)),
            "batch_size": int(generator.choice([16, 32, 64, 128])),
            "epochs": int(generator.integers(2, 9)),
            "arch": arch,
        }
        losses = _losses(generator, parameters)
        is_diverged = float(parameters["lr"]) > 0.2
        state: State = "failed" if is_diverged or generator.random() < 0.02 else "complete"
        if state == "complete" and place > 8 and len(losses) > 2 and losses[1] > float(np.median(seen)):
            state, losses = "pruned", losses[:2]
        seen.append(losses[1])
        seconds = (0.3 + 0.5 * len(losses)) * float(generator.uniform(0.9, 1.2)) * _LATENCY_MS[arch] / 20
        reached = {"valid_loss": min(losses), "valid_accuracy": 1 - min(losses) / 4, "latency_ms": _LATENCY_MS[arch]}
        reached["latency_ms"] *= float(generator.uniform(0.97, 1.05))
        trials.append(
            Trial(
                number=place,
                state=state,
                parameters=parameters,
                values=tuple(reached[goal.metric] for goal in objectives) if state == "complete" else (),
                losses=losses[:1] if state == "failed" else losses,
                started=_STARTED + timedelta(seconds=2 * place),
                ended=_STARTED + timedelta(seconds=2 * place + seconds),
                seconds=seconds,
                reason={
                    "failed": "the loss is not a number after epoch 1: a lower lr may help"
                    if is_diverged
                    else "out of memory at a batch of 128",
                    "pruned": "worse than the median after epoch 2",
                }.get(state, ""),
            )
        )
    return trials


def _losses(generator: np.random.Generator, parameters: Mapping[str, str | int | float | bool]) -> tuple[float, ...]:
    off = np.log10(float(parameters["lr"]) / 0.012) + 0.15 * np.log2(float(parameters["batch_size"]) / 32)
    floor = _FLOOR[str(parameters["arch"])] + 0.11 * off**2 + 0.02 * generator.random()
    speed = 0.9 - 0.25 * min(1.5, abs(off))
    epochs = np.arange(1, int(parameters["epochs"]) + 1)
    fallen = floor + (2.2 - floor) * np.exp(-(speed + 0.3) * epochs) + generator.normal(0, 0.008, len(epochs))
    return tuple(float(loss) for loss in np.maximum(fallen, 0.02))
