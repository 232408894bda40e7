"""The console of a real server: with a Telnet client and with bare sockets, over handoffs and under attack."""

from __future__ import annotations

import errno
import json
import os
import pty
import select
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

import hotfd
from tests.integration import harness

LIMIT = harness.PATIENCE
"""Seconds for a console to say something on a loaded machine."""

PROGRAM = """
    import asyncio, sys
    import hotfd

    async def talk(conn):
        async for line in conn:
            if line == b"think":
                await conn.send(b"thinking")
                await asyncio.Event().wait()
            await conn.send(line)

    port, console, token, *rest = sys.argv[1:]
    hotfd.run(
        talk, listen=f"127.0.0.1:{port}", name="echo", control=f"127.0.0.1:{console}", control_token=token,
        loop=rest[0] if rest else "asyncio",
    )
"""

TELNET = next((path for name in ("telnet", "inetutils-telnet") if (path := shutil.which(name))), None)


class Service:
    """A server with a console."""

    def __init__(self, server: harness.Server, port: int, token: Path, command: list[str]) -> None:
        self.server = server
        self.port = port
        self.token = token
        self.command = command

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=LIMIT)

    @contextmanager
    def person(self, *, logged_in: bool = True) -> Iterator[Person]:
        """Open a console."""
        with self.connect() as sock:
            person = Person(sock.recv, sock.sendall, sock.fileno())
            person.sees("token: ")
            if logged_in:
                person.types(self.token.read_text().strip())
                person.sees("echo> ")
            yield person

    def follow(self, pid: int) -> None:
        """Know the process that serves now, so that it is ended with the test."""
        if pid not in self.server.pids:
            self.server.pids.append(pid)
        self.server.pid = pid


class Person:
    """Somebody who types and reads."""

    def __init__(self, read: Any, write: Any, descriptor: int) -> None:
        self._read = read
        self._write = write
        self._descriptor = descriptor
        self.screen = ""

    def types(self, line: str | bytes) -> None:
        self._write(line if isinstance(line, bytes) else line.encode() + b"\r\n")

    def _more(self) -> bool:
        ready, _, _ = select.select([self._descriptor], [], [], LIMIT)
        assert ready, f"nothing more within {LIMIT} s after {self.screen!r}"
        try:
            data = self._read(65536)
        except OSError as error:  # a pty whose other end is closed; a connection that was reset
            assert error.errno in {errno.EIO, errno.ECONNRESET}
            return False
        self.screen += data.decode("latin-1")
        return bool(data)

    def sees(self, text: str) -> str:
        """Read until a text has come; return what was before it."""
        while text not in self.screen:
            assert self._more(), f"closed after {self.screen!r}, without {text!r}"
        before, _, self.screen = self.screen.partition(text)
        return before

    def sees_the_end(self) -> str:
        while self._more():
            pass
        return self.screen

    def asks(self, line: str) -> str:
        """Type a command, and return its answer."""
        self.types(line)
        return self.sees("echo> ")


@contextmanager
def serving(tmp_path: Path, *, loop: str = "asyncio", source: str = PROGRAM) -> Iterator[Service]:
    """Run a server with a console."""
    port, console, token = harness.free_port(), harness.free_port(), tmp_path / "token"
    path = harness.script(tmp_path, "echo.py", source)
    command = [sys.executable, str(path), str(port), str(console), str(token), loop]
    with harness.server(tmp_path, command, port) as server:
        yield Service(server, console, token, command)


@contextmanager
def telnet(service: Service) -> Iterator[Person]:
    """Run the real Telnet client on a terminal."""
    if TELNET is None:
        pytest.skip("no telnet client is installed (Debian: inetutils-telnet)")
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(TELNET, [TELNET, "127.0.0.1", str(service.port)])
    try:
        yield Person(lambda size: os.read(terminal, size), lambda data: os.write(terminal, data), terminal)
    finally:
        harness.kill(pid)
        os.waitpid(pid, 0)
        os.close(terminal)


def echoes_per_second(sock: socket.socket, seconds: float) -> float:
    """Return how many lines a server answers in a second, one after another."""
    count, end = 0, time.monotonic() + seconds
    while time.monotonic() < end:
        sock.sendall(b"x\n")
        assert sock.recv(4096)
        count += 1
    return count / seconds


def listeners_of(pid: int) -> set[int]:
    """Return the TCP ports on which a process holds a listening socket."""
    inodes = set()
    for name in os.listdir(f"/proc/{pid}/fd"):
        with suppress(OSError):
            inodes.add(os.readlink(f"/proc/{pid}/fd/{name}"))
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return {int(row[1].rpartition(":")[2], 16) for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in inodes}


