"""Shared sessions at their edges: what is over, what is woken in the midst, what is named oddly, and what is large."""

from __future__ import annotations

import asyncio
import os
import sys
import types
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hotfd import _core
from hotfd.server import gate, remainder
from hotfd.server.background import Background
from hotfd.server.kinds import Kinds
from hotfd.server.link import Link
from hotfd.server.remainder import Follow
from hotfd.transfer.channel import Channel
from hotfd.transfer.process import ProcessWatch
from hotfd.wire import messages as m
from tests.unit.server_rig import MANY_TURNS, joined, rig, room_of, until
from tests.unit.wire_support import LIMIT, on_each_loop, turns

if TYPE_CHECKING:
    import pytest

    from hotfd.server.connection import Connection
    from hotfd.server.gate import Gate
    from hotfd.server.moving import Moving


@dataclass
class Room:
    """What the members of a room share."""

    said: list[bytes] = field(default_factory=list)


class Key(str):
    """A text of the program's own type."""

    __slots__ = ()


async def member(conn: Connection[Any]) -> None:
    """Obey: join a room, leave it, work until told, say who is there."""
    async for line in conn:
        verb, _, rest = line.partition(b" ")
        match verb:
            case b"join":
                room = await conn.join(rest.decode(), state=Room)
                await conn.send(b"in %d" % len(room.connections))
            case b"work":
                work = asyncio.Event()
                WORK.append(work)
                await conn.send(b"working")
                await work.wait()
                if rest == b"leave":
                    await conn.leave()
                await conn.send(b"done")
            case b"who":
                await conn.send(b"%s %d" % ((conn.session.key or "-").encode(), len(conn.session.connections)))


WORK: list[asyncio.Event] = []
"""What the handlers work at, the latest last; setting it ends the work."""


# ---------------------------------------------------------------- what is over


@on_each_loop
async def test_a_connection_by_itself_tells_its_end_to_who_asked_its_session() -> None:
    over: list[bool] = []

    async def talk(conn: Connection[Any]) -> None:
        conn.session.on_end(lambda: over.append(True))
        await conn.receive()

    async with rig(talk) as made:
        client = await made.client()
        client.reset()
        await until(lambda: not made.sessions)
        assert over == [True]


@on_each_loop
async def test_what_each_member_registers_for_the_end_of_a_room_is_called_once() -> None:
    over: list[bool] = []

    def note() -> None:
        over.append(True)

    async def talk(conn: Connection[Any]) -> None:
        room = await conn.join("a")
        room.on_end(note)
        await conn.receive()

    async with rig(talk) as made:
        for client in [await made.client() for _ in range(3)]:
            client.reset()
        await until(lambda: not made.sessions)
        assert over == [True]


@on_each_loop
async def test_a_callback_that_looks_at_a_cancelled_task_holds_up_no_end() -> None:
    async def talk(conn: Connection[Any]) -> None:
        room = await conn.join("a")
        cancelled = asyncio.get_running_loop().create_future()
        cancelled.cancel()
        conn.on_end(cancelled.result)
        room.on_end(cancelled.result)
        await conn.receive()

    async with rig(talk) as made:
        client = await made.client()
        client.sock.close()
        await until(lambda: not made.sessions and not made.engine._closing)
        assert len(made.engine.rooms) == 0


@on_each_loop
async def test_leaving_a_room_after_the_end_of_the_connection_changes_nothing() -> None:
    async with rig(member) as made:
        one, two = await joined(made, "a", 2)
        room = room_of(made, "a")
        gone = room.connections[0]
        one.reset()
        await until(lambda: len(room.connections) == 1)
        await gone.leave()
        assert made.sessions == [room]
        two.say(b"who\n")
        await two.hears(b"a 1\n")


@on_each_loop
async def test_a_client_that_is_lost_before_its_handler_started_is_not_kept_until_its_room_comes() -> None:
    async with rig(member) as made:
        client = await made.client()
        made.session.connections[0]._joining = ("a", "")
        made.engine.rooms.directory._silent.add(object())  # type: ignore[arg-type]  # somebody may hold it
        renewed = made.engine.renew(made.session)
        await turns(MANY_TURNS)
        assert renewed.connections[0]._task is None, "it waits for its room"
        client.reset()
        await until(lambda: not made.sessions)


@on_each_loop
async def test_who_is_closed_while_it_waits_for_a_room_and_is_to_move_ends_at_once() -> None:
    async with rig(member) as made:
        client = await made.client()
        made.engine.rooms.directory._silent.add(object())  # type: ignore[arg-type]  # somebody may hold it
        (connection,) = made.session.connections
        client.say(b"join a\n")
        await until(lambda: connection._joining is not None and connection._parked)
        connection._gate(True)
        connection._wake()
        await turns(MANY_TURNS)
        connection.close()
        await client.hears_the_end()
        await until(lambda: not made.sessions)


