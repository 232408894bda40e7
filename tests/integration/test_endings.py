"""Somebody ends in the middle of a handoff: a program, a process, a connection, an export. Nobody else pays for it."""

from __future__ import annotations

import errno
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import hotfd
from tests.integration import harness
from tests.integration.test_bad_versions import talking

LIMIT = harness.PATIENCE
"""Seconds after which a test that waits for a fact fails."""


def eventually(condition: Callable[[], Any], what: str) -> Any:
    """Wait until a condition holds; return what it returned."""
    deadline = time.monotonic() + LIMIT
    while not (found := condition()):
        assert time.monotonic() < deadline, what
        select.select([], [], [], 0.01)
    return found


class Handoff:
    """A handoff that the command line waits for."""

    def __init__(self, service: harness.Server, process: subprocess.Popen[str]) -> None:
        self.service = service
        self.process = process

    def phase(self, name: str) -> int:
        """Wait until the old process has logged a phase; return the new process's pid."""
        pattern = re.compile(rf"handoff-phase .*phase={name}\b.* new_pid=(\w+)")
        found = eventually(lambda: pattern.search(self.service.logged()), f"no {name}:\n{self.service.logged()}")
        return 0 if found[1] == "None" else int(found[1])

    def report(self, expect: int | None) -> dict[str, Any]:
        """Wait for the end; follow the service."""
        out, err = self.process.communicate(timeout=LIMIT)
        return self.service.outcome(subprocess.CompletedProcess([], self.process.returncode, out, err), expect)


@contextmanager
def handing_over(service: harness.Server, *options: str, command: Sequence[str] = ()) -> Iterator[Handoff]:
    """Begin to hand over."""
    tail = ["--", *command] if command else []
    arguments = [*harness.HOTFD, "handoff", "--pid", str(service.pid), "--json", *options, *tail]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield Handoff(service, process)
        finally:
            process.kill()


class Line:
    """A client of the counter."""

    def __init__(self, sock: socket.socket, *, greeted: bool = True) -> None:
        sock.settimeout(LIMIT)
        self.sock, self.reader, self.count = sock, sock.makefile("rb"), 0
        if greeted:
            assert self.hear() == b"hello"

    def hear(self) -> bytes:
        return self.reader.readline().removesuffix(b"\n")

    def say(self, line: bytes = b"x") -> None:
        self.count += 1
        self.sock.sendall(line + b"\n")

    def served(self, line: bytes = b"x") -> bool:
        """Say a line; whether it is answered with the number that it must have."""
        self.say(line)
        return self.hear() == b"%d %s" % (self.count, line)

    def __enter__(self) -> Line:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.reader.close()
        self.sock.close()


def unix_line(path: Path, name: bytes | None = None) -> Line:
    sock = socket.socket(socket.AF_UNIX)
    if name is not None:
        sock.bind(name)
    sock.connect(str(path))
    return Line(sock)


def only_process(tmp_path: Path, *, but: int = 0) -> int:
    """Return the one process of the service that is left, beside one that only looks on."""

    def left() -> list[int]:
        found = harness.processes_with_environment("HOTFD_RUNTIME_DIR", str(tmp_path / "run"))
        return [pid for pid in found if pid != but]

    eventually(lambda: len(left()) == 1, "not one process is left")
    return left()[0]


# ---------------------------------------------------------------- programs that end by themselves

TALK = """
    import asyncio, logging, os, signal, sys
    from dataclasses import dataclass
    import hotfd

    @dataclass
    class Visitor:
        lines: int = 0

    async def talk(conn):
        if not conn.resumed:
            await conn.send(b"hello")
        async for line in conn:
            while line == b"busy" and not os.path.exists(os.path.join(os.path.dirname(sys.argv[0]), "free")):
                await asyncio.sleep(0.01)
            if line == b"peer":
                line += repr(conn.peername).encode()
            conn.state.lines += 1
            await conn.send(b"%d %s" % (conn.state.lines, line))

    listen = [f"127.0.0.1:{sys.argv[1]}", "unix:" + os.environ["HOTFD_RUNTIME_DIR"] + "/../app.sock"]
"""

EMBEDDED = (
    TALK
    + """
    async def main():
        loop, leave = asyncio.get_running_loop(), asyncio.get_running_loop().create_future()
        async with hotfd.Server(talk, listen, state=Visitor) as server:
            loop.add_signal_handler(signal.SIGTERM, leave.set_result, None)
            loop.add_signal_handler(signal.SIGUSR1, leave.set_exception, RuntimeError("a mistake of the program"))
            serving = asyncio.create_task(server.serve())
            done, _ = await asyncio.wait([serving, leave], return_when=asyncio.FIRST_COMPLETED)
            serving.cancel()
            done.pop().result()

    logging.basicConfig(level=logging.INFO)
    asyncio.run(main())
"""
)

