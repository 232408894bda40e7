"""What stayed behind is told: how many, why, and of some of them what their handlers wait for."""

from __future__ import annotations

import json
import socket
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.integration import harness

STUCK = """
    import asyncio, sys
    import hotfd

    async def answer_of_the_database():
        await asyncio.Event().wait()

    async def talk(conn):
        async for line in conn:
            await conn.send(b"at work")
            if line == b"stuck":
                await answer_of_the_database()
            else:
                conn.movable = False, "it trades"

    options = {}
    if sys.argv[2] == "together":
        options = {"cutover": "together", "export_state": lambda: 1, "import_state": lambda _: None}
    hotfd.run(talk, f"127.0.0.1:{sys.argv[1]}", name="stuck", **options)
"""

MANY = 12
"""Sessions of one code; two more than are described."""


def stuck(tmp_path: Path, cutover: str, stack: ExitStack) -> tuple[harness.Server, list[socket.socket]]:
    """Run a server of which ``MANY`` sessions work on a frame, and one has said that it does not move."""
    port = harness.free_port()
    command = [sys.executable, str(harness.script(tmp_path, "stuck.py", STUCK)), str(port), cutover]
    service = stack.enter_context(harness.server(tmp_path, command, port))
    clients = [stack.enter_context(service.connect()) for _ in range(MANY + 1)]
    for client in clients:
        client.sendall(b"stuck\n" if client is not clients[-1] else b"trade\n")
        assert client.recv(8) == b"at work\n"
    return service, clients


def check(laggards: list[dict[str, object]]) -> None:
    """Ten of those that are stuck, with the place; and the one that trades, which waits at its boundary."""
    busy = [laggard for laggard in laggards if laggard["code"] == "no-boundary"]
    assert len(busy) == 10
    for laggard in busy:
        assert laggard["detail"] == "its handler works on a frame"
        assert any("stuck.py:answer_of_the_database:" in place for place in laggard["awaits"]), laggard
        assert "stuck.py:talk:" in laggard["awaits"][0]
    (trading,) = [laggard for laggard in laggards if laggard["code"] == "not-movable"]
    assert trading["detail"] == "it trades"
    assert len({laggard["session"] for laggard in laggards}) == 11


def test_the_report_and_the_status_of_the_old_process_tell_what_laggards_await(tmp_path: Path) -> None:
    with ExitStack() as stack:
        service, clients = stuck(tmp_path, "rolling", stack)
        old = service.pid
        report = service.handoff("--boundary-timeout", "0.2", "--probation", "0.1", expect=3)
        assert report["reasons"] == {"no-boundary": MANY, "not-movable": 1}
        check(report["laggards"])
        draining = harness.hotfd("status", "--pid", str(old), "--json")
        status = json.loads(draining.stdout)
        assert status["state"] == "draining"
        check(status["laggards"])
        lines = harness.hotfd("status", "--pid", str(old)).stdout.splitlines()
        assert sum("answer_of_the_database" in line for line in lines) == 10
        clients[-1].close()

        def left() -> int:
            return len(json.loads(harness.hotfd("status", "--pid", str(old), "--json").stdout)["laggards"])

        harness.becomes(left, 10)
        assert service.status()["laggards"] == []


def test_people_read_it_too(tmp_path: Path) -> None:
    with ExitStack() as stack:
        service, _ = stuck(tmp_path, "rolling", stack)
        options = ("--boundary-timeout", "0.2", "--probation", "0.1", "--laggards", "close")
        done = harness.hotfd("handoff", "--pid", str(service.pid), *options)
        assert done.returncode == 3
        service.pids.append(int(done.stdout.split("-> ")[1].split()[0]))
        lines = done.stdout.splitlines()
        at = next(number for number, line in enumerate(lines) if line.startswith("  no-boundary: 12 sessions"))
        assert all("; awaits " in line and "answer_of_the_database" in line for line in lines[at + 1 : at + 11])
        assert "it trades" in done.stdout


@pytest.mark.parametrize("option", ["--boundary-timeout=0.3", "--dry-run"])
def test_a_refusal_of_those_that_move_together_tells_who_held_it_up(tmp_path: Path, option: str) -> None:
    with ExitStack() as stack:
        service, _ = stuck(tmp_path, "together", stack)
        report = service.handoff(option, expect=None)
        assert report["outcome"] in {"rolled-back", "partial"}
        codes = {laggard["code"] for laggard in report["laggards"]}
        assert codes == ({"not-movable"} if report["dry_run"] else {"no-boundary", "not-movable"})
