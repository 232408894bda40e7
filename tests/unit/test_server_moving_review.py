"""Sessions on their way: what most have none of, and what only the last or the second of several shows."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from hotfd.errors import ConnectionMoved
from hotfd.wire import messages as m
from tests.unit.server_rig import MANY_TURNS, joined, rig, room_of, until
from tests.unit.wire_support import nothing_stays_open, on_each_loop, turns

if TYPE_CHECKING:
    from hotfd.server.connection import Connection

__all__ = ["nothing_stays_open"]

pytestmark = pytest.mark.usefixtures("nothing_stays_open")


async def talk(conn: Connection[Any]) -> None:
    async for line in conn:
        word, _, key = line.decode().partition(" ")
        if word == "join":
            await conn.join(key)
            await conn.send(b"in %d" % len(conn.session.connections))


@on_each_loop
async def test_who_waits_to_send_while_a_connection_is_offered_is_told_that_it_has_moved() -> None:
    async with rig(talk) as made:
        await made.client()
        (conn,) = made.session.connections
        ids = await made.offered()
        sending = [asyncio.ensure_future(conn.send(b"late")) for _ in range(2)]
        await turns(MANY_TURNS)
        assert not any(task.done() for task in sending)
        made.say(m.Accept(ids))
        await until(lambda: all(task.done() for task in sending))
        for task in sending:
            assert isinstance(task.exception(), ConnectionMoved)


@on_each_loop
async def test_an_engine_is_idle_when_the_last_of_its_sessions_has_moved_and_not_before() -> None:
    async with rig(talk) as made:
        for _ in range(2):
            await made.client()
        waiting = asyncio.ensure_future(made.engine.idle())
        first, last = await made.offered()
        made.say(m.Accept([first]))
        await until(lambda: made.moving.committed == 1)
        await turns(MANY_TURNS)
        assert not waiting.done()
        made.say(m.Accept([last]))
        await until(waiting.done)
        assert not made.engine.sessions


@on_each_loop
async def test_what_any_member_of_a_session_does_while_it_is_offered_is_noticed() -> None:
    async with rig(talk) as made:
        await joined(made, "room", 3)
        room = room_of(made, "room")
        (id,) = await made.offered()
        item = made.moving._items[id]
        for member in room.connections:
            assert not item.outdated
            member._parked = False
            assert item.outdated
            member._parked = True
            member._act_later = member.close
            assert item.outdated
            member._act_later = None
        assert not item.outdated
        made.moving.revoke_all()
