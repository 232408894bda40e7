"""The new process dies, hangs or lies after it has taken sessions over: who is untouched plays on, nobody is deceived."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.integration import harness
from tests.integration.test_crashes import in_probation

# ``FAULT`` is what a process does that was started by a handoff: ``die N`` kills it N seconds after its first
# commit, ``stop POINT`` stops it before or after its N-th message of a kind, ``untold`` notes no touches.
PROGRAM = """
    import asyncio, os, signal, sys, threading
    from dataclasses import dataclass
    import hotfd
    from hotfd.server import takeover
    from hotfd.transfer import channel, touch

    total = 0

    @dataclass
    class Visitor:
        lines: int = 0

    async def talk(conn):
        global total
        if not conn.resumed:
            await conn.send(b"hello " + conn.id.encode())
        async for line in conn:
            if line == b"slow":
                await asyncio.sleep(3600)
            if line == b"bye":
                return
            if line == b"close":
                conn.close()
                continue
            conn.state.lines += 1
            total += 1
            await conn.send(b"%d %d" % (conn.state.lines, total))

    fault, *details = os.environ.get("FAULT", "").split() or [""]
    if "HOTFD_CHANNEL" not in os.environ:
        fault = ""

    if fault == "die":
        own, began = takeover.Takeover._own, False

        def own_and_die(self, ids):
            global began
            own(self, ids)
            if not began:
                began = True
                if float(details[0]):
                    threading.Timer(float(details[0]), os.kill, (os.getpid(), signal.SIGKILL)).start()
                else:
                    os.kill(os.getpid(), signal.SIGKILL)

        takeover.Takeover._own = own_and_die

    if fault == "stop":
        kind, when, left = details[0], details[1], int(details[2])
        send = channel.Channel.send

        def stop_at(message, now):
            global left
            if type(message).__name__ == kind and when == now:
                left -= 1
                if not left:
                    os.kill(os.getpid(), signal.SIGSTOP)

        def stopping_send(self, message, descriptors=(), owned=()):
            stop_at(message, "before")
            send(self, message, descriptors, owned)
            stop_at(message, "after")

        channel.Channel.send = stopping_send

    if fault == "untold":
        touch.TouchMap.mark = touch.TouchMap.rest = lambda self, slot: None

    options = {}
    if os.environ["CUTOVER"] == "together":
        def take(value):
            global total
            total = value
        options = {"cutover": "together", "export_state": lambda: total, "import_state": take}
    hotfd.run(talk, f"127.0.0.1:{sys.argv[1]}", state=Visitor, name="mortal", **options)
"""


@contextmanager
def mortal(
    tmp_path: Path, cutover: str = "rolling", fault: str = "", *, impatient: bool = False
) -> Iterator[harness.Server]:
    source = harness.IMPATIENT + PROGRAM if impatient else PROGRAM
    with harness.program(tmp_path, source, env={"CUTOVER": cutover, "FAULT": fault}) as service:
        yield service


class Client:
    """A client that knows its number of lines and the id of its connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, id: str) -> None:
        self.reader, self.writer, self.id = reader, writer, id
        self.lines = 0
        self.total = 0

    @classmethod
    async def open(cls, service: harness.Server) -> Client:
        reader, writer = await asyncio.open_connection(*service.address)
        word, _, id = (await asyncio.wait_for(reader.readline(), harness.PATIENCE)).decode().strip().partition(" ")
        assert word == "hello"
        return cls(reader, writer, id)

    async def talk(self) -> str:
        """Say a line: ``served``, ``gone`` when the connection was reset or has ended, or what else happened."""
        try:
            self.writer.write(b"x\n")
            async with asyncio.timeout(harness.PATIENCE):
                answer = await self.reader.readline()
        except ConnectionError:
            return "gone"
        except TimeoutError:
            return "no answer"
        if not answer:
            return "gone"
        self.lines += 1
        lines, self.total = map(int, answer.split())
        return "served" if lines == self.lines else f"{lines} instead of {self.lines}"

    async def talk_until(self, stop: asyncio.Event) -> str:
        """Talk until that is said, or the connection is gone; say how the last line was answered."""
        while (answer := await self.talk()) == "served" and not stop.is_set():
            await asyncio.sleep(0.001)
        return answer


