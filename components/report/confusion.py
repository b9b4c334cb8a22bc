"""confusion_matrix.html: what a classifier takes for what, and whether its probabilities can be believed."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from components.report.charts import Bar, Cell, Series, bars, heat_map, line_chart, meter
from components.report.drawing import Axis
from components.report.markup import Markup, element, isolated, join
from components.report.mistakes import (
    Bin,
    ClassAccuracy,
    Pair,
    Probabilities,
    Targets,
    calibration_bins,
    confusion_counts,
    expected_calibration_error,
    macro_recall,
    per_class_accuracy,
    sharpened,
    top_k_accuracy,
    worst_pairs,
)
from components.report.page import Card, Column, Value, cards, figure, grid, page, section, table
from components.report.scales import number, percent
from components.report.thumbnails import thumbnails

FILE: Final = "confusion_matrix.html"
NUM_PAIRS: Final = 12
NUM_EXAMPLES: Final = 3
"""Of a pair; the number is the one that the layout has room for in a row."""
_SHARE: Final = (0.0, 1.0)


def confusion_page(
    labels: Sequence[str],
    targets: Targets,
    probabilities: Probabilities,
    names: Sequence[str],
    *,
    paths: Sequence[Path] = (),
    temperature: float | None = None,
    title: str = "Test split",
) -> str:
    """The page of a classified split.

    Args:
        labels: In the order of the class ids.
        targets: (N,), N at least 1.
        probabilities: (N, K), before calibration.
        names: How to call each image.
        paths: Where each lies; left out, or where a file cannot be read, its name stands without its picture.
        temperature: What logits are divided by to calibrate them, fitted on another split; None: they are not.
        title: What was classified by what.
    """
    predicted = probabilities.argmax(axis=1)
    classes = per_class_accuracy(labels, targets, predicted)
    calibrated = probabilities if temperature is None else sharpened(probabilities, temperature)
    pairs = worst_pairs(labels, targets, calibrated, NUM_PAIRS)
    before, after = calibration_bins(targets, probabilities), calibration_bins(targets, calibrated)
    counts = confusion_counts(len(labels), targets, predicted)
    return page(
        "Confusion matrix",
        title,
        cards(_cards(targets, probabilities, classes, (before, after), temperature)),
        section("Matrix", "", _matrix(labels, counts)),
        _pairs(pairs, calibrated, names, paths),
        section("Classes", "Click a heading to sort.", _classes(classes, counts, labels)),
        _calibration(before, after, temperature),
    )


def _cards(
    targets: Targets,
    probabilities: Probabilities,
    classes: Sequence[ClassAccuracy],
    bins: tuple[Sequence[Bin], Sequence[Bin]],
    temperature: float | None,
) -> list[Card]:
    correct = sum(entry.num_correct for entry in classes)
    entries = [Card("Accuracy", percent(correct / len(targets)), f"{correct:,} of {len(targets):,} images")]
    if len(classes) > 5:
        top = top_k_accuracy(targets, probabilities, 5)
        entries.append(Card("Top-5 accuracy", percent(top), "the class is among the five likeliest"))
    entries.append(Card("Macro recall", percent(macro_recall(classes)), f"mean of {len(classes)} classes"))
    before, after = (expected_calibration_error(entry) for entry in bins)
    note = "how far probabilities are off" if temperature is None else f"before calibration {percent(before)}"
    return [*entries, Card("Calibration error", percent(after), note)]


def _matrix(labels: Sequence[str], counts: NDArray[np.int64]) -> Markup:
    of = counts.sum(axis=1)
    cells = [
        _cell(labels, int(row), int(column), int(counts[row, column]), int(of[row]))
        for row, column in np.argwhere(counts)
    ]
    chart = heat_map(cells, labels, name="Confusion matrix", rows="true class", columns="predicted class")
    text = "A row holds the images of one class. Blue is right, orange is wrong; deeper is a larger share of the row."
    hint = "Point at the matrix, or focus it and use the arrow keys, to read a square."
    return element("div", figure("True class by predicted class", text, chart, hint=hint), class_="grid whole")


def _cell(labels: Sequence[str], row: int, column: int, count: int, of: int) -> Cell:
    what = isolated(labels[row])
    what += " recognised" if row == column else f" taken for {isolated(labels[column])}"
    title = f"{what}: {count} of {of} ({percent(count / of)})"
    return Cell(row, column, count / of, str(count), title, is_good=row == column)


def _pairs(pairs: Sequence[Pair], probabilities: Probabilities, names: Sequence[str], paths: Sequence[Path]) -> Markup:
    shown = [place for pair in pairs for place in pair.examples[:NUM_EXAMPLES]]
    pictures = thumbnails(paths[place] for place in shown) if paths else {}
    items = []
    for pair in pairs:
        chosen = pair.examples[:NUM_EXAMPLES]
        addresses = [pictures.get(paths[place]) if paths else None for place in chosen]
        sureness = [float(probabilities[place, pair.predicted_id]) for place in chosen]
        examples = [
            _example(names[place], share, address)
            for place, share, address in zip(chosen, sureness, addresses, strict=True)
        ]
        kind = "examples" if any(addresses) else "examples plain"
        arrow = element("span", " taken for ", class_="arrow")
        items.append(
            element(
                "li",
                element("h3", element("bdi", pair.label), arrow, element("bdi", pair.predicted)),
                element("p", f"{pair.count} of {pair.num_images} images", class_="many"),
                element("ul", *examples, class_=kind),
                class_="pair",
            )
        )
    text = "The commonest mistakes, each with the images of which the model was surest." if items else "There are none."
    return section("Worst-confused pairs", text, element("ul", *items, class_="pairs") if items else None)


def _example(name: str, share: float, address: str | None) -> Markup:
    picture = element("img", src=address, alt=name) if address else None
    return element("li", picture, element("b", percent(share)), element("bdi", *_breakable(name)))


def _breakable(name: str) -> list[Markup]:
    """A path that goes on in the next line after a slash rather than anywhere."""
    folders, _, file = name.rpartition("/")
    pieces = [join(folder, "/", element("wbr")) for folder in folders.split("/")] if folders else []
    return [*pieces, join(file)]


def _classes(classes: Sequence[ClassAccuracy], counts: NDArray[np.int64], labels: Sequence[str]) -> Markup:
    columns = [
        Column("class"),
        Column("images", is_number=True),
        Column("correct", is_number=True),
        Column("accuracy", is_number=True),
        Column("precision", is_number=True),
        Column("mostly taken for"),
    ]
    rows = [
        (
            entry.label,
            Value(str(entry.num_images), entry.num_images),
            Value(str(entry.num_correct), entry.num_correct),
            Value(join(meter(entry.accuracy), percent(entry.accuracy)), _sortable(entry.accuracy)),
            Value(percent(entry.precision), _sortable(entry.precision)),
            _mostly(counts[place], place, labels),
        )
        for place, entry in enumerate(classes)
    ]
    return table(
        "How each class fares: accuracy is the share of its images, precision of its predictions", columns, rows
    )


def _mostly(row: NDArray[np.int64], own: int, labels: Sequence[str]) -> str:
    wrong = row.copy()
    wrong[own] = 0
    worst = int(wrong.argmax())
    return f"{isolated(labels[worst])} ({wrong[worst]})" if wrong[worst] else ""


def _calibration(before: Sequence[Bin], after: Sequence[Bin], temperature: float | None) -> Markup:
    kinds = [("as trained", before, 2), (f"with temperature {number(temperature or 1)}", after, 1)]
    series = [_reliability(*kind) for kind in (kinds if temperature is not None else [("probabilities", before, 1)])]
    axes = Axis("probability given", bounds=_SHARE), Axis("share that is right", bounds=_SHARE, with_zero=True)
    chart = line_chart(series, *axes, name="Reliability diagram", has_diagonal=True)
    text = "Dashed is true; below it the model is too sure of itself, above it too modest. Large dots: many images."
    legend = [(line.color, line.name) for line in series]
    shown = figure("Reliability", text, chart, legend=legend)
    error = expected_calibration_error(after)
    sentence = f"Where the model says 80%, is it right four times in five? It is off by {percent(error)} on average"
    sentence += (
        "." if temperature is None else f", by {percent(expected_calibration_error(before))} before calibration."
    )
    return section("Calibration", sentence, grid(shown, _confidences(after)))


def _reliability(name: str, bins: Sequence[Bin], color: int) -> Series:
    notes = [
        f"{name}: {percent(entry.accuracy)} of {entry.count} images right at {percent(entry.confidence)}"
        for entry in bins
    ]
    confidences, shares = [entry.confidence for entry in bins], [entry.accuracy for entry in bins]
    return Series(name, confidences, shares, notes, [entry.count for entry in bins], color)


def _confidences(bins: Sequence[Bin]) -> Markup:
    total = sum(entry.count for entry in bins)
    entries = [
        Bar(
            f"about {100 * entry.confidence:.0f}%",
            entry.count,
            f"{entry.count} images ({percent(entry.count / total)})",
        )
        for entry in bins
    ]
    chart = bars(entries, name="Images by the probability of their label")
    return figure("How sure it is", "Images by the probability of the label given.", chart, hint=None)


def _sortable(share: float) -> float:
    return share if share == share else -1.0  # noqa: PLR0124 - NaN alone differs from itself, and JavaScript cannot sort it
