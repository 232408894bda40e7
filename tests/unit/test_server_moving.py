"""Sessions on their way: whatever meets whatever else, each is served by somebody, and loses nothing."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from hotfd import _core
from hotfd.errors import ConnectionMoved, HandedOff, HandoffRefused
from hotfd.framing import Framing
from hotfd.server import moving as module
from hotfd.server import rolling
from hotfd.server.snapshot import States, Writers, capture, restore
from hotfd.state import decode_any
from hotfd.transfer.offer import Bundle
from hotfd.wire import messages as m
from hotfd.wire.records import ConnectionRecord, SessionRecord
from tests.unit.server_rig import MANY_TURNS, Client, Rig, rig, until
from tests.unit.wire_support import nothing_stays_open, on_each_loop, tcp_pair, turns

if TYPE_CHECKING:
    from hotfd.server.connection import Connection
    from hotfd.server.session import Session

__all__ = ["nothing_stays_open"]

pytestmark = pytest.mark.usefixtures("nothing_stays_open")


async def echo(conn: Connection[Any]) -> None:
    async for line in conn:
        await conn.send(line)


async def echo_with_helper(conn: Connection[Any]) -> None:
    """Has lost its helper when it comes back, so that it is served by a fresh handler."""
    conn.spawn(asyncio.Event().wait())
    await echo(conn)


class Alarm:
    """A timeout of a handler's own, which ends when the test says so."""

    def __init__(self) -> None:
        self._timeout: asyncio.Timeout | None = None

    def __call__(self) -> asyncio.Timeout:
        self._timeout = asyncio.timeout(None)
        return self._timeout

    def ring(self) -> None:
        assert self._timeout is not None
        self._timeout.reschedule(asyncio.get_running_loop().time())


# ---------------------------------------------------------------- revocations


@on_each_loop
async def test_a_close_and_the_failure_of_the_handoff_in_one_turn_take_everybody_back() -> None:
    async with rig(echo) as made:
        clients = [await made.client() for _ in range(3)]
        ids = await made.offered()
        made.sessions[1].connections[0].close()
        task = made.moving.revoke_all()
        assert task is not None
        await task
        await clients[1].hears_the_end()
        for client in (clients[0], clients[2]):
            client.say(b"x\n")
            await client.hears(b"x\n")
        revoked = [id for message in made.heard() if isinstance(message, m.Revoke) for id in message.ids]
        assert sorted(revoked) == ids, "each is revoked, and once"
        assert made.moving.outstanding == 0


@on_each_loop
async def test_a_connection_can_be_closed_twice_while_it_is_offered() -> None:
    async with rig(echo) as made:
        client = await made.client()
        await made.offered()
        connection = made.session.connections[0]
        connection.close()
        connection.close()
        await client.hears_the_end()
        assert not made.sessions


@on_each_loop
async def test_a_handoff_that_fails_between_the_unwinding_and_the_commit_commits_nothing() -> None:
    async with rig(echo) as made:
        client = await made.client()
        (id,) = await made.offered()
        tasks: list[asyncio.Task[None] | None] = []

        def fail() -> None:
            if made.moving.all_unwound and not tasks:
                tasks.append(made.moving.revoke_all())

        made.on_change = fail
        made.say(m.Accept([id]))
        await until(lambda: tasks)
        assert tasks[0] is not None
        await tasks[0]
        client.say(b"x\n")
        await client.hears(b"x\n")
        assert made.moving.committed == 0
        assert not any(isinstance(message, m.Commit) for message in made.heard())


