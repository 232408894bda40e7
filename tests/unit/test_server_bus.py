"""The bus as programs see it: publishers that wait, subscriptions that gather, and connections that take them along."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Any

import pytest

from hotfd import testing
from hotfd.errors import ConnectionClosed, ConnectionMoved, HandedOff, StateError
from hotfd.server import bus as module
from hotfd.server import order_log
from hotfd.server.bus import Bus
from hotfd.server.custody import Custody
from hotfd.server.link import Link, Links
from hotfd.server.order import ACK_EVERY
from hotfd.server.snapshot import Readers, restore
from hotfd.server.subscription import SUBSCRIPTION_LIMIT, Subscription
from hotfd.transfer.channel import Arrival
from hotfd.wire import messages as m
from tests.unit.server_rig import MANY_TURNS, Rig, rig, until
from tests.unit.wire_support import LIMIT, nothing_stays_open, on_each_loop, turns

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hotfd.server.connection import Connection
    from hotfd.wire.records import ConnectionRecord

__all__ = ["nothing_stays_open"]

pytestmark = pytest.mark.usefixtures("nothing_stays_open")


class Wire:
    """Carries what one process says to another, at once or when the test says so."""

    def __init__(self, far: Bus) -> None:
        self._far = far
        self._waiting: list[m.Message] = []
        self.back: Link
        self.holds = False

    def send(self, message: m.Message, descriptors: Any = (), owned: Any = ()) -> None:
        self._waiting.append(message)
        if not self.holds:
            self.flush()

    def flush(self) -> None:
        while self._waiting:
            self._far.received(self.back, self._waiting.pop(0))


def joined(old: Bus, new: Bus) -> tuple[Link, Link]:
    """Link two processes; return the older one's link and the newer one's."""
    up, down = Wire(new), Wire(old)
    older = Link(up, pid=2, generation=2, newer=True)  # type: ignore[arg-type]  # a wire is a channel here
    newer = Link(down, pid=1, generation=1, newer=False)  # type: ignore[arg-type]
    up.back, down.back = newer, older
    up.holds = True
    Links([old]).connect(older)
    new.connected(newer)
    up._waiting = [message for message in up._waiting if not isinstance(message, m.Linked)]
    up.holds = False
    up.flush()
    return older, newer


@contextlib.contextmanager
def buses(count: int) -> Iterator[list[Bus]]:
    made = [Bus() for _ in range(count)]
    try:
        yield made
    finally:
        for each in made:
            each.close()


# ---------------------------------------------------------------- publishing


@pytest.mark.parametrize("topic", ["", "x" * 256, b"bytes", None, "\udc00"])
async def test_what_is_no_topic_is_refused_where_it_is_used(topic: Any) -> None:
    bus = Bus()
    with pytest.raises(ValueError, match="topic"):
        await bus.publish(topic, 1)
    with pytest.raises(ValueError, match="topic"):
        bus.subscribe(topic, print)


async def test_a_value_that_is_too_large_or_cannot_travel_is_refused_and_nothing_is_published() -> None:
    bus = Bus()
    got: list[Any] = []
    bus.subscribe("topic", got.append)
    with pytest.raises(ValueError, match="32768"):
        await bus.publish("topic", bytes(m.MAX_VALUE + 1))
    with pytest.raises(StateError):
        await bus.publish("topic", object())
    await bus.publish("topic", bytes(m.MAX_VALUE - 64))
    assert len(got) == 1


async def test_values_come_as_they_went_and_each_subscriber_has_its_own() -> None:
    bus = Bus()
    got: list[Any] = []
    value = {"tuple": (1, b"2"), 3: {4.0, None}}
    for _ in range(2):
        bus.subscribe("topic", got.append)
    await bus.publish("topic", value)
    assert got == [value, value]
    assert got[0] is not got[1]
    assert type(got[0]["tuple"]) is tuple


async def test_a_callback_that_raises_is_logged_and_keeps_nothing_from_the_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bus = Bus()
    got: list[Any] = []
    bus.subscribe("topic", lambda value: 1 // value)
    bus.subscribe("topic", got.append)
    await bus.publish("topic", 0)
    assert got == [0]
    assert "bus-callback-failed" in caplog.text


async def test_a_function_that_was_subscribed_twice_is_called_until_both_are_ended() -> None:
    bus = Bus()
    got: list[Any] = []
    first, second = bus.subscribe("topic", got.append), bus.subscribe("topic", got.append)
    await bus.publish("topic", 1)
    first()
    first()
    await bus.publish("topic", 2)
    second()
    await bus.publish("topic", 3)
    assert got == [1, 1, 2]
    assert not bus._callbacks


async def test_who_publishes_without_end_lets_others_work() -> None:
    bus = Bus()
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(tick())
    for _ in range(10):
        await bus.publish("topic", 1)
    task.cancel()
    assert ticks >= 9


async def test_a_publisher_below_waits_until_its_message_has_come_down() -> None:
    with buses(2) as (old, new):
        new.wait()
        up, _ = joined(old, new)
        wire: Any = up.channel
        wire.holds = True
        got: list[Any] = []
        old.subscribe("topic", got.append)
        task = asyncio.create_task(old.publish("topic", 1))
        await turns()
        assert not task.done()
        wire.flush()
        await task
        assert got == [1]
        assert not old._unapplied


async def test_a_publisher_that_is_cancelled_leaves_nothing_behind() -> None:
    with buses(2) as (old, new):
        new.wait()
        up, _ = joined(old, new)
        wire: Any = up.channel
        wire.holds = True
        task = asyncio.create_task(old.publish("topic", 1))
        await turns()
        task.cancel()
        await turns()
        assert task.cancelled()
        assert not old._unapplied
        wire.flush()


async def test_publishers_wait_in_turn_for_a_process_that_is_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(order_log, "LOG_ENTRIES", 2)
    with buses(2) as (old, new):
        new.wait()
        _, down = joined(old, new)
        new._order.hold("what somebody needs")
        got: list[Any] = []
        new.subscribe("topic", got.append)
        tasks = [asyncio.create_task(new.publish("topic", number)) for number in range(5)]
        await turns(MANY_TURNS)
        assert got == [0, 1]
        tasks[3].cancel()
        new.release("what somebody needs")
        new.disconnected(down)
        new._order.forget()
        new._admit()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert got == [0, 1, 2, 4]
        assert not new._publishers


async def test_a_publisher_whose_turn_has_come_and_that_is_cancelled_passes_it_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(order_log, "LOG_ENTRIES", 1)
    monkeypatch.setattr(module, "SEEN_LIMIT", 1e6)
    with buses(1) as (bus,):
        bus._order.hold("somebody")
        await bus.publish("topic", 0)
        first, second = (asyncio.create_task(bus.publish("topic", number)) for number in (1, 2))
        await turns()
        bus.release("somebody")
        first.cancel()
        async with asyncio.timeout(LIMIT):
            await second
        assert first.cancelled()


async def test_a_process_that_keeps_publishers_waiting_for_too_long_is_given_up_and_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(order_log, "LOG_ENTRIES", 2)
    monkeypatch.setattr(module, "SEEN_LIMIT", 0)
    with buses(2) as (old, new):
        new.wait()
        joined(old, new)
        old._order.hold("a session that never arrives")
        for number in range(4):
            await new.publish("topic", number)
        assert "bus-neighbour-cut pid=1" in caplog.text
        assert old._order.root


async def test_nothing_is_published_while_on_start_runs() -> None:
    bus = Bus()
    with bus.starting(), pytest.raises(RuntimeError, match="on_start"):
        await bus.publish("topic", 1)
    await bus.publish("topic", 1)


async def test_what_is_published_while_another_message_is_given_comes_behind_it_for_everybody() -> None:
    bus = Bus()
    got: list[Any] = []

    def answer(value: int) -> None:
        if value < 3:  # as an eager task of this callback's would
            bus._order.publish("topic", module._written("topic", value + 1))

    bus.subscribe("topic", answer)
    bus.subscribe("topic", got.append)
    await bus.publish("topic", 1)
    assert got == [1, 2, 3]


# ---------------------------------------------------------------- handlers


async def mirror(conn: Connection[Any]) -> None:
    """Sends what is published on ``news``; a frame is answered with its subscription's losses."""
    news = conn.subscribe("news")
    async for source, value in conn.merge(news):
        await conn.send(value if source is news else b"lost %d" % news.lost)


