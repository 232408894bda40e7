"""What a series of measurements says: whether something grows, and by how much. Without I/O but for :func:`look`."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tests.integration.config_serving import resident
from tests.integration.footprint import Footprint, footprint

SETTLING = 0.4
"""The share of a series, from its beginning, that says nothing of growth: what is bounded fills up there, as the 256
older releases that a configuration server keeps."""


@dataclass(frozen=True)
class Sample:
    """One process at one time.

    Attributes:
        handoffs: how many there had been of its service.
        resident: its memory, in MiB.
        held: its descriptors, threads and mappings.
    """

    handoffs: int
    resident: float
    held: Footprint


def look(pid: int, handoffs: int) -> Sample:
    """Measure a process."""
    return Sample(handoffs, resident(pid), footprint(pid))


def settled(samples: Sequence[Sample]) -> list[Sample]:
    """Return the samples that count: those after :data:`SETTLING`, and two at least."""
    start = min(int(len(samples) * SETTLING) + 1, len(samples) - 2)
    return list(samples[max(start, 0) :])


def growth(samples: Sequence[Sample]) -> float:
    """Return by how much memory grew, in MiB: the line of least squares, from the first sample that counts to the last.

    A line, since a single sample is as good as its moment: what the allocator keeps varies.

    Raises:
        ValueError: there are less than two samples, or all are of one moment.
    """
    counted = settled(samples)
    handoffs = [float(sample.handoffs) for sample in counted]
    try:
        line = statistics.linear_regression(handoffs, [sample.resident for sample in counted])
    except statistics.StatisticsError as error:
        raise ValueError(f"{len(counted)} samples show no growth: {error}") from None
    return line.slope * (handoffs[-1] - handoffs[0])


def table(kinds: dict[str, list[Sample]], grown: dict[str, float]) -> str:
    """Return all series as a table in Markdown: a row for each kind of process."""
    lines = [
        "| process | handoffs | MiB, first | least | most | last | growth | descriptors | threads | mappings |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for kind, samples in kinds.items():
        memory = [sample.resident for sample in samples]
        figures = [
            str(samples[-1].handoffs),
            *(f"{value:.1f}" for value in (memory[0], min(memory), max(memory), memory[-1])),
            f"{grown[kind]:+.2f}",
            spread(sample.held.descriptors for sample in samples),
            spread(sample.held.threads for sample in samples),
            spread(sample.held.mappings for sample in samples),
        ]
        lines.append(f"| {' | '.join([kind, *figures])} |")
    return "\n".join(lines)


def spread(values: Iterable[int]) -> str:
    """Return the least and the most of some numbers; once where they are the same."""
    numbers = sorted(set(values))
    return str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"
