"""What ``hotfd bench`` found, for people and for scripts."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final

from hotfd import _core
from hotfd.bench.handoffs import FLOOR, HANDOFF, ONE, most_connections, ratios
from hotfd.bench.machine import machine
from hotfd.bench.measure import number
from hotfd.display.text import table
from hotfd.server.moving import BATCH

if TYPE_CHECKING:
    from hotfd.bench.handoffs import Asked
    from hotfd.bench.measure import Results, Series

BUSY_PROCESSES: Final = 3
"""Processes that compute at the same time during a handoff: the old one, the new one, the clients."""


def lines(asked: Asked, results: Results) -> list[str]:
    """Return a run as lines for people."""
    many, one = results[HANDOFF], results[ONE]
    found = ratios(asked, results)
    rows = [
        ["longest wait of a client", str(many["wait"]), f"without a handoff {many['wait without']!s}"],
        ["pause per connection, p50", str(many["pause p50"]), ""],
        ["pause per connection, p99", str(many["pause p99"]), f"the longest {many['pause max']}"],
        ["all connections moved in", str(many["moving"]), str(found.rate)],
        [
            "the kernel alone",
            str(results[FLOOR.format(_core.MAX_DESCRIPTORS)]["moving"]),
            f"{_core.MAX_DESCRIPTORS} descriptors in a message; with {BATCH}: {results[FLOOR.format(BATCH)]['moving']!s}",
        ],
        ["moved in, over the kernel alone", str(found.floor), ""],
        ["start of the new process", str(many["start"]), "nobody waits for it"],
        ["processor, old process", str(many["old processor"]), f"for one connection {one['old processor']!s}"],
        ["processor, new process", str(many["new processor"]), f"for one connection {one['new processor']!s}"],
    ]
    return [
        *table(["", "MEDIAN (LOW TO HIGH)", ""], rows),
        "",
        *(f"limit  {limit}" for limit in limits(asked, results)),
    ]


def title(asked: Asked) -> str:
    """Return what is measured, in a line."""
    connections = "1 connection" if asked.connections == 1 else f"{asked.connections:,} connections"
    rounds = "1 round" if asked.rounds == 1 else f"{asked.rounds} rounds"
    return (
        f"{connections}, {asked.asking:,} of them busy, {asked.state:,} bytes of state each; {asked.loop}, "
        f"{rounds}; {len(os.sched_getaffinity(0))} processors"
    )


def limits(asked: Asked, results: Results) -> list[str]:
    """Return what limits a server here, in sentences with the figures that say so."""
    many = results[HANDOFF]
    most = most_connections()
    per_connection = many["moving"].median / asked.connections
    kernel = results[FLOOR.format(_core.MAX_DESCRIPTORS)]["moving"].median / many["moving"].median
    descriptors = (
        f"descriptors: a process can have {most:,} connections here (ulimit -Hn); at this rate they would be moved in "
        f"about {number(most * per_connection)} s."
    )
    work = (
        f"work: the kernel alone would take {number(100 * kernel)} percent of the time in which connections move; the "
        f"rest is what two servers do on their loops ({asked.loop})."
    )
    found = [descriptors, work]
    if (cores := len(os.sched_getaffinity(0))) < BUSY_PROCESSES:
        found.append(
            f"processors: the old process, the new one and the clients of this benchmark share {cores}; "
            "where each has one of its own, waits are shorter."
        )
    return found


def plain(asked: Asked, results: Results) -> dict[str, Any]:
    """Return a run as ``--json`` prints it."""
    found = ratios(asked, results)
    return {
        "connections": asked.connections,
        "busy": asked.asking,
        "state_bytes": asked.state,
        "rounds": asked.rounds,
        "loop": asked.loop,
        "figures": {
            case: {figure: _plain(series) for figure, series in figures.items()} for case, figures in results.items()
        },
        "ratios": {"moving over the kernel alone": _plain(found.floor)},
        "rates": {"moved": _plain(found.rate), "kernel alone": _plain(found.floor_rate)},
        "limits": limits(asked, results),
        "machine": machine(),
    }


def _plain(series: Series) -> dict[str, Any]:
    return {
        "unit": series.unit,
        "median": series.median,
        "low": series.low,
        "high": series.high,
        "values": list(series.values),
    }
