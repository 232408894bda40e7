"""A handoff beside the plain way: what Python brings along to give connections to another process, one at a time."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from hotfd.bench.measure import Case, Goal, Results, Section, Table, interleave, quotient, raw
from hotfd.bench.plots import Bars
from scripts.bench import replaced
from scripts.bench.load import Load
from scripts.bench.processes import Server, cpu_seconds
from scripts.bench.servers.visitor import REPLY_SIZE

if TYPE_CHECKING:
    from scripts.bench.replaced import Replacement
    from scripts.bench.settings import Settings

TITLE = "Beside the plain way"

OURS: Final = "hotfd"

WAYS: Final = {
    "send_fds": "`socket.send_fds`, JSON",
    "send_fds answered": "`socket.send_fds`, JSON, each answered",
    "send_handle": "`multiprocessing.reduction.send_handle`, pickle",
    "DupFd": "`multiprocessing.reduction.DupFd`, pickle",
}
"""The ways of ``servers/plain.py``, and what they are called."""

SIZES: Final = (1_000, 8_000)
QUICK_SIZES: Final = (50,)
"""Connections."""

ASKING: Final = 16
"""Clients that ask while the others are idle."""

THINK: Final = 0.005
"""Seconds between a reply of these and the next request."""

GIVE_LIMIT: Final = 60.0
"""Seconds that a plain server has to give everything away: some ways take a thread, and a connection of its own, for each."""

TARGET: Final = 10.0
"""How many times as many connections per second as the plain way."""

TEXT: Final = """\
Servers with the same clients and the same 200 bytes of state for each connection are replaced once by a fresh process of
the same program, which then serves. The plain ones (`scripts/bench/servers/plain.py`) are asyncio protocols that give one
connection after another away, each with its state, by what Python has for it: `socket.send_fds` with the state as JSON
beside the descriptor; the same with a byte back for each that is served, before the next; `send_handle` of `multiprocessing.reduction` behind a pickle; a pickle with a `DupFd` in it, which
is what a socket becomes that is sent over a `multiprocessing` connection. The new process makes a transport of each as it
comes. Nothing could be taken back, what was not sent yet is lost, and clients wait until everything has moved.

*Moving* is, for these, from the moment at which the new process has loaded everything and the first connection is not read
any more until the new process has a transport for each; for ours from the first session that is asked to stop until the
new process has said that it owns all (probation of 0 s). *Total* counts from the start of the new process. *Pause* is the
longest time without a reply of {asking} clients that ask, {think:g} ms after each reply. Goals are about the moving part.
"""


def run(settings: Settings) -> Section:
    """Measure every way at every size."""
    section = Section("plain", TITLE, TEXT.format(asking=ASKING, think=THINK * 1e3))
    wanted = QUICK_SIZES if settings.quick else SIZES
    # A DupFd is a copy, which the old process has beside the connection itself.
    sizes = [size for size in wanted if replaced.room_for(2 * size)]
    if sizes != list(wanted):
        section.skipped.append(f"{wanted[-1]:,} connections: the hard limit of descriptors is too low (ulimit -Hn)")
    if not sizes:
        return section
    cases: dict[str, Case] = {}
    for size in sizes:
        cases[name(OURS, size)] = partial(ours, settings, size)
        cases |= {name(way, size): partial(plain, settings, way, size) for way in WAYS}
    results = interleave(cases, settings.rounds, say=settings.say)
    section.tables = [table(results, sizes)]
    section.goals = goals(results, sizes[-1])
    section.plots = [
        Bars(
            "plain-rate",
            "Connections moved per second, by connections",
            "connections/s",
            {f"{size:,}": {way: results[name(way, size)]["rate"].median for way in (OURS, *WAYS)} for size in sizes},
            log=True,
        )
    ]
    section.data = raw(results)
    return section


def name(way: str, size: int) -> str:
    """Return a case's name."""
    return f"{way}, {size:,} connections"


def ours(settings: Settings, size: int) -> Mapping[str, tuple[float, str]]:
    """Have a server of ours replaced."""
    return replaced.case(settings.directory, size, ASKING, THINK)[0]


def plain(settings: Settings, way: str, size: int) -> Mapping[str, tuple[float, str]]:
    """Have a plain server replaced."""
    report = str(settings.directory / f"plain-{way.replace(' ', '-')}-{size}")
    command = [sys.executable, "-m", "scripts.bench.servers.plain", "--way", way, "--report", report]
    # A DupFd leaves the socket of the thread that answers it behind; that goes with the suite's directory.
    with Server(command, env={"TMPDIR": str(settings.directory)}) as server:
        try:
            with Load(
                server.address,
                connections=size,
                asking=ASKING,
                request=replaced.REQUEST,
                reply=REPLY_SIZE,
                think=THINK,
            ) as load:
                replacement, before, during = replaced.watched(load, partial(give, server.pid, report))
        finally:
            if os.path.exists(f"{report}.pid"):
                replaced.end_other(int(_read(f"{report}.pid")["pid"]))
                os.unlink(f"{report}.pid")
    return replacement.figures(size) | replaced.seen(before, during)


def give(pid: int, report: str) -> Replacement:
    """Have a plain server give everything away."""
    before = cpu_seconds(pid)
    os.kill(pid, signal.SIGUSR1)
    replaced.await_end(pid, GIVE_LIMIT)
    old, new = _read(f"{report}.old"), _read(f"{report}.new")
    return replaced.Replacement(
        total=new["served"] - old["spawned"],
        moving=new["served"] - old["began"],
        old_cpu=cpu_seconds(pid) - before,
        new_cpu=cpu_seconds(int(_read(f"{report}.pid")["pid"])),
    )


def _read(path: str) -> dict[str, float]:
    found: dict[str, float] = json.loads(Path(path).read_text(encoding="ascii"))
    return found


def table(results: Results, sizes: Sequence[int]) -> Table:
    """All figures."""
    columns = [
        "connections",
        "way",
        "total",
        "moving",
        "connections/s",
        "longest pause",
        "processor, old",
        "processor, new",
    ]
    figures = ("total", "moving", "rate", "pause", "old_cpu", "new_cpu")
    rows = [
        [f"{size:,}", WAYS.get(way, way), *(str(results[name(way, size)][figure]) for figure in figures)]
        for size in sizes
        for way in (OURS, *WAYS)
    ]
    return Table("Replacing a server that clients are connected to", columns, rows)


def goals(results: Results, size: int) -> list[Goal]:
    """Ten times as fast as each of them."""

    def cost(way: str) -> str:
        old, new = (results[name(way, size)][figure].median / size * 1e6 for figure in ("old_cpu", "new_cpu"))
        return f"{old:.0f} and {new:.0f} us"

    limits = (
        f"Processor time per connection in the old and in the new process, the new one's start included: {cost(OURS)} by a "
        f"handoff, {', '.join(f'{cost(way)} by {called}' for way, called in WAYS.items())}. What passes a connection is a "
        "small part of that with each of them; the rest makes objects of the event loop, which a handoff makes as well."
    )
    return [
        Goal(
            f"With {size:,} connections, ten times as many connections per second as by {called}",
            quotient(results[name(OURS, size)]["rate"], results[name(way, size)]["rate"]),
            at_least=TARGET,
            limits=limits,
        )
        for way, called in WAYS.items()
    ]
