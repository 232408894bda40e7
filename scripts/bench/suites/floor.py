"""A handoff beside what the kernel alone takes to pass the same connections: how much of the cost is hotfd's."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

from hotfd.bench.measure import Case, Goal, Results, Section, Table, interleave, number, quotient, raw
from hotfd.bench.plots import Bars
from hotfd.server.moving import BATCH
from scripts.bench import replaced
from scripts.bench.building import program

if TYPE_CHECKING:
    from scripts.bench.settings import Settings

TITLE = "Beside the kernel's own limit"

SIZE: Final = 8_000
QUICK_SIZE: Final = 250
"""Connections."""

LARGE: Final = 253
"""Descriptors in a message of the floor: as many as one takes, unix(7). An offer has one less, since one is the memfd."""

SMALL: Final = BATCH
"""Connections that a handoff offers at a time."""

RUNS: Final = 5
"""Runs of the floor in a round, of which the one in the middle counts: each takes milliseconds, which one other program
that wakes up may double."""

STATE: Final = 200
"""Bytes that go with each connection in one of the floor's cases: the size of the handoff's states."""

LIMIT: Final = 120.0
"""Seconds that a program may take, the clients' connecting included."""

COOKIES: Final = f"kernel, {LARGE} a message, asked for cookies"
BARE: Final = "asyncio alone"
HANDOFF: Final = "whole handoff"
"""Cases that are not named by how many go at a time alone."""

PARTS: Final = {"transfer": 0.8, HANDOFF: 0.25}
"""What should be reached of the floor's connections per second."""

TEXT: Final = """\
How many connections a second change hands, {size:,} of them, TCP over loopback, from one process to a fresh one. A connection
is given away once in each run, as in life: a second time takes about half as long, since its data is in the caches then.

- *Kernel* (`scripts/bench/floor.c`): descriptors by SCM_RIGHTS over a SOCK_SEQPACKET pair, so many a message, nothing else
  but one byte a message; or {state} bytes with each descriptor, which the receiver does not look at; or with the kernel asked
  for each socket's SO_COOKIE, without which a receiver has to trust the order in which they come. From before the first
  message until the receiver has said that it has all.
- *Transfer* (`scripts/bench/servers/transfer_alone.py`): the layer of that name and the messages, in Python, without a
  server: offers with records in a sealed memfd, whose descriptors are tied to them by SO_COOKIE, accepted, committed. From
  before the first offer until the new process has said that it has settled. The records have no state and exist before.
- *Whole handoff*: a server with a Python handler and {state} bytes of typed state for each connection. From the first session
  that is asked to stop until the new process has said that it owns all; the start of that process is not in it. {few} of its
  clients ask now and then. On asyncio, and on uvloop where that is installed.
- *asyncio alone*: in one process, nothing is passed. A task is begun for each of as many connections, which waits, and its
  descriptor is registered with the event loop: the least that a server of coroutines does for a connection that it is
  given. A handoff lets as many tasks end in the old process besides.
"""


def run(settings: Settings) -> Section:
    """Measure all of them at one size."""
    section = Section("floor", TITLE)
    size = QUICK_SIZE if settings.quick else SIZE
    if not replaced.room_for(size):
        section.skipped.append(f"{size:,} connections: the hard limit of descriptors is too low (ulimit -Hn)")
        return section
    program("floor")  # built now, and not in the first case
    cases: dict[str, Case] = {
        kernel(LARGE): partial(floor, size, LARGE, 0),
        kernel(SMALL): partial(floor, size, SMALL, 0),
        kernel(LARGE, STATE): partial(floor, size, LARGE, STATE),
        COOKIES: partial(floor, size, LARGE, 0, "cookies"),
        transfer(LARGE - 1): partial(alone, size, LARGE - 1),
        transfer(SMALL): partial(alone, size, SMALL),
        BARE: partial(bare, size),
        HANDOFF: partial(whole, settings, size, "asyncio"),
    }
    if importlib.util.find_spec("uvloop") is not None:
        cases[f"{HANDOFF}, uvloop"] = partial(whole, settings, size, "uvloop")
    results = interleave(cases, settings.rounds, say=settings.say)
    section.text = TEXT.format(size=size, state=STATE, few=FEW)
    section.tables = [table(results)]
    section.goals = goals(results)
    section.plots = [
        Bars(
            "floor-cost",
            f"What one connection of {size:,} takes",
            "us",
            {case: {"time per connection": figures["each"].median} for case, figures in results.items()},
            log=True,
        )
    ]
    section.data = raw(results)
    return section


