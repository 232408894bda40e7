"""Either process dies while sessions move: every connection that a living process can serve is served."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from hotfd.server.moving import BATCH
from tests.integration import harness

# A process of this program dies at a point that the test names, and that only its own environment can set.
# ``new`` points count in the process that was started by a handoff, ``old`` points in the one that hands over.
PROGRAM = """
    import os, signal, sys
    from dataclasses import dataclass
    import hotfd
    from hotfd.server import cutover, moving, takeover
    from hotfd.transfer import channel

    @dataclass
    class Visitor:
        lines: int = 0

    async def talk(conn):
        if not conn.resumed:
            await conn.send(b"hello")
        async for line in conn:
            conn.state.lines += 1
            await conn.send(b"%d %s" % (conn.state.lines, line))

    role = "new" if "HOTFD_CHANNEL" in os.environ else "old"
    where, _, number = os.environ.get("DIE", "never").partition("@")
    left = int(number or 1)

    def die():
        os.kill(os.getpid(), signal.SIGKILL)

    send = channel.Channel.send

    def dying_send(self, message, descriptors=(), owned=()):
        # before/after the N-th message of a kind is sent
        global left
        kind = f"{role}:{type(message).__name__}"
        if where == f"{kind}:before":
            left -= 1
            if not left: die()
        send(self, message, descriptors, owned)
        if where == f"{kind}:after":
            left -= 1
            if not left: die()

    channel.Channel.send = dying_send
    hotfd.run(talk, f"127.0.0.1:{sys.argv[1]}", framing=hotfd.Lines(), state=Visitor, name="mortal")
"""

CLIENTS = 300


class Client:
    """A line client that counts what it is told, and says how its connection ended."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer, self.lines = reader, writer, 0

    @classmethod
    async def open(cls, address: tuple[str, int]) -> Client:
        client = cls(*await asyncio.open_connection(*address))
        assert await client.reader.readline() == b"hello\n"
        return client

    async def talk(self) -> str:
        """Say one line: ``served``, ``gone`` when the connection is over, or what came instead."""
        if self.writer.is_closing():  # its loop has noticed
            return "gone"
        try:
            self.writer.write(b"x\n")
            async with asyncio.timeout(harness.PATIENCE):
                answer = await self.reader.readline()
        except (OSError, TimeoutError) as error:
            return "gone" if isinstance(error, ConnectionError) else type(error).__name__
        if not answer:
            return "gone"
        self.lines += 1
        return "served" if answer == b"%d x\n" % self.lines else repr(answer)


async def crash(tmp_path: Path, die: str, *, options: tuple[str, ...] = ("--probation", "1")) -> tuple[dict, list[str]]:
    """Hand over a server that dies at a point; return the report and what each client says afterwards."""
    # The victim's environment alone has the point: old's is set at its start, new's by env(1) in its command.
    env = {"DIE": die} if die.startswith("old") else {}
    with harness.program(tmp_path, PROGRAM, env=env) as service:
        clients = [await Client.open(service.address) for _ in range(CLIENTS)]
        try:
            assert {await client.talk() for client in clients[:50]} == {"served"}
            command = [*service.process.args]
            if die.startswith("new"):
                command = ["env", f"DIE={die}", *command]
            elif die.startswith("old"):
                command = ["env", "-u", "DIE", *command]
            process = await asyncio.create_subprocess_exec(
                *harness.HOTFD, "handoff", "--pid", str(service.pid), "--json", *options, "--", *command,
                stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            )  # fmt: skip
            out, err = await asyncio.wait_for(process.communicate(), harness.PATIENCE)
            done = subprocess.CompletedProcess([], process.returncode or 0, out.decode(), err.decode())
            report = service.outcome(done, None)
            report["status"] = process.returncode
            told = await asyncio.gather(*(client.talk() for client in clients))
            fresh = await Client.open(service.address)
            assert await fresh.talk() == "served"
            fresh.writer.close()
            report["living"] = [
                pid for pid in {report["old_pid"], report["new_pid"] or 0} if pid and harness.alive(pid)
            ]
            return report, told
        finally:
            for client in clients:
                client.writer.close()


