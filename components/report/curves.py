"""curves.html: how the training went, epoch by epoch."""

import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Final

from components.report.charts import Bar, Rule, Series, bars, line_chart
from components.report.drawing import Axis
from components.report.markup import Markup
from components.report.page import Card, Column, Value, cards, details, figure, grid, page, section, table
from components.report.scales import duration, is_wide, number, percent
from components.train.metrics import EpochResult

FILE: Final = "curves.html"
_LOG_RATIO: Final = 50
"""Losses or rates that differ by more than this are told apart on a logarithmic axis alone."""
_EPOCH: Final = Axis("epoch", is_whole=True)


def curves_page(
    history: Sequence[EpochResult], *, title: str = "Training", phases: Mapping[str, float] | None = None
) -> str:
    """The page of a training run.

    Args:
        history: An entry for each epoch, at least one.
        title: What was trained on what.
        phases: Seconds of each part of the run, in the order in which they happened; left out, there is no such chart.
    """
    best = min(history, key=lambda result: (_or_infinite(result.valid_loss), result.epoch))
    charts = [_losses(history, best), _accuracy(history, best), _rate(history), _seconds(history), _phases(phases)]
    return page(
        "Training curves",
        title,
        cards(_cards(history, best)),
        section("Curves", "Point at a chart, or focus it and use the arrow keys, to read an epoch.", grid(*charts)),
        details("All numbers", _table(history)),
    )


def _cards(history: Sequence[EpochResult], best: EpochResult) -> list[Card]:
    seconds = sum(result.seconds for result in history)
    speed = median(result.images_per_s for result in history)
    return [
        Card("Best epoch", str(best.epoch), f"of {len(history)}; its weights are kept"),
        Card("Best valid loss", number(best.valid_loss), f"after the first epoch {number(history[0].valid_loss)}"),
        Card("Valid accuracy", percent(best.valid_accuracy), "at the best epoch"),
        Card("Time of the epochs", duration(seconds), f"{duration(seconds / len(history))} each"),
        Card("Images a second", number(float(f"{speed:.3g}")), "while training; the median epoch"),
    ]


def _losses(history: Sequence[EpochResult], best: EpochResult) -> Markup:
    epochs = [result.epoch for result in history]
    series = [
        Series("valid loss", epochs, [result.valid_loss for result in history], color=1),
        Series("train loss", epochs, [result.train_loss for result in history], color=2),
    ]
    axis = Axis("loss", is_log=is_wide([*series[0].y, *series[1].y], _LOG_RATIO), with_zero=True)
    rule = Rule(best.epoch, f"best: epoch {best.epoch}")
    chart = line_chart(series, _EPOCH, axis, name="Loss on the train and valid split in each epoch", rule=rule)
    text = "When the train loss falls and the valid loss rises, the model learns by heart."
    return figure("Loss", text, chart, legend=[(line.color, line.name) for line in series])


def _accuracy(history: Sequence[EpochResult], best: EpochResult) -> Markup:
    shares = [result.valid_accuracy for result in history]
    notes = [f"valid accuracy: {percent(share)}" for share in shares]
    series = Series("valid accuracy", [result.epoch for result in history], shares, notes)
    rule = Rule(best.epoch, f"best: epoch {best.epoch}")
    axis = Axis("share of images", bounds=(0.0, 1.0))
    chart = line_chart([series], _EPOCH, axis, name="Accuracy on the valid split in each epoch", rule=rule)
    return figure("Valid accuracy", "The best epoch is the one of the lowest valid loss.", chart)


def _rate(history: Sequence[EpochResult]) -> Markup:
    rates = [result.lr for result in history]
    series = Series("learning rate", [result.epoch for result in history], rates)
    axis = Axis("rate", with_zero=True)
    chart = line_chart([series], _EPOCH, axis, name="Learning rate at the end of each epoch")
    return figure("Learning rate", "At the last step of each epoch.", chart)


def _seconds(history: Sequence[EpochResult]) -> Markup:
    epochs = [result.epoch for result in history]
    notes = [f"took {duration(result.seconds)}, {number(round(result.images_per_s))} images/s" for result in history]
    waits = [f"waited {duration(result.waited_s)}" for result in history]
    series = [
        Series("the epoch", epochs, [result.seconds for result in history], notes, color=1),
        Series("of which waiting for data", epochs, [result.waited_s for result in history], waits, color=2),
    ]
    chart = line_chart(series, _EPOCH, Axis("seconds", with_zero=True), name="Time of each epoch")
    text = "Waiting is what faster disks, more processors or a cache would save."
    return figure("Time", text, chart, legend=[(line.color, line.name) for line in series])


def _phases(phases: Mapping[str, float] | None) -> Markup | None:
    if not phases:
        return None
    total = sum(phases.values())
    entries = [
        Bar(name, seconds, f"{duration(seconds)} ({percent(seconds / total)})" if total > 0 else duration(seconds))
        for name, seconds in phases.items()
    ]
    return figure(
        "Where the time went",
        f"{duration(total)} in all.",
        bars(entries, name="Time of each part of the run"),
        hint=None,
    )


def _table(history: Sequence[EpochResult]) -> Markup:
    names = ("epoch", "train loss", "valid loss", "valid accuracy", "learning rate", "seconds", "images/s", "waited, s")
    rows = [
        (
            Value(str(result.epoch), result.epoch),
            Value(f"{result.train_loss:.4f}", result.train_loss),
            Value(f"{result.valid_loss:.4f}", result.valid_loss),
            Value(percent(result.valid_accuracy), result.valid_accuracy),
            Value(number(result.lr), result.lr),
            Value(f"{result.seconds:.1f}", result.seconds),
            Value(f"{result.images_per_s:.1f}", result.images_per_s),
            Value(f"{result.waited_s:.1f}", result.waited_s),
        )
        for result in history
    ]
    return table("What each epoch measured", [Column(name, is_number=True) for name in names], rows)


def _or_infinite(loss: float) -> float:
    return loss if math.isfinite(loss) else math.inf