@on_each_loop
async def test_a_session_whose_revocation_waits_for_the_kernel_stays_in_the_book_and_then_goes_on() -> None:
    alarm = Alarm()

    async def talk(conn: Connection[Any]) -> None:
        try:
            async with alarm():
                await conn.receive()
        except TimeoutError:
            await conn.send(b"timeout")
        await echo(conn)

    async with rig(talk) as made:
        client = await made.client()
        (id,) = await made.offered()
        made.fill_the_channel()
        alarm.ring()
        await until(lambda: made.moving._revoking)
        await turns(MANY_TURNS)
        assert made.moving.outstanding == 1, "the handoff must not go on to its end without it"
        assert client.hears_nothing()
        assert made.session.connections[0]._stream.fenced, "the new process has not heard of the revocation"
        made.heard()
        await client.hears(b"timeout\n")
        await until(lambda: made.moving.gate.has_ready)
        assert made.moving.outstanding == 0
        assert await made.offered_again(id + 1) == [id + 1], "it is offered anew"


@pytest.mark.parametrize("heard_late", [True, False])
@on_each_loop
async def test_a_session_whose_revocation_is_never_heard_goes_on_when_the_new_process_is_dead(heard_late: bool) -> None:
    async with rig(echo) as made:
        client = await made.client()
        await made.offered()
        with pytest.raises(BufferError):
            while True:
                made.channel.send(m.Commit([]))
        task = made.moving.revoke_all()
        assert task is not None
        await turns(MANY_TURNS)
        assert made.moving.outstanding == 1
        if heard_late:  # it reads again; but the revocation was not among what waited
            while made.channel.queued:
                made.heard()
                await turns()
            await task
        else:
            made.die()
            await task
        client.say(b"x\n")
        await turns(MANY_TURNS)
        assert made.moving.outstanding == 1
        assert client.hears_nothing()
        made.moving.resume_uncommitted()
        await client.hears(b"x\n")
        assert made.moving.outstanding == 0


@on_each_loop
async def test_what_is_refused_while_it_is_revoked_goes_on_once() -> None:
    async with rig(echo) as made:
        client = await made.client()
        (id,) = await made.offered()
        task = made.moving.revoke_all()
        assert task is not None
        made.say(m.Refuse([m.Refusal(id, "state-decode", "too old")]))
        await task
        await turns(MANY_TURNS)
        client.say(b"x\n")
        await client.hears(b"x\n")
        assert made.moving.first_refusal is None, "a late answer says nothing"


# ---------------------------------------------------------------- what ends, or acts, while it is offered


@pytest.mark.parametrize("handler", [echo, echo_with_helper])
@on_each_loop
async def test_a_close_that_was_asked_for_while_offered_takes_effect(handler: Any) -> None:
    async with rig(handler) as made:
        client = await made.client()
        await made.offered()
        made.session.connections[0].close()
        await client.hears_the_end()
        await until(lambda: not made.sessions)
        assert made.moving.outstanding == made.moving.gate.waiting == 0


@pytest.mark.parametrize("helper", [False, True])
@on_each_loop
async def test_a_handler_that_ends_while_it_is_offered_has_ended(helper: bool) -> None:
    alarm, ended, started = Alarm(), [], []

    async def talk(conn: Connection[Any]) -> None:
        started.append(conn.resumed)
        conn.on_end(lambda: ended.append(conn.id))
        if helper:
            conn.spawn(asyncio.Event().wait())
        try:
            async with alarm():
                await echo(conn)
        except TimeoutError:
            return

    async with rig(talk) as made:
        client = await made.client()
        id = made.session.id
        await made.offered()
        alarm.ring()
        await client.hears_the_end()
        assert ended == [id]
        assert started == [False], "nobody wakes the dead"


@pytest.mark.parametrize("hold", [False, True])
@on_each_loop
async def test_a_handler_that_its_own_timeout_wakes_while_offered_is_not_unwound_in_the_middle_of_its_work(
    hold: bool,
) -> None:
    alarm, working, work = Alarm(), asyncio.Event(), asyncio.Event()

    async def talk(conn: Connection[Any]) -> None:
        try:
            async with alarm():
                await conn.receive()
        except TimeoutError:
            working.set()
            await work.wait()
            await conn.send(b"worked")
        await echo(conn)

    async with rig(talk, hold=hold) as made:
        client = await made.client()
        ids = await made.offered()
        alarm.ring()
        await working.wait()
        made.say(m.Accept(ids))
        if hold:
            await until(lambda: made.moving.all_accepted)
            assert not made.moving.unwind_all()
            made.moving.revoke_all()
        await until(lambda: not made.moving.outstanding)
        assert made.moving.committed == 0
        work.set()
        await client.hears(b"worked\n")


