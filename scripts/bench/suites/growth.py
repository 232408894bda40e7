"""What grows with the number of connections and with their state: the time of a handoff, and memory."""

from __future__ import annotations

import resource
import statistics
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final

from hotfd.bench.measure import Goal, Results, Section, Series, Table, interleave, number, quotient, raw
from hotfd.bench.plots import Bars, Lines
from scripts.bench import fanout, idle, workers
from scripts.bench.generations import Generations, HandoffFailed, peak_bytes
from scripts.bench.idle import KERNEL_FIGURE, LINE, ON_UVLOOP, OURS, PROCESS_FIGURE, PROTOCOL, QUIET, RESUMED, STREAMS
from scripts.bench.load import Load

if TYPE_CHECKING:
    from pathlib import Path

    from hotfd.bench.measure import Case
    from scripts.bench.settings import Settings

TITLE: Final = "Growth"

KIB: Final = 1 << 10
MIB: Final = 1 << 20

STATE: Final = 200
"""Bytes that each session keeps where their number is what grows."""

SPARE: Final = 500
"""Descriptors that a process needs beside its connections'."""

SEVERAL: Final = 1000
"""Connections below which a handoff takes milliseconds, and most of its processor time is the start of a process."""

MEMORY_ROUNDS: Final = 3
"""Rounds of what hardly differs from one to the next."""

PER_WORKER: Final = 13_000
"""Connections of one worker, on average, where there are several."""

FLAT: Final = 1.25
"""How far the cost per connection may differ between the sizes."""

AS_FRESH: Final = 1.1
"""How much more a connection that was handed over may hold than one that was accepted: what its process remembers of the
handoff is counted with it."""

RELEASE: Final = 4096
"""Bytes of a release of configuration."""

MIN_MEMORY: Final = 6 << 30
"""Bytes of free memory for a hundred thousand connections: what they, the clients' ends and the kernel took, twice."""

CHOSEN: Final = {
    "moving": "s",
    "elapsed": "s",
    "spawn": "s",
    "longest pause": "s",
    "peak memory": "bytes",
    "processor": "s",
}
"""The figures of a handoff, with their units."""

Figures = Mapping[str, tuple[float, str]]


@dataclass(frozen=True)
class Scale:
    """How large everything is.

    Attributes:
        sizes: connections of a handoff.
        states: bytes of state, and how many sessions have so much.
        idle: connections whose memory is measured.
        workers: how many share a hundred thousand; 0: none do.
        subscribers: of a configuration server; 0: there is none.
        repeats: how many handoffs follow each other where one takes only milliseconds; their median counts.
        uvloop: whether servers on uvloop are measured.
    """

    sizes: tuple[int, ...] = (100, 1000, 4000, 8000, 15_000)
    states: tuple[tuple[int, int], ...] = ((KIB, 4000), (100 * KIB, 500), (10 * MIB, 20))
    idle: int = 10_000
    workers: int = 8
    subscribers: int = 3000
    repeats: int = 5
    uvloop: bool = True


QUICK: Final = Scale(sizes=(10, 40), states=((MIB, 4),), idle=100, workers=0, subscribers=0, repeats=1, uvloop=False)


