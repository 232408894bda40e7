"""A handoff beside PgBouncer's online restart: the one program in wide use that moves live connections too.

Both have the same clients, from the same program; one system runs at a time, and they take turns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from hotfd.bench.measure import Case, Goal, Results, Section, Series, Table, interleave, quotient, raw
from hotfd.bench.plots import Bars, Histogram, Plot
from scripts.bench import pooler, replaced

if TYPE_CHECKING:
    from scripts.bench.load import Result
    from scripts.bench.settings import Settings

TITLE = "Beside PgBouncer's online restart"

OURS: Final = "hotfd"
THEIRS: Final = "PgBouncer"

FEW: Final = 16
"""Clients that ask where the others are idle: enough to meet the longest pause, too few to load two processors."""

THINK: Final = 0.005
"""Seconds between a reply and the next request of these few: how exactly they see a pause."""

WARMING: Final = 1.0
"""Seconds for which clients ask before a restart: until then PgBouncer has its connections to PostgreSQL. One that it
is just opening when it restarts is answered with "unknown pkt", and its client is lost."""

QUICK_WARMING: Final = 0.25

GOAL_AT: Final = 8_000
"""Connections of the goals."""

TEXT: Final = """\
A server is replaced once while all its clients are connected: ours by a handoff (Python handlers with `Lines` framing on
asyncio, a state of 200 bytes for each connection, the new process a fresh interpreter), PgBouncer {version} by `pgbouncer -R`
(C, libevent). Each round starts a fresh server and fresh clients, the systems take turns.

The clients are the same program (`scripts/bench/load.c`), on TCP over loopback and this same machine. *Idle*: all are
connected and logged in, and {few} of them ask, {think:g} ms after each reply. *Busy*: so many of them ask again as soon as
they have their reply. Ours get their reply from a Python handler. PgBouncer's ask `SELECT 1`, which it has answered by a
PostgreSQL on the same machine over {backends} connections: it answers nothing itself but its console, and a console's
clients do not move with a restart. That costs it processor time while clients are busy, and no pause: PostgreSQL is not
replaced. What it asks is let go through before a restart begins, as the current frame is with ours.

- *Pause*: the longest time for which a client that had asked was without a reply. *Median client*: half of them waited
  less.
- *Lost*: connections that were closed, in the worst round. Ours must not lose any, else the suite fails. *Before*: in the
  second before.
- *Total*: from the start of the new process until it serves every connection. Ours loads Python and the program in that
  time, while the old process serves.
- *Moving*: the part of it in which connections change hands. Ours: from the first session that is asked to stop until the
  new process has said that it owns all (probation of 0 s). PgBouncer: from the order SUSPEND until "resuming work", by its
  log, which has milliseconds.
- *Processor*: of the old process from the start of the new one until its own end, and of the new one from its start until
  then; what the asking clients cost is in it.
"""


@dataclass(frozen=True)
class Crowd:
    """How many clients there are, and how many of them ask.

    Args:
        connections: all of them.
        busy: the part that asks without a pause; with 0, a few ask with pauses.
    """

    connections: int
    busy: float = 0.0

    def __str__(self) -> str:
        return f"{self.connections:,} connections, {self.kind}"

    @property
    def kind(self) -> str:
        """What they do, in words."""
        return "idle" if not self.busy else "all busy" if self.busy == 1 else f"{self.busy:.0%} busy"

    @property
    def asking(self) -> int:
        """How many ask."""
        return min(FEW, self.connections) if not self.busy else round(self.connections * self.busy)

    @property
    def think(self) -> float:
        """How long they wait before they ask again, in seconds."""
        return 0.0 if self.busy else THINK


CROWDS: Final = (
    Crowd(100),
    Crowd(1_000),
    Crowd(GOAL_AT),
    Crowd(15_000),
    Crowd(GOAL_AT, 0.1),
    Crowd(GOAL_AT, 1.0),
    Crowd(15_000, 1.0),
)

QUICK_CROWDS: Final = (Crowd(50), Crowd(50, 0.2))


def run(settings: Settings) -> Section:
    """Measure every crowd on both systems."""
    section = Section("pgbouncer", TITLE)
    crowds = [crowd for crowd in (QUICK_CROWDS if settings.quick else CROWDS) if replaced.room_for(crowd.connections)]
    if len(crowds) < len(QUICK_CROWDS if settings.quick else CROWDS):
        most = max((crowd.connections for crowd in crowds), default=0)
        section.skipped.append(f"more than {most:,} connections: the hard limit of descriptors is too low (ulimit -Hn)")
    if lacking := pooler.missing():
        section.skipped.append(lacking)
        return section
    pauses: dict[str, Result] = {}
    with pooler.Pooled() as pooled:
        version = pooler.version()
        cases: dict[str, Case] = {}
        for crowd in crowds:
            cases[name(OURS, crowd)] = partial(ours, settings, crowd, pauses)
            cases[name(THEIRS, crowd)] = partial(theirs, settings, pooled, crowd, pauses)
        results = interleave(cases, settings.rounds, say=settings.say)
    section.text = TEXT.format(version=version, few=FEW, think=THINK * 1e3, backends=pooler.BACKENDS)
    section.tables = [waiting(results, crowds), moving(results, crowds)]
    section.goals = goals(results, crowds)
    section.plots = plots(results, crowds, pauses)
    section.data = raw(results)
    return section


def name(system: str, crowd: Crowd) -> str:
    """Return a case's name."""
    return f"{system}, {crowd}"


