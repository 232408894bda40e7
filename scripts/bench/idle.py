"""What an idle connection costs: in a server's own memory, by kind of server, and in the kernel's."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from scripts.bench import kernel
from scripts.bench.generations import Generations
from scripts.bench.load import Load
from scripts.bench.processes import Server, memory_bytes

if TYPE_CHECKING:
    from hotfd.bench.measure import Case

SERVERS: Final = "scripts.bench.servers"

FEW: Final = 200
"""Connections that a server has before it is looked at first: what it makes once for all is made by then."""

FRAME: Final = b"\0\0\0\x04idle"
"""What each connection has said, once, before it is idle."""

LINE: Final = b"idle\n"
"""The same where frames are lines."""

QUIET: Final = 1.0
"""Seconds between two requests of the one connection that the client keeps asking on."""

MEMORY: Final = "Anonymous"
"""What is counted of a process (proc_pid_smaps): what it has made itself, and neither code nor files, which it shares."""

OURS: Final = "hotfd"
STREAMS: Final = "asyncio streams"
PROTOCOL: Final = "asyncio.Protocol, by hand"
RESUMED: Final = "hotfd, handed over"
ON_UVLOOP: Final = " on uvloop"

PROCESS_FIGURE: Final = "bytes per connection"
KERNEL_FIGURE: Final = "bytes of the kernel per socket"

KINDS: Final = {OURS: "echo_hotfd", STREAMS: "echo_streams", PROTOCOL: "echo_protocol"}
"""The echo server of each kind."""

Figures = Mapping[str, tuple[float, str]]


@dataclass
class Caches:
    """Which of the kernel's caches grew with the connections, in bytes per socket, in the last round."""

    grown: dict[str, float]


def cases(count: int, directory: Path, caches: Caches, *, uvloop: bool) -> dict[str, Case]:
    """Return the cases by name.

    Args:
        count: connections.
        directory: for control sockets.
        caches: is told what is in the kernel's figure.
        uvloop: whether there is a uvloop.
    """
    found: dict[str, Case] = {}
    for kind, module in KINDS.items():
        command = [sys.executable, "-m", f"{SERVERS}.{module}"]
        found[kind] = partial(_fresh, command, count, caches if kind == OURS else None)
        if uvloop:
            found[kind + ON_UVLOOP] = partial(_fresh, [*command, "--loop", "uvloop"], count)
    found[RESUMED] = partial(_resumed, count, directory)
    return found


def _fresh(command: list[str], count: int, caches: Caches | None = None) -> Figures:
    """Look at a server with few idle connections, and again with many more."""
    with Server(command) as server, _idle(server.address, FRAME, FEW):
        kernel_before, before = kernel.slabs(), memory_bytes(server.pid, MEMORY)
        with _idle(server.address, FRAME, count) as load:
            kernel_after, after = kernel.slabs(), memory_bytes(server.pid, MEMORY)
            load.stop()
    figures = {PROCESS_FIGURE: ((after - before) / count, "bytes")}
    if caches is not None and kernel_before is not None and kernel_after is not None:
        caches.grown = kernel.growth(kernel_before, kernel_after, 2 * count)  # the client's end is here as well
        figures[KERNEL_FIGURE] = (sum(caches.grown.values()), "bytes")
    return figures


def _resumed(count: int, directory: Path) -> Figures:
    """Hand over a server with few idle connections, and one with many more; look at what the new processes hold.

    And at the old ones before that, so that the two figures are of the same program.
    """
    command = [sys.executable, "-m", f"{SERVERS}.holding_hotfd", "--state", "0"]
    fresh, resumed = [], []
    with ExitStack() as stack:
        for number in (FEW, FEW + count):
            server = stack.enter_context(Generations(command, directory))
            load = stack.enter_context(_idle(server.address, LINE, number))
            fresh.append(memory_bytes(server.pid, MEMORY))
            server.hand_over()
            resumed.append(memory_bytes(server.pid, MEMORY))
            load.stop()
    return {
        PROCESS_FIGURE: ((resumed[1] - resumed[0]) / count, "bytes"),
        "bytes per connection before": ((fresh[1] - fresh[0]) / count, "bytes"),
    }


def _idle(address: str, request: bytes, connections: int) -> Load:
    return Load(address, request=request, reply=len(request), connections=connections, asking=1, think=QUIET)


def free_memory() -> int:
    """Return the bytes that programs can still have without swapping (proc_meminfo: MemAvailable)."""
    with open("/proc/meminfo", encoding="ascii") as file:
        for line in file:
            key, _, value = line.partition(":")
            if key == "MemAvailable":
                return int(value.split()[0]) * 1024
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
