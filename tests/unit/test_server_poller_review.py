"""Whatever handlers do to each other's connections within a batch, each client has all its answers once and in order."""

from __future__ import annotations

import asyncio
import os
import random
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from hotfd import _core
from hotfd.framing import Lines
from hotfd.server.engine import Engine, Handler
from hotfd.server.snapshot import Readers, Writers, capture, decode_states, restore
from hotfd.state import Codec
from tests.unit.wire_support import LIMIT, nothing_stays_open, on_each_loop, tcp_pair, turns

if TYPE_CHECKING:
    from hotfd.server.connection import Connection
    from hotfd.server.session import Session

__all__ = ["nothing_stays_open"]

pytestmark = pytest.mark.usefixtures("nothing_stays_open")

CROWD = 40
"""Clients that have something at the same time: more than are answered by themselves, and more than are answered together."""


ROUNDS = 4
"""How often all of them say something."""


@dataclass
class Count:
    lines: int = 0


async def answer(conn: Connection[Count]) -> None:
    async for line in conn:
        conn.state.lines += 1
        await conn.send(line)


class Servers:
    """Two engines, of which one stands for another process, and clients."""

    def __init__(self, handler: Handler, stack: ExitStack) -> None:
        self._stack = stack
        self.engines = [Engine(handler, Lines(), Codec.of(Count)) for _ in range(2)]

    def clients(self, count: int) -> list[socket.socket]:
        found = []
        for _ in range(count):
            far, near = self._stack.enter_context(tcp_pair())
            self.engines[0].welcome_descriptor("here", near.detach())
            far.setblocking(False)
            found.append(far)
        return found

    @property
    def connections(self) -> list[Connection[Any]]:
        return [each for engine in self.engines for session in engine.sessions.values() for each in session.connections]

    def resting(self, engine: Engine) -> list[Session]:
        """The sessions that stand at a boundary."""
        return [
            session
            for session in engine.sessions.values()
            if session.connections and not session.fenced and session.obstacle() is None
        ]

    def move(self, engine: Engine, session: Session) -> None:
        """Hand a session over to the other engine, by copies of its descriptors as another process gets them."""
        other = self.engines[1 - self.engines.index(engine)]
        session.fence()
        bundle = capture(session, 1, Writers.of(engine))
        connections = list(session.connections)
        for connection in connections:
            connection._hand_off()
        bundle.descriptors = [os.dup(fd) for fd in bundle.descriptors]
        held = [connection._stream.detach() for connection in connections]
        engine.release(session)
        other.adopt([restore(bundle, decode_states(bundle, Readers.of(other)), Lines(), other, lambda: None)])
        for fd in held:
            os.close(fd)

    async def stop(self) -> None:
        for engine in self.engines:
            await engine.stop()


@contextmanager
def servers(handler: Handler = answer) -> Iterator[Servers]:
    with ExitStack() as stack:
        yield Servers(handler, stack)


async def hears(client: socket.socket, expected: bytes) -> None:
    got = b""
    async with asyncio.timeout(LIMIT):
        while len(got) < len(expected):
            piece = await asyncio.get_running_loop().sock_recv(client, 1 << 16)
            assert piece, f"the end after {len(got)} bytes of {len(expected)}"
            got += piece
    assert got == expected