async def wait_and_mirror(conn: Connection[Any]) -> None:
    news = conn.subscribe("news")
    while True:
        await conn.send(await conn.wait(news.get()))


@on_each_loop
@pytest.mark.parametrize("handler", [mirror, wait_and_mirror])
async def test_a_handler_is_given_what_is_published_in_order(handler: Any) -> None:
    async with rig(handler) as made:
        clients = [await made.client() for _ in range(2)]
        for number in range(5):
            await made.engine.bus.publish("news", b"%d" % number)
        await made.engine.bus.publish("other news", b"x")
        for client in clients:
            await client.hears(b"0\n1\n2\n3\n4\n")
            assert client.hears_nothing()


async def test_frames_and_several_subscriptions_take_turns() -> None:
    got: list[Any] = []
    begin = asyncio.Event()

    async def talk(conn: Connection[Any]) -> None:
        one, other = conn.subscribe("one"), conn.subscribe("other")
        await conn.wait(begin.wait())
        async for source, value in conn.merge(one, other):
            got.append("frame" if source is conn else (source.topic, value))

    async with rig(talk) as made:
        client = await made.client()
        for topic in ("one", "one", "one", "other"):
            await made.engine.bus.publish(topic, len(got))
        client.say(b"a\nb\n")
        await until(lambda: made.session.connections[0]._stream.frame_at_hand)
        begin.set()
        await until(lambda: len(got) == 6)
        assert got == [("one", 0), "frame", ("other", 0), "frame", ("one", 0), ("one", 0)]


