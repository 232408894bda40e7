"""What a soak runs: three services under load, whose servers are replaced and whose configuration changes, again and again.

The arena runs under ``hotfd run``, and changes between its two versions. The counter follows a configuration server, and
its clients come and go, so that sessions of several releases are alive at any time.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from hotfd.config.open import open_store
from tests.integration import harness
from tests.integration.arena_players import Player, Tally
from tests.integration.clients import Score, line_client
from tests.integration.config_releases import publish_to
from tests.integration.config_serving import configuration, eventually, url_of
from tests.integration.footprint import footprint
from tests.integration.supervised import Supervised, supervised
from tests.soak.growth import Sample, look

ROOMS, COMPANY = 6, 2
"""Matches in the arena, and the players of each."""

STAYING = 12
"""Clients of the counter that stay from the beginning to the end."""

VISITS = 6
"""Rounds that a client stays who comes and goes; one comes in each round, so that six releases are held at any time."""

TURN = 0.1
"""Seconds between two moves in the arena, of all players together: it is what bounds the load."""

CLIENT_PAUSE = 1.0
"""Seconds that a client of the counter waits at most between two bursts of lines."""

PROBATION = "0.1"
"""Seconds that a handoff waits for the new process to prove itself: what may be left over has come about by then."""

WEIGHT = 200
"""Values in a release, so that one that is kept without need shows."""

UNTIL_NOON = ("--turn-seconds", "600", "--target", "30")
"""A clock that nobody loses by, and matches that end."""

COUNTER = """
    import sys
    from dataclasses import dataclass
    import msgspec
    import hotfd

    class Rules(msgspec.Struct, frozen=True):
        number: int
        weights: dict[str, int]

    @dataclass
    class Visitor:
        lines: int = 0
        began: int = 0

    async def talk(conn):
        if not conn.resumed:
            conn.state.began = conn.config.number
            await conn.send(b"hello")
        async for line in conn:
            conn.state.lines += 1
            same = conn.config.number == conn.state.began
            await conn.send(b"%d %s" % (conn.state.lines, line if same else b"in another release"))

    hotfd.run(
        talk, f"127.0.0.1:{sys.argv[1]}", state=Visitor, name="counter",
        config=hotfd.Config("counter", Rules, source=sys.argv[2], interval=1.0),
    )
"""
"""``examples/counter.py`` with a configuration: a session says so when it sees another release than its first one."""


class Pace(asyncio.Semaphore):
    """Lets one after another pass, and not at once."""

    async def acquire(self) -> bool:
        """Wait for one's turn."""
        await super().acquire()
        await asyncio.sleep(TURN)
        return True


