"""What ``hotfd bench`` measures: handoffs of a small server, in turns with the kernel's floor under them."""

from __future__ import annotations

import os
import resource
import socket
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec

from hotfd import _core
from hotfd.app.runner import raise_descriptor_limit
from hotfd.bench import floor
from hotfd.bench.child import Broken, Child, cpu_seconds, readable
from hotfd.bench.clients import Seen
from hotfd.bench.measure import Results, Series, interleave, quotient
from hotfd.errors import ControlError, HandoffRefused
from hotfd.server.moving import BATCH
from hotfd.testing.process import ServerProcess

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from hotfd.bench.measure import Case

RESERVE: Final = 128
"""Descriptors that each process needs beside its connections: the channel, memory in flight, listeners, modules as they
are imported."""

PER_MESSAGE: Final = (BATCH, _core.MAX_DESCRIPTORS)
"""Descriptors in one message of the floor: what a batch of hotfd has, and what the kernel takes at most."""

QUIET: Final = 0.5
"""Seconds in which clients are watched without a handoff, before each one."""

LINE_LIMIT: Final = 120.0
"""Seconds until all clients are connected, and until each has asked once more."""

EXIT_LIMIT: Final = 30.0
"""Seconds until the old process has ended after a handoff."""

HANDOFF, ONE, FLOOR = "handoff", "one connection", "floor {}"
"""The cases: what is asked for; one connection, which shows what a handoff costs without any; the floor, by batch."""


class TooMany(Exception):  # noqa: N818 - reads as the reason
    """More connections than a process here may have; says which limit, and what to do."""


@dataclass(frozen=True)
class Asked:
    """What is to be measured.

    Args:
        connections: how many the server has.
        state: bytes of state of each.
        busy: percent of them that keep asking; one connection at least.
        rounds: how often.
        loop: the server's event loop.
    """

    connections: int = 1000
    state: int = 200
    busy: float = 1.0
    rounds: int = 5
    loop: Literal["asyncio", "uvloop"] = "asyncio"

    @property
    def asking(self) -> int:
        """How many connections keep asking."""
        return max(1, round(self.connections * self.busy / 100))


def most_connections() -> int:
    """Return how many connections a process may have here, by the hard limit of descriptors."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[1] - RESERVE


def run(asked: Asked, say: Callable[[str], None]) -> Results:
    """Measure.

    Args:
        asked: what.
        say: is told what goes on.

    Returns:
        the cases ``handoff``, ``one connection``, ``floor 32`` and ``floor 253`` with their figures.

    Raises:
        TooMany: there are not enough descriptors.
        Broken: something failed that should not: a handoff, or a client lost its connection.
    """
    if asked.connections > (most := most_connections()):
        needed = asked.connections + RESERVE
        raise TooMany(
            f"{asked.connections:,} connections need {needed:,} descriptors in a process, and its hard limit is "
            f"{most + RESERVE:,} (ulimit -Hn). Ask for at most --connections {most}, or raise it for this shell: "
            f"sudo prlimit --pid $$ --nofile={needed}:{needed}"
        )
    raise_descriptor_limit()  # of this process, and with it of all that it starts
    cases: dict[str, Case] = {
        HANDOFF: partial(_handoff, asked),
        ONE: partial(_handoff, Asked(1, asked.state, 100, 1, asked.loop)),
        **{FLOOR.format(size): partial(_floor, asked.connections, size) for size in PER_MESSAGE},
    }
    try:
        return interleave(cases, asked.rounds, say=say)
    except (HandoffRefused, ControlError, RuntimeError, OSError) as error:
        notes = "\n".join(getattr(error, "__notes__", ()))
        raise Broken(f"{error}\n{notes}".strip()) from error


def _floor(connections: int, per_message: int) -> dict[str, tuple[float, str]]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(connections)]
        return {"moving": (floor.measure(sockets, per_message), "s")}


def _handoff(asked: Asked) -> dict[str, tuple[float, str]]:
    """Start a server and its clients, hand it over once, and look whether all is well."""
    command = [sys.executable, "-m", "hotfd.bench.server", "--state", str(asked.state), "--loop", asked.loop]
    with ServerProcess(command) as server, Child("hotfd.bench.clients", _clients(asked, server)) as clients:
        if clients.line(LINE_LIMIT) != b"ready":
            raise Broken("the clients did not come to be served")
        # The old process is this one's child: it stays to be asked what it has used until it is waited for.
        old = server.pid
        time.sleep(QUIET)  # this is what is measured
        quiet = _seen(clients)
        used = cpu_seconds(old)
        report = server.handoff()
        if report["outcome"] != "completed" or report["connections"]["moved"] != asked.connections:
            raise Broken(f"the handoff was {report['outcome']}: {report['reasons']}")
        during = _seen(clients)
        _await_exit(old)
        old_used, new_used = cpu_seconds(old) - used, cpu_seconds(server.pid)
        clients.end_input()
        msgspec.json.decode(clients.line(LINE_LIMIT), type=Seen)
    return _figures(report, quiet, during, old_used, new_used)


def _clients(asked: Asked, server: ServerProcess) -> list[str]:
    wanted = {
        "address": server.addresses[0],
        "connections": asked.connections,
        "busy": asked.asking,
        "state": asked.state,
    }
    return [word for name, value in wanted.items() for word in (f"--{name}", str(value))]


def _seen(clients: Child) -> Seen:
    """Return what the clients have seen since the last time."""
    clients.say(b"")
    return msgspec.json.decode(clients.line(LINE_LIMIT), type=Seen)


def _await_exit(pid: int) -> None:
    """Wait until a process has ended, and leave it unreaped."""
    pidfd = os.pidfd_open(pid)
    try:
        if not readable(pidfd, EXIT_LIMIT):
            raise Broken(f"the old process {pid} has not ended within {EXIT_LIMIT:.0f} s")
    finally:
        os.close(pidfd)


def _figures(
    report: Mapping[str, Any], quiet: Seen, during: Seen, old_used: float, new_used: float
) -> dict[str, tuple[float, str]]:
    phases = report["phases_ms"]
    return {
        "wait without": (quiet.wait_max, "s"),
        "wait": (during.wait_max, "s"),
        "pause p50": (report["pause_ms"]["p50"] / 1000, "s"),
        "pause p99": (report["pause_ms"]["p99"] / 1000, "s"),
        "pause max": (report["pause_ms"]["max"] / 1000, "s"),
        "start": (phases["spawn"] / 1000, "s"),
        "moving": (phases["move"] / 1000, "s"),
        "old processor": (old_used, "s"),
        "new processor": (new_used, "s"),
    }


@dataclass(frozen=True)
class Ratios:
    """What is made of several cases, round by round.

    Attributes:
        floor: the time of moving over that of the kernel alone, with the most in one message.
        rate: connections moved per second.
        floor_rate: the same of the kernel alone.
    """

    floor: Series
    rate: Series
    floor_rate: Series


def ratios(asked: Asked, results: Results) -> Ratios:
    """Return the ratios of a run; raises ValueError when something took no time at all."""
    moving, least = results[HANDOFF]["moving"], results[FLOOR.format(_core.MAX_DESCRIPTORS)]["moving"]
    rates = [Series("connections/s", tuple(asked.connections / one for one in each.values)) for each in (moving, least)]
    return Ratios(quotient(moving, least), *rates)