@on_each_loop
async def test_a_close_of_what_has_moved_does_nothing() -> None:
    async with rig(echo) as made:
        client = await made.client()
        connection = made.session.connections[0]
        (id,) = await made.offered()
        made.say(m.Accept([id]))
        await until(lambda: made.moving.committed)
        connection.close()
        connection.abort()
        await turns(MANY_TURNS)
        assert client.hears_nothing()


@on_each_loop
async def test_a_server_that_stops_lets_go_of_what_is_offered_without_a_trace() -> None:
    async with rig(echo) as made:
        client = await made.client()
        await made.offered()
        await made.engine.stop()
        assert client.hears_nothing()
        ((_, (memfd, fd)),) = made.received()
        os.close(memfd)
        with socket.socket(fileno=fd) as sock:  # as the new process, which finds the old one dead
            sock.sendall(b"served\n")
            await client.hears(b"served\n")


# ---------------------------------------------------------------- helpers and merged queues


@on_each_loop
async def test_a_session_that_is_given_up_is_reported_as_it_is_now() -> None:
    started, release = asyncio.Event(), asyncio.Event()

    async def slow_to_end() -> None:
        try:
            started.set()
            await asyncio.Event().wait()
        finally:
            await release.wait()

    async def talk(conn: Connection[Any]) -> None:
        conn.spawn(slow_to_end())
        await echo(conn)

    async with rig(talk) as made:
        client = await made.client()
        await started.wait()  # one that is cancelled before its first step has nothing to end slowly
        made.moving.gate.want(made.session)
        await turns(MANY_TURNS)
        ((session, (code, _)),) = made.moving.gate.give_up_waiting()
        assert code == "no-boundary"
        assert session is made.session
        made.engine.end(session)
        release.set()
        await client.hears_the_end()


@on_each_loop
async def test_a_reluctant_session_is_asked_again_as_it_is_now() -> None:
    async with rig(echo_with_helper, same_framing=False) as made:
        client = await made.client()
        made.moving.gate.want(made.session)
        await until(lambda: made.moving.gate.has_ready)
        client.say(b"ha")  # half a frame, while the session waits for its turn
        await until(lambda: made.session.connections[0]._stream.has_undelivered)
        assert made.moving.gate.batch(module.BATCH) == []
        assert made.moving.gate.reluctant
        client.say(b"lf\n")
        await client.hears(b"half\n")
        made.moving.gate.ask_again()
        await until(lambda: made.moving.gate.has_ready)
        assert made.moving.gate.batch(module.BATCH) == [made.session]


@on_each_loop
async def test_an_item_that_is_put_into_a_merged_queue_while_offered_travels_with_the_next_offer() -> None:
    queue: asyncio.Queue[str] = asyncio.Queue()
    got = []

    async def talk(conn: Connection[Any]) -> None:
        async for _, value in conn.merge(queue):
            got.append(value)

    async with rig(talk) as made:
        await made.client()
        (id,) = await made.offered()
        queue.put_nowait("pushed")
        made.say(m.Accept([id]))
        assert await made.offered_again(id + 1) == [id + 1]
        assert made.moving.committed == 0
        made.say(m.Accept([id + 1]))
        await until(lambda: made.moving.committed)
        ((record,),) = [bundle.connections for bundle in made.moving.escrow._bundles.values()]
        assert record.merged is not None
        assert decode_any(record.merged) == [(0, "pushed")]
        assert got == []
        assert queue.empty()


