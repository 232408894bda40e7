"""Servers, operators and faults as context managers: one scenario, one helper.

Every process that is started here is ended here, also when a test fails; a server's successors, too,
since they carry the runtime directory of the test in their environment.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import select
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
HOTFD = [sys.executable, "-m", "hotfd.cli"]

PATIENCE = 60.0
"""Seconds for anything that a test waits for: no test depends on how long, so this is for what never comes."""

STOP_LIMIT = 20.0
"""Seconds that a server may take to end, which itself resets what is left after ten."""

IMPATIENT = """
    from hotfd.server import options

    options.ANSWER_LIMIT = 2.0
"""
"""The beginning of a program that waits two seconds for the answers of its new process, instead of ten."""


def descriptors() -> int:
    """Return how many descriptors this process has open (the one of the listing itself included)."""
    return len(os.listdir("/proc/self/fd"))


def descriptors_of(pid: int) -> int:
    """Return how many descriptors another process has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def alive(pid: int) -> bool:
    """Return whether a process runs (a zombie does not)."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def stopped(pid: int) -> bool:
    """Return whether a process has been stopped by a signal: that may take a moment."""
    with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
        return file.read().rpartition(")")[2].split()[0] == "T"


def processes_with_environment(name: str, value: str) -> list[int]:
    """Return the processes, other than this one, that have a variable with this value."""
    wanted, found = f"{name}={value}".encode(), []
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) != os.getpid():
            with suppress(OSError), open(f"/proc/{entry}/environ", "rb") as file:
                if wanted in file.read().split(b"\0") and alive(int(entry)):
                    found.append(int(entry))
    return found


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    """Send a signal; a process that is gone is fine."""
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def gone_within(pid: int, limit: float) -> bool:
    """Return whether a process is dead, or dies within so many seconds, by its pidfd."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([pidfd], [], [], limit)[0])
    finally:
        os.close(pidfd)


def wait_gone(pid: int, limit: float = PATIENCE) -> None:
    """Wait until a process is dead."""
    assert gone_within(pid, limit), f"process {pid} did not end within {limit} s"


def becomes(look: Callable[[], object], wanted: object, limit: float = PATIENCE) -> None:
    """Wait until what is seen is what is wanted; for what another process does soon, and does not announce."""
    deadline = time.monotonic() + limit
    while (seen := look()) != wanted:
        assert time.monotonic() < deadline, f"{seen} after {limit} s instead of {wanted}"
        select.select([], [], [], 0.01)


