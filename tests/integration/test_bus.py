"""The bus with real processes: what is published is given to every subscriber once, in one order, wherever both are."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from tests.integration import harness

# A client that says "stay" does not move. What it says else is published, and then told to be so. The program dies
# where its environment says, which is that of one process only: of the new one by env(1) in its command. A SLOW one
# takes its time for an offer, while those who stay go on to publish.
PROGRAM = """
    import os, signal, sys, time
    import hotfd
    from hotfd.server import takeover
    from hotfd.transfer import channel

    async def talk(conn):
        news = conn.subscribe("news")
        if not conn.resumed:
            await conn.send(b"hello")
        async for source, value in conn.merge(news):
            if source is news:
                await conn.send(value)
            elif value == b"stay":
                conn.movable = False, "it was asked to stay"
            elif value == b"lost":
                await conn.send(b"lost %d" % news.lost)
            else:
                await conn.bus.publish("news", value)
                await conn.send(b"said " + value)

    def die(*_):
        os.kill(os.getpid(), signal.SIGKILL)

    send = channel.Channel.send

    def dying_send(self, message, *rest, **named):
        if type(message).__name__ == os.environ.get("DIES_BEFORE"):
            die()
        send(self, message, *rest, **named)

    channel.Channel.send = dying_send
    if "DIES_AS_OWNER" in os.environ:
        takeover.Takeover._own = die

    if "HANGS" in os.environ:
        takeover.Takeover._take_part = lambda *_: os.kill(os.getpid(), signal.SIGSTOP)

    take_part = takeover.Takeover._take_part

    def slow_take_part(self, *rest):
        time.sleep(0.1)
        take_part(self, *rest)

    if "SLOW" in os.environ:
        takeover.Takeover._take_part = slow_take_part
    hotfd.run(talk, f"127.0.0.1:{sys.argv[1]}", name="bus", loop=os.environ.get("LOOP", "asyncio"))
