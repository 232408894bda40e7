"""A hundred thousand connections on one host: several servers under one supervisor, all of them handed over."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from scripts.bench.generations import HOTFD, RUNTIME, handoff, status_of
from scripts.bench.idle import LINE, MEMORY, QUIET
from scripts.bench.load import Load
from scripts.bench.processes import START_LIMIT, end, memory_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


STATE: Final = 200
"""Bytes that each session keeps."""

SPARE: Final = 0.65
"""Part of a process's descriptors that its share of the connections may take. Workers accept from one queue, and some
get up to a third more than the average. One at its limit could not hand over: that needs some of its own."""

LISTEN: Final = "0.0.0.0:0"

LOOK: Final = 0.05
"""Seconds between two looks whether a worker serves."""


@dataclass(frozen=True)
class Host:
    """What was measured of all workers together.

    Attributes:
        connections: in all.
        shares: how many each worker had.
        report: of the handoff of all of them, one after the other.
        elapsed: seconds of that.
        memory: bytes that the workers had made for themselves before it.
        memory_after: the same of those that followed them.
        longest_gap: seconds that a client which kept asking once a second waited longest for a reply.
    """

    connections: int
    shares: list[int]
    report: dict[str, Any]
    elapsed: float
    memory: int
    memory_after: int
    longest_gap: float


def measure(workers: int, connections: int, directory: Path) -> Host:
    """Have workers serve, connect so many clients, and hand all over.

    Args:
        workers: how many.
        connections: in all; a client process for each worker opens its part.
        directory: for sockets and logs.

    Raises:
        HandoffFailed, LoadFailed: it was not completed, or something was lost.
    """
    environment = {RUNTIME: str(directory)}
    with _supervised(workers, environment) as pid, ExitStack() as stack:
        status = _await_workers(pid, workers, environment)
        empty, port = _memory(status), status["listeners"][0].rpartition(":")[2]
        # A client's address and port and the server's make a connection: each client connects to an address of its own.
        loads = [
            stack.enter_context(_Held(f"127.0.0.{number + 1}:{port}", connections // workers))
            for number in range(workers)
        ]
        for load in loads:
            load.start()
        for load in loads:
            load.await_ready()
        before = status_of(pid, environment)
        memory = _memory(before)
        began = time.monotonic()
        report = handoff(pid, environment, "--probation", "0")
        elapsed = time.monotonic() - began
        after = _memory(status_of(pid, environment))
        results = [load.stop() for load in loads]
    return Host(
        connections=report["connections"]["moved"],
        shares=[worker["connections"] for worker in before["workers"]],
        report=report,
        elapsed=elapsed,
        memory=memory - empty,
        memory_after=after - empty,
        longest_gap=max(result.gap.max for result in results) / 1e6,
    )


class _Held(Load):
    """A client that is ended in any case, and started with the others and not before them."""

    def __init__(self, address: str, connections: int) -> None:
        super().__init__(address, request=LINE, reply=len(LINE), connections=connections, asking=1, think=QUIET)

    def __enter__(self) -> _Held:
        return self


@contextmanager
def _supervised(workers: int, environment: dict[str, str]) -> Iterator[int]:
    """Run workers under ``hotfd run``; yields its pid. All of them listen on every address, on one port."""
    server = [sys.executable, "-m", "scripts.bench.servers.holding_hotfd", "--state", str(STATE), "--listen", LISTEN]
    with tempfile.TemporaryFile(prefix="hotfd-bench-") as log:
        process = subprocess.Popen(
            [*HOTFD, "run", "--workers", str(workers), "--listen", LISTEN, "--", *server],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log,
            env={**os.environ, **environment},
        )
        try:
            yield process.pid
        except BaseException as error:
            error.add_note(f"the workers' log:\n{os.pread(log.fileno(), 4000, 0).decode(errors='replace')}")
            raise
        finally:
            end(process)


def _await_workers(pid: int, workers: int, environment: dict[str, str]) -> dict[str, Any]:
    """Return the status once all workers serve."""
    deadline = time.monotonic() + START_LIMIT
    while True:
        status = status_of(pid, environment)
        if sum(worker["state"] == "serving" for worker in status.get("workers", ())) == workers:
            return status
        if time.monotonic() > deadline:
            raise RuntimeError(f"the workers do not serve after {START_LIMIT} s: {status}")
        time.sleep(LOOK)


def _memory(status: dict[str, Any]) -> int:
    return sum(memory_bytes(worker["pid"], MEMORY) for worker in status["workers"])