class Meddler:
    """Does to others what handlers and handoffs may do, each time to one that the dice choose."""

    def __init__(self, made: Servers, dice: random.Random) -> None:
        self.made = made
        self.dice = dice

    def act(self) -> None:
        engine = self.dice.choice(self.made.engines)
        sessions = self.made.resting(engine)
        if sessions:
            act = self.dice.choice(
                [self.fence, self.fence_for_a_moment, self.start_again, self.move, self.move_many, self.mark]
            )
            act(engine, self.dice.choice(sessions))

    def fence(self, engine: Engine, session: Session) -> None:
        session.gate(True)
        session.fence()
        asyncio.get_running_loop().call_soon(engine.resume, session)

    def fence_for_a_moment(self, engine: Engine, session: Session) -> None:
        session.gate(True)
        session.fence()
        engine.resume(session)

    def start_again(self, engine: Engine, session: Session) -> None:
        engine.renew(session)

    def move(self, engine: Engine, session: Session) -> None:
        self.made.move(engine, session)

    def move_many(self, engine: Engine, _: Session) -> None:
        with engine.poller.gathered():
            for session in self.dice.sample(self.made.resting(engine), k=1 + len(self.made.resting(engine)) // 8):
                self.made.move(engine, session)

    def mark(self, _: Engine, session: Session) -> None:
        for connection in session.connections:
            if connection._on_touch is None:
                connection._expect_touch(lambda: None)


@pytest.mark.parametrize("seed", range(2))
@on_each_loop
async def test_whoever_is_fenced_moved_or_started_again_by_anothers_handler_loses_and_doubles_nothing(
    seed: int,
) -> None:
    dice = random.Random(seed)

    async def meddle(conn: Connection[Count]) -> None:
        async for line in conn:
            conn.state.lines += 1
            await conn.send(line)
            if dice.random() < 0.3:
                meddler.act()

    with servers(meddle) as made:
        meddler = Meddler(made, dice)
        clients = made.clients(CROWD)
        count = 0
        for turn in range(ROUNDS):
            said = []
            for number in range(CROWD):
                lines = [b"%d %d %d\n" % (number, turn, at) for at in range(dice.choice([1, 1, 1, 5]))]
                count += len(lines)
                said.append(b"".join(lines))
            halves = [dice.choice([0, dice.randrange(len(text))]) for text in said]
            for client, text, half in zip(clients, said, halves, strict=True):
                client.send(text[:half])
            await turns(dice.randrange(3))
            for client, text, half in zip(clients, said, halves, strict=True):
                client.send(text[half:])
            for client, text in zip(clients, said, strict=True):
                await hears(client, text)
        assert sum(connection.state.lines for connection in made.connections) == count
        assert len(made.connections) == CROWD
        await made.stop()


# ---------------------------------------------------------------- replies that are sent together


@on_each_loop
async def test_who_has_answered_together_with_many_is_at_rest_when_his_handler_waits_again() -> None:
    rested: list[str] = []
    with servers() as made:
        clients = made.clients(CROWD)
        await turns()
        for connection in made.connections:
            connection._expect_rest(lambda id=connection.id: rested.append(id), lambda: None)  # type: ignore[misc]
        for client in clients:
            client.send(b"a line\n")
        for client in clients:
            await hears(client, b"a line\n")
        assert len(rested) == CROWD
        await made.stop()


@on_each_loop
async def test_replies_that_cannot_be_sent_together_for_lack_of_memory_are_sent_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    faults: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context["exception"]))

    def fail(*_: object) -> None:
        raise MemoryError

    with servers() as made:
        clients = made.clients(CROWD)
        await turns()
        monkeypatch.setattr(_core.SocketPoll, "send", fail)
        for client in clients:
            client.send(b"a line\n")
        for client in clients:
            await hears(client, b"a line\n")
        assert {type(fault) for fault in faults} == {MemoryError}
        await made.stop()


@on_each_loop
async def test_who_answers_together_with_many_and_ends_his_direction_has_answered_first() -> None:
    async def answer_and_end(conn: Connection[Count]) -> None:
        async for line in conn:
            await conn.send(line)
            conn.write_eof()

    with servers(answer_and_end) as made:
        clients = made.clients(CROWD)
        await turns()
        for client in clients:
            client.send(b"a line\n")
        for client in clients:
            await hears(client, b"a line\n")
            async with asyncio.timeout(LIMIT):
                assert await asyncio.get_running_loop().sock_recv(client, 1) == b""
        await made.stop()