# -- a person ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_person_with_a_telnet_client_updates_the_server(tmp_path: Path, loop: str) -> None:
    with serving(tmp_path, loop=loop) as service, telnet(service) as person:
        token = service.token.read_text().strip()
        person.sees("token: ")
        person.types(token.encode() + b"\n")
        assert token not in person.sees("echo> "), "the client shows the token"
        person.types(b"st\n")
        assert "generation     1" in person.sees("echo> ")
        person.types(b"update --probation 0.5\n")
        shown = person.sees("serves now")
        new = int(shown.rsplit("process ", 1)[1])
        service.follow(new)
        assert "update --probation" in shown, "what is typed after the log-in is shown"
        assert "handoff: probation" in shown
        assert "completed" in shown
        assert "Connection closed" in person.sees_the_end()
        with telnet(service) as again:
            again.sees("token: ")
            again.types(token.encode() + b"\n")
            assert f"process {new}" in again.sees("echo> ")


def test_control_c_of_a_telnet_client_ends_the_showing_and_not_the_handoff(tmp_path: Path) -> None:
    with serving(tmp_path) as service, telnet(service) as person:
        person.sees("token: ")
        person.types(service.token.read_text().strip().encode() + b"\n")
        person.sees("echo> ")
        person.types(b"update --probation 3\n")
        person.sees("handoff: probation")
        person.types(b"\x03")
        person.sees("(it goes on, and its outcome will be told)")
        person.sees("echo> ")
        person.types(b"status\n")
        assert "phase probation" in person.sees("echo> ")
        person.sees("handoff completed")
        service.follow(int(person.sees(" serves now").rsplit(" ", 1)[1]))


def test_console_command_line_and_signal_give_the_same_update(tmp_path: Path) -> None:
    def comparable(report: dict[str, Any]) -> dict[str, Any]:
        changing = {"id", "old_pid", "new_pid", "generation", "pause_ms", "elapsed_ms", "phases_ms"}
        return {name: value for name, value in report.items() if name not in changing}

    with serving(tmp_path) as service, service.server.connect() as client:
        client.sendall(b"a\n")
        assert client.recv(10) == b"a\n"
        by_command = service.server.handoff("--probation", "0")
        dry = service.server.handoff("--dry-run")
        refused = service.server.handoff("--deadline", "5", expect=1, command=["/nonexistent"])
        watch = [*harness.HOTFD, "watch", "--pid", str(service.server.pid), "--json"]
        with (
            subprocess.Popen(watch, stdout=subprocess.PIPE, text=True) as watcher,
            service.person() as person,
            service.person() as other,
        ):
            assert watcher.stdout is not None
            assert json.loads(watcher.stdout.readline())["event"] == "watching"
            reports = (event["report"] for event in map(json.loads, watcher.stdout) if event["event"] == "outcome")
            assert dry["outcome"] in person.asks("update --dry-run")
            assert comparable(next(reports)) == comparable(dry)
            assert "what to do" in person.asks("update --deadline 5 -- /nonexistent")
            assert comparable(next(reports)) == comparable(refused)
            assert str(refused["reason"]).partition(":")[0] in other.sees("what to do")
            person.types("update --probation 0")
            service.follow(int(person.sees(" serves now").rsplit(" ", 1)[1]))
            assert comparable(next(reports)) == comparable(by_command)
            os.kill(service.server.pid, signal.SIGUSR2)
            by_signal = next(reports)
            service.follow(by_signal["new_pid"])
            assert comparable(by_signal) == comparable(by_command)
            watcher.kill()
        with service.person() as person:
            assert person.asks("history").count("handoff") == 3
        client.sendall(b"b\n")
        assert client.recv(10) == b"b\n"


def test_sessions_and_wrong_words_are_answered_in_words(tmp_path: Path) -> None:
    with serving(tmp_path) as service, service.server.connect() as busy, service.person() as person:
        busy.sendall(b"think\n")
        assert busy.recv(100) == b"thinking\n"
        answer = person.asks("sessions --limit 5")
        assert "no-boundary" in answer
        assert "echo.py:talk:9" in answer
        assert "malformed" in person.asks("update --probation soon")
        assert "malformed" in person.asks("update --nonsense 1")
        assert "there is no command 'reboot'" in person.asks("reboot")
        assert service.server.status()["generation"] == 1


