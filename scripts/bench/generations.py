"""A server that is handed over, by the command that operators use; whichever process serves is ended at the end."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self

import orjson

from scripts.bench.processes import END_LIMIT, Server, cpu_seconds

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from types import TracebackType

HANDOFF_LIMIT: Final = 300.0
"""Seconds that the command may take: many times what the largest handoff here does."""

RUNTIME: Final = "HOTFD_RUNTIME_DIR"
"""Where control sockets are; a directory of its own keeps a benchmark apart from what else runs on the machine."""

HOTFD: Final = (sys.executable, "-m", "hotfd.cli")


class HandoffFailed(RuntimeError):  # noqa: N818 - reads as the outcome
    """A handoff was not completed, or did not move what was there."""


@dataclass(frozen=True)
class Handoff:
    """One handoff.

    Attributes:
        report: what ``hotfd handoff --json`` printed.
        cpu: processor seconds of both processes in it, the start of the new one included; only of the first handoff, as
            no other old process is a child of this one. Else 0.
    """

    report: dict[str, Any]
    cpu: float

    @property
    def moving(self) -> float:
        """Seconds of the moving part: from the first session that was asked for to the last commit."""
        return float(self.report["phases_ms"]["move"]) / 1e3

    @property
    def elapsed(self) -> float:
        """Seconds of the whole, from the request to the outcome."""
        return float(self.report["elapsed_ms"]) / 1e3


class Generations:
    """A program that serves, and the processes that follow it. A context manager.

    Args:
        command: the program, as :class:`Server` takes it.
        directory: for its control socket.

    Attributes:
        pid: of the process that serves now.
        address: where it listens.
    """

    def __init__(self, command: Sequence[str], directory: Path) -> None:
        self._environment = {RUNTIME: str(directory)}
        self._first = Server(command, env=self._environment)
        self._newest = -1  # a pidfd of a process that is no child of this one
        self.pid = 0

    def __enter__(self) -> Self:
        self._first.__enter__()
        self.pid, self.address = self._first.pid, self._first.address
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._newest >= 0:
            end(self._newest)
            self._newest = -1
        self._first.__exit__(kind, error, trace)

    def hand_over(self) -> Handoff:
        """Replace the process that serves; there is no probation.

        Raises:
            HandoffFailed: it was not completed.
        """
        old = self.pid
        before = cpu_seconds(old)
        report = handoff(old, self._environment, "--probation", "0")
        new = report["new_pid"]
        pidfd = os.pidfd_open(new)
        after = cpu_seconds(new)
        if self._newest >= 0:
            os.close(self._newest)
        self._newest, self.pid = pidfd, new
        if old != self._first.pid:  # reaped by now, and what it used is not known
            return Handoff(report, 0.0)
        # It is a child that nobody has waited for, so what it used can still be read when it has ended.
        return Handoff(report, after + cpu_seconds(old) - before)


def handoff(pid: int, environment: dict[str, str], *options: str) -> dict[str, Any]:
    """Run ``hotfd handoff`` to its end, and return its report (docs/cli.md has the fields).

    Raises:
        HandoffFailed: the outcome is not ``completed``.
    """
    done = subprocess.run(
        [*HOTFD, "handoff", "--pid", str(pid), "--json", *options],
        env={**os.environ, **environment},
        capture_output=True,
        timeout=HANDOFF_LIMIT,
        check=False,
    )
    if done.returncode or not done.stdout:
        raise HandoffFailed(f"exit status {done.returncode}: {done.stdout.decode()} {done.stderr.decode()}")
    report: dict[str, Any] = orjson.loads(done.stdout)
    return report


def status_of(pid: int, environment: dict[str, str]) -> dict[str, Any]:
    """Return what ``hotfd status`` says of a server or a supervisor; nothing while there is nobody to ask."""
    done = subprocess.run(
        [*HOTFD, "status", "--pid", str(pid), "--json"],
        env={**os.environ, **environment},
        capture_output=True,
        timeout=HANDOFF_LIMIT,
        check=False,
    )
    found: dict[str, Any] = orjson.loads(done.stdout) if done.returncode == 0 else {}
    return found


def peak_bytes(pid: int) -> int:
    """Return the most memory that a process has ever had resident (proc_pid_status: VmHWM).

    Raises:
        FileNotFoundError, ProcessLookupError: there is no such process.
    """
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM:"))


def end(pidfd: int) -> None:
    """End a process by SIGTERM, then by SIGKILL, and close its pidfd."""
    try:
        for number in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, number)
            if select.select([pidfd], [], [], END_LIMIT)[0]:
                break
    finally:
        os.close(pidfd)
