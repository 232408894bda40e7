"""A new process as the old one sees it: each way to begin and to end it, with real processes."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hotfd.errors import HandoffRefused
from hotfd.server import successor as module
from hotfd.server.launch import Launch
from hotfd.server.successor import Successor
from hotfd.transfer.channel import MAX_READS
from hotfd.wire import messages as m
from tests.unit.wire_support import LIMIT, Happening, nothing_stays_open, on_each_loop

if TYPE_CHECKING:
    from hotfd.transfer.channel import Arrival

__all__ = ["nothing_stays_open"]

pytestmark = pytest.mark.usefixtures("nothing_stays_open")

ROOT = str(Path(__file__).parents[2])

NEW = """
import os, select, signal, sys
from hotfd import _core
from hotfd.wire import messages as m
channel = int(os.environ["HOTFD_CHANNEL"])
def say(message):
    _core.send_message(channel, m.encode(message))
def hear():
    while True:
        select.select([channel], [], [])
        if isinstance(message := m.decode(_core.receive_message(channel).data), m.Abort):
            return message
hello = m.Hello(m.PROTOCOL, os.getpid(), "1", {}, 1024, 8)
"""


def python(source: str) -> tuple[str, ...]:
    """The command of a new process that can ``say`` and ``hear``."""
    return sys.executable, "-c", NEW + source


def exists(pid: int) -> bool:
    """Whether a process is there, if only as a zombie, which a child stays until it is reaped."""
    return os.path.exists(f"/proc/{pid}")


def alive(pid: int) -> bool:
    """Whether a process runs; somebody else's child may be a zombie for as long as he likes."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


class Old:
    """What the old process hears of its successor."""

    def __init__(self) -> None:
        self.happening = Happening()
        self.messages: list[m.AnyMessage] = []
        self.failures: list[HandoffRefused] = []
        self.successor = Successor(self._on_message, self._on_failure)

    def _on_message(self, arrival: Arrival) -> None:
        self.messages.append(arrival.message)
        arrival.close()
        self.happening.note()

    def _on_failure(self, failure: HandoffRefused) -> None:
        self.failures.append(failure)
        self.happening.note()

    def start(self, *command: str) -> None:
        self.successor.start(Launch(command, ROOT, os.environ))

    async def hello(self) -> int:
        """Wait until the process has said who it is; return the spawned process's pid."""
        await self.happening.until(lambda: self.messages)
        assert isinstance(self.messages[0], m.Hello)
        return self.child

    @property
    def child(self) -> int:
        assert self.successor._spawned is not None
        return self.successor._spawned.pid

    async def failed(self) -> HandoffRefused:
        await self.happening.until(lambda: self.failures)
        return self.failures[0]

    async def end(self, *, at_once: bool) -> None:
        assert await self.successor.end(at_once=at_once, code="test", detail="the test is over")


@asynccontextmanager
async def old() -> AsyncIterator[Old]:
    """Make a successor, and close it; what it has started is dead afterwards, and reaped."""
    made = Old()
    try:
        yield made
        assert made.successor.dead
        spawned, server = made.successor._spawned, made.successor._server
        assert spawned is None or not exists(spawned.pid), "neither alive nor a zombie"
        assert server is None or not alive(server.pid)
    finally:
        made.successor.kill()
        made.successor.close()
        made.successor.close()  # idempotent


# ---------------------------------------------------------------- starting


@on_each_loop
async def test_a_program_that_does_not_exist_leaves_nothing_over() -> None:
    async with old() as made:
        with pytest.raises(HandoffRefused) as caught:
            made.start("/no/such/program")
        assert caught.value.code == "not-found"
        assert made.successor.pid is None


@on_each_loop
async def test_a_successor_that_is_never_started_leaves_nothing_over() -> None:
    async with old() as made:
        assert made.successor.dead


@on_each_loop
async def test_a_process_that_cannot_be_watched_does_not_live(monkeypatch: pytest.MonkeyPatch) -> None:
    started = []

    def no_descriptor_left(pid: int) -> int:
        started.append(pid)
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    async with old() as made:
        monkeypatch.setattr(os, "pidfd_open", no_descriptor_left)
        with pytest.raises(HandoffRefused, match="Too many open files") as caught:
            made.start("sleep", "1000")
        monkeypatch.undo()
        assert caught.value.code == "descriptor-limit"
        assert not exists(started[0])


# ---------------------------------------------------------------- ending by itself


@pytest.mark.parametrize(
    ("script", "how"),
    [("exit 3", "exited with status 3"), ("exit 0", "exited with status 0"), ("kill -9 $$", "was killed by signal 9")],
)
@on_each_loop
async def test_a_process_that_ends_before_it_speaks_fails_with_its_status(script: str, how: str) -> None:
    async with old() as made:
        made.start("sh", "-c", script)
        failure = await made.failed()
        assert (failure.code, failure.detail) == ("new-exited", f"the new process {how} before it was ready")


@pytest.mark.parametrize("identified", [True, False])
@on_each_loop
async def test_what_a_process_has_said_before_it_died_comes_before_its_death(identified: bool) -> None:
    said = 2 * MAX_READS  # more than one turn of the loop reads
    source = f"[say(m.Ended([])) for _ in range({said})]; say(m.Failed('unhealthy', 'no database')); sys.exit(4)"
    async with old() as made:
        heard_at_death: list[int] = []
        made.successor._on_failure = lambda _: (heard_at_death.append(len(made.messages)), made.happening.note())
        made.start(*python(f"say(hello); {source}" if identified else source))
        os.waitid(os.P_PID, made.child, os.WEXITED | os.WNOWAIT)  # the loop stands still meanwhile
        await made.happening.until(lambda: heard_at_death)
        assert heard_at_death == [identified + said + 1]
        assert isinstance(made.messages[-1], m.Failed)


