"""Process-wide state moves with all sessions at one moment, or nothing moves."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from tests.integration import harness
from tests.integration.test_crashes import Client, in_probation
from tests.integration.test_endings import handing_over

STORE = """
    import asyncio, os, signal, sys, time
    from dataclasses import dataclass
    import hotfd

    DIE = os.environ.get("DIE", "")
    NEW = "HOTFD_CHANNEL" in os.environ
    total = 0

    @dataclass
    class Visitor:
        lines: int = 0

    async def talk(conn):
        global total
        if not conn.resumed:
            await conn.send(b"hello")
        async for line in conn:
            if line == b"busy":
                await asyncio.sleep(3600)
            while line == b"slow" and not os.path.exists(os.path.join(os.path.dirname(sys.argv[0]), "go")):
                await asyncio.sleep(0.01)
            total += 1
            conn.state.lines += 1
            await conn.send(b"%d %d" % (conn.state.lines, total))

    def export():
        if DIE == "export": raise RuntimeError("s3cret")
        if DIE == "unfit": return {"total": open("/dev/null")}
        return {"total": total}

    def load(state):
        global total
        if DIE == "import": raise RuntimeError("s3cret")
        if DIE == "import-kill": os.kill(os.getpid(), signal.SIGKILL)
        total = state["total"]

    hotfd.run(talk, f"127.0.0.1:{sys.argv[1]}", state=Visitor, name="store",
              cutover="together", export_state=export, import_state=load)
"""


def one_truth(service: harness.Server, stop: threading.Event, seen: list[int], problems: list[str]) -> None:
    """Count in the shared total, alone: each reply is one more than the last, whoever answers."""
    with service.connect() as sock, sock.makefile("rb") as reader:
        reader.readline()
        while not stop.is_set():
            sock.sendall(b"x\n")
            answer = reader.readline().split()
            if len(answer) != 2:
                problems.append(f"answered {answer!r}")
                return
            seen.append(int(answer[1]))


def test_there_is_one_truth_while_everything_moves_at_once(tmp_path: Path) -> None:
    with harness.program(tmp_path, STORE) as service:
        stop, seen, problems = threading.Event(), [], []
        threads = [threading.Thread(target=one_truth, args=(service, stop, seen, problems)) for _ in range(8)]
        for thread in threads:
            thread.start()
        reports = [service.handoff("--probation", "0.1") for _ in range(4)]
        stop.set()
        for thread in threads:
            thread.join(harness.PATIENCE)
        assert not problems
        assert [report["connections"]["moved"] for report in reports] == [8] * 4
        assert sorted(seen) == list(range(1, len(seen) + 1)), "no count is lost and none is given twice"


def test_process_state_moves_without_any_session(tmp_path: Path) -> None:
    with harness.program(tmp_path, STORE) as service:
        for number in range(1, 4):
            with service.connect() as client, client.makefile("rb") as reader:
                client.sendall(b"x\n")
                assert [reader.readline(), reader.readline()] == [b"hello\n", b"1 %d\n" % number]
            assert service.handoff("--probation", "0.1")["outcome"] == "completed"


@pytest.mark.parametrize(
    ("die", "where", "reason"),
    [
        ("export", "old", "internal: RuntimeError; see the log"),
        ("unfit", "old", "state-encode: export_state returned what cannot travel: "),
        ("import", "new", "state-decode: import_state: raised RuntimeError; see the log"),
        ("import-kill", "new", "new-exited: the new process was killed by signal 9"),
    ],
)
def test_a_process_state_that_cannot_move_moves_nothing(tmp_path: Path, die: str, where: str, reason: str) -> None:
    env = {"DIE": die} if where == "old" else {}
    with harness.program(tmp_path, STORE, env=env) as service, service.connect() as client:
        assert client.recv(6) == b"hello\n"
        client.sendall(b"x\n")
        assert client.recv(4) == b"1 1\n"
        command = ["env", f"DIE={die}", *service.process.args] if where == "new" else []
        report = service.handoff(expect=1, command=command)
        assert report["reason"].startswith(reason)
        assert report["connections"] == {"moved": 0, "kept": 0, "returned": 0, "closed": 0}
        client.sendall(b"x\n")
        assert client.recv(4) == b"2 2\n"
        with service.connect() as fresh:
            assert fresh.recv(6) == b"hello\n"


def test_a_gate_that_cannot_close_is_a_refusal_and_the_others_play_on_meanwhile(tmp_path: Path) -> None:
    with harness.program(tmp_path, STORE) as service, service.connect() as busy:
        assert busy.recv(6) == b"hello\n"
        busy.sendall(b"busy\n")
        stop, seen, problems = threading.Event(), [], []
        thread = threading.Thread(target=one_truth, args=(service, stop, seen, problems))
        thread.start()
        report = service.handoff("--boundary-timeout", "0.5", expect=1)
        stop.set()
        thread.join(harness.PATIENCE)
        assert not problems
        assert report["reason"].startswith("no-boundary: the sessions did not come to rest together within 0.5 s")
        assert len(seen) > 20
        assert service.handoff("--dry-run", expect=0)["connections"]["moved"] >= 1


def test_a_gate_that_closes_late_is_tried_again(tmp_path: Path) -> None:
    with harness.program(tmp_path, STORE) as service, service.connect() as slow, service.connect() as idle:
        assert slow.recv(6) == idle.recv(6) == b"hello\n"
        slow.sendall(b"slow\nslow\n")
        with handing_over(service, "--probation", "0.1", "--boundary-timeout", "60") as handoff:
            handoff.phase("move")
            idle.sendall(b"x\n")
            assert idle.recv(4) == b"1 1\n", "the gate is open again"
            (tmp_path / "go").touch()
            report = handoff.report(0)
        assert report["connections"]["moved"] == 2
        with slow.makefile("rb") as reader:
            assert [reader.readline(), reader.readline()] == [b"1 2\n", b"2 3\n"]


@pytest.mark.parametrize("touched", [False, True])
async def test_sessions_and_process_state_come_back_as_one_unit_or_not_at_all(tmp_path: Path, touched: bool) -> None:
    with harness.program(tmp_path, STORE) as service:
        clients = [await Client.open(service.address) for _ in range(5)]
        handoff, new = await in_probation(service)
        if touched:
            clients[0].writer.write(b"x\n")
            assert await clients[0].reader.readline() == b"1 1\n"
        os.kill(new, signal.SIGKILL)
        assert handoff.stdout is not None
        out = await asyncio.wait_for(handoff.stdout.read(), harness.PATIENCE)
        assert await handoff.wait() == 1
        report = json.loads(out)
        assert report["connections"]["returned"] == (0 if touched else 5)
        assert report["connections"]["closed"] == (5 if touched else 0)
        for client in clients[1:]:
            answer = b""
            with suppress(ConnectionError):
                if not client.writer.is_closing():  # as it may know already
                    client.writer.write(b"x\n")
                answer = await asyncio.wait_for(client.reader.readline(), harness.PATIENCE)
            assert answer.startswith(b"" if touched else b"1 ")
            assert bool(answer) is not touched
        fresh = await Client.open(service.address)
        for client in [fresh, *clients]:
            client.writer.close()