@on_each_loop
async def test_a_wish_that_has_moved_is_kept_in_mind_no_more() -> None:
    async with rig(member) as made:
        await made.client()
        made.session.connections[0]._joining = ("a", "")
        made.engine.rooms.directory._silent.add(object())  # type: ignore[arg-type]  # somebody may hold it
        made.engine.renew(made.session)
        await until(lambda: "a" in made.engine.rooms._waiting)
        (id,) = await made.offered()
        made.say(m.Accept([id]))
        await until(lambda: made.moving.committed == 1)
        assert not made.engine.rooms._waiting


# ---------------------------------------------------------------- wishes and take-backs


@on_each_loop
async def test_a_wish_survives_that_its_handler_has_unwound_for_nothing() -> None:
    async with rig(member) as made:
        await joined(made, "a", 1)
        late = await made.client()
        room = room_of(made, "a")
        made.moving.gate.want(room)
        (id,) = await made.offered_again(made.machine.next_session)
        late.say(b"join a\n")
        waiting = next(session for session in made.sessions if session.key is None)
        await until(lambda: waiting.connections[0]._joining is not None and waiting.obstacle() is None)
        made.moving.gate.want(waiting)
        (other,) = await made.offered_again(made.machine.next_session)
        task = waiting.connections[0]._task
        assert task is not None

        def die() -> None:
            if task.done() and other in made.moving._items:  # before the commit, or it does not count
                made.die()
                made.moving.resume_uncommitted()

        made.on_change = die
        made.moving.accepted(made.machine.receive(m.Accept([other])))
        await until(task.done)
        assert id not in made.moving._items
        assert made.moving.committed == 0
        await turns(MANY_TURNS)
        late.say(b"who\n")
        await late.hears(b"a 2\n")


@on_each_loop
async def test_the_others_of_a_room_get_their_helpers_back_when_one_is_closed_while_it_is_offered() -> None:
    done = asyncio.Event()

    async def talk(conn: Connection[Any]) -> None:
        await conn.join("a")
        await conn.wait(done.wait())
        await conn.send(b"done")
        await conn.receive()

    async with rig(talk) as made:
        one, two = await made.client(), await made.client()
        room = room_of(made, "a")
        await made.offered()
        first = next(c for c in room.connections if c.peername[1] == one.sock.getsockname()[1])
        first.close()
        made.die()
        made.moving.resume_uncommitted()
        await one.hears_the_end()
        await turns(MANY_TURNS)
        done.set()
        await two.hears(b"done\n")


@on_each_loop
async def test_who_is_closed_while_everything_is_offered_together_is_not_given_away() -> None:
    async with rig(member, hold=True) as made:
        client = await made.client()
        (id,) = await made.offered()
        (connection,) = made.session.connections
        connection.close()
        made.moving.accepted(made.machine.receive(m.Accept([id])))
        assert made.moving.all_accepted
        assert not made.moving.unwind_all()
        task = made.moving.revoke_all()
        assert task is not None
        await task
        await client.hears_the_end()
        await until(lambda: not made.sessions)


# ---------------------------------------------------------------- the gate


@on_each_loop
async def test_who_joins_a_room_of_one_that_is_held_is_held_for_a_moment_only() -> None:
    async with rig(member) as made:
        (one,) = await joined(made, "a", 1)
        two = await made.client()
        one.say(b"work\n")
        await one.hears(b"working\n")
        made.moving.gate.want(room_of(made, "a"))
        two.say(b"join a\nwho\n")
        await two.hears(b"in 2\na 2\n")
        WORK.pop().set()
        await one.hears(b"done\n")


@on_each_loop
async def test_a_session_that_appears_while_all_are_brought_to_rest_belongs_to_all() -> None:
    async with rig(member, hold=True) as made:
        one, _ = await joined(made, "a", 2)
        gate: Gate = made.moving.gate
        one.say(b"work leave\n")
        await one.hears(b"working\n")
        for session in made.sessions:
            gate.want(session, together=True)
        WORK.pop().set()
        await one.hears(b"done\n")
        await until(lambda: not gate.late)
        assert len(made.sessions) == 2
        assert gate.take_all_ready() is None, "one of them is not at rest"


@on_each_loop
async def test_the_helpers_of_a_room_are_cancelled_once() -> None:
    ended: list[str] = []
    tidy = asyncio.Event()

    async def help_long() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await tidy.wait()
            ended.append("in order")

    async def talk(conn: Connection[Any]) -> None:
        await conn.join("a")
        conn.spawn(asyncio.Event().wait() if len(conn.session.connections) > 1 else help_long())
        await conn.receive()

    async with rig(talk) as made:
        await made.client()
        await made.client()
        made.moving.gate.want(room_of(made, "a"))
        await turns(MANY_TURNS)
        tidy.set()
        await until(lambda: made.moving.gate.has_ready)
        assert ended == ["in order"]