class Scene:
    """All services and all clients, one round after another.

    Attributes:
        rounds: how many there were.
        handoffs: how many were carried out, rollbacks included.
        refused: how many new versions did not start.
        releases: how many were published.
        samples: by kind of process, what was measured.
        score: what the counter's clients saw.
        tally: what the arena's players saw.
    """

    def __init__(self, arena: Supervised, counter: harness.Server, servers: harness.Server, store: Path) -> None:
        self.rounds = 0
        self.handoffs = 0
        self.refused = 0
        self.releases = 0
        self.samples: dict[str, list[Sample]] = {}
        self.score = Score()
        self.tally = Tally()
        self._arena = arena
        self._counter = counter
        self._servers = servers
        self._store = store
        self._over = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._visits: list[tuple[asyncio.Event, asyncio.Task[None]]] = []
        self._seeds = iter(range(1 << 30))
        self._playing = 0  # the arena's current server

    async def begin(self) -> None:
        """Have everybody come, and take the first samples: of servers that no handoff has made."""
        (self._playing,) = self._arena.servers()
        hands = Pace(1)
        for room in range(ROOMS):
            for seat in range(COMPANY):
                player = Player(f"room-{room}", f"p{seat}", COMPANY, self.tally, self._over, hands)
                self._tasks.append(asyncio.create_task(player.play(self._arena.address)))
        for _ in range(STAYING):
            self._tasks.append(asyncio.create_task(self._talk(self._over)))
        for _ in range(VISITS):
            await self._visit()
        await eventually(self._busy, True)
        await self.sample()

    def _busy(self) -> bool:
        """Whether there is load, of which nothing has gone wrong."""
        self.score.check()
        self.tally.check()
        return self.tally.moves >= ROOMS and self.score.replies >= STAYING + VISITS

    async def end(self) -> None:
        """Have everybody leave, and check all that was seen."""
        self._over.set()
        while self._visits:
            await self._leave()
        await asyncio.gather(*self._tasks)
        self.score.check()
        self.tally.check()

    async def cancel(self) -> None:
        """Drop all clients, after a failure."""
        tasks = [*self._tasks, *(task for _, task in self._visits)]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def round(self) -> None:
        """Publish releases, and replace both servers beside each other; every fourth time first by one that cannot start."""
        self.rounds += 1
        await self._publish()
        await self._leave()
        await asyncio.gather(self._replace_arena(), self._replace_counter())
        await self._visit()

    async def sample(self) -> None:
        """Measure each kind of process, once the last handoff's old processes are gone."""
        kinds = {
            "arena": (self._playing, self.rounds),
            "counter": (self._counter.pid, self.rounds),
            "supervisor": (self._arena.pid, self.rounds),
            "configuration server": (self._servers.pid, self.rounds),
        }
        for kind, (pid, handoffs) in kinds.items():
            series = self.samples.setdefault(kind, [])
            if series:  # it holds what it held in the beginning; what a dead process has left takes a moment to go
                await eventually(lambda pid=pid: footprint(pid), series[0].held)
            series.append(look(pid, handoffs))

    # -- what happens in a round ---------------------------------------------------------------------

    async def _publish(self) -> None:
        self.releases += 1
        await publish_release(self._store, self.releases)

    async def _replace_arena(self) -> None:
        old = self._playing
        if self.rounds % 2:
            port = self._arena.address[1]
            report = await carry("handoff", self._arena.pid, "--", *arena_command("arena_v2.py", port))
        else:
            report = await carry("rollback", self._arena.pid)
        self._playing = report["new_pid"]
        self.handoffs += 1
        await (
            self._publish()
        )  # three in a round: a configuration server has all the older ones that it keeps by half-time
        await gone(old)

    async def _replace_counter(self) -> None:
        if self.rounds % 4 == 0:
            await carry("handoff", self._counter.pid, "--", "/bin/false", expect=1)
            self.refused += 1
        old = self._counter.pid
        report = await carry("handoff", old)
        self._counter.pid = report["new_pid"]
        self._counter.pids.append(report["new_pid"])
        self.handoffs += 1
        await (
            self._publish()
        )  # three in a round: a configuration server has all the older ones that it keeps by half-time
        await gone(old)

    # -- who comes and goes --------------------------------------------------------------------------

    async def _talk(self, over: asyncio.Event) -> None:
        await line_client(self._counter.address, self.score, over, next(self._seeds), pause=CLIENT_PAUSE)

    async def _visit(self) -> None:
        over = asyncio.Event()
        self._visits.append((over, asyncio.create_task(self._talk(over))))

    async def _leave(self) -> None:
        over, task = self._visits.pop(0)
        over.set()
        await task


async def publish_release(store: Path, number: int) -> None:
    """Publish a release of which every value is another one."""
    opened = open_store(f"dir:{store}", create=True)
    try:
        weights = {f"weight-{index}": number * WEIGHT + index for index in range(WEIGHT)}
        await publish_to(opened, {"number": number, "weights": weights}, "counter")
    finally:
        await opened.aclose()


def arena_command(name: str, port: int) -> list[str]:
    """Return how one of the arena's versions is started."""
    return [sys.executable, str(harness.EXAMPLES / name), "--listen", f"127.0.0.1:{port}", *UNTIL_NOON]


async def carry(instruction: str, pid: int, *tail: str, expect: int = 0) -> dict[str, Any]:
    """Run ``hotfd handoff`` or ``hotfd rollback``, while all clients go on; return the report."""
    process = await asyncio.create_subprocess_exec(
        *harness.HOTFD, instruction, "--pid", str(pid), "--json", "--probation", PROBATION, *tail,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate()
    assert process.returncode == expect, f"exit status {process.returncode}\n{out.decode()}\n{err.decode()}"
    return json.loads(out)


async def gone(pid: int) -> None:
    """Wait until a process has ended, while all clients go on."""
    await asyncio.to_thread(harness.wait_gone, pid)


@asynccontextmanager
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    """Start the services and their clients, and end everything afterwards."""
    store, port = tmp_path / "store", harness.free_port()
    await publish_release(store, 0)
    async with AsyncExitStack() as stack:
        servers = stack.enter_context(configuration(tmp_path, store, modules=("counter",)))
        source = harness.script(tmp_path, "counter.py", COUNTER)
        counter_port = harness.free_port()
        command = [sys.executable, str(source), str(counter_port), url_of(servers)]
        counter = stack.enter_context(harness.server(tmp_path, command, counter_port))
        arena = stack.enter_context(supervised(tmp_path, command=arena_command("arena.py", port), port=port))
        found = Scene(arena, counter, servers, store)
        try:
            await found.begin()
            yield found
            await found.end()
        finally:
            await found.cancel()
