"""One server that is replaced while clients are connected, measured from outside: what the suites on handoffs share."""

from __future__ import annotations

import dataclasses
import os
import resource
import select
import signal
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final, Self

from hotfd.control import at
from hotfd.control.client import Client
from scripts.bench.load import Load, Result
from scripts.bench.processes import END_LIMIT, Server, cpu_seconds
from scripts.bench.servers.visitor import REPLY_SIZE

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType


REQUEST: Final = b"again\n"
"""What a client says to a server of ``servers/visitors.py``."""

HANDOFF_LIMIT: Final = 120.0
"""Seconds that a handoff may take, its new process's start included."""

SETTLING: Final = 0.25
"""Seconds that clients go on asking after everything has been taken over, so that the last of them has had its turn."""

WARMING: Final = 0.25
"""Seconds for which clients ask before a replacement, unless a suite needs longer."""

SPARE_DESCRIPTORS: Final = 500
"""What a server needs of its limit beside its connections."""

Figures = dict[str, tuple[float, str]]
"""What a case returns: ``{figure: (value, unit)}``."""


@dataclass(frozen=True)
class Replacement:
    """What a replacement took, in seconds.

    Attributes:
        total: from the start of the new process until it serves every connection.
        moving: from the moment at which the first connection was not served any more until then.
        old_cpu: processor time of the old process, from the start of the new one until the old one has ended.
        new_cpu: that of the new process, from its start until then.
    """

    total: float
    moving: float
    old_cpu: float
    new_cpu: float

    def figures(self, connections: int) -> Figures:
        """Return these as a case's figures, with the connections per second of the moving part."""
        return {
            "total": (self.total, "s"),
            "moving": (self.moving, "s"),
            "rate": (connections / self.moving, "connections/s"),
            "old_cpu": (self.old_cpu, "s"),
            "new_cpu": (self.new_cpu, "s"),
        }


def seen(before: Result, during: Result) -> Figures:
    """Return what clients saw, as a case's figures: how long they waited, before and during a replacement."""
    return {
        "pause_p50": (during.gap.p50 / 1e6, "s"),
        "pause_p99": (during.gap.p99 / 1e6, "s"),
        "pause": (during.gap.max / 1e6, "s"),
        "pause_before": (before.gap.max / 1e6, "s"),
        "served": (before.rate, "replies/s"),
        "lost": (during.lost, ""),
    }


def room_for(connections: int) -> bool:
    """Return whether a process may have so many connections."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[1] >= connections + SPARE_DESCRIPTORS


class Visitors:
    """``servers/visitors.py`` in all its generations; a context manager that ends the last one.

    Args:
        directory: for the control socket; private.
        loop: ``asyncio`` or ``uvloop``.
    """

    def __init__(self, directory: Path, loop: str = "asyncio") -> None:
        self._directory = directory
        command = [sys.executable, "-m", "scripts.bench.servers.visitors", "--loop", loop]
        self._first = Server(command, env={"HOTFD_RUNTIME_DIR": str(directory)})
        self._newest = 0

    def __enter__(self) -> Self:
        self._first.__enter__()
        self._newest = self._first.pid
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._newest != self._first.pid:
            end_other(self._newest)
        self._first.__exit__(kind, error, trace)

    @property
    def address(self) -> str:
        """Where it listens."""
        return self._first.address

    @property
    def pid(self) -> int:
        """The first process."""
        return self._first.pid

    def load(self, connections: int, asking: int, think: float) -> Load:
        """Return clients for it, not started."""
        return Load(
            self.address, connections=connections, asking=asking, request=REQUEST, reply=REPLY_SIZE, think=think
        )

    def replace(self, connections: int) -> Replacement:
        """Hand over to a new process of the same program, once.

        Args:
            connections: how many must move.

        Raises:
            RuntimeError: it was not completed, or not all moved.
        """
        old = self._first.pid
        before = cpu_seconds(old)
        with Client.connect(at(str(self._directory / f"{old}.sock"))) as client:
            report = client.ask(
                "update",
                HANDOFF_LIMIT,
                dry_run=False,
                deadline=60.0,
                boundary_timeout=30.0,
                laggards="keep",
                probation=0.0,
            )
        if report["outcome"] in {"completed", "partial"}:
            self._newest = report["new_pid"]
        if report["outcome"] != "completed" or report["connections"]["moved"] < connections:
            raise RuntimeError(f"a handoff of {connections} connections: {report}")
        await_end(old)
        # The last phase, with a probation of 0 s, lasts until the new process has said that it owns everything.
        phases: Mapping[str, float] = report["phases_ms"]
        moving = (phases["move"] + phases["probation"]) / 1e3
        return Replacement(
            total=(phases["spawn"] + phases["ready"]) / 1e3 + moving,
            moving=moving,
            old_cpu=cpu_seconds(old) - before,
            new_cpu=cpu_seconds(self._newest),
        )


def case(
    directory: Path, connections: int, asking: int, think: float, *, warming: float = WARMING, loop: str = "asyncio"
) -> tuple[Figures, Result]:
    """Start a server of ours, connect its clients, and have it replaced once.

    Returns:
        figures of the replacement and of what the clients saw, and what they saw in detail.
    """
    with Visitors(directory, loop) as visitors, visitors.load(connections, asking, think) as load:
        replacement, before, during = watched(load, partial(visitors.replace, connections), warming=warming)
    return replacement.figures(connections) | seen(before, during), during


def watched(
    load: Load, replace: Callable[[], Replacement], *, warming: float = WARMING, lenient: bool = False
) -> tuple[Replacement, Result, Result]:
    """Have something replaced while clients ask.

    Args:
        load: the clients.
        replace: does it.
        warming: seconds before it.
        lenient: whether clients that are lost are only counted.

    Returns:
        what that took, and what they saw before and meanwhile.

    Raises:
        LoadFailed: something was lost, or wrong.
    """
    load.report(lenient=lenient)
    time.sleep(warming)
    before = load.report(lenient=lenient)
    replacement = replace()
    time.sleep(SETTLING)
    during = load.report(lenient=lenient)
    end = load.stop(lenient=lenient)
    return replacement, before, dataclasses.replace(during, lost=end.lost)


def await_end(pid: int, limit: float = END_LIMIT) -> None:
    """Wait until a child has ended; it is left to be reaped by whoever has started it.

    Args:
        pid: the child.
        limit: seconds that it may take.

    Raises:
        TimeoutError: it has not.
    """
    pidfd = os.pidfd_open(pid)
    try:
        if not select.select([pidfd], [], [], limit)[0]:
            raise TimeoutError(f"process {pid} did not end within {limit:g} s")
    finally:
        os.close(pidfd)


def end_other(pid: int) -> None:
    """End a process that is nobody's child here. Idempotent."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            return
        try:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, number)
            if select.select([pidfd], [], [], END_LIMIT)[0]:
                return
        finally:
            os.close(pidfd)