"""

LISTENERS = 30
PUBLISHERS = 5
HANDOFFS = 5

PATIENCE = harness.PATIENCE
"""Seconds for anything that a client waits for."""


class Client:
    """Gathers what it is told; ``said`` are the messages of its own that were published for certain."""

    def __init__(self, name: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.name = name
        self.news: list[str] = []
        self.said: list[str] = []
        self.over = asyncio.Event()
        self._count = 0
        self._changed = asyncio.Event()
        self._reader, self._writer = reader, writer
        self._task = asyncio.create_task(self._listen())

    @classmethod
    async def open(cls, address: tuple[str, int], name: str) -> Client:
        reader, writer = await asyncio.open_connection(*address)
        assert await reader.readline() == b"hello\n"  # so it has subscribed
        return cls(name, reader, writer)

    async def _listen(self) -> None:
        with suppress(ConnectionError):
            async for line in self._reader:
                kind, _, rest = line.decode().strip().partition(" ")
                (self.said if kind == "said" else self.news).append(rest or kind)
                self._changed.set()
        self.over.set()
        self._changed.set()

    def write(self, line: str) -> None:
        self._writer.write(line.encode() + b"\n")

    async def publish(self) -> None:
        """Publish one message, and wait until it is, or the connection is over."""
        self._count += 1
        self.write(f"{self.name}-{self._count}")
        await self.until(lambda: len(self.said) >= self._count)

    async def publish_until(self, enough: asyncio.Event) -> None:
        while not (enough.is_set() or self.over.is_set()):
            await self.publish()

    async def until(self, condition) -> None:
        async with asyncio.timeout(PATIENCE):
            while not (condition() or self.over.is_set()):
                self._changed.clear()
                await self._changed.wait()

    async def aclose(self) -> None:
        self._task.cancel()
        self._writer.close()
        with suppress(ConnectionError):
            await self._writer.wait_closed()


@asynccontextmanager
async def clients(service: harness.Server, count: int, prefix: str = "c") -> AsyncIterator[list[Client]]:
    made: list[Client] = []
    try:
        for number in range(count):
            made.append(await Client.open(service.address, f"{prefix}{number}"))
        yield made
    finally:
        for client in made:
            await client.aclose()


async def hand_over(service: harness.Server, *options: str, command: list[str], expect: int) -> dict:
    process = await asyncio.create_subprocess_exec(
        *harness.HOTFD, "handoff", "--pid", str(service.pid), "--json", *options, "--", *command,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    out, err = await asyncio.wait_for(process.communicate(), PATIENCE)
    done = subprocess.CompletedProcess([], process.returncode or 0, out.decode(), err.decode())
    return service.outcome(done, expect)


async def agree(everybody: list[Client], published: list[str]) -> None:
    """See that all were told the same, once and in the same order, with everything that was published in it."""
    for client in everybody:
        await client.until(lambda client=client: len(client.news) >= len(published))
    first = everybody[0].news
    assert sorted(first) == sorted(set(first)), "a message came twice"
    assert set(first) >= set(published), f"{len(set(published) - set(first))} messages were lost"
    for client in everybody:
        assert client.news == first, f"{client.name} was told something else"
    for name in {message.rpartition("-")[0] for message in first}:
        numbers = [int(message.rpartition("-")[2]) for message in first if message.rpartition("-")[0] == name]
        assert numbers == list(range(1, len(numbers) + 1)), f"the messages of {name} came in another order"


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
async def test_subscribers_and_publishers_that_move_five_times_lose_nothing(tmp_path: Path, loop: str) -> None:
    if loop == "uvloop":
        pytest.importorskip("uvloop")
    with harness.program(tmp_path, PROGRAM, env={"LOOP": loop}) as service:
        async with clients(service, LISTENERS) as everybody:
            enough = asyncio.Event()
            speakers = everybody[:PUBLISHERS]
            work = [asyncio.create_task(speaker.publish_until(enough)) for speaker in speakers]
            reports = await harness.handoffs(service, HANDOFFS)
            enough.set()
            await asyncio.gather(*work)
            assert [report["connections"]["moved"] for report in reports] == [LISTENERS] * HANDOFFS
            published = [message for speaker in speakers for message in speaker.said]
            assert len(published) > 10 * HANDOFFS
            await agree(everybody, published)


async def test_what_is_published_while_a_subscriber_is_on_its_way_gets_there(tmp_path: Path) -> None:
    with harness.program(tmp_path, PROGRAM) as service:
        async with clients(service, LISTENERS) as everybody:
            enough = asyncio.Event()
            work = stay_and_publish(everybody[:PUBLISHERS], enough)
            command = ["env", "SLOW=1", *service.process.args]
            for _ in range(2):  # after the second, those who stay are two generations behind
                report = await hand_over(
                    service, "--probation", "0.2", "--boundary-timeout", "0.2", command=command, expect=None
                )
                assert report["connections"]["moved"] == LISTENERS - PUBLISHERS
            for _ in range(20):
                await everybody[-1].publish()
            enough.set()
            await asyncio.gather(*work)
            await agree(everybody, [message for client in everybody for message in client.said])


def stay_and_publish(speakers: list[Client], enough: asyncio.Event) -> list[asyncio.Task[None]]:
    for speaker in speakers:
        speaker.write("stay")
    return [asyncio.create_task(speaker.publish_until(enough)) for speaker in speakers]


async def test_what_comes_back_from_a_new_process_that_died_has_missed_nothing(tmp_path: Path) -> None:
    with harness.program(tmp_path, PROGRAM) as service:
        async with clients(service, LISTENERS) as everybody:
            enough = asyncio.Event()
            work = stay_and_publish(everybody[:PUBLISHERS], enough)
            command = ["env", "DIES_AS_OWNER=1", "SLOW=1", *service.process.args]
            report = await hand_over(service, "--boundary-timeout", "0.5", command=command, expect=1)
            assert report["outcome"] == "rolled-back"
            assert report["connections"]["returned"] == LISTENERS - PUBLISHERS
            enough.set()
            await asyncio.gather(*work)
            await agree(everybody, [message for client in everybody for message in client.said])
            assert not any(client.over.is_set() for client in everybody)


async def test_who_publishes_while_a_new_process_hangs_goes_on_when_it_has_been_ended(tmp_path: Path) -> None:
    with harness.program(tmp_path, harness.IMPATIENT + PROGRAM) as service:
        async with clients(service, LISTENERS) as everybody:
            enough = asyncio.Event()
            work = stay_and_publish(everybody[:PUBLISHERS], enough)
            command = ["env", "HANGS=1", *service.process.args]
            report = await hand_over(service, "--boundary-timeout", "0.5", command=command, expect=1)
            assert "new-hung" in report["reason"]
            enough.set()
            await asyncio.gather(*work)
            await agree(everybody, [message for client in everybody for message in client.said])


async def test_what_a_new_process_inherits_from_one_that_died_has_missed_nothing(tmp_path: Path) -> None:
    with harness.program(tmp_path, PROGRAM, env={"DIES_BEFORE": "Finish"}) as service:
        async with clients(service, LISTENERS) as everybody:
            enough = asyncio.Event()
            speakers = everybody[:PUBLISHERS]
            work = [asyncio.create_task(speaker.publish_until(enough)) for speaker in speakers]
            await hand_over(service, command=["env", "-u", "DIES_BEFORE", *service.process.args], expect=3)
            enough.set()
            await asyncio.gather(*work)
            assert not any(client.over.is_set() for client in everybody)
            await agree(everybody, [message for speaker in speakers for message in speaker.said])


PROCESSES = """
    import asyncio, json, os, signal, sys
    import hotfd

    async def talk(conn):
        async for line in conn:
            await conn.bus.publish("announcements", {"text": line, "by": conn.id})
            await conn.send(b"said")

    async def main():
        notes = open(sys.argv[0] + ".notes", "a", buffering=1)
        server = hotfd.Server(talk, f"127.0.0.1:{sys.argv[1]}", name="processes")
        server.bus.subscribe("announcements", lambda value: print(os.getpid(), value["text"].decode(), file=notes))
        async with server:
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, server.stop)
            await server.serve()

    asyncio.run(main())