# -- handoffs ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_the_port_is_never_closed_over_handoffs(tmp_path: Path, loop: str) -> None:
    with serving(tmp_path, loop=loop) as service:
        over, failed, greeted = threading.Event(), [], [0]

        def knock() -> None:
            while not over.is_set():
                try:
                    with service.connect() as sock:
                        greeted[0] += sock.recv(100).startswith(b"console of echo")
                except OSError as error:
                    failed.append(error)

        thread = threading.Thread(target=knock)
        thread.start()
        try:
            for _ in range(4):
                service.server.handoff("--probation", "0")
        finally:
            over.set()
            thread.join()
        refused = [error for error in failed if not isinstance(error, ConnectionResetError)]
        # A connection that the old process had just accepted ends with it, and one may be reset by that.
        assert not refused, refused
        assert greeted[0] > 10
        with service.person() as person:
            assert "generation     5" in person.asks("status")


def test_an_old_process_with_laggards_does_not_keep_the_port(tmp_path: Path) -> None:
    with serving(tmp_path) as service, service.server.connect() as busy:
        busy.sendall(b"think\n")
        assert busy.recv(100) == b"thinking\n"
        old = service.server.pid
        with service.person() as person:
            report = service.server.handoff("--probation", "0", "--boundary-timeout", "0.1", expect=3)
            assert f"process {report['new_pid']} serves now" in person.sees_the_end()
        assert harness.alive(old)
        assert service.port not in listeners_of(old)
        assert service.port in listeners_of(service.server.pid)
        with service.person() as person:
            assert f"pid            {report['new_pid']}" in person.asks("status")


def test_a_handoff_that_fails_leaves_the_consoles_as_they_are(tmp_path: Path) -> None:
    with serving(tmp_path) as service, service.person() as person:
        bad = tmp_path / "bad.py"
        bad.write_text((tmp_path / "echo.py").read_text().replace('name="echo"', 'name="echo", healthy=lambda: False'))
        service.server.handoff(expect=1, command=[sys.executable, str(bad), *service.command[2:]])
        person.sees("what to do")
        person.sees("echo> ")
        assert "generation     1" in person.asks("status")
        with service.person() as again:
            assert "generation     1" in again.asks("status")


def test_when_the_old_process_is_killed_in_probation_the_new_one_has_the_console(tmp_path: Path) -> None:
    with serving(tmp_path) as service, service.person() as person:
        person.types("update --probation 60")
        new = int(person.sees("handoff: probation").rsplit("process ", 1)[1].split(")")[0])
        person.sees(f"(new process {new})")
        harness.kill(service.server.pid)
        person.sees_the_end()
        service.follow(new)
        with service.person() as again:
            assert f"pid            {new}" in again.asks("status")


def test_a_new_version_may_have_its_console_elsewhere(tmp_path: Path) -> None:
    with serving(tmp_path) as service:
        elsewhere = harness.free_port()
        command = [*service.command[:3], str(elsewhere), *service.command[4:]]
        service.server.handoff("--probation", "0", command=command)
        harness.becomes(lambda: listeners_of(service.server.pid), {service.server.port, elsewhere})
        with pytest.raises(ConnectionRefusedError):
            service.connect()
        service.port = elsewhere
        with service.person() as person:
            assert "generation     2" in person.asks("status")
        # And back, to one that is not passed on.
        service.server.handoff("--probation", "0", command=[*service.command[:3], "0", *service.command[4:]])
        harness.becomes(lambda: len(listeners_of(service.server.pid)), 2)


def test_a_console_at_any_port_of_the_ipv6_loopback_keeps_its_address(tmp_path: Path) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError as error:
        pytest.skip(f"no IPv6 here: {error}")
    source = PROGRAM.replace('control=f"127.0.0.1:{console}"', 'control=["[::1]:0", "localhost:0"]')
    with serving(tmp_path, source=source) as service:
        before = service.server.status()["consoles"]
        assert [address.rpartition(":")[0] for address in before] == ["[::1]", "127.0.0.1"]
        service.server.handoff("--probation", "0.2")
        assert service.server.status()["consoles"] == before
        with socket.create_connection(("::1", int(before[0].rpartition(":")[2])), timeout=LIMIT) as sock:
            person = Person(sock.recv, sock.sendall, sock.fileno())
            person.sees("token: ")
            person.types(service.token.read_text().strip())
            person.sees(f"this is process {service.server.pid}")
        assert "console-login peer=[::1]:" in service.server.logged()


def test_no_descriptor_of_a_console_is_left_behind_by_handoffs(tmp_path: Path) -> None:
    with serving(tmp_path) as service:
        counts = []
        for _ in range(3):
            with service.person() as person:
                person.types("update --probation 0")
                service.follow(int(person.sees(" serves now").rsplit(" ", 1)[1]))
            service.server.status()
            counts.append(harness.descriptors_of(service.server.pid))
        assert counts[1] == counts[2], counts


# -- the token ----------------------------------------------------------------------------------------------


