"""The scenes that are counted: a server's engine with clients, driven turn by turn, so that two runs do the same.

``python -m tests.performance.scenes UNIT`` plays all of them in this process with one meter, and prints what it has
counted as JSON: ``{figure: [count, units]}``. With ``--where`` it prints for people in which functions opcodes are spent.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import socket
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from hotfd import _core
from hotfd.framing import Lines
from hotfd.server.engine import Engine
from hotfd.server.moving import BATCH
from hotfd.server.takeover import Takeover
from hotfd.state import Codec
from hotfd.transfer.touch import TouchMap
from hotfd.wire import messages as m
from tests.performance.meters import METERS, Opcodes
from tests.unit.server_rig import Rig, rig
from tests.unit.wire_support import turns

if TYPE_CHECKING:
    from hotfd.server.connection import Connection
    from tests.performance.meters import Meter

FRAME: Final = b"x" * 63 + b"\n"

ROUNDS: Final = 16
"""How often what is counted happens; the first time is not counted, since it makes what lasts."""

DEPTH: Final = 16
"""Frames that a pipelining client sends at once."""

CROWD: Final = 32
"""Clients that all send at once."""

QUIET: Final = 12
"""Turns of the loop after which a step of a handoff is over: a few are needed, and an empty one costs little."""

LIMIT: Final = 1000
"""Turns after which what was expected will not come any more."""


SHOWN: Final = 30
"""Functions of each figure that are shown to people: the rest adds up to little."""


@dataclass
class Player:
    """A state of about 200 bytes, of the kinds of fields that people use."""

    name: str = "somebody with a name"
    token: bytes = b"0123456789abcdef" * 4
    score: int = 123_456
    health: float = 99.5
    ready: bool = True
    inventory: list[str] = field(default_factory=lambda: ["a sword", "a lamp", "some food", "a very long rope"])
    position: tuple[int, int, int] = (10, 20, 30)
    answered: int = 0


class Echo:
    """The handler of all scenes, which says how far it is without a system call."""

    def __init__(self) -> None:
        self.started = 0
        self.answered = 0

    async def __call__(self, conn: Connection[Player]) -> None:
        self.started += 1
        async for frame in conn:
            await conn.send(frame)
            self.answered += 1

    async def until(self, condition: Callable[[], bool]) -> None:
        """Let the loop turn until a condition holds that the handler brings about."""
        for _ in range(LIMIT):
            if condition():
                return
            await asyncio.sleep(0)
        raise AssertionError(f"nothing comes: {self.started} started, {self.answered} answered")


class Served:
    """An engine with one client on a Unix socket, on which what is sent is there at once."""

    def __init__(self) -> None:
        self.echo = Echo()
        self.engine = Engine(self.echo, Lines(), Codec.of(Player))
        self._clients: list[socket.socket] = []

    def connect(self) -> tuple[socket.socket, int]:
        """Return a new client, and the server's end, which is not served yet."""
        client, server = socket.socketpair()
        client.settimeout(0)  # what it expects is there, or never comes
        self._clients.append(client)
        return client, server.detach()

    async def close(self) -> None:
        for client in self._clients:
            client.close()
        await self.engine.stop()


async def echoed(meter: Meter) -> dict[str, int]:
    """Frames of 64 bytes that come one at a time, and sixteen at a time."""
    served = Served()
    echo = served.echo
    client, descriptor = served.connect()
    served.engine.welcome_descriptor("here", descriptor)
    await echo.until(lambda: echo.started == 1)
    figures = {"an echoed frame, one at a time": 1, f"an echoed frame, {DEPTH} at a time": DEPTH}
    for figure, depth in figures.items():
        for turn in range(1 + ROUNDS):
            expected = FRAME * depth
            client.send(expected)
            assert await answer(client, len(expected), meter, figure if turn else "nothing") == expected
    await served.close()
    return {figure: ROUNDS * depth for figure, depth in figures.items()}


async def crowded(meter: Meter) -> dict[str, int]:
    """A frame of each of many clients, all of which have sent theirs before the loop turns."""
    served = Served()
    echo = served.echo
    clients = []
    for _ in range(CROWD):
        client, descriptor = served.connect()
        served.engine.welcome_descriptor("here", descriptor)
        clients.append(client)
    await echo.until(lambda: echo.started == CROWD)
    figure = f"an echoed frame, of {CROWD} clients at once"
    for turn in range(1 + ROUNDS):
        expected = echo.answered + CROWD
        for client in clients:
            client.send(FRAME)
        with meter(figure if turn else "nothing"):
            await echo.until(lambda: echo.answered == expected)  # noqa: B023 - ended within this turn
        assert all(client.recv(2 * len(FRAME)) == FRAME for client in clients)
    await served.close()
    return {figure: ROUNDS * CROWD}


async def answer(client: socket.socket, size: int, meter: Meter, figure: str) -> bytes:
    """Let the loop turn until a client has an answer, which it looks for outside of what is counted."""
    found = b""
    for _ in range(LIMIT):
        with meter(figure):
            await asyncio.sleep(0)
        with suppress(BlockingIOError):
            found += client.recv(2 * size)
        if len(found) >= size:
            return found
    raise AssertionError(f"no answer comes: {len(found)} of {size} bytes")


