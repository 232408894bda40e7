"""The harness with shared sessions: rooms are handed over whole, whoever comes and goes; mistakes are found and explained."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from dataclasses import dataclass, field
from typing import Any

import pytest

import hotfd
from hotfd import testing
from hotfd.testing import mover
from tests.unit.wire_support import LIMIT, on_each_loop


@dataclass
class Member:
    """What a connection keeps."""

    name: str = ""
    wish: str = ""  # the room that a join is on its way to, which may take the connection along


@dataclass
class Room:
    """What the members of a room share."""

    said: int = 0
    names: list[str] = field(default_factory=list)


async def chat(conn: hotfd.Connection[Member]) -> None:
    """A chat server that does it right."""
    if conn.state.wish:
        await enter(conn)
    async for line in conn:
        verb, _, rest = line.partition(b" ")
        match verb:
            case b"join":
                conn.state.wish, _, conn.state.name = rest.decode().partition(" ")
                await enter(conn)
            case b"leave":
                await conn.session.broadcast(b"-%s" % conn.state.name.encode())
                await conn.leave()
            case b"say":
                conn.session.state.said += 1
                told = b"%d %s: %s" % (conn.session.state.said, conn.state.name.encode(), rest)
                await conn.session.broadcast(told)
            case b"who":
                await conn.send(" ".join(conn.session.state.names).encode() if conn.session.shared else b"alone")


async def enter(conn: hotfd.Connection[Member]) -> None:
    """Join the room that the member wishes to join, and say so; begun again by the next handler where joining has moved it."""
    room = await conn.join(conn.state.wish, state=Room)
    conn.state.wish = ""
    room.state.names.append(conn.state.name)
    await room.broadcast(b"+%s %d" % (conn.state.name.encode(), len(room.connections)))


@pytest.fixture(autouse=True)
def nothing_is_left_open():
    before = sorted(os.listdir("/proc/self/fd"))
    yield
    assert sorted(os.listdir("/proc/self/fd")) == before


async def each_gets(clients: list[testing.Client], payload: bytes) -> None:
    for client in clients:
        await client.expect(payload)


async def joined(server: testing.Harness, key: str, names: str) -> list[testing.Client]:
    """Connect clients and have them join, one for each letter."""
    clients: list[testing.Client] = []
    for name in names:
        clients.append(await server.connect())
        await clients[-1].send(f"join {key} {name}".encode())
        await each_gets(clients, b"+%s %d" % (name.encode(), len(clients)))
    return clients


async def failure(handler: Any, scenario: Any, **options: Any) -> str:
    """See a scenario pass when nothing is handed over; return why it fails when everything is."""
    async with testing.serve(handler, handoffs="never", **options) as server:
        await scenario(server)
    with pytest.raises(AssertionError) as caught:
        async with testing.serve(handler, timeout=1.0, **options) as server:
            await scenario(server)
    return str(caught.value)


def unit_of(server: testing.Harness, name: str) -> Any:
    """Return the last unit of a name, and what has become of it."""
    return [unit for unit in server._mover.units if unit.name == name][-1]


# ---------------------------------------------------------------- what is handed over, and when


@pytest.mark.parametrize("handoffs", ["never", "every", 2, 3])
@on_each_loop
async def test_a_correct_chat_passes_however_often_it_is_handed_over(handoffs):
    async with testing.serve(chat, state=Member, handoffs=handoffs) as server:
        clients = await joined(server, "lobby", "abc")
        for number, client in enumerate(clients, 1):
            await client.send(b"say hi")
            await each_gets(clients, b"%d %s: hi" % (number, b"abc"[number - 1 : number]))
        a, b, c = clients
        await b.send(b"leave")
        await each_gets(clients, b"-b")
        await b.send(b"who")
        await b.expect(b"alone")
        await b.send(b"join other b")
        await b.expect(b"+b 1")
        await a.send(b"say bye")
        await each_gets([a, c], b"4 a: bye")
        await b.send(b"say new")
        await b.expect(b"1 b: new")
        for client in clients:
            client.write_eof()
            await client.expect_end()


async def test_the_members_of_a_room_are_handed_over_together_after_each_frame_of_any_of_them():
    async with testing.serve(chat, state=Member) as server:
        a, b = await joined(server, "lobby", "ab")
        await server._mover.rest()
        before = [passage.handovers for passage in server._passages]
        await a.write(b"say x\nsay y\n")
        await b.send(b"say z")
        heard = [await a.receive() for _ in range(3)]
        assert [await b.receive() for _ in range(3)] == heard
        assert [line[:1] for line in heard] == [b"1", b"2", b"3"]
        await server._mover.rest()
        after = [passage.handovers for passage in server._passages]
        assert [later - earlier for earlier, later in zip(before, after, strict=True)] == [3, 3]
        assert unit_of(server, "session 'lobby'").handovers == 5, "after each of two joins and three lines"


async def test_a_boundary_of_any_member_takes_the_whole_room_along():
    seen: list[testing.Boundary] = []

    def one_of_the_second(boundary: testing.Boundary) -> bool:
        seen.append(boundary)
        return (boundary.connection, boundary.number) == (2, 2)

    async with testing.serve(chat, state=Member, handoffs=one_of_the_second) as server:
        a, b = await joined(server, "lobby", "ab")
        for number, client in enumerate((a, b, a), 1):
            await client.send(b"say x")
            await each_gets([a, b], b"%d %s: x" % (number, b"a" if client is a else b"b"))
            await server._mover.rest()
        assert server.handovers == 2
    assert [(boundary.connection, boundary.number, boundary.handovers) for boundary in seen] == [
        *((1, 0, 0), (1, 1, 0)),  # before the first frame, and after its join
        *((2, 0, 0), (2, 1, 0)),
        *((1, 2, 0), (2, 2, 0), (1, 3, 1)),
    ]


async def test_who_has_left_a_room_is_handed_over_alone_and_the_room_without_him():
    async with testing.serve(chat, state=Member) as server:
        a, b, c = await joined(server, "lobby", "abc")
        await b.send(b"leave")
        await each_gets([a, b, c], b"-b")
        await server._mover.rest()
        room, alone = unit_of(server, "session 'lobby'"), server._mover.units[-1]
        assert (alone.name, len(room.session.connections)) == ("connection 2", 2)
        before = room.handovers, alone.handovers
        for _ in range(2):
            await b.send(b"who")
            await b.expect(b"alone")
        await a.send(b"who")
        await a.expect(b"a b c")
        await server._mover.rest()
        assert (room.handovers, alone.handovers) == (before[0] + 1, before[1] + 2)


async def test_a_member_that_another_one_sends_out_goes_on_alone():
    async def host(conn: hotfd.Connection[Member]) -> None:
        if conn.state.wish:
            await obey(conn)
        async for line in conn:
            conn.state.wish = line.decode()
            await obey(conn)

    async def obey(conn: hotfd.Connection[Member]) -> None:
        room = await conn.join("party")
        wish, conn.state.wish = conn.state.wish, ""
        if wish == "out":
            for other in list(room.connections):
                if other is not conn:
                    await other.leave()
        await conn.send(b"%d" % len(room.connections))

    async with testing.serve(host, state=Member) as server:
        one, two = await server.connect(), await server.connect()
        for client, said, heard in ((one, b"x", b"1"), (two, b"x", b"2"), (one, b"out", b"1"), (two, b"x", b"2")):
            await client.send(said)
            await client.expect(heard)
        assert server._mover.units[-1].name == "connection 2"


async def test_a_room_ends_with_its_last_member_and_not_with_a_handover():
    over: list[str] = []

    async def guest(conn: hotfd.Connection[None]) -> None:
        room = await conn.join("room", state=Room)
        room.on_end(lambda: over.append("over"))
        async for line in conn:
            room.state.names.append(line.decode())
            await conn.send(b"%d" % len(room.state.names))

    async with testing.serve(guest) as server:
        for _ in range(2):
            client = await server.connect()
            for number in range(1, 4):
                await client.send(b"x")
                await client.expect(b"%d" % number)
            client.write_eof()
            await client.expect_end()
        await server._mover.rest()
        assert over == ["over", "over"], "each room began anew and ended once"


async def test_one_that_waits_for_another_member_does_not_hold_the_room_up():
    came: list[asyncio.Event] = [asyncio.Event()]

    async def pair(conn: hotfd.Connection[None]) -> None:
        await conn.join("pair")
        async for line in conn:
            if line == b"wait":
                await came[-1].wait()
            elif line == b"go":
                came[-1].set()
            await conn.send(line)

    async with testing.serve(pair) as server:
        one, other = await server.connect(), await server.connect()
        for client in (one, other):
            await client.send(b"here")
            await client.expect(b"here")
        await one.send(b"wait")
        await other.send(b"go")
        await one.expect(b"wait")
        await other.expect(b"go")
        await server._mover.rest()
        assert "times not, for no-boundary: its handler works on a frame" in server.summary()
        assert unit_of(server, "session 'pair'").handovers >= 3, "before it and after it"


async def test_who_joins_a_room_that_is_about_to_be_handed_over_goes_along():
    working, done = asyncio.Event(), asyncio.Event()

    async def member(conn: hotfd.Connection[None]) -> None:
        async for line in conn:
            await conn.join("room")
            if line == b"work":
                task = asyncio.create_task(done.wait(), name="work")
                working.set()
                del task
            await conn.send(line)

    async with testing.serve(member) as server:
        one, two = await server.connect(), await server.connect()
        await one.send(b"work")
        await one.expect(b"work")
        await working.wait()
        room = unit_of(server, "session 'room'")
        before = server._passages[1].handovers, room.handovers
        await two.send(b"x")
        await two.expect(b"x")
        done.set()
        await server._mover.rest()
        assert (server._passages[1].handovers, room.handovers) == (before[0] + 1, before[1] + 1)
        assert (server._passages[1].boundaries, server._passages[1].at_work) == (2, False)


async def test_what_others_broadcast_is_no_boundary_of_a_room():
    rooms: list[hotfd.Session] = []

    async def listen(conn: hotfd.Connection[None]) -> None:
        rooms.append(await conn.join("news"))
        async for line in conn:
            await conn.send(line)

    async with testing.serve(listen) as server:
        clients = [await server.connect() for _ in range(2)]
        for client in clients:
            await client.send(b"x")
            await client.expect(b"x")
        await server._mover.rest()
        before = server.handovers
        for _ in range(3):
            await rooms[-1].broadcast(b"push")
            await each_gets(clients, b"push")
        await server._mover.rest()
        assert server.handovers == before
        await clients[0].send(b"y")
        await clients[0].expect(b"y")


# ---------------------------------------------------------------- joining what is on its way


@on_each_loop
async def test_a_join_of_a_room_on_its_way_is_a_boundary_and_the_wish_travels():
    leaving, leave, waiting = asyncio.Event(), asyncio.Event(), asyncio.Event()
    starts: list[tuple[int, bool, str | None]] = []

    async def member(conn: hotfd.Connection[None]) -> None:
        number = next(n for n, passage in enumerate(server._passages, 1) if passage.peername == conn.peername)
        starts.append((number, conn.resumed, conn.session.key))
        try:
            if not conn.resumed and number == 2:
                await leaving.wait()
                waiting.set()
            await conn.join("room")
            async for line in conn:
                await conn.session.broadcast(line)
        finally:
            if conn.handed_off and number == 1 and waits_at_its_end:
                waits_at_its_end.clear()
                leaving.set()
                await leave.wait()

    waits_at_its_end: list[bool] = []
    async with testing.serve(member) as server:
        one = await server.connect()
        await one.send(b"x")
        await one.expect(b"x")
        await server._mover.rest()
        two = await server.connect()
        waits_at_its_end.append(True)
        await one.send(b"y")  # the handover behind it takes until the other one waits to get in
        await one.expect(b"y")
        await waiting.wait()
        await asyncio.sleep(0)
        leave.set()
        await two.send(b"z")
        await each_gets([one, two], b"z")
    assert starts[:1] == [(1, False, None)]
    of_two = [(resumed, key) for number, resumed, key in starts if number == 2]
    assert of_two[:2] == [(False, None), (True, "room")]


@on_each_loop
async def test_a_handler_that_keeps_its_wish_answers_also_when_its_join_has_moved_it():
    held_up, go_on = asyncio.Event(), asyncio.Event()
    slow: list[str] = []

    async def member(conn: hotfd.Connection[Member]) -> None:
        try:
            await chat(conn)
        finally:
            if conn.handed_off and conn.state.name in slow:
                slow.clear()
                held_up.set()
                await go_on.wait()

    async with testing.serve(member, state=Member) as server:
        (one,) = await joined(server, "room", "a")
        two = await server.connect()
        await server._mover.rest()
        slow.append("a")
        await one.send(b"say x")  # the handover behind it takes until the other one waits to get in
        await one.expect(b"1 a: x")
        await held_up.wait()
        await two.send(b"join room b")
        async with asyncio.timeout(LIMIT):
            while not server._engine.rooms._waiting:
                await asyncio.sleep(0)
        before = server._passages[1].handovers
        go_on.set()
        await each_gets([one, two], b"+b 2")
        await two.send(b"who")
        await two.expect(b"a b")
        await server._mover.rest()
        assert server._passages[1].handovers >= before + 2, "to the room, and with it"


@on_each_loop
async def test_a_join_that_waits_while_a_whole_process_moves_finds_its_room():
    asked: list[asyncio.Event] = []
    go_on = asyncio.Event()

    def make() -> testing.Program:
        async def member(conn: hotfd.Connection[None]) -> None:
            room = await conn.join("room", state=Room)
            async for line in conn:
                room.state.said += 1
                await room.broadcast(b"%d %s" % (room.state.said, line))

        async def export() -> dict[str, int]:
            if asked:
                asked.pop().set()
                await go_on.wait()
            return {}

        return testing.Program(member, export_state=export, import_state=lambda _: None)

    async with testing.serve(testing.per_process(make)) as server:
        one = await server.connect()
        await one.send(b"x")
        await one.expect(b"1 x")
        await server._mover.rest()
        moving = asyncio.Event()
        asked.append(moving)
        await one.send(b"y")
        await one.expect(b"2 y")
        await moving.wait()
        two = await server.connect()
        for _ in range(100):  # turns of the loop, in which it is accepted and comes to wait
            await asyncio.sleep(0)
        assert server._engine.rooms._waiting
        go_on.set()
        await two.send(b"z")
        await each_gets([one, two], b"3 z")
        assert len(server._engine.rooms) == 1


# ---------------------------------------------------------------- timers and the bus


@on_each_loop
async def test_timers_of_a_room_and_of_its_members_come_along_when_they_are_set_again():
    async def ring(conn: hotfd.Connection[Member]) -> None:
        room = await conn.join("room")
        never = 3600.0 if conn.state.name else 0.0  # what came along keeps its time
        conn.state.name = "has timers"
        room.call_later(0.15 + never, ring_for_all, room, name="bell")
        conn.call_later(0.1 + never, conn.send, b"own", name="own")
        async for line in conn:
            await conn.send(line)

    async def ring_for_all(room: hotfd.Session) -> None:
        await room.broadcast(b"bell")

    async with testing.serve(ring, state=Member) as server:
        clients = [await server.connect() for _ in range(2)]
        for client in clients:
            await client.write(b"".join(b"%d\n" % n for n in range(5)))
        for client in clients:
            got = sorted([await client.receive() for _ in range(7)])
            assert got == [b"0", b"1", b"2", b"3", b"4", b"bell", b"own"]
        assert unit_of(server, "session 'room'").handovers >= 9


async def test_a_timer_that_is_not_set_again_is_found_and_named():
    async def forgets(conn: hotfd.Connection[None]) -> None:
        if not conn.resumed:
            conn.call_later(0.3, conn.send, b"time is up", name="limit")
        async for line in conn:
            await conn.send(line)

    async def waits(server: testing.Harness) -> None:
        client = await server.connect()
        await client.send(b"x")
        await client.expect(b"x")
        await client.expect(b"time is up")

    said = await failure(forgets, waits)
    assert "got nothing within 1 s (client 1, handed over 2 times; its timer 'limit' is due and was not set" in said


@on_each_loop
async def test_subscriptions_come_along_with_what_waits_in_them():
    async def reader(conn: hotfd.Connection[Member]) -> None:
        await conn.join("readers")
        news = conn.subscribe("news")
        if not conn.state.name:
            conn.state.name = "ready"
            await conn.send(b"ready")
        async for source, value in conn.merge(news):
            if source is news:
                await conn.send(b"news %d" % value)
            else:
                await conn.bus.publish("news", int(value))

    async with testing.serve(reader, state=Member) as server:
        clients = [await server.connect() for _ in range(2)]
        await each_gets(clients, b"ready")
        for number in range(10):
            await server.bus.publish("news", number)
        await clients[0].send(b"10")
        for number in range(11):
            await each_gets(clients, b"news %d" % number)
        await server._mover.rest()
        assert unit_of(server, "session 'readers'").handovers >= 22, "after each message of each"


# ---------------------------------------------------------------- what is found, and what is said


MEMBERS: dict[str, list[hotfd.Connection[Any]]] = {}


@pytest.fixture
def no_members():
    MEMBERS.clear()
    yield
    MEMBERS.clear()


async def test_members_that_are_kept_in_a_module_are_found_and_the_failure_says_so(no_members, caplog):
    caplog.set_level(logging.CRITICAL)

    async def careless(conn: hotfd.Connection[None]) -> None:
        if not conn.resumed:
            MEMBERS.setdefault("lobby", []).append(conn)
            await conn.send(b"%d here" % len(MEMBERS["lobby"]))
        await conn.join("lobby")
        try:
            async for line in conn:
                for member in MEMBERS["lobby"]:
                    await member.send(line)
        finally:
            if not conn.handed_off:
                MEMBERS["lobby"] = [member for member in MEMBERS["lobby"] if member.id != conn.id]

    async def talk(server: testing.Harness) -> None:
        MEMBERS.clear()
        one, two = await server.connect(), await server.connect()
        heard = sorted([await one.receive(), await two.receive()])
        assert heard == [b"1 here", b"2 here"]
        await one.send(b"hi")
        await two.expect(b"hi")

    said = await failure(careless, talk)
    assert "expected b'hi', got nothing within 1 s (client 2, " in said
    assert "the handler of client 1 raised ConnectionMoved: connection " in said
    assert "so it has kept what belongs to the process before; conn.session has the members" in said


async def test_what_a_room_keeps_in_a_local_variable_is_found():
    async def counts(conn: hotfd.Connection[None]) -> None:
        room = await conn.join("room", state=Room)
        said = 0
        async for line in conn:
            said += 1
            await room.broadcast(b"%d %s" % (said, line))

    async def talk(server: testing.Harness) -> None:
        one, two = await server.connect(), await server.connect()
        await two.send(b"b")
        await each_gets([one, two], b"1 b")
        await one.send(b"a")
        await each_gets([one, two], b"1 a")
        await one.send(b"a")
        await each_gets([one, two], b"2 a")

    assert "expected b'2 a', got b'1 a' (client 1, handed over " in await failure(counts, talk)


@dataclass
class Locked:
    """A state that holds what cannot travel."""

    lock: Any = None


async def test_a_rooms_state_that_cannot_travel_is_named():
    async def locks(conn: hotfd.Connection[None]) -> None:
        room = await conn.join("room", state=Locked)
        async for line in conn:
            if line == b"lock":
                room.state.lock = threading.Lock()
            await conn.send(line)

    async def talk(server: testing.Harness) -> None:
        client = await server.connect()
        for line in (b"x", b"lock", b"y"):
            await client.send(line)
            await client.expect(line)

    said = await failure(locks, talk)
    assert said.startswith("state-encode: Locked.lock")


async def test_a_rooms_state_that_a_new_process_would_not_find_is_named_unless_it_is_declared():
    @dataclass
    class Hidden:
        said: int = 0

    async def hides(conn: hotfd.Connection[None]) -> None:
        room = await conn.join("room", state=Hidden)
        async for _ in conn:
            room.state.said += 1
            await conn.send(b"%d" % room.state.said)

    async def talk(server: testing.Harness) -> None:
        client = await server.connect()
        for number in range(1, 3):
            await client.send(b"x")
            await client.expect(b"%d" % number)

    said = await failure(hides, talk)
    assert said.startswith("state-decode: ")
    assert "Hidden" in said
    assert "keep it at module level, or name it in session_states=" in said
    async with testing.serve(hides, session_states=[Hidden]) as server:
        await talk(server)


async def test_a_room_that_never_comes_to_rest_is_reported_by_its_key():
    async def restless(conn: hotfd.Connection[None]) -> None:
        beat: asyncio.Task[None] | None = None
        async for line in conn:
            if line == b"join":
                await conn.join("room")
                beat = beat or asyncio.create_task(asyncio.sleep(3600), name="heartbeat")
            await conn.send(line)
        if beat is not None:
            beat.cancel()

    async def talk(server: testing.Harness) -> None:
        client = await server.connect()
        for line in (b"x", b"join", b"y"):
            await client.send(line)
            await client.expect(line)
        client.write_eof()
        await client.expect_end()

    said = await failure(restless, talk)
    assert said.startswith("handler-tasks: session 'room' could never be handed over: heartbeat; ")


async def test_one_deaf_member_is_reported_as_the_reason_of_its_room(monkeypatch):
    monkeypatch.setattr(mover, "PATIENCE", 0.02)

    async def deaf(conn: hotfd.Connection[None]) -> None:
        async for line in conn:
            await conn.join("room")
            await conn.send(line)
            if line == b"deaf":
                await asyncio.Event().wait()

    async def talk(server: testing.Harness) -> None:
        one, two = await server.connect(), await server.connect()
        for client, line in ((one, b"deaf"), (two, b"x"), (two, b"y")):
            await client.send(line)
            await client.expect(line)
        await asyncio.sleep(0.05)  # longer than its patience

    said = await failure(deaf, talk)
    assert said.startswith(
        "no-boundary: session 'room' could never be handed over: its handler works on a frame; let it"
    )
