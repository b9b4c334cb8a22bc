"""Charts as inline SVG: pure functions, colored by page.css, brought to life by page.js, complete without it.

Every datum is one element of class `mark` with a `<title>`: a pointer finds it, a screen reader can tell of it, a test
can count it. What has no place on an axis (a loss that is not a number) has no mark and breaks the line.
"""

import json
import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from components.report.markup import Attribute, Markup, element, join
from components.report.scales import Scale, fit, number

WIDTH: Final = 440
HEIGHT: Final = 260
LEFT, RIGHT, TOP, BOTTOM = 60, 16, 30, 44
"""Room around the plot, in units of the drawing."""
MANY_POINTS: Final = 60
"""From here on dots hide the line they are on: they show when the pointer is near."""
LONGEST_LABEL: Final = 24
"""Characters of a label in a drawing; its title and the tables hold the whole of it."""


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
class Axis:
    """What an axis is called and how it runs."""

    label: str
    is_log: bool = False
    with_zero: bool = False
    bounds: tuple[float, float] | None = None
    is_whole: bool = False
    """Only whole numbers make sense: epochs, steps."""


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
    across = _across(series, x)
    values = [value for line in series for value in line.y]
    up = fit(values, HEIGHT - BOTTOM, TOP, is_log=y.is_log, with_zero=y.with_zero, bounds=y.bounds)
    parts = [*_axes(across, up, x, y)]
    if has_diagonal:
        ends = (max(across.low, up.low), min(across.high, up.high))
        parts.append(_line("diagonal", across(ends[0]), up(ends[0]), across(ends[1]), up(ends[1])))
    if rule is not None:
        parts.append(_rule(rule, across))
    parts += [element("path", class_=f"line s{line.color}", d=_path(line, across, up)) for line in series]
    parts += [mark for line in series for mark in _marks(line, across, up, x.label)]
    is_dense = max((len(line.x) for line in series), default=0) > MANY_POINTS
    return _svg(WIDTH, HEIGHT, "chart lines dense" if is_dense else "chart lines", name, *parts)


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
    shown = [_shortened(label) for label in labels]
    left = 36 + font * max(map(_width, shown))
    is_level = max(map(_width, shown)) * font < size
    top = 30 + font * (1 if is_level else max(map(_width, shown)))
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
    return _svg(left + count * size + end, top + count * size + 8, f"chart heat f{font}", name, *parts, **facts)


def bars(entries: Sequence[Bar], *, name: str) -> Markup:
    """Horizontal bars from zero, from the top, each with its name and its value."""
    pitch, left, right = (30 if len(entries) < 10 else 20), 96, 160
    longest = max([entry.value for entry in entries if math.isfinite(entry.value)] + [0.0]) or 1.0
    across = Scale(0.0, longest, left, WIDTH - right)
    parts: list[Markup] = []
    for place, entry in enumerate(entries):
        middle = place * pitch + pitch / 2
        end = across(max(0.0, entry.value)) if math.isfinite(entry.value) else left
        parts += [
            element("text", _shortened(entry.label), class_="name", x=left - 8, y=middle, text_anchor="end"),
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
    return _svg(WIDTH, pitch * len(entries), "chart bars", name, *parts)


def meter(share: float) -> Markup:
    """A share as a small bar, to stand beside its number in a table."""
    length = 100 * min(1.0, max(0.0, share)) if math.isfinite(share) else 0.0
    track = element("rect", class_="track", width=100, height=8, rx=3)
    bar = element("rect", class_="bar", width=length, height=8, rx=3)
    return element("svg", track, bar, class_="meter", viewBox="0 0 100 8", aria_hidden="true")


def swatch(color: int) -> Markup:
    """A piece of line in the color of a series, for legends."""
    return element(
        "svg", _line(f"line s{color}", 1, 5, 23, 5), class_="swatch", viewBox="0 0 24 10", aria_hidden="true"
    )


def _across(series: Sequence[Series], x: Axis) -> Scale:
    shown = [value for line in series for value in line.x if math.isfinite(value) and (value > 0 or not x.is_log)]
    if x.bounds is not None:
        low, high = x.bounds
    else:
        low, high = (min(shown), max(shown)) if shown else (1.0, 2.0)
    if low == high:
        low, high = (low / 2, high * 2) if x.is_log else (low - 1, high + 1)
    return Scale(low, high, LEFT, WIDTH - RIGHT, x.is_log)


def _axes(across: Scale, up: Scale, x: Axis, y: Axis) -> list[Markup]:
    parts = []
    for tick in up.ticks():
        at = up(tick)
        parts.append(_line("grid", LEFT, at, WIDTH - RIGHT, at))
        parts.append(element("text", number(tick), class_="tick", x=LEFT - 8, y=at, text_anchor="end"))
    for tick in across.ticks(6):
        if not x.is_whole or tick == round(tick):
            at = across(tick)
            parts.append(_line("tick", at, HEIGHT - BOTTOM, at, HEIGHT - BOTTOM + 4))
            parts.append(
                element("text", number(tick), class_="tick", x=at, y=HEIGHT - BOTTOM + 14, text_anchor="middle")
            )
    parts.append(_line("axis", LEFT, HEIGHT - BOTTOM, WIDTH - RIGHT, HEIGHT - BOTTOM))
    end = WIDTH - RIGHT
    parts.append(element("text", y.label, class_="title", x=4, y=10))
    parts.append(element("text", x.label, class_="title", x=end, y=HEIGHT - 8, text_anchor="end"))
    return parts


def _rule(rule: Rule, across: Scale) -> Markup:
    at = across(rule.x)
    side = {"x": at - 5, "text_anchor": "end"} if at > WIDTH / 2 else {"x": at + 5}
    label = element("text", rule.label, class_="rule", y=TOP - 8, **side)
    return element("g", _line("rule", at, TOP - 14, at, HEIGHT - BOTTOM), label, class_="best")


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


def _line(kind: str, x1: float, y1: float, x2: float, y2: float) -> Markup:
    return element("line", class_=kind, x1=x1, y1=y1, x2=x2, y2=y2)


def _svg(width: float, height: float, kind: str, name: str, *parts: Markup, **facts: Attribute) -> Markup:
    return element(
        "svg",
        *parts,
        class_=kind,
        viewBox=f"0 0 {width:g} {height:g}",
        width=width,
        height=height,
        role="img",
        aria_label=name,
        tabindex=None if "bars" in kind else "0",  # page.js answers keys in the others
        **facts,
    )


def _shortened(label: str) -> str:
    return label if len(label) <= LONGEST_LABEL else label[: LONGEST_LABEL - 1] + "…"


def _width(text: str) -> float:
    """Width in ems, about: fonts differ, and a little too much room is better than too little."""
    return sum(1.0 if unicodedata.east_asian_width(character) in "WF" else 0.62 for character in text)
