"""Shared sessions in one process: joining, leaving, ending, and what of that happens while they move."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from hotfd import _core
from hotfd.errors import ConnectionClosed, StateError
from hotfd.server.moving import BATCH
from hotfd.server.session import BROADCAST_LIMIT
from hotfd.server.stream import Life
from hotfd.server.takeover import Takeover
from hotfd.wire import messages as m
from tests.unit.server_rig import MANY_TURNS, joined, rig, room_of, until
from tests.unit.wire_support import on_each_loop, turns

if TYPE_CHECKING:
    from hotfd.server.connection import Connection


@dataclass
class Room:
    """What the members of a room share."""

    said: list[bytes] = field(default_factory=list)


@dataclass
class Unfit:
    """A state that cannot travel."""

    work: asyncio.Task[None] | None = None


async def member(conn: Connection[Any]) -> None:
    """Obey: join a room, leave it, say something to everybody, or wait on a frame that never ends."""
    async for line in conn:
        verb, _, rest = line.partition(b" ")
        match verb:
            case b"join":
                room = await conn.join(rest.decode(), state=Room)
                await conn.send(b"in %d" % len(room.connections))
            case b"leave":
                await conn.leave()
                await conn.send(b"out")
            case b"say":
                conn.session.state.said.append(rest)
                await conn.session.broadcast(rest)
            case b"close":
                conn.session.close()
            case b"who":
                key = conn.session.key or "nobody"
                await conn.send(b"%s %d" % (key.encode(), len(conn.session.connections)))
            case b"work":
                work = asyncio.Event()
                WORK.append(work)
                await conn.send(b"working")
                await work.wait()
                await conn.send(b"done")


WORK: list[asyncio.Event] = []
"""What the handlers work at, the latest last; setting it ends the work."""


@on_each_loop
async def test_connections_that_join_a_key_share_one_session_and_its_state() -> None:
    async with rig(member) as made:
        one, two = await joined(made, "a", 2)
        await joined(made, "b", 1)
        assert sorted(session.key or "" for session in made.sessions) == ["a", "b"]
        one.say(b"say hi\n")
        for client in (one, two):
            await client.hears(b"hi\n")
        assert room_of(made, "a").state == Room([b"hi"])
        assert room_of(made, "b").state == Room()


@on_each_loop
async def test_leaving_gives_a_session_of_its_own_and_the_last_one_ends_the_room() -> None:
    async with rig(member) as made:
        one, two = await joined(made, "a", 2)
        over: list[bool] = []
        room_of(made, "a").on_end(lambda: over.append(True))
        one.say(b"leave\nwho\n")
        await one.hears(b"out\nnobody 1\n")
        assert len(room_of(made, "a").connections) == 1
        two.say(b"leave\n")
        await two.hears(b"out\n")
        assert over == [True]
        assert [session.key for session in made.sessions] == [None, None]
        two.say(b"join a\n")
        await two.hears(b"in 1\n")
        assert room_of(made, "a").state == Room(), "a room that is made again begins anew"


@on_each_loop
async def test_joining_another_room_leaves_the_first() -> None:
    async with rig(member) as made:
        one, _ = await joined(made, "a", 2)
        one.say(b"join b\nwho\n")
        await one.hears(b"in 1\nb 1\n")
        assert len(room_of(made, "a").connections) == 1


@on_each_loop
async def test_a_member_that_ends_is_out_of_the_room() -> None:
    async with rig(member) as made:
        one, two = await joined(made, "a", 2)
        one.reset()
        await until(lambda: len(room_of(made, "a").connections) == 1)
        two.say(b"close\n")
        await two.hears_the_end()
        await until(lambda: not made.sessions)


@on_each_loop
async def test_a_broadcast_waits_for_nobody_and_resets_who_does_not_read() -> None:
    async with rig(member) as made:
        one, two = await joined(made, "a", 2)
        room = room_of(made, "a")
        slow = next(conn for conn in room.connections if conn.peername[1] == two.sock.getsockname()[1])
        loop = asyncio.get_running_loop()
        piece = b"x" * 65535
        for _ in range(2 * BROADCAST_LIMIT // len(piece) + 100):
            await room.broadcast(piece)
            got = 0
            while got <= len(piece):
                got += len(await loop.sock_recv(one.sock, len(piece) + 1 - got))
            if slow._stream.life is Life.CLOSED:
                break
        await until(lambda: slow not in room.connections)
        assert len(room.connections) == 1


@on_each_loop
async def test_what_join_cannot_take_is_an_error_and_changes_nothing() -> None:
    found: list[BaseException] = []

    async def talk(conn: Connection[Any]) -> None:
        for key, state in (("", None), ("k" * 256, None), ("\ud800", None), ("k", Unfit)):
            try:
                await conn.join(key, state=state)
            except (ValueError, StateError) as error:
                found.append(error)
        await conn.join("k", state=Room)
        await conn.leave()
        other = asyncio.create_task(conn.join("z"))
        with pytest.raises(RuntimeError, match="own handler"):
            await other
        await conn.send(b"ok")
        await conn.receive()

    async with rig(talk) as made:
        client = await made.client()
        await client.hears(b"ok\n")
        assert [type(error) for error in found] == [ValueError, ValueError, ValueError, StateError]
        assert made.session.key is None


@on_each_loop
async def test_a_room_keeps_one_kind_of_state() -> None:
    async def talk(conn: Connection[Any]) -> None:
        async for line in conn:
            try:
                room = await conn.join("a", state={b"room": Room, b"dict": dict, b"any": None}[line])
                await conn.send(type(room.state).__name__.encode())
            except ValueError as error:
                await conn.send(b"refused" if "kind" in str(error) else b"?")
            await conn.leave()
            if line == b"room":
                await conn.join("a", state=Room)

    async with rig(talk) as made:
        first, second = await made.client(), await made.client()
        first.say(b"room\n")
        await first.hears(b"Room\n")
        for line, answer in ((b"dict", b"refused"), (b"any", b"Room"), (b"room", b"Room")):
            second.say(line + b"\n")
            await second.hears(answer + b"\n")


# ---------------------------------------------------------------- while it moves


@on_each_loop
async def test_a_room_moves_in_one_offer_when_all_its_members_stand_at_a_boundary() -> None:
    async with rig(member) as made:
        await joined(made, "a", 3)
        (id,) = await made.offered()
        made.say(m.Accept([id]))
        await until(lambda: made.moving.committed == 1)
        assert made.moving.tally.connections["moved"] == 3
        assert not made.sessions


@on_each_loop
async def test_a_busy_room_is_held_for_a_moment_only_and_is_asked_again() -> None:
    async with rig(member) as made:
        one, two = await joined(made, "a", 2)
        one.say(b"work\n")
        await one.hears(b"working\n")
        made.moving.gate.want(room_of(made, "a"))
        two.say(b"who\n")
        await two.hears(b"a 2\n")  # the gate has opened for it again
        assert not made.moving.gate.has_ready
        assert made.moving.gate.waiting == 1
        WORK.pop().set()
        await one.hears(b"done\n")
        await until(lambda: made.moving.gate.has_ready)


@on_each_loop
async def test_a_laggard_room_names_its_obstacle_and_goes_on() -> None:
    async with rig(member) as made:
        one, two = await joined(made, "a", 2)
        one.say(b"work\n")
        await one.hears(b"working\n")
        made.moving.gate.want(room_of(made, "a"))
        ((room, (code, _)),) = made.moving.gate.give_up_waiting()
        assert (room.key, code) == ("a", "no-boundary")
        two.say(b"who\n")
        await two.hears(b"a 2\n")
        assert made.moving.gate.waiting == 0
        WORK.pop().set()


@on_each_loop
async def test_who_joins_a_room_that_is_offered_waits_and_is_in_when_it_comes_back() -> None:
    async with rig(member) as made:
        await joined(made, "a", 2)
        late = await made.client()
        room = room_of(made, "a")
        made.moving.gate.want(room)
        (id,) = await made.offered_again(made.machine.next_session)
        late.say(b"join a\n")
        await turns(MANY_TURNS)
        assert late.hears_nothing()
        made.say(m.Refuse([m.Refusal(id, "state-decode", "no")]))
        await late.hears(b"in 3\n")


@on_each_loop
async def test_who_waits_for_a_room_moves_with_its_wish() -> None:
    async with rig(member) as made:
        await joined(made, "a", 1)
        late = await made.client()
        made.moving.gate.want(room_of(made, "a"))
        (id,) = await made.offered_again(made.machine.next_session)
        late.say(b"join a\n")
        waiting = next(session for session in made.sessions if session.key is None)
        await until(lambda: waiting.connections[0]._joining is not None and waiting.obstacle() is None)
        made.moving.gate.want(waiting)
        (other,) = await made.offered_again(made.machine.next_session)
        (bundle,) = [item.bundle for item in made.moving._items.values() if item.wire_id == other]
        assert bundle.connections[0].joining is not None
        assert bundle.connections[0].joining[0] == "a"
        made.say(m.Accept([id, other]))
        await until(lambda: made.moving.committed == 2)


@on_each_loop
async def test_a_member_that_ends_while_the_room_is_held_lets_the_others_move() -> None:
    async with rig(member) as made:
        one, _ = await joined(made, "a", 2)
        room = room_of(made, "a")
        one.say(b"work\n")
        await one.hears(b"working\n")
        made.moving.gate.want(room)
        one.reset()
        busy = next(conn for conn in room.connections if not conn._parked)
        assert busy._task is not None
        busy._task.cancel()
        await until(lambda: made.moving.gate.has_ready)
        assert len(room.connections) == 1


@on_each_loop
async def test_a_room_that_ends_while_it_is_held_is_waited_for_no_more() -> None:
    async with rig(member) as made:
        one, two = await joined(made, "a", 2)
        one.say(b"work\n")
        await one.hears(b"working\n")
        made.moving.gate.want(room_of(made, "a"))
        made.engine.end(room_of(made, "a"))
        for client in (one, two):
            await client.hears_the_end()
        await until(lambda: made.moving.gate.waiting == 0)


@on_each_loop
async def test_a_member_that_leaves_during_a_handoff_is_to_move_by_itself() -> None:
    async with rig(member) as made:
        one, _ = await joined(made, "a", 2)
        one.say(b"leave\n")
        await one.hears(b"out\n")
        (session,) = made.moving.gate.pending
        assert session.key is None
        assert len(session.connections) == 1


@on_each_loop
async def test_a_connection_that_is_lost_while_it_waits_for_a_room_learns_it() -> None:
    found: list[str] = []

    async def talk(conn: Connection[Any]) -> None:
        await conn.receive()
        try:
            await conn.join("a")
        except ConnectionClosed:
            found.append("lost")

    async with rig(talk) as made:
        made.engine.rooms.directory._silent.add(object())  # type: ignore[arg-type]  # somebody may hold it
        client = await made.client()
        client.say(b"x\n")
        await until(lambda: made.session.connections[0]._joining is not None)
        client.reset()
        await until(lambda: found)


@on_each_loop
async def test_a_kind_of_state_that_comes_up_during_a_handoff_is_announced_before_its_first_offer() -> None:
    async with rig(member) as made:
        await joined(made, "a", 1)
        await made.offered()
        heard = [message for message in made.heard() if isinstance(message, m.Kinds | m.OfferPart)]
        assert [type(message) for message in heard] == [m.Kinds, m.OfferPart]
        (message, _) = heard
        assert isinstance(message, m.Kinds)
        assert list(message.kinds) == [f"{__name__}:Room"]
        await joined(made, "b", 1)
        made.moving.gate.want(room_of(made, "b"))
        await made.offered_again(made.machine.next_session)
        assert not any(isinstance(message, m.Kinds) for message in made.heard()), "once is enough"


@on_each_loop
async def test_a_session_that_is_wanted_twice_is_offered_once() -> None:
    async with rig(member) as made:
        await made.client()
        made.moving.gate.want(made.session)
        assert made.moving.gate.has_ready
        made.moving.gate.want(made.session)
        assert len(made.moving.gate.batch(BATCH)) == 1
        assert not made.moving.gate.has_ready
        made.moving.gate.reopen_each(made.sessions)


@on_each_loop
async def test_a_connection_that_arrives_with_a_wish_while_it_is_asked_to_move_on_gets_one_handler() -> None:
    started: list[str] = []

    async def talk(conn: Connection[Any]) -> None:
        started.append(conn.session.key or "-")
        async for line in conn:
            await conn.send(line)

    async with rig(talk) as made:
        client = await made.client()
        session = made.session
        session.connections[0]._joining = ("a", "")  # it waits for a session, which comes to be possible
        renewed = made.engine.renew(session)
        (connection,) = renewed.connections
        assert connection._task is None, "its slice has not come"
        renewed.gate(True)
        made.engine.start_handler(connection)
        await turns(MANY_TURNS)
        client.say(b"x\n")
        await client.hears(b"x\n")
        assert started == ["-", "a"]
        assert [session.key for session in made.sessions] == ["a"]


@on_each_loop
async def test_a_handover_that_ends_leaves_what_another_one_notes_alone() -> None:
    async with rig(member) as made:
        clients = [await made.client() for _ in range(2)]
        one, other = (session.connections[0] for session in made.sessions)
        for connection in (one, other):
            connection._expect_touch(lambda: None)
        mine, theirs = _core.channel_pair()
        takeover = Takeover.of_remainder(mine, made.engine, 1)
        takeover._taken.append(one)
        takeover._unhook()
        assert one._on_touch is None
        assert other._on_touch is not None, "its own process may still die before it has settled"
        takeover.close()
        os.close(theirs)
        assert all(client.hears_nothing() for client in clients)