@asynccontextmanager
async def clients(service: harness.Server, count: int) -> AsyncIterator[list[Client]]:
    made = [await Client.open(service) for _ in range(count)]
    try:
        yield made
    finally:
        for client in made:
            client.writer.close()


async def passes_by(service: harness.Server) -> None:
    """Come, talk and leave in a probation. What was said before is handled by then, and nothing of this is left."""
    # The new process closes its end, and tells the old one, which may not even have heard of the visitor yet.
    (new,) = map(int, Path(f"/proc/{service.pid}/task/{service.pid}/children").read_text().split())
    both = [new, service.pid]
    before = [harness.descriptors_of(pid) for pid in both]
    visitor = await Client.open(service)
    assert await visitor.talk() == "served"
    visitor.writer.write(b"bye\n")
    assert await visitor.reader.read() == b""
    visitor.writer.close()
    await visitor.writer.wait_closed()
    for pid, descriptors in zip(both, before, strict=True):
        harness.becomes(lambda pid=pid: harness.descriptors_of(pid), descriptors)


async def outcome(handoff: asyncio.subprocess.Process) -> dict[str, Any]:
    """Read the report of a handoff that must fail."""
    assert handoff.stdout is not None
    report: dict[str, Any] = json.loads(await asyncio.wait_for(handoff.stdout.read(), harness.PATIENCE))
    assert await handoff.wait() == 1, report
    return report


async def handoff(service: harness.Server, *options: str) -> dict[str, Any]:
    """Carry a handoff out that must fail."""
    command = [*harness.HOTFD, "handoff", "--pid", str(service.pid), "--json", *options]
    pipe, null = subprocess.PIPE, subprocess.DEVNULL
    return await outcome(await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=null))


async def nobody_is_deceived(
    service: harness.Server, idle: list[Client], talking: list[Client], report: dict[str, Any]
) -> None:
    """Idle clients are served; a talking one is, or has been reset, counted and named."""
    assert {await client.talk() for client in idle} == {"served"}
    told = await asyncio.gather(*(client.talk() for client in talking))
    assert set(told) <= {"served", "gone"}, told
    gone = {client.id for client, answer in zip(talking, told, strict=True) if answer == "gone"}
    assert set(report["lost"]) == gone
    assert report["connections"]["closed"] == report["sessions"]["closed"] == len(gone)
    assert report["reasons"] == ({"lost-in-new-process": len(gone)} if gone else {})
    assert report["connections"]["moved"] == report["connections"]["kept"] == 0
    assert report["outcome"] == "rolled-back"
    assert not harness.alive(report["new_pid"])
    fresh = await Client.open(service)
    assert await fresh.talk() == "served"
    fresh.writer.close()


@pytest.mark.parametrize("delay", [0, 0.001, 0.01, 0.1, 1])
async def test_the_new_process_is_killed_so_long_after_its_first_commit(tmp_path: Path, delay: float) -> None:
    with mortal(tmp_path, fault=f"die {delay}") as service:
        async with clients(service, 200) as idle, clients(service, 20) as talking:
            stop = asyncio.Event()
            tasks = [asyncio.create_task(client.talk_until(stop)) for client in talking]
            report = await handoff(service, "--probation", "30")
            assert report["reason"].startswith("new-exited")
            stop.set()
            ends = await asyncio.gather(*tasks)
            assert set(ends) <= {"served", "gone"}, ends
            await nobody_is_deceived(service, idle, talking, report)
            assert report["connections"]["returned"] + report["connections"]["closed"] > 0, "something had moved"


STOPS = [
    "Hello before 1", "Hello after 1", "Ready before 1", "Ready after 1",
    "Accept before 1", "Accept after 1", "Accept after 2", "Settled before 1",
]  # fmt: skip


@pytest.mark.parametrize("point", STOPS)
async def test_the_new_process_is_stopped_and_the_old_one_ends_it_and_goes_on(tmp_path: Path, point: str) -> None:
    # Before it is ready that is a matter of the deadline, afterwards of its answers.
    deadline = "2" if point.startswith(("Hello", "Ready")) else "60"
    with mortal(tmp_path, fault=f"stop {point}", impatient=True) as service:
        async with clients(service, 200) as idle, clients(service, 10) as talking:
            stop = asyncio.Event()
            tasks = [asyncio.create_task(client.talk_until(stop)) for client in talking]
            report = await handoff(service, "--deadline", deadline, "--probation", "0.1")
            assert report["reason"].startswith("new-hung"), report["reason"]
            stop.set()
            ends = await asyncio.gather(*tasks)
            assert set(ends) <= {"served", "gone"}, ends
            if not point.startswith(("Accept after", "Settled")):
                assert report["connections"]["closed"] == 0, "it owned nothing yet, and has touched nobody"
            await nobody_is_deceived(service, idle, talking, report)


