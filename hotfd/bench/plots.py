"""Pictures of figures: what there is to see. Who shows them, draws them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

Point: TypeAlias = tuple[float, float]


@dataclass(frozen=True)
class Lines:
    """Lines through points: a cost against a size, or how far something is over time.

    Args:
        name: the file's name without ``.svg``: letters, digits and hyphens.
        title: what it shows.
        x: what is on the horizontal axis, with its unit.
        y: what is on the vertical one.
        lines: for each its points, by rising x.
        log_x: whether that axis is logarithmic; then every x is above 0.
        log_y: likewise.
        points: whether each point is marked as such. Not where there are hundreds.
    """

    name: str
    title: str
    x: str
    y: str
    lines: Mapping[str, Sequence[Point]]
    log_x: bool = False
    log_y: bool = False
    points: bool = True


@dataclass(frozen=True)
class Bars:
    """Bars beside each other, in groups.

    Args:
        name: as of :class:`Lines`.
        title: likewise.
        y: what is on the vertical axis, with its unit.
        groups: for each group the height of its bars, by the name that they have in every group.
        log: whether the vertical axis is logarithmic; then every height is above 0.
    """

    name: str
    title: str
    y: str
    groups: Mapping[str, Mapping[str, float]]
    log: bool = False


@dataclass(frozen=True)
class Histogram:
    """How often which values came.

    Args:
        name: as of :class:`Lines`.
        title: likewise.
        x: what the values are, with their unit.
        counts: for each series its buckets: from, to, how many. The buckets of a series do not overlap.
        log_x: whether that axis is logarithmic; then every bucket begins above 0.
        y: what is counted.
    """

    name: str
    title: str
    x: str
    counts: Mapping[str, Sequence[tuple[float, float, float]]]
    log_x: bool = True
    y: str = "connections"


Plot: TypeAlias = Lines | Bars | Histogram
