"""What all charts share: the size of a drawing, its axes, how long a label is."""

import math
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from components.report.markup import Attribute, Markup, element, isolated, join
from components.report.scales import Scale, are_alike, fit, number

WIDTH: Final = 440
HEIGHT: Final = 260
LEFT, RIGHT, TOP, BOTTOM = 60, 16, 30, 44
"""Room around the plot, in units of the drawing."""
LONGEST_LABEL: Final = 24
"""Characters of a label in a drawing; its title and the tables hold the whole of it."""
NARROW_FONT: Final = 14
"""Of a chart on a narrow screen, in page.css: room is made for it; elsewhere it is 12."""
MANY, VERY_MANY = 60, 300
"""Trials from which on their marks are drawn thinner, and as thin as can be."""


@dataclass(frozen=True)
class Axis:
    """What an axis is called and how it runs."""

    label: str
    is_log: bool = False
    with_zero: bool = False
    bounds: tuple[float, float] | None = None
    is_whole: bool = False
    """Only whole numbers make sense: epochs, steps."""
    categories: Sequence[str] = ()
    """What stands at 0, 1, 2 and so on, where these are no numbers but places in a list."""


def exact(values: Iterable[float], axis: Axis, start: float, end: float) -> Scale:
    """The scale that ends where its bounds or else the data end; of categories each has as much room.

    Args:
        values: What is to be shown; what is not finite, or not above 0 on a logarithmic axis, does not count.
        axis: Which one.
        start: Pixel of the low end.
        end: Pixel of the high end.
    """
    if axis.categories:
        return Scale(-0.5, len(axis.categories) - 0.5, start, end)
    shown = [value for value in values if math.isfinite(value) and (value > 0 or not axis.is_log)]
    low, high = axis.bounds or ((min(shown), max(shown)) if shown else (1.0, 2.0))
    if are_alike(low, high):
        low, high = (low / 2, high * 2) if axis.is_log else (low - 1, high + 1)
    return Scale(low, high, start, end, axis.is_log)


def rounded(values: Iterable[float], axis: Axis, start: float, end: float) -> Scale:
    """The scale that ends at round numbers, its bounds at most; arguments as of `exact`."""
    return fit(values, start, end, is_log=axis.is_log, with_zero=axis.with_zero, bounds=axis.bounds)


def axes(across: Scale, up: Scale, x: Axis, y: Axis) -> list[Markup]:
    """Ticks, grid and titles of a chart of the usual size."""
    parts = []
    for tick in up.ticks():
        at = up(tick)
        parts.append(stroke("grid", LEFT, at, WIDTH - RIGHT, at))
        parts.append(element("text", number(tick), class_="tick", x=LEFT - 8, y=at, text_anchor="end"))
    for tick, label in ticks(across, x, (WIDTH - LEFT - RIGHT) / (0.7 * NARROW_FONT)):
        at = across(tick)
        parts.append(stroke("tick", at, HEIGHT - BOTTOM, at, HEIGHT - BOTTOM + 4))
        parts.append(element("text", label, class_="tick", x=at, y=HEIGHT - BOTTOM + 14, text_anchor="middle"))
    parts.append(stroke("axis", LEFT, HEIGHT - BOTTOM, WIDTH - RIGHT, HEIGHT - BOTTOM))
    end = WIDTH - RIGHT
    parts.append(element("text", y.label, class_="title", x=4, y=10))
    parts.append(element("text", x.label, class_="title", x=end, y=HEIGHT - 8, text_anchor="end"))
    return parts


def ticks(scale: Scale, axis: Axis, room: float) -> list[tuple[float, Markup]]:
    """Where ticks stand and what they say.

    Args:
        scale: Of the axis.
        axis: Which one.
        room: Characters that the labels of all categories together have room for.
    """
    if not axis.categories:
        return [(tick, join(number(tick))) for tick in scale.ticks(6) if not axis.is_whole or tick == round(tick)]
    every = math.ceil(4 * len(axis.categories) / room)  # or not even four characters of each could be read
    longest = int(room / len(axis.categories)) * every
    return [(place, label(axis.categories[place], longest)) for place in range(0, len(axis.categories), every)]


def label(text: str, longest: int = LONGEST_LABEL) -> Markup:
    """Text from outside as a label in a drawing: cut, with the whole of it in a tooltip."""
    cut = shortened(text, longest)
    whole = element("title", isolated(text)) if cut != text else None
    return join(whole, isolated(cut))


def stroke(kind: str, x1: float, y1: float, x2: float, y2: float) -> Markup:
    """A straight line of a kind that page.css knows."""
    return element("line", class_=kind, x1=x1, y1=y1, x2=x2, y2=y2)


def svg(width: float, height: float, kind: str, name: str, *parts: Markup, **facts: Attribute) -> Markup:
    """The whole drawing.

    Args:
        width: In units of the drawing.
        height: Likewise.
        kind: Classes; page.js and page.css know them.
        name: What a screen reader calls it.
        parts: From the lowest to the topmost.
        facts: Attributes for page.js.
    """
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


def crowd(count: int) -> int:
    """How thin so many marks have to be: 0, 1 or 2; page.css knows what that means for lines."""
    return 2 if count >= VERY_MANY else 1 if count >= MANY else 0


def shortened(text: str, longest: int = LONGEST_LABEL) -> str:
    """Text of at most so many characters."""
    return text if len(text) <= longest else text[: longest - 1] + "…"


def ems(text: str) -> float:
    """Width of a text in ems, about: fonts differ, and a little too much room is better than too little."""
    return sum(1.0 if unicodedata.east_asian_width(character) in "WF" else 0.62 for character in text)
