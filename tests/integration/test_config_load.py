"""Two thousand sessions, two hundred publishes, ten handoffs: no session sees a value that it did not begin with."""

from __future__ import annotations

import asyncio
import resource
import subprocess
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from hotfd import control
from hotfd.config import rollout
from hotfd.config.open import open_store
from hotfd.config.release import Release, seal
from hotfd.errors import ControlError
from tests.integration import harness

pytestmark = pytest.mark.alone

STEPS = 10
"""Handoffs. Each has its share of what is published and of who begins meanwhile, however slow the machine is."""

PUBLISHES = 20
"""Releases of both modules in each step."""

BEGINNERS = 100
"""Sessions that begin in each step."""

SINGLES, ROOMS, MEMBERS = 900, 100, 3
"""The sessions that run from the beginning to the end: those of one connection, and those of several."""

FIRST = 10
"""Releases that these begin with, so that several are held from the beginning on."""

FIELDS = 20
"""Fields that a mixture of two releases would show in, beside nested ones and those of the other module."""

ROLLED_BACK = 117, 60
"""This version has the values of that one: somebody has gone back."""

AT_ONCE = 50
"""Connections that say something before the others are heard: bounds the load."""

PROGRAM = """
    import sys
    from dataclasses import dataclass
    import msgspec
    import hotfd

    NAME, UPGRADE = "f", None

    class Part(msgspec.Struct, frozen=True):
        name: str
        weights: list[int]

    Game = msgspec.defstruct(
        "Game",
        [("number", int), *((f"{NAME}{n}", int) for n in range(20)), ("parts", dict[str, Part])],
        frozen=True, module=__name__,
    )

    class Shop(msgspec.Struct, frozen=True):
        number: int
        price: int

    @dataclass
    class Guest:
        wish: str = ""

    @dataclass
    class Room:
        lines: int = 0

    def told(config):
        game, shop = config.game, config.shop
        words = [game.number, *(getattr(game, f"{NAME}{n}") for n in range(20)), shop.number, shop.price]
        for key, part in game.parts.items():
            words += [key, part.name, *part.weights]
        return " ".join(map(str, words)).encode()

    async def enter(conn):
        await conn.join(conn.state.wish, state=Room)
        conn.state.wish = ""
        await conn.send(told(conn.config))

    async def talk(conn):
        # "?" tells all values, "+K" joins room K, "-" leaves it, "!" goes on with the newest release.
        if conn.state.wish:  # the connection has moved for it
            await enter(conn)
        async for line in conn:
            if line.startswith(b"+"):
                conn.state.wish = line[1:].decode()
                await enter(conn)
                continue
            if line == b"-":
                await conn.leave()
            elif line == b"!":
                conn.session.checkpoint()
            await conn.send(told(conn.config))

    source = f"dir:{sys.argv[2]}"
    hotfd.run(
        talk, f"127.0.0.1:{sys.argv[1]}", name="load", state=Guest,
        config=[
            hotfd.Config("game", Game, source=source, interval=1.0, upgrade=UPGRADE, max_pinned=1000),
            hotfd.Config("shop", Shop, source=source, interval=1.0, max_pinned=1000),
        ],
    )
"""

NEXT = PROGRAM.replace(
    'NAME, UPGRADE = "f", None',
    'NAME, UPGRADE = "g", lambda values: {key.replace("f", "g"): value for key, value in values.items()}',
)
"""The next version of the program calls its fields otherwise, and reads those of the releases by an upgrade."""


def game(number: int) -> dict[str, Any]:
    """Return the values of the module ``game``: every one of them follows from the number."""
    fields = {f"f{n}": number * FIELDS + n for n in range(FIELDS)}
    parts = {key: {"name": f"{key}{number}", "weights": [number, number + 1]} for key in ("a", "b")}
    return {"number": number, **fields, "parts": parts}


def shop(number: int) -> dict[str, Any]:
    """Return the values of the module ``shop``."""
    return {"number": number, "price": number * 7}


@cache
def told(number: int) -> bytes:
    """Return what a session with these values must say."""
    words: list[object] = [number, *(number * FIELDS + n for n in range(FIELDS)), number, number * 7]
    for key in ("a", "b"):
        words += [key, f"{key}{number}", number, number + 1]
    return " ".join(map(str, words)).encode()