@on_each_loop
async def test_garbage_is_a_failure_of_the_protocol() -> None:
    async with old() as made:
        made.start(*python("say(hello); _core.send_message(channel, b'garbage'); hear()"))
        failure = await made.failed()
        assert failure.code == "protocol"
        await made.end(at_once=True)


@on_each_loop
async def test_a_stranger_on_the_channel_is_a_failure_of_the_protocol() -> None:
    async with old() as made:
        made.start(*python("say(hello)\nif os.fork() == 0: say(m.Ready()); os._exit(0)\nos.wait(); hear()"))
        failure = await made.failed()
        assert failure.code == "protocol"
        assert made.successor.pid == made.child
        assert [type(message) for message in made.messages] == [m.Hello]
        await made.end(at_once=True)


# ---------------------------------------------------------------- wrappers


def in_a_shell(source: str) -> tuple[str, ...]:
    """A shell that starts the process and waits for it; it does not exec it, since it has more to do."""
    return "sh", "-c", '"$@"; true', "sh", *python(source)


@on_each_loop
async def test_the_process_that_speaks_is_the_server_and_not_its_wrapper() -> None:
    async with old() as made:
        made.start(*in_a_shell("say(hello); hear()"))
        child = await made.hello()
        (hello,) = made.messages
        assert isinstance(hello, m.Hello)
        assert made.successor.pid == hello.pid != child
        assert made.successor.channel.peer == hello.pid
        await made.end(at_once=True)
        assert not alive(hello.pid)
        assert not exists(child)


@on_each_loop
async def test_a_server_that_dies_in_its_wrapper_has_died() -> None:
    async with old() as made:
        script = '"$@"; exec sleep 1000'
        made.start("sh", "-c", script, "sh", *python("say(hello)"))
        failure = await made.failed()
        assert (failure.code, failure.detail) == ("new-exited", "the new process died before the handoff was settled")
        assert not made.successor.dead, "the wrapper lives"
        await made.end(at_once=True)


@on_each_loop
async def test_a_wrapper_that_dies_after_hello_is_no_failure() -> None:
    async with old() as made:
        made.start(*in_a_shell("say(hello); hear()"))
        await made.hello()
        os.kill(made.child, signal.SIGKILL)
        assert made.successor._spawned is not None
        await made.successor._spawned.wait()
        assert not made.failures
        assert not made.successor.dead, "the server lives"
        await made.end(at_once=True)


# ---------------------------------------------------------------- being ended


@on_each_loop
async def test_a_stopped_process_is_ended_at_once() -> None:
    async with old() as made:
        made.start(*python("say(hello); os.kill(os.getpid(), signal.SIGSTOP)"))
        await made.hello()
        await made.end(at_once=True)
        assert made.successor._child is not None
        assert made.successor._child.returncode == -signal.SIGKILL


@on_each_loop
async def test_a_process_that_owns_nothing_is_told_to_leave_and_why() -> None:
    source = (
        "say(hello); abort = hear(); sys.exit(0 if (abort.code, abort.detail) == ('test', 'the test is over') else 9)"
    )
    async with old() as made:
        made.start(*python(source))
        await made.hello()
        await made.end(at_once=False)
        assert made.successor._child is not None
        assert made.successor._child.returncode == 0


@on_each_loop
async def test_a_process_that_does_not_leave_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LEAVE_LIMIT", 0.05)
    async with old() as made:
        made.start(*python("say(hello); hear(); signal.pause()"))
        await made.hello()
        await made.end(at_once=False)
        assert made.successor._child is not None
        assert made.successor._child.returncode == -signal.SIGKILL


@on_each_loop
async def test_a_process_that_cannot_be_killed_is_reported(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "KILL_LIMIT", 0.05)
    async with old() as made:
        made.start("sleep", "1000")
        monkeypatch.setattr(made.successor, "kill", lambda: None)  # as if in uninterruptible sleep
        assert not await made.successor.end(at_once=True, code="test", detail="")
        assert any("new-process-unkillable" in record.getMessage() for record in caplog.records)
        monkeypatch.undo()
        await made.end(at_once=True)


@on_each_loop
async def test_whoever_waits_for_the_channel_learns_that_the_process_is_ended() -> None:
    async with old() as made:
        other = os.dup(made.successor._theirs)  # as a child of the new process inherits it, and keeps it open
        made.start("sleep", "1000")
        while not made.successor.channel.queued:
            made.successor.channel.send(m.Commit([]))
        waiting = asyncio.create_task(made.successor.channel.flushed())
        await made.end(at_once=True)
        assert await waiting is False
        os.close(other)


@on_each_loop
async def test_a_process_that_outlives_the_handoff_is_reaped_when_it_ends() -> None:
    made = Old()
    made.start(*python("say(hello); os.close(channel); signal.pause()"))
    child = await made.hello()
    async with asyncio.timeout(LIMIT):
        while not made.successor.channel.ended:  # nobody but the new process had the other end open
            await asyncio.sleep(0.001)
    made.successor.close()
    assert exists(child)
    os.kill(child, signal.SIGTERM)
    spawned = made.successor._spawned
    assert spawned is not None
    await spawned.wait()
    assert not exists(child)
