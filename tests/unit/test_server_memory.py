"""What an idle connection takes of memory: less than one of asyncio's streams, and no more for having been handed over."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import sys
import tracemalloc
from collections import Counter
from contextlib import ExitStack, contextmanager
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

from hotfd.framing import Lines
from hotfd.server.engine import Engine
from hotfd.server.snapshot import Readers, Writers, capture, decode_states, restore
from hotfd.state import Codec
from hotfd.transfer.offer import Bundle
from hotfd.wire.records import Part, decode_part, encode_part
from tests.unit.server_rig import until
from tests.unit.wire_support import tcp_pair

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hotfd.server.connection import Connection
    from hotfd.server.session import Session

FEW, MANY = 20, 200
"""Connections that are there before anything is counted, and those that are counted: what is made once for all counts little."""


async def answer(conn: Connection[Any]) -> None:
    async for line in conn:
        await conn.send(line)


async def answer_on_streams(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while line := await reader.readline():
        writer.write(line)
        await writer.drain()
    writer.close()


@contextmanager
def counting() -> Iterator[None]:
    """Have :func:`held` count."""
    tracemalloc.start()
    try:
        yield
    finally:
        tracemalloc.stop()


def held() -> int:
    """Return the bytes that Python objects take, those made since :func:`counting` began."""
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


def own_objects(engine: Engine) -> Counter[str]:
    """Return the bytes of what can be reached from one session of an engine and not from another, by types."""
    first, second = (reachable(session, engine) for session in list(engine.sessions.values())[:2])
    found: Counter[str] = Counter()
    for id in first.keys() - second.keys():
        found[type(first[id]).__name__] += sys.getsizeof(first[id])
    return found


def reachable(session: Session, engine: Engine) -> dict[int, object]:
    """Return all objects that a session leads to, by their addresses; what belongs to all sessions is not entered."""
    found: dict[int, object] = {}
    left: list[object] = [session]
    shared = {id(engine), id(engine.sessions), id(engine.poller), id(asyncio.get_running_loop())}
    while left:
        each = left.pop()
        if id(each) not in found and id(each) not in shared and not isinstance(each, type | ModuleType | FunctionType):
            found[id(each)] = each
            left += gc.get_referents(each)
    return found


def near_ends(stack: ExitStack) -> list[socket.socket]:
    """Return the server's ends of as many connections as are needed; the clients' ends are closed with the stack."""
    return [stack.enter_context(tcp_pair())[1] for _ in range(FEW + MANY)]


async def served(engine: Engine, ends: list[socket.socket]) -> None:
    """Have connections served until all of them are idle."""
    for end in ends:
        engine.welcome_descriptor("here", end.detach())
    await all_idle(engine)


async def all_idle(engine: Engine) -> None:
    await until(lambda: all(at_rest(session) for session in engine.sessions.values()))


def at_rest(session: Session) -> bool:
    return all(connection._parked for connection in session.connections)


def moved(session: Session, old: Engine, new: Engine) -> None:
    """Hand a session from one engine to another, by its records."""
    session.gate(True)
    session.fence()
    bundle = capture(session, 1, Writers.of(old))
    part = decode_part(encode_part(Part([bundle.record], bundle.connections, None)))
    arrived = Bundle(part.sessions[0], part.connections, [os.dup(fd) for fd in bundle.descriptors])
    new.adopt([restore(arrived, decode_states(arrived, Readers.of(new)), new.framing, new)])
    for connection in list(session.connections):
        old._let_go(connection)


def test_an_idle_connection_takes_less_than_one_of_asyncios_streams() -> None:
    async def ours() -> float:
        with ExitStack() as stack:
            engine, ends = Engine(answer, Lines(), Codec.of(None)), near_ends(stack)
            with counting():
                await served(engine, ends[:FEW])
                before = held()
                await served(engine, ends[FEW:])
                each = (held() - before) / MANY
            stack.close()
            await engine.stop()
        return each

    async def theirs() -> float:
        loop = asyncio.get_running_loop()

        async def serve(ends: list[socket.socket]) -> None:
            for end in ends:
                reader = asyncio.StreamReader()
                await loop.connect_accepted_socket(
                    lambda reader=reader: asyncio.StreamReaderProtocol(reader, answer_on_streams),  # type: ignore[misc]
                    socket.socket(fileno=end.detach()),
                )
            await asyncio.sleep(0)  # the handlers run, and wait

        with ExitStack() as stack:
            ends = near_ends(stack)
            with counting():
                await serve(ends[:FEW])
                before = held()
                await serve(ends[FEW:])
                each = (held() - before) / MANY
            stack.close()
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            await asyncio.wait(tasks)
        return each

    one, other = asyncio.run(ours(), debug=False), asyncio.run(theirs(), debug=False)
    assert one < 0.9 * other, f"{one:.0f} bytes for each connection, and {other:.0f} with streams"


def test_a_connection_that_was_handed_over_takes_no_more_than_a_fresh_one() -> None:
    async def main() -> tuple[Counter[str], Counter[str]]:
        with ExitStack() as stack:
            old, new = (Engine(answer, Lines(), Codec.of(None)) for _ in range(2))
            await served(old, near_ends(stack)[:FEW])
            fresh = own_objects(old)
            for session in list(old.sessions.values()):
                moved(session, old, new)
            await all_idle(new)
            for session in new.sessions.values():
                session.connections[0]._unhook()  # as when the handoff is settled
            resumed = own_objects(new)
            assert len(new.sessions) == FEW
            stack.close()
            await new.stop()
            await old.stop()
        return fresh, resumed

    fresh, resumed = asyncio.run(main(), debug=False)  # with it, what is made remembers where that was
    assert fresh["Connection"] > 0
    assert fresh["coroutine"] > 0
    assert fresh.total() > 1000
    assert not resumed - fresh, f"{resumed - fresh} more than {fresh}"
