"""Charts as inline SVG: pure functions, colored by page.css, brought to life by page.js, complete without it.

Every datum is one element of class `mark` with a `<title>`: a pointer finds it, a screen reader can tell of it, a test
can count it. What has no place on an axis (a loss that is not a number) has no mark and breaks the line.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from components.report.drawing import (
    BOTTOM,
    HEIGHT,
    LEFT,
    NARROW_FONT,
    RIGHT,
    TOP,
    WIDTH,
    Axis,
    axes,
    ems,
    exact,
    label,
    rounded,
    shortened,
    stroke,
    svg,
)
from components.report.markup import Attribute, Markup, element, join
from components.report.scales import Scale, number

MANY_POINTS: Final = 60
"""From here on dots hide the line they are on: they show when the pointer is near."""


@dataclass(frozen=True)
class Series:
    """Points joined by a line, in the order given."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    notes: Sequence[str] = ()
    """What the tooltip of each point says; by default its name and value."""
    weights: Sequence[float] = ()
    """How much each point counts: its dot has so large an area; left out, all are alike."""
    color: int = 1
    """Which of the series colors of page.css, from 1."""


@dataclass(frozen=True)
class Rule:
    """A vertical line at a value that matters, with its name."""

    x: float
    label: str


@dataclass(frozen=True)
class Cell:
    """One square of a heat map."""

    row: int
    column: int
    strength: float
    """0..1: how deep its color is."""
    text: str
    title: str
    is_good: bool = True
    """Which of two colors."""


@dataclass(frozen=True)
class Bar:
    """One bar: its name, its length, and what is written at its end."""

    label: str
    value: float
    text: str


def line_chart(
    series: Sequence[Series], x: Axis, y: Axis, *, name: str, rule: Rule | None = None, has_diagonal: bool = False
) -> Markup:
    """Lines over a common axis.

    Args:
        series: At least one; they may be empty.
        x: The horizontal axis; it ends where the data end.
        y: The vertical axis; it ends at round numbers.
        name: What a screen reader calls the drawing.
        rule: A vertical line to mark.
        has_diagonal: Draw y = x for comparison.
    """
    across = exact((value for line in series for value in line.x), x, LEFT, WIDTH - RIGHT)
    up = rounded((value for line in series for value in line.y), y, HEIGHT - BOTTOM, TOP)
    parts = [*axes(across, up, x, y)]
    if has_diagonal:
        ends = (max(across.low, up.low), min(across.high, up.high))
        parts.append(stroke("diagonal", across(ends[0]), up(ends[0]), across(ends[1]), up(ends[1])))
    if rule is not None:
        parts.append(_rule(rule, across))
    parts += [element("path", class_=f"line s{line.color}", d=_path(line, across, up)) for line in series]
    parts += [mark for line in series for mark in _marks(line, across, up, x.label)]
    is_dense = max((len(line.x) for line in series), default=0) > MANY_POINTS
    return svg(WIDTH, HEIGHT, "chart lines dense" if is_dense else "chart lines", name, *parts)