def kernel(batch: int, state: int = 0) -> str:
    """Return the name of a case of the floor."""
    return f"kernel, {batch} a message" + (f", {state} bytes each" if state else "")


def transfer(batch: int) -> str:
    """Return the name of a case of the transfer layer."""
    return f"transfer, {batch} an offer"


# ---------------------------------------------------------------- cases


def figures(size: int, seconds: float) -> Mapping[str, tuple[float, str]]:
    """Return a case's figures."""
    return {"rate": (size / seconds, "connections/s"), "each": (seconds / size * 1e6, "us")}


def floor(size: int, batch: int, state: int, *further: str) -> Mapping[str, tuple[float, str]]:
    """Have the kernel pass descriptors, in some runs with processes and connections of their own."""
    command = [str(program("floor")), str(size), str(batch), str(state), "1", *further]
    return figures(size, statistics.median(float(_output(command)) for _ in range(RUNS)) / 1e6)


def alone(size: int, batch: int) -> Mapping[str, tuple[float, str]]:
    """Have the transfer layer pass them, once."""
    command = [sys.executable, "-m", "scripts.bench.servers.transfer_alone", str(size), str(batch)]
    return figures(size, float(_output(command)))


def _output(command: Sequence[str]) -> str:
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=LIMIT).stdout


FEW: Final = 4
"""Clients of the whole handoff that ask."""

NOW_AND_THEN: Final = 0.02
"""Seconds between a reply of these and the next request: seldom, since time is measured here, and not pauses."""


def whole(settings: Settings, size: int, loop: str) -> Mapping[str, tuple[float, str]]:
    """Have a server replaced."""
    found, _ = replaced.case(settings.directory, size, FEW, NOW_AND_THEN, loop=loop)
    return figures(size, found["moving"][0])


def bare(size: int) -> Mapping[str, tuple[float, str]]:
    """Begin a task and register a descriptor for each connection."""
    return figures(size, asyncio.run(_begin_tasks(size)))


async def _begin_tasks(size: int) -> float:
    loop = asyncio.get_running_loop()
    one, other = socket.socketpair()
    with one, other:
        copies = [os.dup(one.fileno()) for _ in range(size)]
        began = time.perf_counter()
        tasks = []
        for fd in copies:
            loop.add_reader(fd, int)
            tasks.append(loop.create_task(_wait(loop)))
        await asyncio.sleep(0)  # each has run until it waits
        took = time.perf_counter() - began
        for task, fd in zip(tasks, copies, strict=True):
            task.cancel()
            loop.remove_reader(fd)
            os.close(fd)
        await asyncio.gather(*tasks, return_exceptions=True)
    return took


async def _wait(loop: asyncio.AbstractEventLoop) -> None:
    await loop.create_future()


# ---------------------------------------------------------------- for people


def table(results: Results) -> Table:
    """All figures, and which part of the floor they are."""
    base = results[kernel(LARGE)]["rate"]
    rows = [
        [case, str(found["each"]), str(found["rate"]), f"{number(quotient(found['rate'], base).median)} x"]
        for case, found in results.items()
    ]
    return Table("Passing connections", ["what", "per connection", "connections/s", "of the kernel's"], rows)


def goals(results: Results) -> list[Goal]:
    """A part of the floor."""
    base = results[kernel(LARGE)]
    cost = {case: f"{number(found['each'].median)} us" for case, found in results.items()}
    limits = (
        f"A connection takes the kernel {cost[kernel(LARGE)]}, and {cost[COOKIES]} when the receiver makes sure which socket it is. "
        f"The transfer in Python takes {cost[transfer(LARGE - 1)]}, and to begin a task and register a descriptor, which no "
        f"handoff of coroutines can do without, {cost[BARE]}."
    )
    return [
        Goal(
            f"The transfer layer alone reaches {PARTS['transfer']:.0%} of the kernel's connections per second",
            quotient(results[transfer(LARGE - 1)]["rate"], base["rate"]),
            at_least=PARTS["transfer"],
            limits=limits,
        ),
        Goal(
            f"A whole handoff reaches {PARTS[HANDOFF]:.0%} of the kernel's connections per second",
            quotient(results[HANDOFF]["rate"], base["rate"]),
            at_least=PARTS[HANDOFF],
            limits=limits,
        ),
    ]
