"""Axes without the drawing: data to pixels, where ticks stand and what they say."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

_NICE_STEPS: Final = (1, 2, 5, 10)
_FEW_DECADES: Final = 3
"""On a logarithmic axis as short as this, ticks at 2 and 5 stand between the powers of ten."""
_ALIKE: Final = 1e-12
"""Values that differ by less than this share of themselves are one on an axis."""


@dataclass(frozen=True)
class Scale:
    """A straight or logarithmic way from data to pixels."""

    low: float
    high: float
    start: float
    """Pixel of `low`."""
    end: float
    """Pixel of `high`; on a vertical axis it is the smaller one."""
    is_log: bool = False

    def __call__(self, value: float) -> float:
        """Pixel of a value."""
        low, high, here = (math.log10(v) if self.is_log else v for v in (self.low, self.high, value))
        return self.start + (here - low) / (high - low) * (self.end - self.start)

    def shows(self, value: float) -> bool:
        """Whether the value is a number that has a place on the axis."""
        return math.isfinite(value) and (value > 0 or not self.is_log)

    def ticks(self, count: int = 5) -> list[float]:
        """Round values inside the axis: about `count` of them, or the powers of ten of a logarithmic axis."""
        return _log_ticks(self.low, self.high, count) if self.is_log else _ticks(self.low, self.high, count)


def fit(
    values: Iterable[float],
    start: float,
    end: float,
    *,
    is_log: bool = False,
    with_zero: bool = False,
    bounds: tuple[float, float] | None = None,
) -> Scale:
    """The axis that holds all values that can be shown, widened to round numbers.

    Args:
        values: What is to be shown; what is not finite, or not above 0 on a logarithmic axis, does not count.
        start: Pixel of the low end.
        end: Pixel of the high end.
        is_log: Powers of ten are equally far apart.
        with_zero: A straight axis includes 0.
        bounds: The axis never goes beyond these, however the values would be rounded: (0, 1) for a share.
    """
    shown = [value for value in values if math.isfinite(value) and (value > 0 or not is_log)]
    low, high = (min(shown), max(shown)) if shown else (1.0, 10.0) if is_log else (0.0, 1.0)
    if are_alike(low, high):
        low = high
    if is_log:
        low, high = (low, high) if high > low else (low / 2, high * 2)
        return Scale(low, high, start, end, is_log=True)
    if with_zero:
        low, high = min(low, 0.0), max(high, 0.0)
    if high == low and with_zero:
        high = high or 1.0
        low = min(0.0, low)
    elif high == low:
        low, high = low - (abs(low) / 2 or 0.5), high + (abs(high) / 2 or 0.5)
    step = _step(low, high, 5)
    low, high = math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step
    if bounds is not None:
        low, high = max(low, bounds[0]), min(high, bounds[1])
        low, high = (low, high) if high > low else bounds
    return Scale(low, high, start, end)


def are_alike(low: float, high: float) -> bool:
    """Whether two values are so near each other that steps between them would be lost in rounding."""
    return high - low <= _ALIKE * max(abs(low), abs(high))


def is_wide(values: Iterable[float], ratio: float) -> bool:
    """Whether positive values are so far apart that only a logarithmic axis tells the small ones from each other."""
    above = [value for value in values if math.isfinite(value) and value > 0]
    return bool(above) and max(above) > ratio * min(above)


def number(value: float) -> str:
    """A number as short as can be read: 0.001, 1.25, 12,000, 3e-05."""
    if not math.isfinite(value):
        return "not a number" if math.isnan(value) else "infinite"
    if value == 0:
        return "0"
    if 1e-4 <= abs(value) < 1e6:
        digits = max(0, 3 - math.floor(math.log10(abs(value))))
        text = f"{value:,.{digits}f}"
        return text.rstrip("0").rstrip(".") if "." in text else text
    return f"{value:.3g}".replace("e+0", "e").replace("e-0", "e-")


def percent(share: float) -> str:
    """A share as a percentage: 97.5%."""
    return f"{100 * share:.1f}%" if math.isfinite(share) else "-"


def duration(seconds: float) -> str:
    """A time as a person says it: 0.4 s, 12.3 s, 4 min 05 s, 2 h 10 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def _step(low: float, high: float, count: int) -> float:
    rough = (high - low) / count
    power: float = 10.0 ** math.floor(math.log10(rough))
    return min(nice * power for nice in _NICE_STEPS if nice * power >= rough * 0.999)


def _ticks(low: float, high: float, count: int) -> list[float]:
    step = _step(low, high, count)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    digits = max(0, -math.floor(math.log10(step)) + 1)
    return [round(place * step, digits) for place in range(first, last + 1)]


def _log_ticks(low: float, high: float, count: int) -> list[float]:
    first, last = math.floor(math.log10(low)), min(307, math.ceil(math.log10(high)))  # 5e308 is no float any more
    steps: tuple[float, ...]
    every = max(1, -(-(last - first) // (count + 1)))
    steps = (1, 2, 5) if last - first <= _FEW_DECADES else (1,)
    if high <= 10 * low:
        steps = (1, 1.5, 2, 3, 4, 5, 6, 8)
    ticks = [step * 10.0**power for power in range(first, last + 1, every) for step in steps]
    inside = [tick for tick in ticks if low * 0.999 <= tick <= high * 1.001]
    return inside if len(inside) > 1 else [low, high]