async def test_a_new_process_that_is_stopped_while_clients_talk_to_it_loses_those_and_no_others(
    tmp_path: Path,
) -> None:
    with mortal(tmp_path, impatient=True) as service:
        async with clients(service, 100) as idle, clients(service, 5) as talking:
            running, new = await in_probation(service, "1")
            assert {await client.talk() for client in talking} == {"served"}
            os.kill(new, signal.SIGSTOP)
            report = await outcome(running)
            assert report["reason"].startswith("new-hung")
            assert report["connections"]["closed"] == 5
            await nobody_is_deceived(service, idle, talking, report)


async def test_more_are_lost_than_the_report_names(tmp_path: Path) -> None:
    with mortal(tmp_path) as service:
        async with clients(service, 110) as talking:
            running, new = await in_probation(service)
            assert set(await asyncio.gather(*(client.talk() for client in talking))) == {"served"}
            os.kill(new, signal.SIGKILL)
            report = await outcome(running)
            assert report["reasons"] == {"lost-in-new-process": 110}
            assert len(set(report["lost"])) == 100
            assert set(report["lost"]) <= {client.id for client in talking}


@pytest.mark.parametrize("cutover", ["rolling", "together"])
async def test_a_process_that_acts_and_does_not_tell_is_found_out_by_the_kernel(tmp_path: Path, cutover: str) -> None:
    with mortal(tmp_path, cutover, fault="untold") as service:
        async with clients(service, 20) as idle, clients(service, 3) as talking:
            running, new = await in_probation(service)
            assert {await client.talk() for client in talking} == {"served"}
            fresh = await Client.open(service)  # it has been greeted
            address = ":".join(map(str, fresh.writer.get_extra_info("sockname")))
            os.kill(new, signal.SIGKILL)
            report = await outcome(running)
            lost = {client.id for client in talking} | {f"newcomer {address}"}
            assert {await client.talk() for client in [*talking, fresh]} == {"gone"}
            if cutover == "together":
                assert {await client.talk() for client in idle} == {"gone"}
                lost |= {client.id for client in idle}
            else:
                assert {await client.talk() for client in idle} == {"served"}
                assert report["connections"]["returned"] == 20
            assert set(report["lost"]) == lost
            assert report["reasons"] == {"lost-in-new-process": len(lost)}
            assert "touched-untold" in service.logged()
            fresh.writer.close()


# -- what moves together ------------------------------------------------------------------------------