def run(settings: Settings) -> Section:
    """Measure, with the sizes that the descriptor limit allows."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # the clients inherit it
    return measure(settings, QUICK if settings.quick else Scale(), hard)


def measure(settings: Settings, scale: Scale, limit: int) -> Section:
    """Measure at this scale.

    Args:
        settings: what the suite is told.
        scale: how large.
        limit: descriptors of a process.
    """
    section = Section("growth", TITLE, TEXT)
    sizes = [size for size in scale.sizes if size + SPARE <= limit]
    if left_out := sorted(set(scale.sizes) - set(sizes)):
        section.skipped.append(
            f"{', '.join(f'{size:,}' for size in left_out)} connections: a process may have {limit:,} descriptors; "
            "raise the hard limit (LimitNOFILE=, ulimit -Hn)"
        )
    _add_sizes(
        section,
        interleave(_by_size(sizes, scale.repeats, settings.directory), settings.rounds, say=settings.say),
        sizes,
    )
    rounds = min(settings.rounds, MEMORY_ROUNDS)
    _add_states(section, interleave(_by_state(scale, settings.directory), rounds, say=settings.say), scale)
    _add_memory(section, settings, scale, min(scale.idle, limit - SPARE))
    if scale.workers:
        _add_workers(section, settings, scale.workers, limit)
    if scale.subscribers:
        settings.say(f"a configuration server with {scale.subscribers:,} subscribers")
        _add_fanout(section, fanout.measure(min(scale.subscribers, limit - SPARE), RELEASE, settings.directory))
    return section


TEXT: Final = """\
A server with one handler per connection and a dataclass for its state is handed over by `hotfd handoff`. Its clients
have each said one line, and are idle but for one of them. The *moving part* is the phase `move` of the report: from the first
session that the old process asks to come to its boundary until the last one is committed. What happens before it, most
of all the start of a Python process with its imports, costs nothing per connection and holds up no client; it stands
beside it. The cost per connection is the moving part, less that of a handoff of a single connection in the same round,
divided by the number of the others. The processor time is that of both processes together, in the same way.