PLAIN = TALK + "\n    hotfd.run(talk, listen, state=Visitor)\n"


@pytest.mark.parametrize(
    ("phase", "number"), [("move", signal.SIGTERM), ("probation", signal.SIGTERM), ("probation", signal.SIGUSR1)]
)
def test_a_program_that_leaves_its_server_during_a_handoff_leaves_the_service_to_the_new_process(
    tmp_path: Path, phase: str, number: int
) -> None:
    with (
        harness.program(tmp_path, EMBEDDED) as service,
        Line(service.connect()) as idle,
        Line(service.connect()) as busy,
    ):
        with talking(service), handing_over(service, "--probation", "2") as handoff:
            if phase == "move":
                busy.say(b"busy")
            new = handoff.phase(phase)
            old = service.pid
            harness.kill(old, number)
            (tmp_path / "free").touch()
            assert handoff.report(0)["outcome"] == "completed"
            harness.wait_gone(old)
        assert (service.process.wait() == 0) is (number == signal.SIGTERM)
        assert only_process(tmp_path) == new == service.pid
        if phase == "move":
            assert busy.hear() == b"1 busy"
        assert idle.served()
        assert busy.served()
        with Line(service.connect()) as fresh, unix_line(tmp_path / "app.sock") as local:
            assert fresh.served()
            assert local.served()


def test_a_new_version_whose_program_fails_in_its_probation_gives_everything_back(tmp_path: Path) -> None:
    path = tmp_path / "app.sock"
    with harness.program(tmp_path, EMBEDDED) as service, Line(service.connect()) as one, unix_line(path) as two:
        assert one.served()
        assert two.served()
        with handing_over(service, "--probation", "30") as handoff:
            new = handoff.phase("probation")
            harness.kill(new, signal.SIGUSR1)
            report = handoff.report(1)
        assert report["connections"] == {"moved": 0, "kept": 0, "returned": 2, "closed": 0}
        assert only_process(tmp_path) == service.pid
        assert one.served()
        assert two.served()
        assert path.exists()
        with unix_line(path) as fresh:
            assert fresh.served()


# ---------------------------------------------------------------- signals during a handoff


def test_a_server_that_is_told_to_stop_before_the_new_one_is_ready_stops(tmp_path: Path) -> None:
    with harness.program(tmp_path, PLAIN) as service:
        with handing_over(service, command=["sleep", "1000"]) as handoff:
            handoff.phase("spawn")
            harness.kill(service.pid, signal.SIGTERM)
            report = handoff.report(1)
        assert report["reason"] == "stopping: the server was told to stop"
        assert service.process.wait(LIMIT) == 0
        assert not harness.processes_with_environment("HOTFD_RUNTIME_DIR", str(tmp_path / "run"))


def test_a_server_that_is_told_to_stop_in_the_probation_finishes_the_handoff(tmp_path: Path) -> None:
    with harness.program(tmp_path, PLAIN) as service, Line(service.connect()) as client:
        with talking(service), handing_over(service, "--probation", "0.5") as handoff:
            handoff.phase("probation")
            harness.kill(service.pid, signal.SIGTERM)
            assert handoff.report(0)["outcome"] == "completed"
        assert service.process.wait(LIMIT) == 0
        assert client.served()


def test_a_new_process_that_is_told_to_stop_in_its_probation_gives_everything_back(tmp_path: Path) -> None:
    path = tmp_path / "app.sock"
    with harness.program(tmp_path, PLAIN) as service, Line(service.connect()) as one, unix_line(path) as two:
        with handing_over(service, "--probation", "30") as handoff:
            new = handoff.phase("probation")
            harness.kill(new, signal.SIGTERM)
            report = handoff.report(1)
        assert report["connections"] == {"moved": 0, "kept": 0, "returned": 2, "closed": 0}
        assert not harness.alive(new)
        assert one.served()
        assert two.served()
        with unix_line(path) as fresh:
            assert fresh.served()


# ---------------------------------------------------------------- an export that takes its time

