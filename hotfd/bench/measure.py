"""Figures that may be compared: cases run in turns, a value per round, medians and ratios. Without I/O.

Two cases that run one after the other are measured on two different machines: processors change their clocks, and
other programs come and go. So all cases run once in each round, in an order that rotates, and what is claimed is a ratio
of two cases *of the same round*, of which there is one per round. The median of these is the figure; the lowest and the
highest stand beside it, so that everybody sees how far to trust it.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from hotfd.bench.plots import Plot

DIGITS: Final = 3
"""Significant digits of a figure that people read; the next one is noise in nearly everything that is measured here."""

Case = Callable[[], Mapping[str, tuple[float, str]]]
"""Runs once, and returns its figures: ``{figure: (value, unit)}``."""


def silent(_text: str) -> None:
    """Say nothing: what is taken for ``say`` where nobody listens."""


@dataclass(frozen=True)
class Series:
    """One figure of one case, a value per round.

    Args:
        unit: what the values are: ``s``, ``us``, ``frames/s``, ``bytes``; ``x`` for a ratio.
        values: at least one.

    Raises:
        ValueError: there is no value, or one is no finite number.
    """

    unit: str
    values: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.values:
            raise ValueError("a series needs a value")
        if not all(map(math.isfinite, self.values)):
            raise ValueError(f"a value is no finite number: {self.values}")

    @property
    def median(self) -> float:
        """The value in the middle, or half of the two in the middle."""
        return statistics.median(self.values)

    @property
    def low(self) -> float:
        """The smallest value."""
        return min(self.values)

    @property
    def high(self) -> float:
        """The largest value."""
        return max(self.values)

    @property
    def spread(self) -> float:
        """The distance of the extremes as a part of the median; 0 where the median is 0."""
        return (self.high - self.low) / abs(self.median) if self.median else 0.0

    def __str__(self) -> str:
        """Return it as tables show it: ``3.1 ms (2.9 to 3.4)``; without the extremes where there is one value."""
        scale, unit = _scale(self.median, self.unit)
        text = f"{number(self.median / scale)} {unit}".rstrip()
        if len(self.values) > 1:
            text += f" ({number(self.low / scale)} to {number(self.high / scale)})"
        return text


Results = dict[str, dict[str, Series]]
"""``{case: {figure: series}}``, as :func:`interleave` returns them."""


def interleave(cases: Mapping[str, Case], rounds: int, *, say: Callable[[str], None] = silent) -> Results:
    """Run every case once per round, in an order that rotates by one each round.

    Args:
        cases: by name. What one raises goes to the caller at once: a round without one of its cases compares nothing.
        rounds: how often, at least once.
        say: is told what runs.

    Returns:
        for each case its figures, each with a value per round.

    Raises:
        ValueError: there is nothing to run, or a case returned other figures or units than in the round before.
    """
    if rounds < 1 or not cases:
        raise ValueError(f"{len(cases)} cases in {rounds} rounds are nothing to measure")
    names = list(cases)
    units: dict[str, dict[str, str]] = {}
    values: dict[str, dict[str, list[float]]] = {name: {} for name in names}
    for turn in range(rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            say(f"round {turn + 1} of {rounds}: {name}")
            figures = cases[name]()
            found = {figure: unit for figure, (_value, unit) in figures.items()}
            if units.setdefault(name, found) != found:
                raise ValueError(f"case {name!r} returned {found}, and {units[name]} in the round before")
            for figure, (value, _unit) in figures.items():
                values[name].setdefault(figure, []).append(value)
    return {
        name: {figure: Series(unit, tuple(values[name][figure])) for figure, unit in units[name].items()}
        for name in names
    }


def ratio(results: Mapping[str, Mapping[str, Series]], figure: str, case: str, over: str) -> Series:
    """Return how a figure of one case stands to that of another, round by round.

    Args:
        results: of one :func:`interleave`.
        figure: which, of both.
        case: what is above the line.
        over: what is below it.

    Raises:
        KeyError: there is no such case or figure.
        ValueError: the units or the rounds differ, or a value below the line is 0.
    """
    return quotient(results[case][figure], results[over][figure])


def quotient(above: Series, below: Series) -> Series:
    """Return one series over another, round by round; raises ValueError as :func:`ratio` does."""
    if above.unit != below.unit:
        raise ValueError(f"{above.unit} over {below.unit} is no ratio")
    if len(above.values) != len(below.values):
        raise ValueError(f"{len(above.values)} and {len(below.values)} rounds cannot be compared")
    if 0 in below.values:
        raise ValueError("a value below the line is 0")
    return Series("x", tuple(one / other for one, other in zip(above.values, below.values, strict=True)))


def raw(results: Results) -> dict[str, object]:
    """Return every value of every figure by case and name, for :attr:`Section.data`."""
    return {
        case: {figure: {"unit": series.unit, "values": list(series.values)} for figure, series in figures.items()}
        for case, figures in results.items()
    }


@dataclass(frozen=True)
class Goal:
    """What a ratio should be.

    Args:
        text: what is claimed, as a sentence.
        ratio: a value per round, of unit ``x``.
        at_least: the median should not be below this.
        at_most: nor above this. One of the two is given, or both.
        limits: what stands in the way, where it is not met: what was measured about that, and no guesses.

    Raises:
        ValueError: it has no bound.
    """

    text: str
    ratio: Series
    at_least: float | None = None
    at_most: float | None = None
    limits: str = ""

    def __post_init__(self) -> None:
        if self.at_least is None and self.at_most is None:
            raise ValueError(f"a goal needs a bound: {self.text}")

    @property
    def met(self) -> bool:
        """Whether the median is within the bounds."""
        median = self.ratio.median
        return (self.at_least is None or median >= self.at_least) and (self.at_most is None or median <= self.at_most)

    @property
    def bound(self) -> str:
        """The bounds in words."""
        bounds = []
        if self.at_least is not None:
            bounds.append(f"at least {number(self.at_least)} x")
        if self.at_most is not None:
            bounds.append(f"at most {number(self.at_most)} x")
        return ", ".join(bounds)


@dataclass(frozen=True)
class Table:
    """Rows for people.

    Args:
        title: what it shows.
        columns: their heads.
        rows: as many texts each as there are columns; ``str(series)`` makes one of a series.

    Raises:
        ValueError: a row has more or fewer.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"{len(row)} cells for {len(self.columns)} columns: {row}")