def ours(settings: Settings, crowd: Crowd, pauses: dict[str, Result]) -> Mapping[str, tuple[float, str]]:
    """Have a server of ours replaced; note what its clients saw."""
    figures, pauses[name(OURS, crowd)] = replaced.case(
        settings.directory, crowd.connections, crowd.asking, crowd.think, warming=warming(settings)
    )
    return figures


def theirs(
    settings: Settings, pooled: pooler.Pooled, crowd: Crowd, pauses: dict[str, Result]
) -> Mapping[str, tuple[float, str]]:
    """Have PgBouncer restarted; note what its clients saw."""
    with (
        pooler.PgBouncer(pooled) as bouncer,
        bouncer.load(crowd.connections, crowd.asking, crowd.think) as load,
    ):
        replacement, before, during = replaced.watched(load, bouncer.replace, warming=warming(settings), lenient=True)
        pauses[name(THEIRS, crowd)] = during
    return replacement.figures(crowd.connections) | replaced.seen(before, during)


def warming(settings: Settings) -> float:
    """Return for how long clients ask before a restart, in seconds."""
    return QUICK_WARMING if settings.quick else WARMING


# ---------------------------------------------------------------- for people


def waiting(results: Results, crowds: Sequence[Crowd]) -> Table:
    """How long clients waited."""
    columns = [
        "clients",
        "system",
        "longest pause",
        "median client",
        "lost",
        "the longest before",
        "replies/s before",
    ]
    rows = [
        [
            str(crowd),
            system,
            str(found["pause"]),
            str(found["pause_p50"]),
            f"{found['lost'].high:.0f}",
            str(found["pause_before"]),
            str(found["served"]),
        ]
        for crowd, system, found in each(results, crowds)
    ]
    return Table("How long clients waited", columns, rows)


def moving(results: Results, crowds: Sequence[Crowd]) -> Table:
    """How long the systems took."""
    columns = ["clients", "system", "total", "moving", "connections/s", "processor, old", "processor, new"]
    rows = [
        [str(crowd), system, *(str(found[figure]) for figure in ("total", "moving", "rate", "old_cpu", "new_cpu"))]
        for crowd, system, found in each(results, crowds)
    ]
    return Table("How long the replacement took", columns, rows)


def each(results: Results, crowds: Sequence[Crowd]) -> list[tuple[Crowd, str, dict[str, Series]]]:
    """Return crowds, systems and their figures in the order of the tables."""
    return [(crowd, system, results[name(system, crowd)]) for crowd in crowds for system in (OURS, THEIRS)]


def goals(results: Results, crowds: Sequence[Crowd]) -> list[Goal]:
    """What should be: at the size of the goals, or at the largest there is."""
    idle = [crowd for crowd in crowds if not crowd.busy and crowd.connections <= GOAL_AT]
    if not idle:
        return []
    crowd = idle[-1]
    mine, other = results[name(OURS, crowd)], results[name(THEIRS, crowd)]
    per_connection = (mine["old_cpu"].median + mine["new_cpu"].median) / crowd.connections * 1e6
    per_theirs = (other["old_cpu"].median + other["new_cpu"].median) / crowd.connections * 1e6
    return [
        Goal(
            f"With {crowd}, the longest pause of a client is at most a tenth of PgBouncer's",
            quotient(mine["pause"], other["pause"]),
            at_most=0.1,
            limits=f"It was {mine['pause']} beside {other['pause']}.",
        ),
        Goal(
            f"With {crowd}, connections per second of the moving part are at least PgBouncer's",
            quotient(mine["rate"], other["rate"]),
            at_least=1.0,
            limits=(
                f"Processor time, both processes, the start of the new one included: {per_connection:.0f} us a connection "
                f"beside {per_theirs:.0f} us. Each connection has a handler in Python that is ended here and begun there."
            ),
        ),
    ]


def plots(results: Results, crowds: Sequence[Crowd], pauses: Mapping[str, Result]) -> list[Plot]:
    """Draw pauses by number of connections, connections per second, and the pauses of busy clients."""
    idle = [crowd for crowd in crowds if not crowd.busy]

    def medians(figure: str, scale: float = 1.0) -> dict[str, dict[str, float]]:
        return {
            f"{crowd.connections:,}": {
                system: results[name(system, crowd)][figure].median * scale for system in (OURS, THEIRS)
            }
            for crowd in idle
        }

    drawn: list[Plot] = [
        Bars(
            "pgbouncer-pause", "Longest pause that a client saw, by connections", "ms", medians("pause", 1e3), log=True
        ),
        Bars(
            "pgbouncer-rate", "Connections moved per second, by connections", "connections/s", medians("rate"), log=True
        ),
    ]
    for crowd in (crowd for crowd in crowds if crowd.busy == 1):
        counts = {
            system: [(low / 1e3, high / 1e3, count) for low, high, count in pauses[name(system, crowd)].gap.histogram]
            for system in (OURS, THEIRS)
        }
        file = f"pgbouncer-pauses-{crowd.connections}"
        drawn.append(Histogram(file, f"Longest pause of each client: {crowd}", "ms", counts))
    return drawn