CHANGES: dict[str, Callable[[Connection[Any]], object]] = {
    "a timer of the connection's is set": lambda conn: conn.call_later(3600.0, print),
    "a timer of the session's is set": lambda conn: conn.session.call_later(3600.0, print),
    "an item comes": lambda conn: conn._add_items([(0, "pushed")]),
    "it begins to join a session": lambda conn: setattr(conn, "_joining", ("key", "")),
    "it is to be closed": lambda conn: setattr(conn, "_act_later", conn.close),
    "its handler works": lambda conn: setattr(conn, "_parked", False),
}


@pytest.mark.parametrize("at_rest_before", [True, False])
@pytest.mark.parametrize("what", CHANGES)
async def test_what_changes_while_a_session_is_offered_is_noticed(what: str, at_rest_before: bool) -> None:
    async with rig(echo) as made:
        await made.client()
        (conn,) = made.session.connections
        if not at_rest_before:  # it has some of what most have none of, and that is written down
            conn.call_later(3600.0, repr)
            conn.session.call_later(3600.0, repr)
            conn._add_items([(0, "before")])
        (id,) = await made.offered()
        item = made.moving._items[id]
        assert not item.outdated
        CHANGES[what](conn)
        assert item.outdated
        conn._joining = conn._act_later = None
        made.moving.revoke_all()


@on_each_loop
async def test_an_item_that_is_put_while_everything_is_offered_together_is_delivered_here() -> None:
    queue: asyncio.Queue[bytes] = asyncio.Queue()

    async def talk(conn: Connection[Any]) -> None:
        async for _, value in conn.merge(queue):
            await conn.send(value)

    async with rig(talk, hold=True) as made:
        client = await made.client()
        ids = await made.offered()
        made.say(m.Accept(ids))
        await until(lambda: made.moving.all_accepted)
        queue.put_nowait(b"pushed")
        assert not made.moving.unwind_all()
        assert not made.session.connections[0].handed_off
        assert made.moving.revoke_all() is not None
        await client.hears(b"pushed\n")


@on_each_loop
async def test_a_session_that_is_left_behind_without_its_helpers_gets_them_back_at_its_next_boundary() -> None:
    alarm, work, release = Alarm(), asyncio.Event(), asyncio.Event()
    queue: asyncio.Queue[bytes] = asyncio.Queue()
    started, helping = [], []

    async def slow_to_end(resumed: bool) -> None:
        helping.append(resumed)
        try:
            await asyncio.Event().wait()
        finally:
            await release.wait()

    async def talk(conn: Connection[Any]) -> None:
        started.append(conn.resumed)
        conn.spawn(slow_to_end(conn.resumed))
        events = conn.merge(queue)
        while True:
            try:
                async with alarm():
                    _, value = await anext(events)
            except TimeoutError:
                await work.wait()
            except StopAsyncIteration:
                return
            else:
                await conn.send(value)

    async with rig(talk) as made:
        client = await made.client()
        await until(lambda: helping)  # the helper has begun, and ends slowly
        made.moving.gate.want(made.session)
        await turns(MANY_TURNS)  # the merged queue's getter has ended, the helper has not
        alarm.ring()
        await until(lambda: made.session.obstacle() is not None)
        ((session, _),) = made.moving.gate.give_up_waiting()
        assert session is made.session
        release.set()
        work.set()
        await until(lambda: started == [False, True])
        queue.put_nowait(b"pushed")
        await client.hears(b"pushed\n")
        assert helping == [False, True]
        assert made.session is not session
        client.say(b"frame\n")
        await client.hears(b"frame\n")


# ---------------------------------------------------------------- offers and commits