TOGETHER = """
    import asyncio, os, sys, time
    import hotfd

    MODE = os.environ["MODE"]
    connections, timeouts, working = [], [], asyncio.Event()

    async def talk(conn):
        connections.append(conn)
        if not conn.resumed:
            await conn.send(b"hello")
            try:
                async with asyncio.timeout(None) as timeout:
                    timeouts.append(timeout)
                    while line := await conn.receive():
                        await conn.send(line)
            except TimeoutError:
                working.set()
                await asyncio.sleep(0.3)  # as long as it takes: the new process must not see half of it
                await conn.send(b"worked")
        async for line in conn:
            await conn.send(line)

    async def export():
        if MODE == "hang":
            await asyncio.Event().wait()
        session = connections[0].session
        if MODE == "close":
            connections[0].close()
        if MODE == "kill":
            connections[0]._task.cancel()
        if MODE == "timeout" and not working.is_set():
            timeouts[0].reschedule(0)
            await working.wait()
        if MODE == "import" and not working.is_set():
            timeouts[0].reschedule(asyncio.get_running_loop().time() + 0.2)
        while MODE == "kill" and session.connections:
            await asyncio.sleep(0.01)
        return {}

    def load(state):
        if MODE == "import":
            time.sleep(0.5)  # long enough for the timeout, of 0.2 s, in the process that waits for this

    hotfd.run(talk, f"127.0.0.1:{sys.argv[1]}", cutover="together", export_state=export, import_state=load)
"""


@contextmanager
def exporting(tmp_path: Path, mode: str) -> Iterator[tuple[harness.Server, list[Line]]]:
    """Run a store with three clients, to the first of which something happens while it exports."""
    with harness.program(tmp_path, TOGETHER, env={"MODE": mode}) as service:
        lines = []
        try:
            for number in range(3):
                lines.append(Line(service.connect()))
                # The program counts its connections from the first on.
                lines[-1].sock.sendall(b"%d\n" % number)
                assert lines[-1].hear() == b"%d" % number
            yield service, lines
        finally:
            for line in lines:
                line.close()


def echoes(line: Line) -> bool:
    line.sock.sendall(b"echo\n")
    return line.hear() == b"echo"


@pytest.mark.parametrize("mode", ["close", "kill"])
def test_a_connection_that_ends_during_the_export_does_not_move(tmp_path: Path, mode: str) -> None:
    with exporting(tmp_path, mode) as (service, (first, *others)):
        old = service.pid
        report = service.handoff("--probation", "0.1")
        assert report["connections"] == report["sessions"] == {"moved": 2, "kept": 0, "returned": 0, "closed": 0}
        assert first.hear() == b"", "it has ended"
        assert all(echoes(line) for line in others)
        status = service.status()
        assert (status["connections"], status["sessions"]) == (2, 2)
        first.close()
        harness.wait_gone(old)


@pytest.mark.parametrize("mode", ["timeout", "import"])
def test_a_handler_that_is_woken_during_the_export_or_import_finishes_its_work_first(tmp_path: Path, mode: str) -> None:
    with exporting(tmp_path, mode) as (service, (first, *others)):
        report = service.handoff("--probation", "0.1")
        assert report["connections"]["moved"] == 3
        assert first.hear() == b"worked"
        assert all(echoes(line) for line in (first, *others))


def test_an_export_that_does_not_return_is_a_refusal(tmp_path: Path) -> None:
    with exporting(tmp_path, "hang") as (service, lines):
        report = service.handoff("--deadline", "4", expect=1)
        assert report["reason"] == "export-hung: export_state did not return within 4 s"
        assert all(echoes(line) for line in lines)


def test_an_import_that_nobody_would_await_is_an_error_at_the_start() -> None:
    async def load(state: object) -> None:
        raise AssertionError("never called")

    async def talk(conn: hotfd.Connection[Any]) -> None:
        raise AssertionError("never called")

    with pytest.raises(ValueError, match="import_state must be a plain function"):
        hotfd.Server(talk, "127.0.0.1:0", cutover="together", export_state=dict, import_state=load)


# ---------------------------------------------------------------- processes that stop or die


def test_a_process_that_could_not_tell_that_it_has_settled_has_not(tmp_path: Path) -> None:
    with (
        harness.program(tmp_path, PLAIN) as service,
        Line(service.connect()) as client,
        Line(service.connect()) as idle,
    ):
        with handing_over(service, "--probation", "1.5") as handoff:
            new = handoff.phase("probation")
            harness.kill(service.pid, signal.SIGSTOP)
            crowd = [service.connect() for _ in range(400)]  # each is told to the old process, which reads nothing
            try:
                # Longer than the probation: nothing tells its end, since it has none.
                select.select([], [], [], 2.0)
                assert client.served(), "the new process serves"
                assert harness.hotfd("handoff", "--pid", str(new), "--json").returncode == 1, "and is not settled"
                harness.kill(new)
                harness.wait_gone(new)
                harness.kill(service.pid, signal.SIGCONT)
                report = handoff.report(1)
            finally:
                for sock in crowd:
                    sock.close()
        assert report["connections"]["returned"] == 1
        assert report["reasons"]["lost-in-new-process"] == report["connections"]["closed"] > 1
        with pytest.raises(ConnectionResetError):
            client.hear()
        assert idle.served()