async def killed(service: harness.Server, *options: str, during: Any = None) -> dict[str, Any]:
    """Hand over, let something happen in the new process's probation, and kill that."""
    running = await asyncio.create_subprocess_exec(
        *harness.HOTFD, "handoff", "--pid", str(service.pid), "--json", "--probation", "30", *options,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert running.stderr is not None
    while b"probation" not in (line := await asyncio.wait_for(running.stderr.readline(), harness.PATIENCE)):
        assert line
    new = int(line.rpartition(b"process ")[2].strip(b" )\n"))
    if during is not None:
        await during()
    os.kill(new, signal.SIGKILL)
    return await outcome(running)


async def test_with_stale_everybody_goes_on_with_the_older_state(tmp_path: Path) -> None:
    with mortal(tmp_path, "together") as service:
        async with clients(service, 10) as idle, clients(service, 1) as talking:
            (talker,) = talking
            assert await talker.talk() == "served"
            assert talker.total == 1

            async def talks() -> None:
                for _ in range(3):
                    assert await talker.talk() == "served"
                assert talker.total == 4
                await passes_by(service)

            report = await killed(service, "--on-loss", "stale", during=talks)
            assert report["connections"] == {"moved": 0, "kept": 0, "returned": 11, "closed": 0}
            assert report["reasons"] == {"stale": 11}
            assert report["lost"] == []
            assert await talker.talk() == "2 instead of 5", "its own state is the older one, too"
            assert talker.total == 2
            assert {await client.talk() for client in idle} == {"served"}
            assert sorted(client.total for client in idle) == list(range(3, 13))


@pytest.mark.parametrize("said", [b"slow\n", b"half a line"])
async def test_with_stale_a_byte_stream_that_is_not_whole_is_reset_all_the_same(tmp_path: Path, said: bytes) -> None:
    with mortal(tmp_path, "together") as service:
        async with clients(service, 5) as idle, clients(service, 1) as talking:

            async def says() -> None:
                talking[0].writer.write(said)
                await passes_by(service)

            report = await killed(service, "--on-loss", "stale", during=says)
            assert report["connections"] == {"moved": 0, "kept": 0, "returned": 5, "closed": 1}
            assert report["reasons"] == {"stale": 5, "lost-in-new-process": 1}
            assert report["lost"] == [talking[0].id]
            with pytest.raises(ConnectionError):
                await talking[0].reader.read()
            assert {await client.talk() for client in idle} == {"served"}


async def test_with_stale_a_client_that_the_new_process_accepted_is_reset(tmp_path: Path) -> None:
    with mortal(tmp_path, "together") as service:
        async with clients(service, 3) as idle:
            fresh: list[Client] = []

            async def comes() -> None:
                fresh.append(await Client.open(service))

            report = await killed(service, "--on-loss", "stale", during=comes)
            assert report["reasons"] == {"stale": 3, "lost-in-new-process": 1}
            assert await fresh[0].talk() == "gone"
            assert {await client.talk() for client in idle} == {"served"}
            fresh[0].writer.close()


async def test_with_stale_and_nothing_touched_nothing_is_stale(tmp_path: Path) -> None:
    with mortal(tmp_path, "together") as service:
        async with clients(service, 5) as idle:
            report = await killed(service, "--on-loss", "stale")
            assert report["connections"]["returned"] == 5
            assert report["reasons"] == {}
            assert {await client.talk() for client in idle} == {"served"}


def test_stale_is_refused_where_sessions_share_nothing(tmp_path: Path) -> None:
    with mortal(tmp_path) as service:
        report = service.handoff("--on-loss", "stale", expect=1)
        assert report["outcome"] == "refused"
        assert report["reason"].startswith("malformed: --on-loss stale is for servers whose sessions share data")


async def test_with_stale_a_process_that_settles_has_noted_nothing_wrong(tmp_path: Path) -> None:
    with mortal(tmp_path, "together") as service:
        async with clients(service, 5) as talking:
            for generation in (2, 3):
                running = await asyncio.create_subprocess_exec(
                    *harness.HOTFD, "handoff", "--pid", str(service.pid), "--json", "--probation", "0.5",
                    "--on-loss", "stale", stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                )  # fmt: skip
                stop = asyncio.Event()
                tasks = [asyncio.create_task(client.talk_until(stop)) for client in talking]
                out, _ = await running.communicate()
                report = service.outcome(subprocess.CompletedProcess([], running.returncode or 0, out.decode(), ""), 0)
                assert report["generation"] == generation
                stop.set()
                assert set(await asyncio.gather(*tasks)) == {"served"}


# -- ending while copies exist ------------------------------------------------------------------------


@pytest.mark.parametrize("word", [b"bye\n", b"close\n"])
async def test_a_connection_that_ends_in_the_probation_ends_for_its_client_at_once(tmp_path: Path, word: bytes) -> None:
    with mortal(tmp_path) as service:
        async with clients(service, 2) as (leaver, stayer):
            running, new = await in_probation(service)
            held = harness.descriptors_of(service.pid)
            fresh = await Client.open(service)
            for client in (leaver, fresh):
                client.writer.write(word)
                assert await asyncio.wait_for(client.reader.read(), harness.PATIENCE) == b"", (
                    "while the old process has a copy"
                )
                client.writer.close()
                await client.writer.wait_closed()
            harness.becomes(lambda: harness.descriptors_of(service.pid), held - 1)
            os.kill(new, signal.SIGKILL)
            report = await outcome(running)
            assert report["connections"] == {"moved": 0, "kept": 0, "returned": 1, "closed": 0}
            assert await stayer.talk() == "served"


def test_the_faults_of_this_file_are_those_of_new_processes_only(tmp_path: Path) -> None:
    with mortal(tmp_path, fault="die 0") as service:
        command = ["env", "-u", "FAULT", sys.executable, *service.process.args[1:]]
        assert service.handoff("--probation", "0.1", command=command)["outcome"] == "completed"