Memory is counted in bytes that a process has made itself (`Anonymous` of `/proc/PID/smaps_rollup`), as the difference between a
server with few connections and with many, each of which has said one frame and waits for the next. The kernel's memory is the
growth of those of its caches (`/proc/slabinfo`) that grow with every socket; an idle socket has no buffers.
"""


# ---------------------------------------------------------------- handoffs


def _by_size(sizes: list[int], repeats: int, directory: Path) -> dict[str, Case]:
    return {f"{size:,}": partial(_handoff, size, STATE, repeats, directory) for size in [1, *sizes]}


def _by_state(scale: Scale, directory: Path) -> dict[str, Case]:
    return {_name(size, count): partial(_handoff, count, size, 1, directory) for size, count in scale.states}


def _name(size: int, count: int) -> str:
    return f"{Series('bytes', (size,))} in each of {count:,}"


def _handoff(connections: int, state: int, repeats: int, directory: Path) -> Figures:
    """Hand so many connections over, each with so much state; small ones several times, for the median of them."""
    command = [sys.executable, "-m", f"{idle.SERVERS}.holding_hotfd", "--state", str(state)]
    with (
        Generations(command, directory) as server,
        Load(server.address, request=LINE, reply=len(LINE), connections=connections, asking=1, think=QUIET) as load,
    ):
        done = [server.hand_over() for _ in range(repeats if connections < SEVERAL else 1)]
        peak = peak_bytes(server.pid)
        load.stop()
    moved = {handoff.report["connections"]["moved"] for handoff in done}
    if moved != {connections}:
        raise HandoffFailed(f"{moved} of {connections} connections have moved")
    values = {
        "moving": statistics.median(handoff.moving for handoff in done),
        "elapsed": statistics.median(handoff.elapsed for handoff in done),
        "spawn": statistics.median(handoff.report["phases_ms"]["spawn"] / 1e3 for handoff in done),
        "longest pause": statistics.median(handoff.report["pause_ms"]["max"] / 1e3 for handoff in done),
        "peak memory": peak,
        "processor": done[0].cpu,
    }
    return {name: (float(value), CHOSEN[name]) for name, value in values.items()}


def _less(series: Series, fixed: Series, count: int) -> Series:
    """Return what each further connection costs."""
    return Series(
        series.unit, tuple((value - less) / count for value, less in zip(series.values, fixed.values, strict=True))
    )


def _add_sizes(section: Section, results: Results, sizes: list[int]) -> None:
    fixed = results["1"]["moving"]
    costs = {size: _less(results[f"{size:,}"]["moving"], fixed, size - 1) for size in sizes}
    rows = [
        [
            f"{size:,}",
            str(results[f"{size:,}"]["moving"]),
            str(costs[size]) if size in costs else "",
            str(_less(results[f"{size:,}"]["processor"], results["1"]["processor"], size - 1))
            if size >= SEVERAL
            else "",
            str(results[f"{size:,}"]["longest pause"]),
            str(results[f"{size:,}"]["spawn"]),
            str(results[f"{size:,}"]["elapsed"]),
        ]
        for size in [1, *sizes]
    ]
    columns = [
        "connections",
        "moving part",
        "of it per further connection",
        "processor time per further connection",
        "longest pause",
        "start",
        "whole handoff",
    ]
    section.tables.append(Table(f"Handoffs by the number of connections, {STATE} bytes of state each", columns, rows))
    medians = [cost.median for cost in costs.values()]
    if min(medians, default=0.0) <= 0:  # of small numbers, on a busy machine
        section.skipped.append("the cost of a connection: it was less than what handoffs of one differ by")
    elif len(medians) > 1:
        section.goals.append(
            Goal(
                f"From {sizes[0]:,} to {sizes[-1]:,} connections, what each costs differs by at most a quarter",
                Series("x", (max(medians) / min(medians),)),
                at_most=FLAT,
                limits="it is the largest of the medians over the smallest; the table has them, and beside them the processor time, "
                "which is the work itself without the waits for a processor",
            )
        )
        section.plots.append(
            Lines(
                "growth-cost",
                "What each further connection adds to the moving part",
                "connections",
                "microseconds",
                {"hotfd": [(size, cost.median * 1e6) for size, cost in costs.items()]},
                log_x=True,
            )
        )
    section.data["handoffs"] = raw(results)


def _add_states(section: Section, results: Results, scale: Scale) -> None:
    rows = []
    for size, count in scale.states:
        found = results[_name(size, count)]
        rate = Series("bytes/s", tuple(size * count / value for value in found["moving"].values))
        rows.append(
            [
                f"{Series('bytes', (size,))}",
                f"{count:,}",
                str(found["moving"]),
                str(rate),
                str(found["longest pause"]),
                str(Series("bytes", (size * count,))),
                str(found["peak memory"]),
            ]
        )
    columns = [
        "state of a session",
        "sessions",
        "moving part",
        "state moved",
        "longest pause",
        "all state",
        "most memory of the new process",
    ]
    section.tables.append(Table("Handoffs by the size of the state", columns, rows))
    section.data["states"] = raw(results)


# ---------------------------------------------------------------- memory


def _add_memory(section: Section, settings: Settings, scale: Scale, count: int) -> None:
    caches = idle.Caches({})
    uvloop = scale.uvloop and find_spec("uvloop") is not None
    if scale.uvloop and not uvloop:
        section.skipped.append("servers on uvloop: it is not installed: pip install uvloop")
    cases = idle.cases(count, settings.directory, caches, uvloop=uvloop)
    results = interleave(cases, min(settings.rounds, MEMORY_ROUNDS), say=settings.say)
    held = {case: figures[PROCESS_FIGURE] for case, figures in results.items()}
    section.tables.append(
        Table(
            f"Memory of an idle connection, of {count:,}",
            ["server", "bytes per connection"],
            [[case, _exactly(series)] for case, series in held.items()],
        )
    )
    section.goals.append(
        Goal(f"An idle connection takes less than with {STREAMS}", quotient(held[OURS], held[STREAMS]), at_most=1.0)
    )
    if uvloop:
        ratio = quotient(held[OURS + ON_UVLOOP], held[STREAMS + ON_UVLOOP])
        section.goals.append(Goal(f"So it does{ON_UVLOOP}", ratio, at_most=1.0))
    section.goals.append(
        Goal(
            "After a handoff an idle connection takes no more than before, but for a tenth",
            quotient(held[RESUMED], results[RESUMED]["bytes per connection before"]),
            at_most=AS_FRESH,
        )
    )
    groups = {kind: {"asyncio": held[kind].median} for kind in (OURS, STREAMS, PROTOCOL)}
    if uvloop:
        for kind, bars in groups.items():
            bars["uvloop"] = held[kind + ON_UVLOOP].median
    section.plots.append(Bars("growth-memory", "Memory of an idle connection", "bytes", groups))
    _add_kernel(section, results, caches)
    section.data["memory"] = raw(results)


def _add_kernel(section: Section, results: Results, caches: idle.Caches) -> None:
    found = results[OURS].get(KERNEL_FIGURE)
    if found is None:
        section.skipped.append("the kernel's memory: /proc/slabinfo can be read by root alone")
        return
    rows = [[name, number(grown)] for name, grown in sorted(caches.grown.items(), key=lambda item: -item[1])]
    section.tables.append(
        Table("The kernel's memory per socket", ["cache", "bytes"], [*rows, ["all", _exactly(found)]])
    )


def _exactly(series: Series) -> str:
    """Return a number of bytes without a larger unit: they are compared here."""
    return str(Series("", series.values)).strip()


# ---------------------------------------------------------------- a hundred thousand


def _add_workers(section: Section, settings: Settings, count: int, limit: int) -> None:
    each = min(PER_WORKER, int(limit * workers.SPARE))
    if (free := idle.free_memory()) < MIN_MEMORY:
        section.skipped.append(
            f"several workers: {MIN_MEMORY >> 30} GiB of free memory are needed, {free >> 30} are there"
        )
        return
    settings.say(f"{count} workers with {count * each:,} connections")
    host = workers.measure(count, count * each, settings.directory)
    moved = [worker["phases_ms"]["move"] for worker in host.report["workers"]]
    rows = [
        ["connections", f"{host.connections:,}"],
        ["workers", f"{count}, with {min(host.shares):,} to {max(host.shares):,} each"],
        ["the handoff of all, one worker after the other", str(Series("s", (host.elapsed,)))],
        ["of that, sessions were moving", str(Series("ms", (sum(moved),)))],
        ["longest pause of a connection", str(Series("ms", (host.report["pause_ms"]["max"],)))],
        ["longest wait of a client that asked every second", str(Series("s", (host.longest_gap,)))],
        ["memory of all workers", str(Series("bytes", (host.memory,)))],
        ["the same after the handoff", str(Series("bytes", (host.memory_after,)))],
        ["connections lost", "0"],
    ]
    section.tables.append(Table("A service of several workers (`hotfd run --workers`)", ["", ""], rows))
    section.data["workers"] = {key: value for key, value in asdict(host).items() if key != "report"}


# ---------------------------------------------------------------- configuration


def _add_fanout(section: Section, found: fanout.Fanout) -> None:
    rows = [
        ["said to a subscriber that is new, the release included", str(Series("bytes", (found.joining,)))],
        ["said to it in an interval without news", str(Series("bytes", (found.digest,)))],
        ["said to it of a new release, the release included", str(Series("bytes", (found.telling,)))],
        ["processor time for it in an interval without news", str(Series("s", (found.idle_cpu,)))],
        ["processor time for it of a new release", str(Series("s", (found.release_cpu,)))],
        ["memory for it", str(Series("bytes", (found.memory,)))],
        ["from the publish until the first one has the release", str(Series("s", (found.first,)))],
        ["until the last one has it", str(Series("s", (found.last,)))],
    ]
    title = (
        f"A configuration server with {found.subscribers:,} subscribers of {Series('bytes', (found.release,))}, "
        f"told every {fanout.INTERVAL:g} seconds"
    )
    section.tables.append(Table(title, ["", "of one subscriber"], rows))
    section.data["fanout"] = asdict(found)