def test_a_token_is_made_for_its_owner_alone_and_its_place_is_logged(tmp_path: Path) -> None:
    with serving(tmp_path) as service:
        harness.becomes(service.token.exists, True)
        token = service.token.read_text().strip()
        assert stat.S_IMODE(service.token.stat().st_mode) == 0o600
        with service.person() as person:
            person.asks("status")
            assert token not in person.asks("help")
        with service.person(logged_in=False) as person:
            person.types("a wrong token of mine")
            person.sees("wrong token")
        logged = service.server.logged()
        assert str(service.token) in logged
        assert token not in logged
        assert "a wrong token of mine" not in logged
        assert token not in json.dumps(service.server.status())
        before = service.token.read_text()
        service.server.handoff("--probation", "0")
        assert service.token.read_text() == before


def test_a_token_that_others_may_read_opens_no_console_and_the_server_serves(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("a-token-for-everybody")
    os.chmod(tmp_path / "token", 0o644)
    with serving(tmp_path) as service, service.server.connect() as client:
        client.sendall(b"a\n")
        assert client.recv(10) == b"a\n"
        assert "no-console" in service.server.logged()
        assert "chmod 600" in service.server.logged()
        assert "a-token-for-everybody" not in service.server.logged()
        with pytest.raises(ConnectionRefusedError):
            service.connect()
        assert service.server.status()["consoles"] == []


def test_a_console_that_others_can_reach_has_to_be_asked_for_in_words() -> None:
    async def talk(conn: hotfd.Connection[None]) -> None: ...

    with pytest.raises(ValueError, match="control_exposed=True"):
        hotfd.Server(talk, listen="127.0.0.1:0", control="0.0.0.0:2323")
    hotfd.Server(talk, listen="127.0.0.1:0", control=["127.0.0.1:0", "0.0.0.0:2323"], control_exposed=True)
    with pytest.raises(ValueError, match="only once"):
        hotfd.Server(talk, listen="127.0.0.1:0", control=["127.0.0.1:2323", "localhost:2323"])
    with pytest.raises(ValueError, match="no address"):
        hotfd.Server(talk, listen="127.0.0.1:0", control="somewhere")


# -- those who are no persons ---------------------------------------------------------------------------------


def test_a_port_that_is_taken_costs_the_console_and_not_the_server(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port, token = harness.free_port(), tmp_path / "token"
        path = harness.script(tmp_path, "echo.py", PROGRAM)
        command = [sys.executable, str(path), str(port), str(taken.getsockname()[1]), str(token)]
        with harness.server(tmp_path, command, port) as server:
            assert server.status()["consoles"] == []
            assert "no-console" in server.logged()


@pytest.mark.alone
def test_wrong_tokens_garbage_endless_lines_and_idle_consoles_leave_the_server_its_speed(tmp_path: Path) -> None:
    with serving(tmp_path) as service, service.server.connect() as client, ExitStack() as stack:
        alone = echoes_per_second(client, 0.5)
        idle = [stack.enter_context(service.connect()) for _ in range(200)]
        with_idle = echoes_per_second(client, 0.5)
        # From processes of their own, so that it is the server that is measured and not this interpreter's lock.
        source = (
            "import socket, sys, os\n"
            "payload = {\n"
            "    'guess': b'wrong token\\n' * 3, 'garbage': os.urandom(5000), 'endless': b'x' * 10_000_000,\n"
            "    'empty': b'\\n' * 10_000_000, 'erased': b'x\\b' * 5_000_000,\n"
            "}\n"
            "while True:\n"
            "    try:\n"
            "        with socket.create_connection(('127.0.0.1', int(sys.argv[1])), timeout=2) as sock:\n"
            "            sock.sendall(payload[sys.argv[2]])\n"
            "            sock.settimeout(0.2)\n"
            "            while sock.recv(65536): pass\n"
            "    except OSError: pass\n"
        )
        for kind in ("guess", "garbage", "endless", "empty", "erased"):
            attacker = subprocess.Popen([sys.executable, "-c", source, str(service.port), kind])
            stack.callback(attacker.wait)
            stack.callback(attacker.kill)
        under_attack = echoes_per_second(client, 2.0)
        print(f"lines/s: {alone:.0f} alone, {with_idle:.0f} with idle consoles, {under_attack:.0f} under attack")
        assert with_idle > alone / 3
        assert under_attack > alone / 4
        assert service.server.status()["state"] == "serving"
        for sock in idle:
            sock.close()


def test_the_server_ends_although_consoles_are_open(tmp_path: Path) -> None:
    with serving(tmp_path) as service, service.person() as person, service.person(logged_in=False) as other:
        harness.kill(service.server.pid, signal.SIGTERM)
        assert "the server ends" in person.sees_the_end()
        other.sees_the_end()
        harness.wait_gone(service.server.pid)