@dataclass
class Oracle:
    """Knows what was published and what was seen, and what nobody may see any more.

    Attributes:
        floor: the oldest version that a session may begin with which connects now: what the server has said of
            itself, and what sessions that began before have seen.
        violations: what contradicts that.
        numbers: by number, the versions that have its values.
        answers: how many were checked.
        longest: seconds that an answer took at most.
    """

    floor: int = 0
    violations: list[str] = field(default_factory=list)
    numbers: dict[int, list[int]] = field(default_factory=dict)
    answers: int = 0
    longest: float = 0.0

    def read(self, line: bytes) -> int:
        """Return the number of an answer; every value in it must be that number's."""
        self.answers += 1
        head = line.split(b" ", 1)[0]
        number = int(head) if head.isdigit() else 0
        if line != told(number):
            self.violations.append(f"a mixture: {line!r}")
        return number

    def begins(self, number: int, floor: int, who: str) -> int:
        """Check what a session has begun with; return the oldest version that this can be."""
        fitting = [version for version in self.numbers.get(number, []) if version >= floor]
        if not fitting:
            self.violations.append(f"{who} began with values {number}, and {floor} was in force before")
            return floor
        return fitting[0]

    def check(self) -> None:
        assert not self.violations, f"{len(self.violations)} violations: {self.violations[:3]}"


@dataclass
class Room:
    """A shared session: all its members see the same."""

    key: str
    number: int = 0


class Client(asyncio.Protocol):
    """One connection; every answer is checked when it comes."""

    def __init__(self, oracle: Oracle) -> None:
        self.oracle = oracle
        self.number = 0
        self.room: Room | None = None
        self._buffer = b""
        self._expected: deque[tuple[float, Callable[[bytes], None]]] = deque()
        self._answer: asyncio.Future[bytes] | None = None
        self._transport: asyncio.Transport | None = None
        self._ended = self._lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        for line in lines:
            if not self._expected:
                self.oracle.violations.append(f"an answer that nobody asked for: {line!r}")
                continue
            since, hear = self._expected.popleft()
            self.oracle.longest = max(self.oracle.longest, time.monotonic() - since)
            hear(line)

    def connection_lost(self, error: Exception | None) -> None:
        if not self._ended:
            self._lost = True
            self.oracle.violations.append(f"a connection is lost, {len(self._expected)} answers are missing: {error}")
            self._expected.clear()
            if self._answer is not None and not self._answer.done():
                self._answer.set_exception(ConnectionError(self.oracle.violations[0]))

    @property
    def idle(self) -> bool:
        return not self._expected

    def say(self, word: str, hear: Callable[[bytes], None]) -> None:
        assert self._transport is not None
        if self._lost:
            raise ConnectionError(self.oracle.violations[0])
        self._expected.append((time.monotonic(), hear))
        self._transport.write(word.encode() + b"\n")

    def poke(self) -> None:
        """Send a frame; the answer must have the values that the session began with."""
        self.say("?", self._same)

    def _same(self, line: bytes) -> None:
        number = self.oracle.read(line)
        if number != self.number:
            self.oracle.violations.append(f"a session of {self.number} has seen {number}")

    async def ask(self, word: str) -> int:
        """Send a frame, and return the number that the answer has."""
        self._answer = asyncio.get_running_loop().create_future()
        self.say(word, self._answer.set_result)
        async with asyncio.timeout(harness.PATIENCE):
            return self.oracle.read(await self._answer)

    async def enter(self, room: Room) -> None:
        """Join a room: whoever is in it sees the same, whatever he saw before."""
        number = await self.ask(f"+{room.key}")
        if room.number and number != room.number:
            self.oracle.violations.append(f"who has joined a room of {room.number} has seen {number}")
        room.number = self.number = number
        self.room = room

    def close(self) -> None:
        self._ended = True
        if self._transport is not None:
            self._transport.abort()