NEW_POINTS = [
    "new:Hello:before", "new:Hello:after", "new:Ready:before", "new:Ready:after",
    "new:Accept:before@1", "new:Accept:after@1", "new:Accept:before@2", "new:Accept:after@3",
    "new:Settled:before",
]  # fmt: skip


@pytest.mark.parametrize("point", NEW_POINTS)
async def test_the_new_process_is_killed_and_everybody_is_served_by_the_old_one(tmp_path: Path, point: str) -> None:
    report, told = await crash(tmp_path, point)
    assert (report["outcome"], report["status"]) == ("rolled-back", 1)
    assert report["reason"].startswith("new-exited:")
    assert told == ["served"] * CLIENTS, "nobody was touched, so nobody is lost"
    assert report["living"] == [report["old_pid"]]
    assert report["connections"]["moved"] == report["connections"]["closed"] == 0


OLD_POINTS = [
    "old:Listeners:after", "old:OfferPart:before@1", "old:OfferPart:after@1", "old:OfferPart:after@2",
    "old:Commit:before@1", "old:Commit:after@1", "old:Commit:after@2", "old:Finish:before", "old:Finish:after",
]  # fmt: skip


@pytest.mark.parametrize("point", OLD_POINTS)
async def test_the_old_process_is_killed_and_what_it_had_offered_is_served_by_the_new_one(
    tmp_path: Path, point: str
) -> None:
    report, told = await crash(tmp_path, point)
    # What was never offered dies with the old process: the kernel resets it. Nothing else is lost, and
    # nobody gets a wrong answer.
    offered = {"OfferPart:after@1": BATCH, "OfferPart:after@2": 2 * BATCH, "Commit:before@1": BATCH}
    offered |= {"Commit:after@1": BATCH, "Commit:after@2": BATCH, "Finish:before": CLIENTS, "Finish:after": CLIENTS}
    least = offered.get(point.removeprefix("old:"), 0)
    assert set(told) <= {"served", "gone"}
    assert told.count("served") >= least
    assert told.count("served") == report["connections"]["moved"]
    # The new process cannot know what it has not been offered, and says so, unless it was told that this is all.
    told_all = point == "old:Finish:after"
    assert report["outcome"] == ("completed" if told_all else "partial")
    assert (report["reason"] or "").startswith("" if told_all else "old-exited: ")
    assert report["living"] == [report["new_pid"]]


async def test_the_old_process_is_killed_before_it_has_passed_its_listeners(tmp_path: Path) -> None:
    report, told = await crash(tmp_path, "old:Listeners:before")
    assert told == ["gone"] * CLIENTS
    assert report["living"] == [report["new_pid"]], "the new process listens by itself: the service is up"


