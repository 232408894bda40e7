"""Axes of pictures: from values to places, and where the ticks are. Without I/O."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

TICKS: Final = 6
"""How many ticks an axis has, about: more are in each other's way."""

STEPS: Final = (1.0, 2.0, 5.0, 10.0)
"""Distances of ticks that people count in, by powers of ten."""

DECADES_WITH_STEPS: Final = 2
"""Decades up to which a logarithmic axis has ticks at 2 and 5 too; beyond, at powers of ten only."""

TOLERANCE: Final = 1e-9
"""Part of a step by which sums of floats miss a tick."""


@dataclass(frozen=True)
class Axis:
    """One axis.

    Args:
        ticks: values, rising; the first and the last are its ends.
        log: whether it is logarithmic.
        start: where the first is, in pixels.
        end: where the last is.
    """

    ticks: tuple[float, ...]
    log: bool
    start: float
    end: float

    def place(self, value: float) -> float:
        """Return where a value is, in pixels; what is beyond an end is there."""
        low, high = self.ticks[0], self.ticks[-1]
        value = min(max(value, low), high)
        part = math.log(value / low) / math.log(high / low) if self.log else (value - low) / (high - low)
        return round(self.start + part * (self.end - self.start), 1)


def axis(values: Iterable[float], *, log: bool, start: float, end: float, zero: bool = True) -> Axis:
    """Return an axis on which all these values are.

    Args:
        values: at least one; above 0 where it is logarithmic.
        log: whether it is.
        start: where it begins, in pixels.
        end: where it ends.
        zero: whether a linear one begins at 0, so that lengths can be compared.

    Raises:
        ValueError: there is no value, or a logarithmic axis cannot show one.
    """
    values = list(values)
    if not values:
        raise ValueError("there is nothing to draw")
    low, high = min(values), max(values)
    if log:
        if low <= 0:
            raise ValueError(f"a logarithmic axis cannot show {low}")
        return Axis(tuple(_log_ticks(low, high)), True, start, end)
    return Axis(tuple(_linear_ticks(min(low, 0.0) if zero else low, high)), False, start, end)


def _linear_ticks(low: float, high: float) -> Iterator[float]:
    if high <= low:
        high = low + (abs(low) or 1.0)
    raw = (high - low) / TICKS
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(step for step in STEPS if step * power >= raw * (1 - TOLERANCE)) * power
    first = math.floor(low / step + TOLERANCE)
    last = math.ceil(high / step - TOLERANCE)
    digits = max(0, -math.floor(math.log10(step)))
    for count in range(first, last + 1):
        yield round(count * step, digits)


def _log_ticks(low: float, high: float) -> list[float]:
    """Return powers of ten, with 2 and 5 between them where they are few; the ends include both values."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    all_steps = [step * 10.0**power for power in range(first, last + 1) for step in STEPS[:-1]]
    below = [tick for tick in all_steps if tick <= low * (1 + TOLERANCE)]
    above = [tick for tick in all_steps if tick >= high * (1 - TOLERANCE)]
    start, end = below[-1], above[0]
    if start == end:
        end = next(tick for tick in all_steps if tick > start)
    if last - first <= DECADES_WITH_STEPS:
        return [tick for tick in all_steps if start <= tick <= end]
    inner = [10.0**power for power in range(first, last + 1) if start < 10.0**power < end]
    return [start, *inner, end]