def free_port() -> int:
    """Return a port on loopback that is free now, and that no outgoing connection is given before it is used, ip(7)."""
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        port = random.SystemRandom().randrange(lowest // 2, lowest)
        with socket.socket() as sock, suppress(OSError):
            sock.bind(("127.0.0.1", port))
            return port


@dataclass
class Server:
    """A service: its current process and where it listens."""

    process: subprocess.Popen[bytes]
    host: str
    port: int
    log: Path
    pid: int
    pids: list[int] = field(default_factory=list)

    @property
    def address(self) -> tuple[str, int]:
        return self.host, self.port

    def logged(self) -> str:
        """Return everything that the service's processes have logged."""
        return self.log.read_text(errors="replace")

    def connect(self, timeout: float = PATIENCE) -> socket.socket:
        """Open a blocking connection."""
        return socket.create_connection(self.address, timeout=timeout)

    def status(self) -> dict[str, Any]:
        """Return ``hotfd status --json`` of the current process."""
        done = hotfd("status", "--pid", str(self.pid), "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def handoff(self, *options: str, expect: int | None = 0, command: Sequence[str] = ()) -> dict[str, Any]:
        """Hand over with the command line; follow the service to its new process.

        Args:
            options: options of ``hotfd handoff``.
            expect: the exit status that must come; None for any.
            command: the new process's command, or nothing for the same.

        Returns:
            the report.
        """
        tail = ["--", *command] if command else []
        done = hotfd("handoff", "--pid", str(self.pid), "--json", *options, *tail)
        return self.outcome(done, expect)

    def outcome(self, done: subprocess.CompletedProcess[str], expect: int | None) -> dict[str, Any]:
        """Read a report, check the exit status, and follow the service."""
        assert expect is None or done.returncode == expect, (
            f"exit status {done.returncode}\n{done.stdout}\n{done.stderr}\n--- log\n{self.logged()[-4000:]}"
        )
        report = json.loads(done.stdout)
        if report["outcome"] in {"completed", "partial"} and not report["dry_run"]:
            self.pids.append(report["new_pid"])
            self.pid = report["new_pid"]
        return report


def hotfd(
    *arguments: str, timeout: float = 90.0, python: str = sys.executable, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run the ``hotfd`` command."""
    command = [python, *HOTFD[1:], *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, **options)


@contextmanager
def server(
    tmp_path: Path,
    command: Sequence[str],
    port: int,
    *,
    host: str = "127.0.0.1",
    env: dict[str, str] | None = None,
    **options: Any,
) -> Iterator[Server]:
    """Run a service that listens on a port, and end all its processes afterwards.

    Yields:
        the service, once it accepts connections.
    """
    log = tmp_path / f"server-{port}.log"
    with log.open("ab") as sink:
        process = subprocess.Popen(
            list(command), stderr=sink, stdout=sink, env={**os.environ, **(env or {})}, **options
        )
    service = Server(process, host, port, log, process.pid, [process.pid])
    try:
        _wait_listening(service)
        yield service
    finally:
        # From the newest on: a process in the middle of a handoff would else be replaced while it is ended.
        for pid in reversed(service.pids):
            kill(pid, signal.SIGCONT)
            kill(pid, signal.SIGTERM)
            with suppress(AssertionError):
                wait_gone(pid, STOP_LIMIT)
            kill(pid)
        process.wait(PATIENCE)
        for pid in service.pids:
            wait_gone(pid)


def _listening(port: int, pid: int | str = "self") -> bool:
    """Return whether anybody listens on a port in a process's network, without connecting: a server may count visitors."""
    rows: list[str] = []
    for family in ("tcp", "tcp6"):
        with suppress(OSError), open(f"/proc/{pid}/net/{family}", encoding="ascii") as file:
            rows += file.readlines()[1:]
    return any(fields[1].endswith(f":{port:04X}") and fields[3] == "0A" for fields in map(str.split, rows))


def _wait_listening(service: Server) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        assert service.process.poll() is None, f"the server ended:\n{service.logged()}"
        if _listening(service.port, service.process.pid):
            return
        assert time.monotonic() < deadline, f"the server does not listen:\n{service.logged()}"
        select.select([], [], [], 0.02)


@contextmanager
def counter(tmp_path: Path, *arguments: str, impatient: bool = False, **options: Any) -> Iterator[Server]:
    """Run ``examples/counter.py`` on a free port; see :data:`IMPATIENT`."""
    port = free_port()
    path = EXAMPLES / "counter.py"
    if impatient:
        run = f"import runpy\n\n    runpy.run_path({str(path)!r}, run_name='__main__')\n"
        path = script(tmp_path, "impatient.py", f"{IMPATIENT}\n    {run}")
    command = [sys.executable, str(path), "--listen", f"127.0.0.1:{port}", *arguments]
    with server(tmp_path, command, port, **options) as service:
        yield service


def script(tmp_path: Path, name: str, source: str) -> Path:
    """Write a server program of a test's own."""
    path = tmp_path / name
    path.write_text(textwrap.dedent(source))
    return path


@contextmanager
def program(tmp_path: Path, source: str, *, name: str = "program.py", **options: Any) -> Iterator[Server]:
    """Run a server program of a test's own; it finds its port in ``sys.argv[1]``."""
    port = free_port()
    path = script(tmp_path, name, source)
    with server(tmp_path, [sys.executable, str(path), str(port)], port, **options) as service:
        yield service


async def handoffs(service: Server, count: int, *options: str, pause: float = 0.1) -> list[dict[str, Any]]:
    """Hand over several times, one after another, while the caller's loop runs on."""
    reports = []
    for _ in range(count):
        process = await asyncio.create_subprocess_exec(
            *HOTFD, "handoff", "--pid", str(service.pid), "--json", "--probation", "0.2", *options,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        out, err = await process.communicate()
        done = subprocess.CompletedProcess([], process.returncode or 0, out.decode(), err.decode())
        reports.append(service.outcome(done, 0))
        await asyncio.sleep(pause)
    return reports
