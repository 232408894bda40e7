"""An engine with clients, in the middle of a handoff to a new process that the test itself plays.

Everything but that process is real: TCP connections, the channel's socket pair, both books. What the
new process says goes through the channel, and what it hears is read from it.
"""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

from hotfd import _core
from hotfd.framing import Framing, Lines
from hotfd.server.engine import Engine, Handler
from hotfd.server.moving import BATCH, Moving
from hotfd.state import Codec, State
from hotfd.transfer.channel import Channel, close_all
from hotfd.wire import messages as m
from hotfd.wire.sender import Sender
from tests.unit.wire_support import LIMIT, tcp_pair, turns

if TYPE_CHECKING:
    from hotfd.errors import ChannelError
    from hotfd.server.session import Session
    from hotfd.transfer.channel import Arrival

MANY_TURNS = 50
"""Turns of the loop after which what is not going to happen has not happened."""


async def until(condition: Callable[[], object]) -> None:
    """Wait until a condition holds, whoever brings it about."""
    async with asyncio.timeout(LIMIT):
        while not condition():
            await asyncio.sleep(0.001)


class Client:
    """The far end of one connection."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        sock.setblocking(False)

    def say(self, data: bytes) -> None:
        self.sock.sendall(data)

    async def hears(self, expected: bytes) -> None:
        """Read exactly what must come next."""
        got = b""
        async with asyncio.timeout(LIMIT):
            while len(got) < len(expected):
                piece = await asyncio.get_running_loop().sock_recv(self.sock, len(expected) - len(got))
                assert piece, f"the end after {got!r} instead of {expected!r}"
                got += piece
        assert got == expected

    async def hears_the_end(self) -> None:
        async with asyncio.timeout(LIMIT):
            assert await asyncio.get_running_loop().sock_recv(self.sock, 1) == b""

    def hears_nothing(self) -> bool:
        """Whether neither a byte nor the end has come."""
        try:
            self.sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        return False

    def reset(self) -> None:
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()


class Rig:
    """The old process: its engine, its book, its end of the channel; and the new process's end."""

    def __init__(
        self,
        handler: Handler,
        stack: ExitStack,
        *,
        framing: Framing | None = None,
        state: type[Any] | State[Any] | None = None,
        hold: bool = False,
        same_framing: bool = True,
    ) -> None:
        self._stack = stack
        self.engine = Engine(handler, framing or Lines(), Codec.of(state))
        mine, self._theirs = _core.channel_pair()
        self.broken: list[ChannelError] = []
        self.channel = Channel(mine, self._arrived, self.broken.append)
        self.channel.start()
        self.machine = Sender()
        self.machine.receive(m.Hello(m.PROTOCOL, 1, "1", {}, 1024, 8))
        self.machine.receive(m.Ready())
        self.on_change: Callable[[], None] = lambda: None
        self.moving = Moving(
            self.engine,
            self.machine,
            self.channel,
            hold_commits=hold,
            same_framing=same_framing,
            answer_limit=10.0,
            on_change=lambda: self.on_change(),
        )
        self.engine.mover = self.moving

    def _arrived(self, arrival: Arrival) -> None:
        """What the driver does with an answer."""
        ids = self.machine.receive(arrival.message)
        match arrival.message:
            case m.Accept():
                self.moving.accepted(ids)
            case m.Refuse(refusals=refusals):
                self.moving.refused(refusal for refusal in refusals if refusal.id in ids)
        arrival.close()

    # -- the old process -----------------------------------------------------------------------------

    async def client(self) -> Client:
        """Connect a client, whose handler waits for its first frame."""
        far, near = self._stack.enter_context(tcp_pair())
        before = set(self.engine.sessions)
        self.engine.welcome_descriptor("here", near.detach())
        (id,) = set(self.engine.sessions) - before
        session = self.engine.sessions[id]
        await until(lambda: not session.connections or session.connections[0]._parked)
        return Client(far)

    @property
    def sessions(self) -> list[Session]:
        return list(self.engine.sessions.values())

    @property
    def session(self) -> Session:
        (session,) = self.sessions
        return session

    async def offered(self) -> list[int]:
        """Offer all sessions; return the wire ids."""
        first = self.machine.next_session
        for session in self.sessions:
            self.moving.gate.want(session)
        return await self.offered_again(first)

    async def offered_again(self, first: int) -> list[int]:
        """Offer what is wanted once it has come to its boundary; return the wire ids from ``first``."""
        await until(lambda: self.moving.gate.has_ready and not self.moving.gate.late)
        self.moving.offer(self.moving.gate.batch(BATCH))
        return list(range(first, self.machine.next_session))

    def fill_the_channel(self) -> None:
        """The new process reads nothing: packets wait for the kernel."""
        while not self.channel.queued:
            self.channel.send(m.Commit([]))

    # -- the new process -----------------------------------------------------------------------------

    def heard(self) -> list[m.AnyMessage]:
        """What has come to the new process; the descriptors that came with it are closed."""
        found = []
        for message, descriptors in self.received():
            close_all(descriptors)
            found.append(message)
        return found

    def received(self) -> list[tuple[m.AnyMessage, list[int]]]:
        """What has come to the new process, with the descriptors, which the caller owns."""
        found: list[tuple[m.AnyMessage, list[int]]] = []
        while True:
            try:
                raw = _core.receive_message(self._theirs)
            except BlockingIOError:
                return found
            if raw.pidfd >= 0:
                os.close(raw.pidfd)
            found.append((m.decode(raw.data), raw.descriptors))

    def say(self, message: m.Message) -> None:
        """Say something as the new process."""
        _core.send_message(self._theirs, m.encode(message))

    def die(self) -> None:
        """The new process is dead, and what it has not read with it."""
        if self._theirs >= 0:
            os.close(self._theirs)
            self._theirs = -1


@asynccontextmanager
async def rig(handler: Handler, **options: Any) -> AsyncIterator[Rig]:
    """Make a rig, and end it; an exception that nobody has seen fails the test.

    Args:
        handler: serves the connections.
        options: those of :class:`Rig`.
    """
    unseen: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unseen.append(context))
    with ExitStack() as stack:
        made = Rig(handler, stack, **options)
        try:
            yield made
        finally:
            made.engine.mover = None
            made.moving.close()
            made.channel.close()
            made.die()
            stack.close()
            await made.engine.stop()
            await turns(MANY_TURNS)
    gc.collect()  # a task's exception is told when the task is forgotten
    assert not unseen


async def joined(made: Rig, key: str, count: int) -> list[Client]:
    """Connect clients and put them into a room, with a handler that answers ``join KEY`` by ``in`` and their number."""
    clients = [await made.client() for _ in range(count)]
    for number, client in enumerate(clients, 1):
        client.say(b"join %s\n" % key.encode())
        await client.hears(b"in %d\n" % number)
    await until(lambda: all(session.obstacle() is None for session in made.sessions))
    return clients


def room_of(made: Rig, key: str) -> Session:
    """Return the one session with a key."""
    (room,) = [session for session in made.sessions if session.key == key]
    return room