def heat_map(cells: Sequence[Cell], labels: Sequence[str], *, name: str, rows: str, columns: str) -> Markup:
    """A square table of numbers as colors, rows from the top; only the cells given are drawn.

    It keeps its natural size, whatever the number of labels, so that they stay readable: let it scroll.

    Args:
        cells: Where there is something; the rest is empty.
        labels: Of the rows and of the columns.
        name: What a screen reader calls the drawing.
        rows: What the rows are.
        columns: What the columns are.
    """
    count = len(labels)
    size = 40 if count <= 12 else max(9, 480 // count) if count <= 150 else max(3, 1350 // count)
    font = 12 if size >= 14 else 8
    shown = [shortened(label) for label in labels]
    left = 36 + font * max(map(ems, shown))
    is_level = max(map(ems, shown)) * font < size
    top = 30 + font * (1 if is_level else max(map(ems, shown)))
    every = max(1, math.ceil((font + 1) / size))  # labels closer than that would lie on each other
    parts = [
        element("text", columns, class_="title", x=left, y=12),
        element("text", rows, class_="title", x=12, y=top, transform=f"rotate(-90 12 {top})", text_anchor="end"),
        *_grid(count, size, left, top),
    ]
    for place in range(0, count, every):
        middle = (place + 0.5) * size
        text = join(element("title", labels[place]), shown[place])
        parts.append(element("text", text, class_="row", data_row=place, x=left - 6, y=top + middle, text_anchor="end"))
        x, y = (left + middle, top - 6)
        turned: dict[str, str] = {"text_anchor": "middle"} if is_level else {"transform": f"rotate(-90 {x} {y})"}
        parts.append(element("text", text, class_="column", data_column=place, x=x, y=y, **turned))
    parts += [_cell(cell, size, left, top) for cell in cells]
    end = 12 if is_level else 20
    facts: dict[str, Attribute] = {"data_size": size, "data_left": left, "data_top": top}
    facts["data_labels"] = json.dumps(list(labels))
    return svg(left + count * size + end, top + count * size + 8, f"chart heat f{font}", name, *parts, **facts)


def bars(entries: Sequence[Bar], *, name: str) -> Markup:
    """Horizontal bars from zero, from the top, each with its name and its value."""
    pitch = 30 if len(entries) < 10 else 20
    left = max([96.0] + [16 + NARROW_FONT * ems(shortened(entry.label)) for entry in entries])
    right = max([96.0] + [16 + NARROW_FONT * ems(entry.text) for entry in entries])
    longest = max([entry.value for entry in entries if math.isfinite(entry.value)] + [0.0]) or 1.0
    across = Scale(0.0, longest, left, max(left + 40, WIDTH - right))
    parts: list[Markup] = []
    for place, entry in enumerate(entries):
        middle = place * pitch + pitch / 2
        end = across(max(0.0, entry.value)) if math.isfinite(entry.value) else left
        parts += [
            element("text", label(entry.label), class_="name", x=left - 8, y=middle, text_anchor="end"),
            element(
                "rect",
                element("title", f"{entry.label}: {entry.text}"),
                class_="mark bar s1",
                x=left,
                y=middle - pitch / 4,
                width=max(1.0, end - left),
                height=pitch / 2,
                rx=3,
            ),
            element("text", entry.text, class_="value", x=end + 8, y=middle),
        ]
    return svg(WIDTH, pitch * len(entries), "chart bars", name, *parts)


def meter(share: float) -> Markup:
    """A share as a small bar, to stand beside its number in a table."""
    length = 100 * min(1.0, max(0.0, share)) if math.isfinite(share) else 0.0
    track = element("rect", class_="track", width=100, height=8, rx=3)
    bar = element("rect", class_="bar", width=length, height=8, rx=3)
    return element("svg", track, bar, class_="meter", viewBox="0 0 100 8", aria_hidden="true")


def swatch(color: int) -> Markup:
    """A piece of line in the color of a series, for legends."""
    return element(
        "svg", stroke(f"line s{color}", 1, 5, 23, 5), class_="swatch", viewBox="0 0 24 10", aria_hidden="true"
    )


def _rule(rule: Rule, across: Scale) -> Markup:
    at = across(rule.x)
    side = {"x": at - 5, "text_anchor": "end"} if at > WIDTH / 2 else {"x": at + 5}
    label = element("text", rule.label, class_="rule", y=TOP - 8, **side)
    return element("g", stroke("rule", at, TOP - 14, at, HEIGHT - BOTTOM), label, class_="best")


def _path(line: Series, across: Scale, up: Scale) -> str:
    steps, is_drawing = [], False
    for x, y in zip(line.x, line.y, strict=True):
        if across.shows(x) and up.shows(y):
            steps.append(f"{'L' if is_drawing else 'M'}{across(x):.1f} {up(y):.1f}")
        is_drawing = across.shows(x) and up.shows(y)
    return "".join(steps)


def _marks(line: Series, across: Scale, up: Scale, x_label: str) -> list[Markup]:
    notes = line.notes or [f"{line.name}: {number(y)}" for y in line.y]
    most = max(line.weights, default=1.0)
    sizes = [2.5 + 7 * math.sqrt(weight / most) for weight in line.weights] or [3.5] * len(line.y)
    return [
        element(
            "circle",
            element("title", note),
            class_=f"mark point s{line.color}",
            cx=round(across(x), 1),
            cy=round(up(y), 1),
            r=size,
            data_at=f"{x_label} {number(x)}",
        )
        for x, y, note, size in zip(line.x, line.y, notes, sizes, strict=True)
        if across.shows(x) and up.shows(y)
    ]


def _grid(count: int, size: int, left: float, top: float) -> list[Markup]:
    side = count * size
    every = 1 if size >= 14 else 10
    lines = [f"M{left + at * size} {top}v{side}M{left} {top + at * size}h{side}" for at in range(every, count, every)]
    ground = element("rect", class_="ground", x=left, y=top, width=side, height=side)
    return [ground, element("path", class_="grid", d="".join(lines))]


def _cell(cell: Cell, size: int, left: float, top: float) -> Markup:
    x, y = left + cell.column * size, top + cell.row * size
    faintest = 0.12 if size >= 14 else 0.3  # a speck has to be stronger to be seen
    gap = 1 if size >= 14 else 0.5 if size >= 6 else 0
    square = element(
        "rect",
        element("title", cell.title),
        class_=f"mark cell {'good' if cell.is_good else 'bad'}",
        x=x + gap,
        y=y + gap,
        width=size - 2 * gap,
        height=size - 2 * gap,
        rx=2 if size >= 14 else 0,
        fill_opacity=faintest + (1 - faintest) * min(1.0, max(0.0, cell.strength)),
        data_row=cell.row,
        data_column=cell.column,
    )
    if size < 26 or not cell.text:
        return square
    shade = "count deep" if cell.strength > 0.5 else "count"
    text = element("text", cell.text, class_=shade, x=x + size / 2, y=y + size / 2, text_anchor="middle")
    return join(square, text)
