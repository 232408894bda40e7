"""``hotfd run`` as a context manager, and a manager of the kind of systemd for it to talk to."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.integration import harness

ECHO = """
    import os, signal, sys
    import hotfd

    async def talk(conn):
        if not conn.resumed:
            await conn.send(b"hello %d" % os.getpid())
        async for line in conn:
            if line == b"die":
                os.kill(os.getpid(), signal.SIGKILL)
            await conn.send(b"%d %s" % (os.getpid(), line))

    if __name__ == "__main__":
        hotfd.run(talk, listen=sys.argv[1], name="echo")
"""
"""A server whose answers begin with its pid; the word ``die`` kills it."""


@dataclass
class Supervised:
    """A service under ``hotfd run``."""

    process: subprocess.Popen[bytes]
    log: Path
    address: tuple[str, int]

    @property
    def pid(self) -> int:
        """The supervisor's pid."""
        return self.process.pid

    def logged(self) -> str:
        """Return what supervisor and servers have logged."""
        return self.log.read_text(errors="replace")

    def status(self) -> dict[str, Any]:
        """Return ``hotfd status --json`` of the supervisor."""
        done = harness.hotfd("status", "--pid", str(self.pid), "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def servers(self) -> list[int]:
        """Return the pids of those who serve, by worker; 0 for a worker that nobody serves."""
        return [worker["pid"] or 0 for worker in self.status()["workers"]]

    def handoff(self, *options: str, expect: int = 0, pid: int | None = None) -> dict[str, Any]:
        """Hand over with the command line; return the report."""
        options = options if "--probation" in options else ("--probation", "0.1", *options)
        done = harness.hotfd("handoff", "--pid", str(pid or self.pid), "--json", *options)
        assert done.returncode == expect, f"{done.returncode}\n{done.stdout}\n{done.stderr}\n{self.logged()}"
        return json.loads(done.stdout)

    def connect(self) -> Talker:
        """Open a connection."""
        return Talker(self.address)

    def says(self, text: str, limit: float = harness.PATIENCE) -> None:
        """Wait until something is in the log."""
        harness.becomes(lambda: text in self.logged(), True, limit)

    def serves(self) -> None:
        """Wait until every worker serves."""
        harness.becomes(lambda: self.status()["state"], "serving")

    def ends(self, limit: float = harness.PATIENCE) -> int:
        """Wait for the supervisor's end; return its exit status."""
        return self.process.wait(limit)

    def descendants(self) -> list[tuple[int, str]]:
        """Return all processes below the supervisor, zombies included: pid and state."""
        return [(pid, state) for pid, state, parents in _processes() if self.pid in parents]


class Talker:
    """A client that says a line and reads one; a context manager."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.socket = socket.create_connection(address, timeout=harness.PATIENCE)
        self._file = self.socket.makefile("rb")
        self.greeting = self.read()

    def read(self) -> bytes:
        """Read a line; empty at the end of the stream."""
        return self._file.readline().rstrip(b"\r\n")

    def say(self, text: str) -> bytes:
        """Say a line, and return the answer."""
        self.socket.sendall(text.encode() + b"\n")
        return self.read()

    def served_by(self) -> int:
        """Return the pid of the process that answers."""
        return int(self.say("who").split()[0])

    def __enter__(self) -> Talker:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self.socket.close()


def states_below(pid: int) -> list[str]:
    """Return the states of all processes below one."""
    return [state for _, state, parents in _processes() if pid in parents]


def _processes() -> list[tuple[int, str, list[int]]]:
    """Return each process of the machine: pid, state, and its ancestors."""
    found: dict[int, tuple[str, int]] = {}
    for entry in os.listdir("/proc"):
        with suppress(OSError):
            if entry.isdecimal():
                fields = Path(f"/proc/{entry}/stat").read_bytes().rpartition(b")")[2].split()
                found[int(entry)] = fields[0].decode(), int(fields[1])
    return [(pid, state, list(_ancestors(pid, found))) for pid, (state, _) in found.items()]


def _ancestors(pid: int, found: dict[int, tuple[str, int]]) -> Iterator[int]:
    while pid in found:
        pid = found[pid][1]
        yield pid


@contextmanager
def supervised(
    tmp_path: Path,
    *options: str,
    command: Sequence[str] | None = None,
    source: str = ECHO,
    port: int | None = None,
    prefix: Sequence[str] = (),
    wait: bool = True,
    **popen: Any,
) -> Iterator[Supervised]:
    """Run a server under ``hotfd run``, and end everything afterwards.

    Args:
        tmp_path: for the program and the log.
        options: of ``hotfd run``.
        command: what to run; a program of ``source`` that listens on ``port`` when None.
        source: that program; it finds its address in ``sys.argv[1]``.
        port: a free one when None.
        prefix: what starts ``hotfd``.
        wait: whether to wait until somebody listens on the port.
        popen: other arguments of Popen.
    """
    port = port or harness.free_port()
    if command is None:
        command = [sys.executable, str(harness.script(tmp_path, "program.py", source)), f"127.0.0.1:{port}"]
    log = tmp_path / f"run-{port}.log"
    with log.open("ab") as sink:
        process = subprocess.Popen(
            [*prefix, *harness.HOTFD, "run", *options, "--", *command], stderr=sink, stdout=sink, **popen
        )
    service = Supervised(process, log, ("127.0.0.1", port))
    try:
        if wait:
            service.says("serves worker=")
        yield service
    finally:
        if process.poll() is None:
            for pid, _ in service.descendants():
                harness.kill(pid, signal.SIGCONT)
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(2 * harness.STOP_LIMIT)
            for pid, _ in service.descendants():
                harness.kill(pid)
            process.kill()
            process.wait(harness.PATIENCE)


class Manager:
    """What systemd is to a service: a notify socket, on which it remembers what it was told, and by whom."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.told: list[tuple[int, list[str]]] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._socket.bind(str(path))

    def lines(self, pid: int | None = None) -> list[str]:
        """Return all that was told until now, by one process or by any."""
        self._read()
        return [line for sender, lines in self.told if pid in {None, sender} for line in lines]

    def hears(self, line: str, *, of: int | None = None, limit: float = harness.PATIENCE) -> None:
        """Wait until a line is told that has not been told before this call."""
        self._read()
        known = len(self.told)
        self.until(lambda: any(line in lines and of in {None, pid} for pid, lines in self.told[known:]), line, limit)

    def has(self, line: str, limit: float = harness.PATIENCE) -> None:
        """Wait until a line has been told at any time."""
        self.until(lambda: line in self.lines(), line, limit)

    def until(self, condition: Callable[[], bool], what: str, limit: float = harness.PATIENCE) -> None:
        deadline = time.monotonic() + limit
        while not condition():
            left = deadline - time.monotonic()
            assert left > 0, f"{what} was not told, but {self.told}"
            if select.select([self._socket], [], [], left)[0]:
                self._read()

    def _read(self) -> None:
        while select.select([self._socket], [], [], 0)[0]:
            data, ancillary, _, _ = self._socket.recvmsg(4096, socket.CMSG_SPACE(12))
            self.told.append((struct.unpack("@iII", ancillary[0][2])[0], data.decode().split("\n")))

    def close(self) -> None:
        self._socket.close()


@contextmanager
def manager(tmp_path: Path) -> Iterator[Manager]:
    """Listen as a service manager does; pass ``NOTIFY_SOCKET`` on to what is to talk to it."""
    found = Manager(tmp_path / "notify")
    try:
        yield found
    finally:
        found.close()


@contextmanager
def in_background(service: Supervised, *options: str) -> Iterator[Callable[..., dict[str, Any]]]:
    """Begin a handoff; what is yielded waits for its end, and returns the report."""
    command = [*harness.HOTFD, "handoff", "--pid", str(service.pid), "--json", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def finish(expect: int | None = 0) -> dict[str, Any]:
        out, err = process.communicate(timeout=harness.PATIENCE)
        assert expect in {None, process.returncode}, f"{process.returncode}\n{out}\n{err}\n{service.logged()}"
        return json.loads(out) if out else {}

    try:
        yield finish
    finally:
        process.kill()
        process.communicate()


@contextmanager
def watching(service: Supervised) -> Iterator[Iterator[dict[str, Any]]]:
    """Run ``hotfd watch``; what is yielded gives its events one after another."""
    command = [*harness.HOTFD, "watch", "--pid", str(service.pid), "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        yield (json.loads(line) for line in process.stdout)
    finally:
        process.terminate()  # and no SIGINT, which a shell has its background jobs ignore
        process.wait(harness.PATIENCE)
        process.stdout.close()


def seen(events: Iterator[dict[str, Any]], kind: str) -> dict[str, Any]:
    """Return the next event of a kind."""
    return next(event for event in events if event.get("event") == kind)