HEARTBEAT = """
    import asyncio, os, signal, sys
    import hotfd
    from hotfd.server import takeover

    take_listeners = takeover.Takeover._take_listeners

    def stop(self, *arguments):
        take_listeners(self, *arguments)
        os.kill(os.getpid(), signal.SIGSTOP)

    takeover.Takeover._take_listeners = stop

    async def talk(conn):
        await conn.send(b"hello")
        while True:
            try:
                async with asyncio.timeout(0.2):
                    line = await conn.receive()
            except TimeoutError:
                await conn.send(b"ping")
                continue
            if line is None:
                return
            await conn.send(line)

    hotfd.run(talk, f"127.0.0.1:{sys.argv[1]}")
"""


def test_a_new_process_that_hangs_is_found_out_although_every_handler_has_a_heartbeat(tmp_path: Path) -> None:
    with harness.program(tmp_path, harness.IMPATIENT + HEARTBEAT) as service:
        lines = [Line(service.connect()) for _ in range(40)]
        with handing_over(service) as handoff:
            new = handoff.phase("move")
            try:
                out, _ = handoff.process.communicate(timeout=LIMIT)
            except subprocess.TimeoutExpired:
                harness.kill(new)  # so that the service can be ended
                raise
            report = json.loads(out)
        assert report["reason"].startswith("new-hung:")
        assert not harness.alive(new)
        for line in lines:
            line.sock.sendall(b"x\n")
            while (heard := line.hear()) == b"ping":
                pass
            assert heard == b"x"
            line.close()


NO_PIDFD = """
    from hotfd import _core

    receive = _core.receive_message

    def receive_without_pidfd(fd):
        # As on a kernel that gives no pidfd of a sender who is dead, or none at all.
        message = receive(fd)
        if message.pidfd >= 0:
            import os
            os.close(message.pidfd)
        return message._replace(pidfd=-1)

    _core.receive_message = receive_without_pidfd
"""


def opened(gate: Path) -> int | None:
    """Open a fifo for writing, if somebody reads it; the caller closes it."""
    try:
        return os.open(gate, os.O_WRONLY | os.O_NONBLOCK)
    except OSError as error:
        assert error.errno == errno.ENXIO
        return None


def test_a_new_process_that_finds_the_old_one_dead_serves_where_no_pidfd_tells(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    with harness.program(tmp_path, NO_PIDFD + PLAIN) as service:
        program = f'read line <"{gate}"; exec "$@"'
        command = ["sh", "-c", program, "sh", sys.executable, *service.process.args[1:]]
        with handing_over(service, command=command) as handoff:
            writer = eventually(lambda: opened(gate), "the new process is not started")
            harness.kill(service.pid)
            service.process.wait()
            os.write(writer, b"open\n")
            os.close(writer)
            new = only_process(tmp_path, but=handoff.process.pid)
            service.pids.append(new)
            service.pid = new
            eventually(lambda: harness._listening(service.port), f"nobody listens:\n{service.logged()}")
            with Line(service.connect()) as client:
                assert client.served()


# ---------------------------------------------------------------- clients


def test_the_old_process_drops_its_copies_of_moved_clients_that_leave(tmp_path: Path) -> None:
    with harness.program(tmp_path, PLAIN) as service:
        lines = [Line(service.connect()) for _ in range(30)]
        with handing_over(service, "--probation", "30") as handoff:
            new = handoff.phase("probation")
            before = harness.descriptors_of(service.pid)
            for line in lines[1:]:
                line.close()
            eventually(lambda: harness.descriptors_of(service.pid) <= before - 29, "the old process keeps its copies")
            harness.kill(new)
            report = handoff.report(1)
        assert report["connections"] == {"moved": 0, "kept": 0, "returned": 1, "closed": 0}
        with lines[0]:
            assert lines[0].served()


def test_a_client_whose_name_is_no_text_moves(tmp_path: Path) -> None:
    name = os.fsencode(tmp_path) + b"/client\xff"
    with harness.program(tmp_path, PLAIN) as service, unix_line(tmp_path / "app.sock", name) as client:
        client.say(b"peer")
        before = client.hear().removeprefix(b"1 ")
        assert b"client\\udcff" in before
        assert service.handoff("--probation", "0.1")["connections"]["moved"] == 1
        client.say(b"peer")
        assert client.hear().removeprefix(b"2 ") == before