@on_each_loop
async def test_an_offer_that_cannot_be_written_down_resumes_everybody(monkeypatch: pytest.MonkeyPatch) -> None:
    def capture_some(session: Session, wire_id: int, write: Writers) -> Bundle:
        if wire_id == 1:
            raise MemoryError
        return capture(session, wire_id, write)

    monkeypatch.setattr(module, "capture", capture_some)
    async with rig(echo) as made:
        clients = [await made.client() for _ in range(3)]
        with pytest.raises(MemoryError):
            await made.offered()
        for client in clients:
            client.say(b"x\n")
            await client.hears(b"x\n")
        assert made.moving.outstanding == made.moving.gate.waiting == 0
        assert made.heard() == []


@on_each_loop
async def test_a_handler_that_parks_again_after_the_accept_is_unwound_before_the_commit() -> None:
    times = []

    async def talk(conn: Connection[Any]) -> None:
        while True:
            try:
                await conn.receive()
            except HandedOff:
                times.append(made.moving.committed)
                if len(times) > 2:
                    raise

    async with rig(talk) as made:
        await made.client()
        (id,) = await made.offered()
        made.say(m.Accept([id]))
        await until(lambda: made.moving.committed)
        assert times == [0, 0, 0]


@on_each_loop
async def test_a_commit_waits_for_the_handlers_finally() -> None:
    release, unwinding = asyncio.Event(), asyncio.Event()

    async def talk(conn: Connection[Any]) -> None:
        try:
            await echo(conn)
        finally:
            unwinding.set()
            await release.wait()

    async with rig(talk) as made:
        await made.client()
        (id,) = await made.offered()
        made.say(m.Accept([id]))
        await unwinding.wait()
        await turns(MANY_TURNS)
        assert made.moving.committed == 0
        release.set()
        await until(lambda: made.moving.committed)
        assert [type(message) for message in made.heard()] == [m.OfferPart, m.Commit]


@on_each_loop
async def test_a_finally_without_end_is_cancelled_and_the_session_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "UNWIND_LIMIT", 0.01)
    cancelled = []

    async def talk(conn: Connection[Any]) -> None:
        try:
            await echo(conn)
        finally:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.append(conn.handed_off)
                raise

    async with rig(talk) as made:
        await made.client()
        (id,) = await made.offered()
        made.say(m.Accept([id]))
        await until(lambda: made.moving.committed)
        await until(lambda: cancelled)
        assert cancelled == [True]


# ---------------------------------------------------------------- endings


@on_each_loop
async def test_a_send_that_fails_while_the_handler_parks_ends_the_handler() -> None:
    ended = []

    async def talk(conn: Connection[Any]) -> None:
        try:
            async for line in conn:
                if line == b"a":
                    client.reset()  # while the handler computes, with another frame at hand
                await conn.send(b"reply")
        finally:
            ended.append(conn.id)

    async with rig(talk) as made:
        client = await made.client()
        client.say(b"a\nb\n")
        await until(lambda: ended and not made.sessions)


@pytest.mark.parametrize("merged", [False, True])
@on_each_loop
async def test_a_handler_that_closes_and_loops_on_ends_although_the_gate_is_closed(merged: bool) -> None:
    working, work = asyncio.Event(), asyncio.Event()

    async def frames(conn: Connection[Any]) -> AsyncIterator[bytes]:
        if merged:
            async for _, value in conn.merge(asyncio.Queue()):
                yield value
        else:
            async for value in conn:
                yield value

    async def talk(conn: Connection[Any]) -> None:
        async for _ in frames(conn):
            working.set()
            await work.wait()
            await conn.send(b"bye")
            conn.close()

    async with rig(talk) as made:
        client = await made.client()
        client.say(b"quit\n")
        await working.wait()
        made.moving.gate.want(made.session)
        assert made.moving.gate.waiting == 1
        work.set()
        await until(lambda: not made.sessions)
        assert made.moving.gate.waiting == 0
        await client.hears(b"bye\n")
        await client.hears_the_end()


