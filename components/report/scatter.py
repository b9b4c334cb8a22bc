"""Dots for trials: one each, its state told by its shape, with what it says when it is pointed at."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from components.report.drawing import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Axis,
    axes,
    crowd,
    exact,
    rounded,
    svg,
)
from components.report.markup import Markup, element, join
from components.report.scales import Scale

Kind = Literal["complete", "pruned", "failed", "running"]

MARGIN: Final = 12
"""Between dots and axes, in units of the drawing: what lies on the axis itself has no value."""
_SIZES: Final = (4.0, 3.0, 2.0)
"""Radius of a dot, the more there are the smaller."""
_BEST: Final = 2.5
"""By how much the best are larger."""
_LABEL_ROOM: Final = 14
"""Labels closer than this would lie on each other."""
_PATHS: Final = {
    "pruned": "m{0} {1}h-{2}l{0} -{2}z",  # a triangle that points down
    "failed": "m-{0} -{0}l{2} {2}m0 -{2}l-{2} {2}",  # a cross
    "running": "m-{0} -{0}h{2}v{2}h-{2}z",  # a square
}


@dataclass(frozen=True)
class Dot:
    """A trial at a place."""

    trial: int
    x: float
    y: float | None
    """None: there is no value; the dot lies on the axis."""
    title: str
    kind: Kind = "complete"
    is_best: bool = False
    label: str = ""
    """Written beside it, where there is room."""


def scatter(
    dots: Sequence[Dot], x: Axis, y: Axis, *, name: str, steps: Sequence[tuple[float, float]] = (), jitter: float = 0
) -> Markup:
    """A dot for each trial.

    Args:
        dots: In any order; the best are drawn last.
        x: The horizontal axis; it ends where the data end.
        y: The vertical axis; it ends at round numbers.
        name: What a screen reader calls the drawing.
        steps: Corners of a line that runs across first, then up or down.
        jitter: How far dots are spread to either side, in units of x, where many would lie on each other.
    """
    across = exact((dot.x for dot in dots), x, LEFT + MARGIN, WIDTH - RIGHT - MARGIN)
    up = rounded((dot.y for dot in dots if dot.y is not None), y, HEIGHT - BOTTOM - MARGIN, TOP)
    parts = axes(across, up, x, y)
    if steps:
        parts.append(element("path", class_="line steps", d=_stairs(steps, across, up)))
    level = crowd(len(dots))
    parts += [_dot(dot, across, up, jitter, _SIZES[level]) for dot in sorted(dots, key=lambda dot: dot.is_best)]
    parts += _labels(dots, across, up)
    return svg(WIDTH, HEIGHT, f"chart trials dots crowd{level}", name, *parts)


def dot_swatch(kind: Kind, *, is_best: bool = False) -> Markup:
    """A dot of a kind, for legends."""
    classes = f"dot {kind}{' best' if is_best else ''}"
    return element("svg", _shape(kind, classes, 12, 5, 4), class_="swatch", viewBox="0 0 24 10", aria_hidden="true")


def _dot(dot: Dot, across: Scale, up: Scale, jitter: float, size: float) -> Markup:
    spread = jitter * (2 * math.modf(dot.trial * 0.618034)[0] - 1)  # golden section: neighbours come far apart
    classes = f"mark dot {dot.kind}{' best' if dot.is_best else ''}"
    radius = size + _BEST * dot.is_best
    return _shape(dot.kind, classes, across(dot.x + spread), _height(dot, up), radius, dot)


def _height(dot: Dot, up: Scale) -> float:
    return up(dot.y) if dot.y is not None and up.shows(dot.y) else HEIGHT - BOTTOM


def _shape(kind: Kind, classes: str, x: float, y: float, size: float, dot: Dot | None = None) -> Markup:
    title, trial = (element("title", dot.title), dot.trial) if dot else (None, None)
    x, y = round(x, 1), round(y, 1)
    if kind == "complete":
        return element("circle", title, class_=classes, cx=x, cy=y, r=size, data_trial=trial)
    shape = _PATHS[kind].format(f"{size:g}", f"{size * 0.75:g}", f"{2 * size:g}")
    return element("path", title, class_=classes, d=f"M{x:g} {y:g}{shape}", data_trial=trial)


def _stairs(steps: Sequence[tuple[float, float]], across: Scale, up: Scale) -> str:
    (first_x, first_y), *rest = [(across(x), up(y)) for x, y in steps]
    return f"M{first_x:.1f} {first_y:.1f}" + "".join(f"H{x:.1f}V{y:.1f}" for x, y in rest)


def _labels(dots: Sequence[Dot], across: Scale, up: Scale) -> list[Markup]:
    made: list[Markup] = []
    taken = [(across(dot.x), _height(dot, up)) for dot in dots if dot.label]
    for dot in dots:
        if not dot.label:
            continue
        x, y = across(dot.x), _height(dot, up)
        around = [(x, y - _LABEL_ROOM), (x + _LABEL_ROOM, y), (x - _LABEL_ROOM, y), (x, y + _LABEL_ROOM)]
        free = [at for at in around if all(math.dist(at, other) >= _LABEL_ROOM for other in taken)]
        if free:
            taken.append(free[0])
            label = element("text", join(dot.label), class_="name", x=free[0][0], y=free[0][1], text_anchor="middle")
            made.append(label)
    return made
