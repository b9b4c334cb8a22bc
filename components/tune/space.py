"""The search space: which settings of train are tried, and between which values."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Value = str | int | float | bool
Scale = Literal["linear", "log"]


@dataclass(frozen=True)
class Continuous:
    """Any number between two, both included."""

    min: float
    max: float
    scale: Scale = "linear"


@dataclass(frozen=True)
class Integer:
    """Any whole number between two, both included."""

    min: int
    max: int
    scale: Scale = "linear"


@dataclass(frozen=True)
class Categorical:
    """One of several values, all of the setting's type."""

    values: tuple[Value, ...]


Range = Continuous | Integer | Categorical
Space = Mapping[str, Range]
"""Ranges by setting of train, its field's name, in the order of the file."""