@on_each_loop
async def test_the_end_of_a_connection_that_came_from_another_process_is_told() -> None:
    async with rig(echo) as made:
        with tcp_pair() as (client, sock):
            cookie = _core.cookies([sock.fileno()])[0]
            ended: list[int] = []
            made.engine.on_ended = ended.append
            made.engine.adopt([restored(made, "1", sock, cookie=cookie)])
            client.close()
            await until(lambda: not made.sessions)
            assert ended == [cookie]


def restored(made: Rig, id: str, sock: socket.socket, *, cookie: int = 0, undelivered: bytes = b"") -> Session:
    """Make a session as if it came from another process; it owns the socket."""
    family = sock.family
    record = ConnectionRecord(0, cookie, id, "here", family, ["127.0.0.1", 1], b"", undelivered=undelivered)
    bundle = Bundle(SessionRecord(0, id, 1), [record], [sock.detach()])
    return restore(bundle, States(None, [None]), made.engine.framing, made.engine)


class Faulty(Framing):
    """One byte of length, payload; with a mistake that half a frame brings to light."""

    def find(self, data: bytes | bytearray, start: int, seen: int) -> tuple[int, int, int] | None:
        end = start + 1 + data[start]
        data[end - 1]  # IndexError
        return start + 1, end, end

    def encode(self, payload: bytes) -> bytes:
        return bytes([len(payload)]) + payload


@on_each_loop
async def test_a_framing_that_raises_ends_its_own_connection_among_those_that_come_with_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with rig(echo, framing=Faulty()) as made:
        with tcp_pair() as (one, a), tcp_pair() as (two, b), tcp_pair() as (three, c):
            sessions = [restored(made, "1", a, undelivered=b"\x09half"), restored(made, "2", b), restored(made, "3", c)]
            made.engine.adopt(sessions)
            assert await asyncio.get_running_loop().run_in_executor(None, one.recv, 1) == b""
            for client in (two, three):
                client.sendall(b"\x01x")
                assert await asyncio.get_running_loop().run_in_executor(None, client.recv, 2) == b"\x01x"
    (record,) = [record for record in caplog.records if record.getMessage().startswith("framing-failed")]
    assert record.exc_info is not None, "with its traceback"


@on_each_loop
async def test_a_framing_that_raises_ends_the_connection_that_it_reads(caplog: pytest.LogCaptureFixture) -> None:
    async with rig(echo, framing=Faulty()) as made:
        client = await made.client()
        client.say(b"\x01x")
        await client.hears(b"\x01x")
        client.say(b"\x09half")
        await client.hears_the_end()
    assert sum(record.getMessage().startswith("framing-failed") for record in caplog.records) == 1


@on_each_loop
async def test_a_fault_of_the_handlers_own_upstream_is_logged_with_its_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def talk(conn: Connection[Any]) -> None:
        await conn.receive()
        raise ConnectionRefusedError("the database")

    async with rig(talk) as made:
        client = await made.client()
        client.say(b"x\n")
        await client.hears_the_end()
    (record,) = [record for record in caplog.records if record.getMessage().startswith("handler-failed")]
    assert record.exc_info is not None


# ---------------------------------------------------------------- how soon


@on_each_loop
async def test_handlers_that_end_at_once_are_committed_in_the_turn_in_which_their_acceptance_comes() -> None:
    async with rig(echo) as made:
        for _ in range(3):
            await made.client()
        ids = await made.offered()
        asyncio.get_running_loop().call_soon(made.moving.accepted, made.machine.receive(m.Accept(ids)))
        await asyncio.sleep(0)
        assert made.moving.committed == 3
        commits = [message for message in made.heard() if isinstance(message, m.Commit)]
        assert [message.ids for message in commits] == [ids], "in one message"


