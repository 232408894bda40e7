"""Watching a server, sampling its sessions, and what clients of its control socket can and cannot do to it."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from hotfd.control import Client, find
from hotfd.control.errors import RequestFailed
from tests.integration import harness

LIMIT = harness.PATIENCE
"""Seconds for an event to come on a loaded machine."""

BUSY = """
    import asyncio, sys
    import hotfd

    async def deliberate(event):
        await event.wait()

    async def talk(conn):
        async for line in conn:
            if line == b"think":
                await conn.send(b"thinking")
                await deliberate(asyncio.Event())
            await conn.send(line)

    hotfd.run(talk, listen=f"127.0.0.1:{sys.argv[1]}")
"""


class Watcher:
    """A ``hotfd watch --json`` that runs."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self.seen: list[dict[str, Any]] = []
        self._buffer = b""

    def next(self) -> dict[str, Any]:
        """Return the next event."""
        assert self.process.stdout is not None
        while b"\n" not in self._buffer:
            ready, _, _ = select.select([self.process.stdout], [], [], LIMIT)
            assert ready, f"no event within {LIMIT} s after {self.seen}"
            data = os.read(self.process.stdout.fileno(), 65536)
            assert data, f"the watch ended after {self.seen}"
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        self.seen.append(json.loads(line))
        return self.seen[-1]

    def until(self, **fields: Any) -> dict[str, Any]:
        """Read events until one has these fields."""
        while True:
            event = self.next()
            if all(event.get(name) == value for name, value in fields.items()):
                return event