"""


async def test_every_process_hears_what_concerns_processes(tmp_path: Path) -> None:
    with harness.program(tmp_path, PROCESSES) as service:
        reader, writer = await asyncio.open_connection(*service.address)
        try:
            for number in range(3):
                writer.write(b"%d\n" % number)
                assert await asyncio.wait_for(reader.readline(), PATIENCE) == b"said\n"
                if number < 2:
                    await hand_over(service, "--probation", "0", command=service.process.args, expect=0)
        finally:
            writer.close()
        notes = (tmp_path / "program.py.notes").read_text().splitlines()
        assert notes == [f"{pid} {number}" for number, pid in enumerate(service.pids)]


async def test_on_start_cannot_publish_and_says_so_in_the_first_generation_already(tmp_path: Path) -> None:
    source = """
        import asyncio, sys
        import hotfd

        async def talk(conn): ...

        async def main():
            async def begin():
                await server.bus.publish("topic", "value")
            server = hotfd.Server(talk, f"127.0.0.1:{sys.argv[1]}", on_start=begin)
            try:
                async with server: ...
            except RuntimeError as error:
                print(error)

        asyncio.run(main())
    """
    path = harness.script(tmp_path, "early.py", source)
    done = subprocess.run(
        [harness.sys.executable, str(path), str(harness.free_port())], capture_output=True, text=True, timeout=PATIENCE
    )
    assert "on_start cannot publish" in done.stdout, json.dumps([done.stdout, done.stderr])