async def in_probation(service: harness.Server, probation: str = "30") -> tuple[asyncio.subprocess.Process, int]:
    """Start a handoff; return it when everything has moved, with the new process's pid."""
    handoff = await asyncio.create_subprocess_exec(
        *harness.HOTFD, "handoff", "--pid", str(service.pid), "--json", "--probation", probation,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert handoff.stderr is not None
    while b"probation" not in (line := await asyncio.wait_for(handoff.stderr.readline(), harness.PATIENCE)):
        assert line
    return handoff, int(line.rpartition(b"process ")[2].strip(b" )\n"))


async def test_sessions_that_the_new_process_has_touched_are_reset_when_it_dies(tmp_path: Path) -> None:
    with harness.counter(tmp_path) as service:
        busy, idle = await Client.open(service.address), await Client.open(service.address)
        handoff, new = await in_probation(service, "30")
        assert handoff.stdout is not None
        assert await busy.talk() == "served"
        fresh = await Client.open(service.address)  # accepted, and greeted: touched too
        os.kill(new, signal.SIGKILL)
        out = await asyncio.wait_for(handoff.stdout.read(), harness.PATIENCE)
        assert await handoff.wait() == 1
        report = service.outcome(subprocess.CompletedProcess([], 1, out.decode(), ""), 1)
        assert report["connections"] == {"moved": 0, "kept": 0, "returned": 1, "closed": 2}
        assert report["reasons"] == {"lost-in-new-process": 2}
        assert await idle.talk() == "served"
        assert await busy.talk() == "gone"
        assert await fresh.talk() == "gone"
        for client in (busy, idle, fresh):
            client.writer.close()


async def test_a_new_process_that_is_stopped_in_its_probation_is_ended_and_everybody_returns(tmp_path: Path) -> None:
    with harness.counter(tmp_path, impatient=True) as service:
        clients = [await Client.open(service.address) for _ in range(20)]
        handoff, new = await in_probation(service, "1")
        assert handoff.stdout is not None
        os.kill(new, signal.SIGSTOP)
        out = await asyncio.wait_for(handoff.stdout.read(), harness.PATIENCE)
        report = service.outcome(subprocess.CompletedProcess([], await handoff.wait(), out.decode(), ""), 1)
        assert report["reason"].startswith("new-hung:")
        assert report["connections"]["returned"] == 20
        assert [await client.talk() for client in clients] == ["served"] * 20
        assert not harness.alive(new)
        for client in clients:
            client.writer.close()


BULK = """
    import sys
    import hotfd

    async def talk(conn):
        async for line in conn:
            await conn.send(b"b" * int(line))

    hotfd.run(talk, f"127.0.0.1:{sys.argv[1]}", framing=hotfd.Lines(max_size=1 << 24))
"""


async def test_unsent_bytes_are_not_sent_again_when_the_process_that_sent_some_of_them_dies(tmp_path: Path) -> None:
    with harness.program(tmp_path, BULK) as service:
        sock = socket.socket()
        # A receive buffer that grows, and the sender's, would hold more than is read below: sent by the old process.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        sock.connect(service.address)
        reader, writer = await asyncio.open_connection(sock=sock, limit=1 << 16)
        writer.write(b"12000000\n")
        handoff, new = await in_probation(service)
        got = len(await reader.readexactly(6_000_000))  # the new process sends what was unsent
        os.kill(new, signal.SIGKILL)
        assert handoff.stdout is not None
        report = json.loads(await asyncio.wait_for(handoff.stdout.read(), harness.PATIENCE))
        assert await handoff.wait() == 1
        assert report["connections"]["closed"] == 1, "a truncation is a reset, and no orderly end"
        with pytest.raises(ConnectionResetError):
            while piece := await asyncio.wait_for(reader.read(1 << 16), harness.PATIENCE):
                got += len(piece)
        assert got <= 12_000_001
        writer.close()


async def test_an_old_process_that_was_held_up_for_longer_than_the_probation_finds_the_handoff_settled(
    tmp_path: Path,
) -> None:
    with harness.counter(tmp_path, impatient=True) as service:
        client = await Client.open(service.address)
        handoff, new = await in_probation(service, "0.1")
        os.kill(service.pid, signal.SIGSTOP)
        harness.becomes(lambda: f"[{new}] took-over" in service.logged(), True)
        await asyncio.sleep(2.3)  # longer than the probation and what old gives new to settle: nothing signals that
        os.kill(service.pid, signal.SIGCONT)
        assert handoff.stdout is not None
        report = json.loads(await asyncio.wait_for(handoff.stdout.read(), harness.PATIENCE))
        assert await handoff.wait() == 0, (report, service.logged())
        service.pids.append(new)
        service.pid = new
        assert report["outcome"] == "completed"
        assert await client.talk() == "served"
        client.writer.close()