@contextmanager
def watching(pid: int) -> Iterator[Watcher]:
    """Watch a server."""
    command = [*harness.HOTFD, "watch", "--pid", str(pid), "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            yield Watcher(process)
        finally:
            process.kill()


def children(pid: int) -> list[int]:
    """Return the processes that a process has started, and that it has not seen the end of."""
    found = []
    for task in os.listdir(f"/proc/{pid}/task"):
        found += Path(f"/proc/{pid}/task/{task}/children").read_text().split()
    return [int(child) for child in found]


def echoes_per_second(sock: socket.socket, seconds: float) -> float:
    """Return how many lines a server answers in a second, one after another."""
    count, end = 0, time.monotonic() + seconds
    while time.monotonic() < end:
        sock.sendall(b"x\n")
        assert sock.recv(4096)
        count += 1
    return count / seconds


def test_every_watcher_sees_a_handoff_whoever_asked_for_it_and_follows_it(tmp_path: Path) -> None:
    with harness.counter(tmp_path) as service, service.connect() as client, ExitStack() as stack:
        client.sendall(b"a\n")
        old = service.pid
        watchers = [stack.enter_context(watching(old)) for _ in range(2)]
        for watcher in watchers:
            assert watcher.until(event="watching")["connections"] == 1
        report = service.handoff("--probation", "0")
        for watcher in watchers:
            assert watcher.until(event="started")["id"] == report["id"]
            assert [watcher.until(event="phase")["phase"] for _ in range(4)] == ["spawn", "ready", "move", "probation"]
            assert watcher.until(event="outcome")["report"] == report
            assert watcher.until(event="replaced")["pid"] == service.pid
            watching_now = watcher.until(event="watching")
            assert (watching_now["pid"], watching_now["generation"]) == (service.pid, 2)
        harness.wait_gone(old)
        refused = service.handoff("--probation", "0", expect=1, command=["/nonexistent"])
        assert watchers[0].until(event="outcome")["report"]["reason"] == refused["reason"]
        os.kill(service.pid, signal.SIGTERM)
        for watcher in watchers:
            watcher.until(event="ended")
            assert watcher.process.wait(LIMIT) == 0


def test_a_signal_that_kills_the_old_process_in_probation_takes_the_watch_to_the_new_one(tmp_path: Path) -> None:
    with harness.counter(tmp_path) as service, service.connect() as client, watching(service.pid) as watcher:
        client.sendall(b"a\n")
        command = [*harness.HOTFD, "handoff", "--pid", str(service.pid), "--probation", "60"]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as handoff:
            new = watcher.until(event="phase", phase="probation")["new_pid"]
            service.pids.append(new)
            harness.kill(service.pid)
            assert watcher.until(event="replaced")["pid"] == new
            assert watcher.until(event="watching")["pid"] == new
            service.pid = new
            handoff.wait(LIMIT)


def test_a_watcher_is_told_the_counts_when_they_change(tmp_path: Path) -> None:
    with harness.counter(tmp_path) as service, watching(service.pid) as watcher:
        assert watcher.next()["connections"] == 0
        with service.connect():
            assert watcher.until(event="counts")["connections"] == 1
        assert watcher.until(event="counts")["connections"] == 0


def test_a_watcher_is_told_which_session_stays_and_why(tmp_path: Path) -> None:
    with harness.program(tmp_path, BUSY) as service, service.connect() as client, watching(service.pid) as watcher:
        client.sendall(b"think\n")
        assert client.recv(100) == b"thinking\n"
        report = service.handoff("--probation", "0", "--boundary-timeout", "0.1", "--laggards", "close", expect=3)
        event = watcher.until(event="session")
        assert (event["fate"], event["code"]) == ("closed", "no-boundary")
        assert watcher.until(event="outcome")["report"]["reasons"] == report["reasons"] == {"no-boundary": 1}


def test_sessions_says_where_in_the_program_a_busy_handler_waits(tmp_path: Path) -> None:
    with harness.program(tmp_path, BUSY) as service, service.connect() as busy, service.connect() as idle:
        idle.sendall(b"x\n")
        assert idle.recv(100) == b"x\n"
        busy.sendall(b"think\n")
        assert busy.recv(100) == b"thinking\n"
        done = harness.hotfd("sessions", "--pid", str(service.pid), "--json")
        assert done.returncode == 0, done.stderr
        answer = json.loads(done.stdout)
        assert (answer["total"], answer["busy"]) == (2, 1)
        first, second = answer["sessions"]
        assert first["obstacle"]["code"] == "no-boundary"
        assert second["obstacle"] is None
        host, port = busy.getsockname()
        assert first["members"][0]["peername"] == f"{host}:{port}"
        places = [place.split(":")[1] for place in first["members"][0]["awaits"]]
        assert places == ["talk", "deliberate", "Event.wait"]
        assert second["members"][0]["awaits"] == []
        readable = harness.hotfd("sessions", "--pid", str(service.pid)).stdout
        assert "program.py:deliberate:6" in readable
        assert "program.py:talk:12" in readable
        one = json.loads(harness.hotfd("sessions", "--pid", str(service.pid), "--json", "--limit", "1").stdout)
        assert [session["id"] for session in one["sessions"]] == [first["id"]]


def test_no_instruction_but_those_that_replace_the_server_starts_a_process(tmp_path: Path) -> None:
    with harness.counter(tmp_path) as service, Client.connect(find(service.pid)) as client:
        command = ["/bin/sh", "-c", "touch started"]
        try:
            client.ask("nothing-of-the-kind", command=command, cwd=str(tmp_path))
        except RequestFailed as refused:
            known = refused.message.partition("types ")[2].split(", ")
        assert {"update", "status", "sessions", "watch", "result"} <= set(known)
        for kind in set(known) - {"update", "rollback", "watch"}:
            for fields in ({}, {"command": command, "cwd": str(tmp_path), "id": "x", "limit": 1}):
                try:
                    client.ask(kind, **fields)
                except RequestFailed as refused:
                    assert refused.code != "internal", f"{kind}: {refused}"
            try:
                client.ask(kind, bogus=1)
            except RequestFailed as refused:
                assert refused.code == "malformed", kind
                assert "bogus" in refused.message
            else:
                raise AssertionError(f"{kind} takes any field")
            assert children(service.pid) == [], kind
        for malformed in ({"dry_run": "no"}, {"probation": -1}, {"command": "touch started"}, {"commnad": command}):
            try:
                client.ask("update", **malformed)
            except RequestFailed as refused:
                assert refused.code == "malformed"
            else:
                raise AssertionError(malformed)
            assert children(service.pid) == []
        assert service.status()["generation"] == 1
        assert not (tmp_path / "started").exists()


@pytest.mark.alone
def test_clients_that_hang_or_flood_leave_the_server_its_speed(tmp_path: Path) -> None:
    path = Path(os.environ["HOTFD_RUNTIME_DIR"])
    with harness.counter(tmp_path) as service, service.connect() as client, ExitStack() as stack:
        assert client.recv(100) == b"hello\n"
        alone = echoes_per_second(client, 0.5)
        address = str(path / f"{service.pid}.sock")
        hanging = [stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(40)]
        for number, sock in enumerate(hanging):
            sock.connect(address)
            sock.sendall([b'{"type":"watch"}\n', b'{"type":', b"", b'{"type":"status"}\n' * 500][number % 4])
        flooding = stack.enter_context(socket.socket(socket.AF_UNIX))
        flooding.connect(address)
        flooding.setblocking(False)
        with_them = 0.0
        for _ in range(10):
            try:
                while flooding.send(b"\xff\xfe{]" * 16384):
                    pass
            except (BlockingIOError, BrokenPipeError, ConnectionResetError):
                pass
            with_them += echoes_per_second(client, 0.05) / 10
        assert with_them > alone / 4, f"{alone:.0f} lines/s alone, {with_them:.0f} with clients that hang and flood"
        assert service.status()["state"] == "serving"


def test_a_watch_that_hangs_up_leaves_nothing_in_the_server(tmp_path: Path) -> None:
    with harness.counter(tmp_path) as service:
        service.status()
        before = harness.descriptors_of(service.pid)
        for _ in range(3):
            with watching(service.pid) as watcher:
                watcher.next()
        harness.becomes(lambda: harness.descriptors_of(service.pid), before)


def test_a_handoff_goes_on_when_whoever_asked_for_it_hangs_up(tmp_path: Path) -> None:
    with harness.counter(tmp_path) as service, service.connect() as client, watching(service.pid) as watcher:
        client.sendall(b"a\n")
        watcher.next()
        with Client.connect(find(service.pid)) as operator:
            events = operator.request("update", probation=0.5)
            assert next(events)["event"] == "started"
        report = watcher.until(event="outcome")["report"]
        assert report["outcome"] == "completed"
        service.pid = report["new_pid"]
        service.pids.append(service.pid)