@dataclass
class Section:
    """What one suite found.

    Args:
        name: the suite's module.
        title: what people call it.
        text: Markdown: what was measured, and how, in a few sentences.
        tables: figures.
        goals: what is claimed.
        plots: pictures, an SVG each.
        data: raw figures for ``results.json``: only what JSON has.
        skipped: what was not measured, why, and how to have it: ``pgbouncer is not installed: apt-get install pgbouncer``.
    """

    name: str
    title: str
    text: str = ""
    tables: list[Table] = field(default_factory=list)
    goals: list[Goal] = field(default_factory=list)
    plots: list[Plot] = field(default_factory=list)
    data: dict[str, object] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)


# ---------------------------------------------------------------- figures for people

_SCALES: Final[Mapping[str, Sequence[tuple[float, str]]]] = {
    "s": ((1.0, "s"), (1e-3, "ms"), (1e-6, "us"), (1e-9, "ns")),
    "ms": ((1e3, "s"), (1.0, "ms"), (1e-3, "us")),
    "us": ((1e6, "s"), (1e3, "ms"), (1.0, "us"), (1e-3, "ns")),
    "bytes": ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"), (1.0, "bytes")),
    "bytes/s": ((1e9, "GB/s"), (1e6, "MB/s"), (1e3, "kB/s"), (1.0, "bytes/s")),
}
"""Units that people read at another size: what one is worth in the first unit, from large to small."""


def _scale(value: float, unit: str) -> tuple[float, str]:
    """Return by what to divide a value of this size, and the unit that it has then."""
    steps = _SCALES.get(unit)
    if steps is None or value == 0:
        return 1.0, unit
    return next((step for step in steps if abs(value) >= step[0]), steps[-1])


def number(value: float) -> str:
    """Return a number as people read it: three digits, no exponent, commas between thousands."""
    if value == 0:
        return "0"
    digits = DIGITS - 1 - math.floor(math.log10(abs(value)))
    rounded = round(value, digits)
    if digits <= 0 or rounded == int(rounded):
        return f"{int(rounded):,}"
    return f"{rounded:,.{digits}f}".rstrip("0")
