"""Sizes and times that a run prints at its end; the fixture `record_figure` takes them."""

from collections.abc import Callable

RecordFigure = Callable[[str], None]