async def test_a_topic_has_one_subscription_a_connection() -> None:
    found: list[Subscription] = []

    async def talk(conn: Connection[Any]) -> None:
        found.extend([conn.subscribe("news"), conn.subscribe("news"), conn.subscribe("more")])
        found[2].close()
        found[2].close()
        found.append(conn.subscribe("more"))
        await conn.receive()

    async with rig(talk) as made:
        await made.client()
        one, same, closed, other = found
        assert one is same
        assert closed is not other
        with pytest.raises(RuntimeError, match="closed"):
            closed.get_nowait()
        with pytest.raises(asyncio.QueueEmpty):
            other.get_nowait()
        assert len(made.engine.bus.of(made.session.connections[0])) == 2


async def test_only_the_handler_subscribes_and_only_while_its_connection_lives() -> None:
    async def talk(conn: Connection[Any]) -> None:
        conn.subscribe("news")

        def end() -> None:
            conn.subscribe("late")

        conn.on_end(end)
        kept.append(conn)
        await conn.receive()

    kept: list[Connection[Any]] = []
    async with rig(talk) as made:
        client = await made.client()
        with pytest.raises(RuntimeError, match="handler"):
            made.session.connections[0].subscribe("news")
        client.say(b"x\n")
        await client.hears_the_end()
        client.sock.close()
        await until(lambda: not made.engine._closing)
        assert not made.engine.bus._gathered
        assert not made.engine.bus._topics
        context = kept[0]._scope.context()  # what a left-over task of the handler would run in
        with pytest.raises(ConnectionClosed):
            context.run(kept[0].subscribe, "news")


async def test_a_handler_that_does_not_read_loses_the_oldest_and_is_told_how_many(
    caplog: pytest.LogCaptureFixture,
) -> None:
    begin = asyncio.Event()
    got: list[Any] = []
    lost: list[int] = []

    async def talk(conn: Connection[Any]) -> None:
        news = conn.subscribe("news")
        await begin.wait()
        async for _, value in conn.merge(news):
            got.append(value)
            lost.append(news.lost)

    async with rig(talk) as made:
        far = asyncio.create_task(made.client())  # its handler does not come to wait for a frame yet
        await until(lambda: made.engine.bus._gathered)
        for number in range(SUBSCRIPTION_LIMIT + 3):
            await made.engine.bus.publish("news", number)
        begin.set()
        await far
        await until(lambda: len(got) == SUBSCRIPTION_LIMIT)
        assert got == list(range(3, SUBSCRIPTION_LIMIT + 3))
        assert set(lost) == {3}
        overflows = [record for record in caplog.records if "subscription-overflow" in record.message]
        assert [record.levelno for record in overflows] == [logging.WARNING]


@on_each_loop
async def test_a_cancellation_in_the_turn_in_which_a_message_comes_loses_nothing() -> None:
    got: list[Any] = []

    async def talk(conn: Connection[Any]) -> None:
        news = conn.subscribe("news")
        while len(got) < 2:
            try:
                got.append(await conn.wait(news.get()))
            except asyncio.CancelledError:
                got.append("cancelled")
        await conn.receive()

    async with rig(talk) as made:
        await made.client()
        task = made.session.connections[0]._task
        assert task is not None
        made.engine.bus._order.publish("news", module._written("news", "message"))
        task.cancel()
        await until(lambda: len(got) == 2)
        assert got == ["cancelled", "message"]


async def test_what_a_callback_starts_is_no_task_of_the_handler_that_has_published() -> None:
    over = asyncio.Event()
    started: list[asyncio.Task[bool]] = []

    async def talk(conn: Connection[Any]) -> None:
        await conn.bus.publish("cache", 1)
        await conn.receive()

    async with rig(talk) as made:
        made.engine.bus.subscribe("cache", lambda value: started.append(asyncio.ensure_future(over.wait())))
        await made.client()
        assert len(started) == 1
        assert made.session.obstacle() is None
        over.set()
        await started[0]