class Load:
    """The service, its store, and all who are connected."""

    def __init__(self, service: harness.Server, store: Path, commands: list[list[str]]) -> None:
        self.service = service
        self.store = open_store(f"dir:{store}", create=True)
        self.commands = commands
        self.oracle = Oracle()
        self.version = 0
        self.clients: list[Client] = []
        """Those who stay."""
        self.connected: list[Client] = []
        """All that there ever were."""
        self.begun = 0
        self.handed_over = 0
        self.pauses: list[float] = []

    # -- who is connected ----------------------------------------------------------------------------

    async def connect(self) -> Client:
        loop, (host, port) = asyncio.get_running_loop(), self.service.address
        _, client = await loop.create_connection(lambda: Client(self.oracle), host, port)
        self.connected.append(client)
        return client

    async def begin(self) -> Client:
        """Have a session begin: with the newest release, as far as anybody could know of it before."""
        floor = self.oracle.floor
        client = await self.connect()
        client.number = await client.ask("?")
        self.oracle.floor = max(self.oracle.floor, self.oracle.begins(client.number, floor, "a session"))
        self.begun += 1
        return client

    async def fill(self) -> None:
        """Have those begin who stay to the end, with several releases."""
        rooms = [Room(f"room-{number}") for number in range(ROOMS)]
        for number in range(FIRST):
            await self.publish()
            await self.in_force()
            singles = [self.begin() for _ in range(SINGLES // FIRST)]
            self.clients += await asyncio.gather(*singles)
            for room in rooms[number::FIRST]:
                members = await asyncio.gather(*(self.connect() for _ in range(MEMBERS)))
                for member in members:
                    await member.enter(room)
                self.clients += members

    async def poke(self, over: asyncio.Event) -> None:
        """Have everybody say something, again and again, some at a time."""
        while not over.is_set():
            for start in range(0, len(self.clients), AT_ONCE):
                some = [client for client in self.clients[start : start + AT_ONCE] if client.idle]
                for client in some:
                    client.poke()
                await asyncio.sleep(0.02)
                while not over.is_set() and not all(client.idle for client in some):
                    await asyncio.sleep(0.005)
            await asyncio.sleep(0)

    async def hear_all(self) -> None:
        """Have everybody say something once, and wait for all answers."""
        for start in range(0, len(self.clients), AT_ONCE):
            some = self.clients[start : start + AT_ONCE]
            for client in some:
                client.poke()
            async with asyncio.timeout(harness.PATIENCE):
                while not all(client.idle for client in some):
                    await asyncio.sleep(0.005)
        self.oracle.check()

    async def beginners(self, step: int) -> None:
        """Have sessions begin, and do what sessions do; some stay over the next handoffs."""
        for number in range(BEGINNERS):
            client = await self.begin()
            if number % 5 == 0:
                # Into a room that has been there for long, and out again: a session of its own, which begins then.
                own = client.number
                await client.enter(self.clients[-1 - number % (ROOMS * MEMBERS)].room or Room("nowhere"))
                client.room, client.number = None, await client.ask("-")
                self.oracle.begins(client.number, self.oracle.numbers[own][0], "who has left a room")
            elif number % 5 == 1:
                # A room of his own: it is made in the newest process, whoever asks for it.
                floor = self.oracle.floor
                await client.enter(Room(f"room-{step}-{number}"))
                self.oracle.begins(client.number, floor, "a room")
            if number % 3 == 0:
                self.clients.insert(0, client)  # from here on it is one of those who stay
            else:
                own = client.number
                client.number = await client.ask("!")
                self.oracle.begins(client.number, self.oracle.numbers[own][0], "who went on with the newest")
                client.close()
            await asyncio.sleep(0.002)

    # -- what happens to the service -----------------------------------------------------------------

    async def publish(self) -> None:
        """Publish both modules in one step."""
        heads = await self.store.heads(["game", "shop"])
        version = rollout.next_version(heads.get("game"))
        number = ROLLED_BACK[1] if version == ROLLED_BACK[0] else version
        self.oracle.numbers.setdefault(number, []).append(version)
        steps = []
        for module, values in (("game", game(number)), ("shop", shop(number))):
            release = Release(module, version, f"r{version}", "tester", time.time(), values, batch=f"b{version}")
            change: Any = "published" if number == version else "rolled-back"
            steps.append(rollout.publish(heads.get(module), seal(release), by="tester", change=change))
        await self.store.commit(steps)
        self.version = version

    async def publishes(self) -> None:
        for _ in range(PUBLISHES):
            await self.publish()
            await asyncio.sleep(0.02)

    async def in_force(self) -> None:
        """Wait until the server says that the next session begins with what was published last."""
        async with asyncio.timeout(harness.PATIENCE):
            while self.oracle.floor < self.version:
                await self.look()
                await asyncio.sleep(0.01)

    async def look(self) -> None:
        """Ask the server what the next session begins with; nobody who connects later may get anything older.

        While a process gives its sessions away it accepts nobody, so that what it says then is said of no session.
        """
        status = await asyncio.to_thread(_status, self.service.pid)
        if status is not None and (status["handoff"] or {}).get("phase") in {None, "preflight", "spawn", "ready"}:
            said = status["config"].values()
            self.oracle.floor = max(self.oracle.floor, min(one["staged"] or one["running"] for one in said))

    async def watch(self, over: asyncio.Event) -> None:
        while not over.is_set():
            await self.look()
            await asyncio.sleep(0.05)

    async def hand_over(self, step: int) -> None:
        """Replace the process by the other version of the program; the last time, by what ran before."""
        last = step == STEPS - 1
        tail = [] if last else ["--", *self.commands[(step + 1) % len(self.commands)]]
        process = await asyncio.create_subprocess_exec(
            *harness.HOTFD, "rollback" if last else "handoff", "--pid", str(self.service.pid), "--json",
            "--probation", "0.1", *tail, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        out, err = await process.communicate()
        done = subprocess.CompletedProcess([], process.returncode or 0, out.decode(), err.decode())
        report = self.service.outcome(done, 0)
        assert not report["reasons"], report
        assert report["sessions"]["moved"] >= SINGLES + ROOMS
        self.handed_over += report["sessions"]["moved"]
        self.pauses.append(report["pause_ms"]["max"])


def _status(pid: int) -> dict[str, Any] | None:
    """Ask a server; None when it is just being replaced."""
    try:
        with control.Client.connect(control.find(pid)) as client:
            return client.ask("status")
    except ControlError:
        return None


@contextmanager
def many_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextmanager
def service(tmp_path: Path) -> Iterator[tuple[harness.Server, Path, list[list[str]]]]:
    """Run the program on a free port; yield it with its store, and with the commands of both its versions."""
    port, store = harness.free_port(), tmp_path / "store"
    paths = [harness.script(tmp_path, "first.py", PROGRAM), harness.script(tmp_path, "next.py", NEXT)]
    commands = [[sys.executable, str(path), str(port), str(store)] for path in paths]
    env = {"HOTFD_CACHE_DIR": str(tmp_path / "cache")}
    asyncio.run(_first(store))
    with harness.server(tmp_path, commands[0], port, env=env) as running:
        yield running, store, commands


async def _first(store: Path) -> None:
    """Publish values 1: a server without any would not start."""
    load = Load(None, store, [])  # type: ignore[arg-type]
    await load.publish()
    await load.store.aclose()


@asynccontextmanager
async def beside(*works: Callable[[asyncio.Event], Any]) -> AsyncIterator[None]:
    """Do something beside the test; what fails there fails the test."""
    over = asyncio.Event()
    tasks = [asyncio.create_task(work(over)) for work in works]
    try:
        yield
    finally:
        over.set()
        await asyncio.gather(*tasks)


async def run(load: Load) -> None:
    try:
        load.oracle.numbers[1] = [1]
        await load.fill()
        await load.hear_all()
        for step in range(STEPS):
            async with beside(load.poke, load.watch):
                await asyncio.gather(load.hand_over(step), load.publishes(), load.beginners(step))
            await load.hear_all()  # each session at least once in each process
        await load.in_force()
        load.clients.append(await load.begin())
        assert load.oracle.begins(load.clients[-1].number, load.version, "the last one") == load.version
        load.oracle.check()
    finally:
        for client in load.connected:
            client.close()
        await load.store.aclose()


@pytest.mark.timeout(300)
def test_no_session_of_two_thousand_sees_a_value_that_it_did_not_begin_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    began = time.monotonic()
    with many_descriptors(), service(tmp_path) as (running, store, commands):
        load = Load(running, store, commands)
        asyncio.run(run(load))
    stayed = sum(1 for client in load.clients if client.room is None) + ROOMS
    assert load.begun >= SINGLES + STEPS * BEGINNERS
    assert load.version == 1 + FIRST + STEPS * PUBLISHES
    held = {client.number for client in load.clients}
    assert len(held) > FIRST, "many releases were held to the end"
    with capsys.disabled():
        print(
            f"\n{stayed} sessions stayed, {STEPS * BEGINNERS} more began; {load.oracle.answers} answers checked, "
            f"{load.version} publishes, {len(load.pauses)} handoffs that moved {load.handed_over} sessions, "
            f"{len(held)} releases held at the end; longest pause {max(load.pauses):.0f} ms, "
            f"longest answer {load.oracle.longest * 1000:.0f} ms, {time.monotonic() - began:.1f} s",
            end=" ",
        )