@on_each_loop
async def test_a_large_room_comes_to_rest_with_a_few_looks_at_each_member(monkeypatch: pytest.MonkeyPatch) -> None:
    rested, looks = asyncio.Event(), 0

    async def talk(conn: Connection[Any]) -> None:
        await conn.join("a")
        queue: asyncio.Queue[bytes] = asyncio.Queue()
        async for _ in conn.merge(queue):  # whose helper ends in a turn of its own
            await conn.send(b"working")
            await rested.wait()

    def count(what: type, name: str) -> None:
        """Count the looks that a method or a property of the members takes."""
        found = vars(what)[name]
        look = found.fget if isinstance(found, property) else found

        def counted(self: Any) -> Any:
            nonlocal looks
            looks += 1
            return look(self)

        monkeypatch.setattr(what, name, property(counted) if isinstance(found, property) else counted)

    monkeypatch.setattr(gate, "GATE_LIMIT", LIMIT)  # the work of one try is counted, however long it takes
    async with rig(talk) as made:
        clients = [await made.client() for _ in range(100)]
        for client in clients:
            client.say(b"x\n")
            await client.hears(b"working\n")
        room = room_of(made, "a")
        count(type(room.connections[0]), "_obstacle")
        count(type(room.connections[0]._helpers), "ending")
        made.moving.gate.want(room)
        rested.set()  # one after another
        await until(lambda: made.moving.gate.has_ready)
        assert looks < 12 * len(clients)


@on_each_loop
async def test_a_session_that_is_renewed_before_it_is_asked_is_asked_as_it_is_then() -> None:
    async with rig(member) as made:
        client = await made.client()
        made.moving.gate.pending.append(made.session)
        renewed = made.engine.renew(made.session)
        made.moving.gate.want(made.moving.gate.pending.popleft())
        await until(lambda: made.moving.gate.has_ready)
        assert made.moving.gate.batch(1) == [renewed]
        made.moving.gate.reopen(renewed)
        client.say(b"who\n")
        await client.hears(b"- 1\n")


# ---------------------------------------------------------------- keys and kinds


@on_each_loop
async def test_a_key_of_a_type_of_the_programs_own_is_the_text_that_it_is() -> None:
    async def talk(conn: Connection[Any]) -> None:
        await conn.join(Key("a"), state=Room)
        conn.session.call_later(60, print, name=Key("bell"))
        await conn.receive()

    async with rig(talk) as made:
        await made.client()
        room = room_of(made, "a")
        assert type(room.key) is str
        (id,) = await made.offered()
        made.say(m.Accept([id]))
        await until(lambda: made.moving.committed == 1)


@on_each_loop
async def test_a_wish_that_names_a_class_where_it_was_finds_the_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "before", sys.modules[__name__])
    async with rig(member) as made:
        await joined(made, "a", 1)
        late = await made.client()
        (alone,) = [session for session in made.sessions if session.key is None]
        alone.connections[0]._joining = ("a", "before:Room")
        made.engine.renew(alone)
        await until(lambda: len(room_of(made, "a").connections) == 2)
        late.say(b"who\n")
        await late.hears(b"a 2\n")


def test_a_class_that_a_new_version_has_moved_to_another_module_is_the_same_kind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    program, models = types.ModuleType("program"), types.ModuleType("models")
    monkeypatch.setitem(sys.modules, "program", program)
    monkeypatch.setitem(sys.modules, "models", models)
    moved = dataclass(type("Hall", (), {"__module__": "models", "__annotations__": {"rounds": int}, "rounds": 0}))
    program.Hall = models.Hall = moved  # type: ignore[attr-defined]
    kinds = Kinds("program")
    old = kinds.codec("program:Hall").schema
    assert kinds.unreadable({"program:Hall": old}) is None
    assert kinds.canonical("program:Hall") == kinds.name(moved)
    assert list(kinds.schemas) == ["models:Hall"], "a third version need not know where it was"


# ---------------------------------------------------------------- what stays behind


@on_each_loop
async def test_a_fault_while_what_stayed_behind_moves_costs_no_session_its_service(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(follow: Follow, moving: Moving) -> None:
        for session in follow.sessions:
            moving.gate.want(session)
        moving.offer(moving.gate.batch(1))
        raise RuntimeError("a fault of its own")

    monkeypatch.setattr(remainder, "move_rolling", broken)
    async with rig(member) as made:
        one, two = await made.client(), await made.client()
        mine, theirs = _core.channel_pair()
        link = Link(Channel(mine, lambda arrival: None, lambda error: None), pid=os.getpid(), generation=2, newer=True)
        follow = Follow(made.engine, link, 1, made.sessions, 1.0)

        async def begin() -> None:
            follow._channel, follow._machine, follow._hello = made.channel, made.machine, HELLO
            follow._watch = ProcessWatch(os.getpid(), os.pidfd_open(os.getpid()), lambda: None)

        monkeypatch.setattr(follow, "_begin", begin)
        assert await follow.run() == 0
        link.channel.close()
        os.close(theirs)
        for client in (one, two):
            client.say(b"who\n")
            await client.hears(b"- 1\n")
        assert "remainder-error" in caplog.text


HELLO = m.Hello(m.PROTOCOL, 1, "1", {}, 1024, 8)


async def test_background_work_that_is_over_is_forgotten() -> None:
    async def work() -> None:
        await asyncio.sleep(0)

    def fails() -> Any:
        raise RuntimeError("it does not begin")

    background = Background()
    background.start()
    for _ in range(10):
        background.add(work)
        background.add(fails)
    await turns(MANY_TURNS)
    assert not background._jobs
    assert background.failed == 10
    await background.close()