@on_each_loop
async def test_a_finally_that_takes_its_time_holds_up_its_own_session_alone() -> None:
    release = asyncio.Event()

    async def talk(conn: Connection[Any]) -> None:
        try:
            await echo(conn)
        finally:
            if conn.peername == slow.sock.getsockname():
                await release.wait()

    async with rig(talk) as made:
        slow = await made.client()
        await made.client()
        ids = await made.offered()
        made.say(m.Accept(ids))
        await until(lambda: made.moving.committed)
        await turns(MANY_TURNS)
        assert made.moving.committed == 1
        release.set()
        await until(lambda: made.moving.committed == 2)
        commits = [message.ids for message in made.heard() if isinstance(message, m.Commit)]
        assert commits == [ids[1:], ids[:1]]


@on_each_loop
async def test_each_endless_finally_has_its_own_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "UNWIND_LIMIT", 0.01)

    async def talk(conn: Connection[Any]) -> None:
        try:
            await echo(conn)
        finally:
            await asyncio.Event().wait()

    async with rig(talk) as made:
        for _ in range(3):
            await made.client()
        ids = await made.offered()
        for id in ids:
            made.say(m.Accept([id]))
            await turns(MANY_TURNS)
        await until(lambda: made.moving.committed == 3)
        assert made.moving._unwind_timer is None


@pytest.mark.parametrize("hold", [False, True])
@on_each_loop
async def test_what_moves_at_once_has_moved_for_the_first_handler_that_unwinds(hold: bool) -> None:
    told: list[str] = []

    async def talk(conn: Connection[Any]) -> None:
        try:
            await echo(conn)
        finally:
            for session in made.sessions:
                for other in session.connections:
                    if other is not conn:
                        with pytest.raises(ConnectionMoved):
                            other.call_later(60.0, print, name="lost")
                        told.append(conn.id)

    async with rig(talk, hold=hold) as made:
        for _ in range(3):
            await made.client()
        ids = await made.offered()
        made.say(m.Accept(ids))
        if hold:
            await until(lambda: made.moving.all_accepted)
            connections = [session.connections[0] for session in made.sessions]
            assert made.moving.unwind_all()
            assert all(connection.handed_off for connection in connections), "at the moment in which all were unchanged"
            await until(lambda: made.moving.all_unwound)
            made.moving.commit_all()
        await until(lambda: made.moving.committed == 3)
        assert len(told) == 6


# ---------------------------------------------------------------- large states


@dataclass
class Hoard:
    """A state of a megabyte, once a line has come."""

    kept: bytes = b""


async def hoard(conn: Connection[Hoard]) -> None:
    async for line in conn:
        conn.state.kept = bytes(module.OFFER_BYTES)
        await conn.send(line)


async def hoards(made: Rig, count: int) -> list[Client]:
    """Connect clients, each with a large state, whose gates are closed."""
    clients = [await made.client() for _ in range(count)]
    for client in clients:
        client.say(b"x\n")
        await client.hears(b"x\n")
    await until(lambda: all(session.obstacle() is None for session in made.sessions))
    for session in made.sessions:
        made.moving.gate.want(session)
    return clients


@on_each_loop
async def test_sessions_behind_a_large_one_go_on_until_it_has_arrived() -> None:
    async with rig(hoard, state=Hoard) as made:
        clients, first = await hoards(made, 3), made.sessions[0]
        assert made.moving.offer(made.moving.gate.batch(module.BATCH)) == 2
        assert first.fenced
        assert made.moving.burdened
        assert list(made.moving.gate.pending) == made.sessions[1:], "they are the next, in their order"
        for client in clients[1:]:
            client.say(b"y\n")
            await client.hears(b"y\n")
        assert clients[0].hears_nothing()
        made.say(m.Accept([0]))
        await until(lambda: made.moving.committed)
        assert not made.moving.burdened


@on_each_loop
async def test_a_large_offer_that_is_taken_back_does_not_hold_up_the_next() -> None:
    async with rig(hoard, state=Hoard) as made:
        await hoards(made, 2)
        made.moving.offer(made.moving.gate.batch(module.BATCH))
        task = made.moving.revoke_all()
        assert task is not None
        assert not made.moving.burdened
        await task