async def begun(meter: Meter) -> dict[str, int]:
    """New connections, from the descriptor to the handler that waits for its first frame; and their end."""
    served = Served()
    echo = served.echo
    for turn in range(1 + ROUNDS):
        client, descriptor = served.connect()
        expected = echo.started + 1
        with meter("a new connection" if turn else "nothing"):
            served.engine.welcome_descriptor("here", descriptor)
            await echo.until(lambda: echo.started == expected)  # noqa: B023 - ended within this turn
        await turns()
        client.close()
        with meter("a connection's end" if turn else "nothing"):
            await echo.until(lambda: not served.engine.sessions)
        await turns()
    await served.close()
    return {"a new connection": ROUNDS, "a connection's end": ROUNDS}


def forward(source: int, target: int) -> None:
    """Pass everything that waits on one channel on to another."""
    while True:
        try:
            raw = _core.receive_message(source)
        except BlockingIOError:
            return
        _core.send_message(target, raw.data, raw.descriptors)
        for descriptor in [*raw.descriptors, raw.pidfd]:
            if descriptor >= 0:
                os.close(descriptor)


async def prepared(takeover: Takeover, channel: int, schema: dict[str, Any]) -> None:
    """Bring the new process's side to where sessions are expected; ``channel`` is the old one's end."""
    setup = m.Setup(m.PROTOCOL, "counted", 2, os.getpid(), schema, process_schema=False, framings={})
    _core.send_message(channel, m.encode(setup))
    await takeover.hello()
    await takeover.ready()
    touch, descriptor = TouchMap.create()
    _core.send_message(channel, m.encode(m.Listeners([], hold=False)), [descriptor])
    os.close(descriptor)
    touch.close()
    await turns(QUIET)
    for expected in (m.Hello, m.Ready):
        raw = _core.receive_message(channel)
        os.close(raw.pidfd)
        assert isinstance(m.decode(raw.data), expected)


async def moved(meter: Meter) -> dict[str, int]:
    """A batch of idle connections, from asking for their boundary to handlers that wait in the new process.

    Both sides are in this process, and take turns: what one says goes to the other when it has nothing more to do.
    Starting the new process, and waiting for its probation, cost the same for any number of connections, and are not in it.
    """
    echo = Echo()
    for turn in range(2):
        old_side, new_side = ("the old process, per moved connection", "the new process, per moved connection")
        old, new = (old_side, new_side) if turn else ("nothing", "nothing")
        async with rig(echo, state=Player) as made:
            clients = [await made.client() for _ in range(BATCH)]
            await _move(made, meter, old, new, clients)
    return {old_side: BATCH, new_side: BATCH}


async def _move(made: Rig, meter: Meter, old: str, new: str, clients: list[Any]) -> None:
    echo = Echo()
    engine = Engine(echo, Lines(), Codec.of(Player))
    channel, inherited = _core.channel_pair()
    takeover = Takeover(inherited, engine, [], healthy=None, import_state=None)
    await prepared(takeover, channel, made.engine.codec.schema)
    with meter(old):
        made.moving.gate.pending.extend(made.sessions)
        made.moving.offer(made.moving.gate.fill(BATCH))
        await turns(QUIET)
    forward(made._theirs, channel)
    with meter(new):
        await turns(QUIET)
    forward(channel, made._theirs)
    with meter(old):
        await turns(QUIET)
    forward(made._theirs, channel)
    with meter(new):
        await turns(QUIET)
    with meter(old):
        made.moving.close()  # it has settled: what the old process still holds is closed
    assert echo.started == len(engine.sessions) == BATCH, "all have moved, and all are served"
    assert not made.engine.sessions
    clients[0].say(FRAME)
    await clients[0].hears(FRAME)
    for client in clients:
        client.sock.close()
    await engine.stop()
    takeover.close()
    os.close(channel)


SCENES: Final[tuple[Callable[[Meter], Awaitable[dict[str, int]]], ...]] = (echoed, crowded, begun, moved)


async def play(meter: Meter) -> dict[str, int]:
    """Play all scenes; return how many units each figure has counted."""
    units: dict[str, int] = {}
    gc.collect()
    gc.disable()  # it would run at another time for every allocation more or less
    for scene in SCENES:
        units |= await scene(meter)
        gc.collect()
    return units


def main() -> None:
    """Play with the meter that is asked for, and print what it has counted."""
    meter = METERS[sys.argv[1]]()
    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        units = runner.run(play(meter))
    if sys.argv[2:] == ["--where"] and isinstance(meter, Opcodes):
        for figure, count in units.items():
            print(f"{figure}: {meter.found[figure] / count:.1f}")
            for code, spent in meter.where[figure].most_common(SHOWN):
                print(f"{spent / count:10.1f}  {Path(code.co_filename).stem}.{code.co_qualname}")
    else:
        print(json.dumps({figure: [meter.found[figure], count] for figure, count in units.items()}))


if __name__ == "__main__":
    main()