async def test_a_helper_can_wait_for_messages_and_loses_none_when_it_is_cancelled() -> None:
    got: list[Any] = []

    async def talk(conn: Connection[Any]) -> None:
        news = conn.subscribe("news")

        async def listen() -> None:
            while True:
                got.append(await asyncio.wait_for(news.get(), 60))

        helper = conn.spawn(listen())
        await conn.receive()
        helper.cancel()
        await conn.receive()

    async with rig(talk) as made:
        client = await made.client()
        await made.engine.bus.publish("news", 1)
        await until(lambda: got == [1])
        client.say(b"stop\n")
        connection = made.session.connections[0]
        await until(lambda: not connection._helpers)
        await made.engine.bus.publish("news", 2)
        (news,) = made.engine.bus.of(connection)
        assert news.get_nowait() == 2
        with pytest.raises(asyncio.QueueEmpty):
            news.get_nowait()


async def test_a_subscription_that_is_closed_wakes_who_waits_for_it() -> None:
    async def talk(conn: Connection[Any]) -> None:
        news = conn.subscribe("news")
        task = asyncio.ensure_future(news.get())
        await conn.receive()
        news.close()
        with pytest.raises(RuntimeError, match="closed"):
            await task
        await conn.send(b"closed")

    async with rig(talk) as made:
        client = await made.client()
        client.say(b"x\n")
        await client.hears(b"closed\n")


async def test_a_message_is_an_act_of_the_new_process_and_noted_before_it_is_given() -> None:
    noted: list[int] = []

    async def talk(conn: Connection[Any]) -> None:
        news = conn.subscribe("news")
        value = await conn.wait(news.get())
        await conn.send(b"%d %d" % (value, len(noted)))

    async with rig(talk) as made:
        client = await made.client()
        made.session.connections[0]._expect_touch(lambda: noted.append(1))
        await made.engine.bus.publish("news", 7)
        await client.hears(b"7 1\n")


# ---------------------------------------------------------------- connections on their way


async def offered(made: Rig) -> list[int]:
    """Offer everything, and publish a message then."""
    ids = await made.offered()
    await made.engine.bus.publish("news", b"while offered")
    await turns(MANY_TURNS)
    return ids


@on_each_loop
@pytest.mark.parametrize("handler", [mirror, wait_and_mirror])
async def test_a_session_that_is_revoked_is_given_what_came_meanwhile(handler: Any) -> None:
    async with rig(handler) as made:
        client = await made.client()
        await offered(made)
        assert client.hears_nothing()
        task = made.moving.revoke_all()
        assert task is not None
        await task
        await client.hears(b"while offered\n")
        assert not made.engine.bus._order.log._holds
        await made.engine.bus.publish("news", b"later")
        await client.hears(b"later\n")


async def test_a_session_whose_handlers_start_again_here_has_its_subscriptions() -> None:
    async def talk(conn: Connection[Any]) -> None:
        conn.spawn(asyncio.Event().wait())
        await mirror(conn)

    async with rig(talk) as made:
        client = await made.client()
        before = made.engine.bus.of(made.session.connections[0])
        await offered(made)
        task = made.moving.revoke_all()
        assert task is not None
        await task
        await client.hears(b"while offered\n")
        (after,) = made.engine.bus.of(made.session.connections[0])
        assert after is not before[0]
        assert len(made.engine.bus._topics["news"]) == 1
        assert not made.engine.bus._order.log._holds


async def committed(made: Rig) -> list[ConnectionRecord]:
    ids = await offered(made)
    made.say(m.Accept(ids))
    await until(lambda: made.moving.committed == len(ids))
    await made.engine.bus.publish("news", b"while committed")
    return [record for bundle in made.moving.escrow._bundles.values() for record in bundle.connections]


async def test_a_session_that_comes_back_from_a_dead_process_is_given_what_came_meanwhile() -> None:
    async with rig(mirror) as made:
        client = await made.client()
        (record,) = await committed(made)
        assert [each.topic for each in record.subscriptions] == ["news"]
        made.die()
        made.moving.restore_committed(record.session, Readers.of(made.engine))
        await client.hears(b"while offered\nwhile committed\n")
        await made.engine.bus.publish("news", b"later")
        await client.hears(b"later\n")