@on_each_loop
async def test_sessions_behind_a_large_one_go_on_when_its_offer_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    async with rig(hoard, state=Hoard) as made:
        clients = await hoards(made, 3)
        with monkeypatch.context() as patch, pytest.raises(HandoffRefused, match="LimitNOFILE"):
            patch.setattr(module, "pack", full)
            made.moving.offer(made.moving.gate.batch(module.BATCH))
        made.moving.gate.reopen_all()
        task = made.moving.revoke_all()
        assert task is not None
        await task
        for client in clients:
            client.say(b"y\n")
            await client.hears(b"y\n")


@on_each_loop
async def test_a_large_session_that_has_arrived_holds_up_nobody_while_its_handler_unwinds() -> None:
    release = asyncio.Event()

    async def talk(conn: Connection[Hoard]) -> None:
        try:
            await hoard(conn)
        finally:
            await release.wait()

    async with rig(talk, state=Hoard) as made:
        await hoards(made, 2)
        made.moving.offer(made.moving.gate.batch(module.BATCH))
        assert made.moving.burdened
        made.say(m.Accept([0]))
        await until(lambda: not made.moving.burdened)
        assert made.moving.outstanding == 1
        release.set()
        await until(lambda: made.moving.committed == 1)


@on_each_loop
async def test_who_was_asked_beside_a_large_session_goes_on_until_it_has_arrived() -> None:
    release = asyncio.Event()

    async def talk(conn: Connection[Hoard]) -> None:
        async for line in conn:
            conn.state.kept = bytes(module.OFFER_BYTES)
            if line == b"work":
                await release.wait()
            await conn.send(line)

    async def helped(conn: Connection[Hoard]) -> None:
        conn.spawn(asyncio.Event().wait())
        await talk(conn)

    async with rig(talk, state=Hoard) as made:
        clients = [await made.client() for _ in range(2)]
        made.engine.handler = helped
        clients.append(await made.client())
        for client, word in zip(clients, (b"work\n", b"rest\n", b"rest\n"), strict=True):
            client.say(word)
        for client in clients[1:]:
            await client.hears(b"rest\n")
        await until(lambda: [session.obstacle() is None for session in made.sessions] == [False, True, True])
        works, rests, waits = made.sessions
        gate = made.moving.gate
        gate.pending.extend([works, waits, rests])
        rolling._offer_some(made.moving, rolling._Pace(lambda: 0.0))
        assert rests.fenced
        assert made.moving.burdened
        assert waits.gated, "its helper was stopped: to go on, its handler would have to start again"
        assert list(gate.pending) == [works]
        release.set()
        await clients[0].hears(b"work\n")
        clients[0].say(b"y\n")
        await clients[0].hears(b"y\n")
        gate.reopen_all()


@on_each_loop
async def test_a_large_session_by_itself_is_waited_for_too() -> None:
    async with rig(hoard, state=Hoard) as made:
        await hoards(made, 1)
        assert made.moving.offer(made.moving.gate.batch(1)) == 0
        assert made.moving.burdened


@on_each_loop
async def test_what_moves_together_is_one_offer_however_large() -> None:
    async with rig(hoard, state=Hoard, hold=True) as made:
        await hoards(made, 3)
        assert made.moving.offer(made.moving.gate.batch(module.BATCH)) == 0
        assert made.moving.outstanding == 3
        assert not made.moving.burdened


def test_no_more_sessions_are_asked_than_an_offer_of_their_size_holds() -> None:
    pace, most = rolling._Pace(lambda: 0.0), module.BATCH
    assert pace.size == most
    pace.made(4, full=True)
    assert pace.size == 4
    pace.made(1, full=True)
    assert pace.size == 1
    pace.made(1, full=True)
    assert pace.size == 1
    pace.made(1, full=False)
    assert pace.size == 2, "the next ones may be smaller"
    for _ in range(most.bit_length()):
        pace.made(pace.size, full=False)
    assert pace.size == most
