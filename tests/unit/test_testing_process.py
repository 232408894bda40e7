"""A real process, handed over for real: what a module keeps is lost, and nothing is left over."""

from __future__ import annotations

import os
import resource
import socket
import sys
import textwrap
from pathlib import Path

import pytest

from hotfd.errors import HandoffRefused
from hotfd.testing import ServerProcess

PROGRAM = """
    from dataclasses import dataclass
    import hotfd

    seen = {}

    @dataclass
    class Visitor:
        lines: int = 0

    async def talk(conn):
        async for line in conn:
            conn.state.lines += 1
            seen[conn.id] = seen.get(conn.id, 0) + 1
            await conn.send(b"%d %d" % (conn.state.lines, seen[conn.id]))

    hotfd.run(talk, listen="127.0.0.1:0", state=Visitor)
"""


@pytest.fixture
def program(tmp_path: Path):
    def write(source: str) -> list[str]:
        path = tmp_path / "program.py"
        path.write_text(textwrap.dedent(source))
        return [sys.executable, str(path)]

    before = len(os.listdir("/proc/self/fd"))
    yield write
    assert len(os.listdir("/proc/self/fd")) == before


def runs(pid: int) -> bool:
    """Say whether a process runs; one that init has not reaped yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_table_in_a_module_is_found(program):
    with ServerProcess(program(PROGRAM)) as server:
        host, _, port = server.addresses[0].rpartition(":")
        with socket.create_connection((host, int(port)), timeout=10) as client:
            lines = client.makefile("rb")
            client.sendall(b"x\n")
            assert lines.readline() == b"1 1\n"
            first = server.pid
            report = server.handoff()
            client.sendall(b"x\n")
            assert lines.readline() == b"2 1\n", "the state went along, the table did not"
            lines.close()
        assert report["outcome"] == "completed"
        assert report["connections"]["moved"] == 1
        assert (server.pid, server.generation) == (report["new_pid"], 2)
        assert server.pid != first
        directory, pids = Path(server._directory.name), (first, server.pid)
    assert not directory.exists()
    assert not any(runs(pid) for pid in pids)


def test_a_handoff_that_is_refused_says_why_and_the_server_serves_on(program):
    with ServerProcess(program(PROGRAM)) as server:
        with pytest.raises(HandoffRefused, match="new-exited"):
            server.handoff(command=[sys.executable, "-c", "raise SystemExit(3)"])
        with pytest.raises(HandoffRefused, match="malformed"):
            server.handoff(probation="long")
        assert server.status()["state"] == "serving"
        assert server.generation == 1


def test_a_program_that_ends_at_once_is_an_error_with_its_log(program):
    with pytest.raises(RuntimeError, match=r"ended with status 1; its log:\n(?s:.*)no such module"):
        ServerProcess(program("raise SystemExit('no such module')")).__enter__()


def test_a_failing_test_is_told_the_log(program):
    command = program("import sys; print('it begins', file=sys.stderr)\n" + textwrap.dedent(PROGRAM))
    with pytest.raises(ZeroDivisionError) as caught, ServerProcess(command):
        raise ZeroDivisionError
    assert "it begins" in caught.value.__notes__[0]


def test_a_new_process_is_ended_too_when_whoever_waits_for_its_handoff_is_interrupted(program, monkeypatch):
    started = []

    def interrupt(server: ServerProcess, event: dict) -> None:
        notice(server, event)
        if event.get("phase") == "probation":
            started.append(event["new_pid"])
            raise KeyboardInterrupt

    notice = ServerProcess._notice
    with ServerProcess(program(PROGRAM)) as server:
        monkeypatch.setattr(ServerProcess, "_notice", interrupt)
        with pytest.raises(KeyboardInterrupt):
            server.handoff(probation=30.0)
    assert started
    assert not any(map(runs, started))


def test_a_test_that_has_thousands_of_descriptors_can_hand_over(program):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    many = 1024  # beyond what select(2) takes
    if hard < many + 100:
        pytest.skip(f"the hard limit of descriptors is {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, many + 100), hard))
    copies = [os.dup(0) for _ in range(many)]
    try:
        with ServerProcess(program(PROGRAM)) as server:
            assert server.handoff()["outcome"] == "completed"
    finally:
        for copy in copies:
            os.close(copy)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