async def test_nobody_can_take_a_message_of_a_connection_that_is_offered() -> None:
    async with rig(mirror) as made:
        client = await made.client()
        (news,) = made.engine.bus.of(made.session.connections[0])
        await offered(made)
        task = asyncio.create_task(news.get())
        await turns(MANY_TURNS)
        assert not task.done()
        assert news.empty()
        task.cancel()
        revocation = made.moving.revoke_all()
        assert revocation is not None
        await revocation
        await client.hears(b"while offered\n")


async def test_what_has_moved_for_good_is_gathered_no_more() -> None:
    async with rig(mirror) as made:
        for _ in range(3):
            await made.client()
        records = await committed(made)
        bus = made.engine.bus
        assert len(bus._topics["news"]) == 3
        made.moving.escrow.drop(records[0].cookie)
        assert len(bus._topics["news"]) == 2
        made.moving.close_committed(records[1].session)
        assert len(bus._topics["news"]) == 1
        made.moving.escrow.close()
        assert not bus._topics
        assert not bus._gathered
        assert not bus._order.log._holds


async def test_in_the_old_process_nothing_can_be_taken_or_published_any_more() -> None:
    raised: list[type[BaseException]] = []
    kept: list[Any] = []

    async def talk(conn: Connection[Any]) -> None:
        news = conn.subscribe("news")
        kept.extend([conn, news])
        try:
            await conn.receive()
        finally:
            for attempt in (lambda: conn.bus.publish("news", 1), news.get, lambda: asyncio.sleep(0, news.close())):
                try:
                    await attempt()
                    raised.append(type(None))
                except (HandedOff, ConnectionMoved) as error:
                    raised.append(type(error))

    async with rig(talk) as made:
        await made.client()
        await committed(made)
        assert raised == [HandedOff, HandedOff, type(None)]
        conn, news = kept
        with pytest.raises(ConnectionMoved):
            await conn.bus.publish("news", 1)
        with pytest.raises(ConnectionMoved):
            await news.get()
        assert len(made.engine.bus._topics["news"]) == 1, "it goes on gathering, should it come back"


async def test_a_publisher_of_a_fenced_connection_waits_until_it_is_known_where_it_is() -> None:
    got: list[Any] = []
    async with rig(mirror) as made:
        await made.client()
        made.engine.bus.subscribe("from outside", got.append)
        await made.offered()
        task = asyncio.create_task(made.session.connections[0].bus.publish("from outside", 1))
        await turns(MANY_TURNS)
        assert not task.done()
        revocation = made.moving.revoke_all()
        assert revocation is not None
        await revocation
        await task
        assert got == [1]


async def test_a_new_process_gives_a_moved_subscriber_what_it_has_applied_since_and_nothing_twice() -> None:
    async with rig(mirror) as made, rig(mirror) as other:
        client = await made.client()
        old, new = made.engine.bus, other.engine.bus
        new.wait()
        joined(old, new)
        await old.publish("news", b"before")
        await client.hears(b"before\n")
        (id,) = await made.offered()
        ((part, descriptors),) = [found for found in made.received() if found[1]]
        assert isinstance(part, m.OfferPart)
        custody = Custody(Readers.of(other.engine), None, new)
        offer = Arrival(part, descriptors, truncated=False, pid=0, pidfd=-1)
        assert custody.add(part, offer, [id]) == ([id], [])
        await publish_much(new, b"between")
        made.say(m.Accept([id]))
        await until(lambda: made.moving.committed)
        assert not old._order.log._holds
        await publish_much(old, b"after")
        ((_, bundle, states),) = custody.take([id])
        other.engine.adopt([restore(bundle, states, other.engine.framing, other.engine)])
        await client.hears(b"between\nafter\n")
        await old.publish("news", b"later")
        await client.hears(b"later\n")
        assert not new._order.log._holds.keys() - set(new._order._below)


async def publish_much(bus: Bus, news: bytes) -> None:
    """Publish some news, and so much else that each process has acknowledged it."""
    await bus.publish("news", news)
    for _ in range(2 * ACK_EVERY):
        await bus.publish("no news", 0)


async def test_a_handler_keeps_its_subscription_over_a_handover_at_every_boundary() -> None:
    async def talk(conn: Connection[Any]) -> None:
        news = conn.subscribe("news")
        async for source, value in conn.merge(news):
            if source is news:
                await conn.send(value)
            else:
                await conn.bus.publish("news", value)

    async with testing.serve(talk) as server:
        one, other = await server.connect(), await server.connect()
        await one.send(b"first")
        for client in (one, other):
            await client.expect(b"first")
        await other.send(b"second")
        for client in (one, other):
            await client.expect(b"second")
