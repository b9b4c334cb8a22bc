"""Lines for trials: one each, through its settings or through its epochs, colored by what it came to."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from components.report.drawing import (
    BOTTOM,
    HEIGHT,
    LEFT,
    LONGEST_LABEL,
    NARROW_FONT,
    RIGHT,
    TOP,
    WIDTH,
    Axis,
    axes,
    crowd,
    exact,
    label,
    rounded,
    stroke,
    svg,
    ticks,
)
from components.report.markup import Markup, element
from components.report.scales import Scale
from components.report.scatter import Kind

LEVELS: Final = 8
"""Colors of the sequential scale in page.css: 0 is the worst, the last is the best."""
_WHOLE_WIDTH: Final = 1100
_WHOLE_HEIGHT: Final = 400
_PITCH: Final = 120
"""Least room between two upright axes."""
_HEAD, _FOOT, _SIDE = 44, 44, 70
"""Room above, below and beside the upright axes."""
_BAND: Final = 10
"""Width of the colored axis."""


@dataclass(frozen=True)
class Thread:
    """A trial as a line."""

    trial: int
    x: Sequence[float]
    """Left out where lines go through upright axes."""
    y: Sequence[float | None]
    """One for each x, or for each axis; where there is none the line goes on to the next."""
    title: str
    level: int | None
    """0..LEVELS - 1: how good it came out; None: there is no telling."""
    kind: Kind = "complete"
    is_best: bool = False


def line_for_each(threads: Sequence[Thread], x: Axis, y: Axis, *, name: str) -> Markup:
    """A line for each trial over a common axis; where it was stopped early it ends in a dot.

    Args:
        threads: From the worst to the best, which is drawn over the others.
        x: The horizontal axis; it ends where the data end.
        y: The vertical axis; it ends at round numbers.
        name: What a screen reader calls the drawing.
    """
    across = exact((value for thread in threads for value in thread.x), x, LEFT, WIDTH - RIGHT)
    values = [value for thread in threads for value in thread.y if value is not None]
    up = rounded(values, y, HEIGHT - BOTTOM, TOP)
    parts = axes(across, up, x, y)
    for thread in threads:
        points = [
            (across(at), up(value))
            for at, value in zip(thread.x, thread.y, strict=True)
            if value is not None and up.shows(value)
        ]
        if thread.kind != "complete" and points:
            parts.append(element("circle", class_="end", cx=points[-1][0], cy=points[-1][1], r=2.5))
        if points:
            path = "M" + "L".join(f"{left:.1f} {top:.1f}" for left, top in points)
            # A line of one point is drawn by its round ends alone, and only if it goes somewhere.
            parts.append(_thread(thread, path if len(points) > 1 else f"{path}L{points[0][0]:.1f} {points[0][1]:.1f}"))
    return svg(WIDTH, HEIGHT, f"chart trials threads crowd{crowd(len(threads))}", name, *parts)


def parallel(threads: Sequence[Thread], uprights: Sequence[Axis], *, name: str, is_best_high: bool) -> Markup:
    """Parallel coordinates: an upright axis for each setting, the colored one at the end, a line for each trial.

    Args:
        threads: From the worst to the best; the one without a value at the last axis ends below it.
        uprights: Axes from the left; bounds are where they end, the last ends where its data end.
        name: What a screen reader calls the drawing.
        is_best_high: Whether the upper end of the last axis is the good one.
    """
    width = max(_WHOLE_WIDTH, 2 * _SIDE + _PITCH * (len(uprights) - 1))
    pitch = (width - 2 * _SIDE) / max(1, len(uprights) - 1)
    bottom = _WHOLE_HEIGHT - _FOOT
    scales = [
        exact([value for thread in threads if (value := thread.y[place]) is not None], axis, bottom, _HEAD)
        for place, axis in enumerate(uprights)
    ]
    places = [_SIDE + place * pitch for place in range(len(uprights))]
    parts = [_band(places[-1], bottom, is_best_high=is_best_high)]
    made = [_curve(thread, places, scales) for thread in threads]
    parts += [_thread(thread, path) for thread, path in zip(threads, made, strict=True)]
    for place, axis, scale in zip(places, uprights, scales, strict=True):
        parts.append(_upright(place, axis, scale, pitch, is_last=place == places[-1]))
    if any(thread.y[-1] is None for thread in threads):
        text = element("text", "no value", class_="tick", x=places[-1], y=bottom + 36, text_anchor="middle")
        parts.append(text)
    kind = f"chart trials threads parallel crowd{crowd(len(threads))}{'' if width == _WHOLE_WIDTH else ' long'}"
    return svg(width, _WHOLE_HEIGHT, kind, name, *parts)


def _thread(thread: Thread, path: str) -> Markup:
    color = "none" if thread.level is None else f"q{thread.level}"
    classes = f"mark thread {thread.kind} {color}{' best' if thread.is_best else ''}"
    return element("path", element("title", thread.title), class_=classes, d=path, data_trial=thread.trial)


def _curve(thread: Thread, places: Sequence[float], scales: Sequence[Scale]) -> str:
    """Level at each axis, so that the eye follows a line through a point that many share."""
    points = [
        (place, scale(value))
        for place, scale, value in zip(places, scales, thread.y, strict=True)
        if value is not None and scale.shows(value)
    ]
    if thread.y[-1] is None:
        points.append((places[-1], _WHOLE_HEIGHT - _FOOT + 24))
    path = f"M{points[0][0]:.0f} {points[0][1]:.1f}"
    for (x, y), (next_x, next_y) in pairwise(points):
        middle = (x + next_x) / 2
        path += f"C{middle:.0f} {y:.1f} {middle:.0f} {next_y:.1f} {next_x:.0f} {next_y:.1f}"
    return path


def _upright(place: float, axis: Axis, scale: Scale, pitch: float, *, is_last: bool) -> Markup:
    longest = int((pitch - 24) / (0.62 * NARROW_FONT))
    side = place + _BAND if is_last else place - 8
    anchor = "start" if is_last else "end"
    parts = [
        stroke("axis", place, scale.start, place, scale.end),
        element("text", label(axis.label, longest), class_="name", x=place, y=_HEAD - 24, text_anchor="middle"),
    ]
    for tick, text in ticks(scale, axis, float(min(longest, LONGEST_LABEL) * len(axis.categories))):
        parts.append(stroke("tick", place - 4, scale(tick), place, scale(tick)))
        parts.append(element("text", text, class_="tick", x=side, y=scale(tick), text_anchor=anchor))
    return element("g", *parts, class_="upright")


def _band(place: float, bottom: float, *, is_best_high: bool) -> Markup:
    height = (bottom - _HEAD) / LEVELS
    parts = [
        element(
            "rect",
            class_=f"q{level}",
            x=place - _BAND / 2,
            y=round(bottom - height * (level + 1) if is_best_high else _HEAD + height * level, 1),
            width=_BAND,
            height=round(height, 1) + 0.2,  # no seam between two
        )
        for level in range(LEVELS)
    ]
    return element("g", *parts, class_="band")
