"""The bus: publish and subscribe among all connections of a server, and all generations that serve.

What is put where is decided without I/O by :class:`hotfd.server.order.Order`; here is what waits, what times
out, and what the subscribers of this process are given.

A subscription belongs to a connection and goes where it goes. What is gathered for it travels in the
connection's record, with a *mark*: what this process had applied at that moment. The new process adds what it
has itself applied later than the mark, when it owns the connection. Until that is certain, the old one goes on
gathering: so a connection that comes back finds everything.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import Context
from typing import TYPE_CHECKING, Any, Final

from hotfd import log
from hotfd.server.order import Order, later_of
from hotfd.server.subscription import Subscription
from hotfd.state import decode_any, encode_any
from hotfd.wire.messages import MAX_TOPIC, MAX_VALUE
from hotfd.wire.records import SubscriptionRecord

if TYPE_CHECKING:
    from hotfd.server.connection import Connection
    from hotfd.server.link import Link
    from hotfd.server.order_log import Entry
    from hotfd.wire import messages as m
    from hotfd.wire.records import ConnectionRecord

SEEN_LIMIT: Final = 15.0
"""Seconds that publishers wait for an older process that acknowledges nothing. Longer than an answer to an offer
may take, since what is later than an offer is acknowledged after it."""

RELINK_LIMIT: Final = 30.0
"""Seconds in which a process whose neighbour has gone is linked to another one, if it is at all."""

Callback = Callable[[Any], object]


class Bus:
    """The bus of one process; a participant of its links. ``server.bus`` in a program."""

    def __init__(self) -> None:
        self._order = Order(secrets.token_bytes(8), self._applied)
        self._held = self._order.log.held
        self._starting = False
        self._topics: dict[str, dict[Subscription, None]] = {}
        self._callbacks: dict[str, list[Callback]] = {}
        self._gathered: dict[str, dict[str, Subscription]] = {}  # of each connection, by its id
        self._undelivered: deque[Entry] = deque()
        self._delivering = False
        self._unapplied: dict[int, asyncio.Future[None]] = {}
        self._publishers: deque[asyncio.Future[None]] = deque()
        self._watch: asyncio.TimerHandle | None = None
        self._relink: asyncio.TimerHandle | None = None

    # -- for the program -----------------------------------------------------------------------------

    async def publish(self, topic: str, value: Any) -> None:
        """Publish a message to all subscribers of a topic, in every process of the server.

        When it returns, the message has its place in the order of all messages, and the subscribers of this
        process have it. It waits for the newest process while several serve, and while a process is behind.

        Args:
            topic: text of 1 to 255 characters.
            value: made of plain values; at most 32 KiB when encoded.

        Raises:
            StateError: the value cannot travel.
            ValueError: the topic is none, or the value is too large.
            RuntimeError: ``on_start`` runs: its process may never serve.
        """
        data = _written(topic, value)
        if self._starting:
            raise RuntimeError("on_start cannot publish: its process may never serve; publish in a background task")
        await self._turn()
        number = self._order.publish(topic, data)
        self._admit()
        if self._order.has_applied(self._order.token, number):
            await asyncio.sleep(0)  # a loop that publishes must not keep the subscribers from taking it
            return
        applied = self._unapplied[number] = asyncio.get_running_loop().create_future()
        try:
            await applied
        finally:
            del self._unapplied[number]

    def subscribe(self, topic: str, callback: Callback) -> Callable[[], None]:
        """Call ``callback(value)`` in this process for each message of a topic, in order.

        For what concerns the process; a handler uses :meth:`Connection.subscribe`, which moves with it. A callback
        that raises is logged.

        Returns:
            a function that ends it.
        """
        check_topic(topic)
        callbacks = self._callbacks.setdefault(topic, [])
        entry = _Once(callback)
        callbacks.append(entry)

        def unsubscribe() -> None:
            if entry in callbacks:
                callbacks.remove(entry)
            if not callbacks and self._callbacks.get(topic) is callbacks:
                del self._callbacks[topic]

        return unsubscribe

    # -- publishing ----------------------------------------------------------------------------------

    @contextmanager
    def starting(self) -> Iterator[None]:
        """While ``on_start`` runs, nothing is published."""
        self._starting = True
        try:
            yield
        finally:
            self._starting = False

    async def _turn(self) -> None:
        """Wait until there is room for one more message, behind those who wait already."""
        if not self._publishers and self._order.room:
            return
        turn = asyncio.get_running_loop().create_future()
        self._publishers.append(turn)
        self._watch_the_slow()
        try:
            await turn
        except asyncio.CancelledError:
            if turn in self._publishers:
                self._publishers.remove(turn)
            self._admit()
            raise

    def _admit(self) -> None:
        """Let the next publisher go on; it admits the one behind it."""
        while self._publishers and self._order.room:
            turn = self._publishers.popleft()
            if not turn.done():
                turn.set_result(None)
                return

    def _watch_the_slow(self) -> None:
        if self._watch is None and self._publishers:
            loop = asyncio.get_running_loop()
            self._watch = loop.call_later(SEEN_LIMIT, self._overdue, self._order.log.first)

    def _overdue(self, first: int) -> None:
        """Publishers have waited for long: who has kept them waiting all the time is given up."""
        self._watch = None
        if self._publishers and self._order.log.full and self._order.log.first == first:
            for link in self._order.cut(first):
                log.event(logging.ERROR, "bus-neighbour-cut", pid=getattr(link, "pid", None), limit=SEEN_LIMIT)
        self._admit()
        self._watch_the_slow()

    def _applied(self, entry: Entry) -> None:
        """Deliver a message; one that is published by who is being given another is behind that for everybody."""
        self._undelivered.append(entry)
        if not self._delivering:
            self._delivering = True
            try:
                while self._undelivered:
                    self._deliver(self._undelivered.popleft())
            finally:
                self._delivering = False

    def _deliver(self, entry: Entry) -> None:
        """Give a message to its subscribers in this process, and tell its publisher."""
        publisher = self._unapplied.get(entry.number) if entry.origin == self._order.token else None
        if publisher is not None and not publisher.done():
            publisher.set_result(None)
        for subscription in list(self._topics.get(entry.topic, ())):
            subscription._offer(entry)
        for callback in list(self._callbacks.get(entry.topic, ())):
            try:
                # In an empty context: what it starts is no task of the handler that publishes, which may move.
                Context().run(callback, decode_any(entry.value))
            except Exception as error:  # noqa: BLE001 - one callback's fault is not the others'
                log.event(logging.ERROR, "bus-callback-failed", exc_info=error)

    # -- subscriptions of connections ------------------------------------------------------------------

    def subscription(self, connection: Connection[Any], topic: str) -> Subscription:
        """Return a connection's subscription of a topic: the one that there is, or a new one."""
        check_topic(topic)
        found = self._gathered.get(connection.id, {}).get(topic)
        if found is None:
            found = Subscription(topic, connection, self._discard)
            self._add(found)
        return found

    def of(self, connection: Connection[Any]) -> list[Subscription]:
        """Return a connection's subscriptions."""
        return list(self._gathered.get(connection.id, {}).values())

    def wake(self, id: str) -> None:
        """A connection goes on, or has moved: tell who waits for its messages."""
        if id in self._gathered:
            for subscription in self._gathered[id].values():
                subscription._wake()

    def waits(self, id: str) -> bool:
        """Whether messages wait for a connection's handler."""
        gathered = self._gathered.get(id)
        return gathered is not None and any(subscription._ready for subscription in gathered.values())

    def _add(self, subscription: Subscription) -> None:
        self._gathered.setdefault(subscription._connection.id, {})[subscription.topic] = subscription
        self._topics.setdefault(subscription.topic, {})[subscription] = None

    def _discard(self, subscription: Subscription) -> None:
        listening = self._topics.get(subscription.topic, {})
        listening.pop(subscription, None)
        if not listening:
            self._topics.pop(subscription.topic, None)
        id = subscription._connection.id
        mine = self._gathered.get(id, {})
        if mine.get(subscription.topic) is subscription:
            del mine[subscription.topic]
            if not mine:
                del self._gathered[id]

    def forget(self, id: str) -> None:
        """A connection is over, here or where it has moved to: gather nothing for it any more."""
        if id in self._gathered:
            for subscription in list(self._gathered[id].values()):
                subscription._end()
                self._discard(subscription)
        self.release(id)

    # -- connections on their way ----------------------------------------------------------------------

    def capture(self, connection: Connection[Any], record: ConnectionRecord) -> None:
        """Write a fenced connection's subscriptions down; what comes later is kept until :meth:`release`."""
        if connection.id in self._gathered:
            subscriptions = self.of(connection)
            mark = self._order.applied
            for each in subscriptions:
                mark = later_of(mark, each._seen) if each._seen else mark
            record.mark = tuple(mark.items())
            record.subscriptions = tuple(
                SubscriptionRecord(each.topic, each.lost, list(each._messages)) for each in subscriptions
            )
            self._order.hold(connection.id)

    def expect(self, record: ConnectionRecord) -> None:
        """A connection has been offered: keep what it will need, until :meth:`take_up` or :meth:`release`."""
        if record.subscriptions:
            self._order.hold(record.id, dict(record.mark))

    def release(self, id: str) -> None:
        """A connection is not on its way any more, or another process keeps what it needs. Idempotent."""
        if id in self._held and self._order.release(id):
            self._admit()

    def take_up(self, connection: Connection[Any], record: ConnectionRecord) -> None:
        """Go on with a connection's subscriptions, here as its new owner or as the one that it came back to."""
        id = connection.id
        if id in self._gathered:  # it has never been served elsewhere, and all that has come is here
            for subscription in self._gathered.pop(id).values():
                heir = subscription._heir(connection)
                self._discard(subscription)
                self._add(heir)
        elif record.subscriptions:
            self._arrived(connection, record)
        self.release(id)

    def _arrived(self, connection: Connection[Any], record: ConnectionRecord) -> None:
        mark = dict(record.mark)
        later = self._order.since(mark)
        ahead = {origin: number for origin, number in mark.items() if not self._order.has_applied(origin, number)}
        for written in record.subscriptions:
            subscription = Subscription(written.topic, connection, self._discard)
            subscription.lost = written.lost
            subscription._seen = ahead
            subscription._messages.extend(written.values)
            for entry in later:
                if entry.topic == written.topic:
                    subscription._gather(entry.value)
            self._add(subscription)

    # -- as a participant ------------------------------------------------------------------------------

    def wait(self) -> None:
        """Another process serves, and will say where the order stands: publish nothing before."""
        self._order.wait()

    def open(self) -> None:
        """There is no other process any more to wait for. Idempotent."""
        self._order.open()
        self._admit()

    def connected(self, link: Link) -> None:
        """A neighbour is there."""
        self._order.connected(link)
        self._admit()

    def disconnected(self, link: Link) -> None:
        """A neighbour has gone; for a while it is remembered what others may lack by that."""
        self._order.disconnected(link)
        if self._relink is not None:
            self._relink.cancel()
        self._relink = asyncio.get_running_loop().call_later(RELINK_LIMIT, self._forget)
        self._admit()

    def _forget(self) -> None:
        self._order.forget()
        self._admit()

    def received(self, link: Link, message: m.Message) -> bool:
        """Take a neighbour's message; False when it is not for the bus."""
        taken = self._order.received(link, message)
        if taken:
            self._admit()
        return taken

    def close(self) -> None:
        """The process ends: no timer is left. Idempotent."""
        for timer in (self._watch, self._relink):
            if timer is not None:
                timer.cancel()
        self._watch = self._relink = None


class ConnectionBus:
    """The bus as a handler uses it: ``conn.bus``. What it publishes is an act of its connection.

    Args:
        bus: the bus of the process.
        connection: the handler's.
    """

    __slots__ = ("_bus", "_connection")

    def __init__(self, bus: Bus, connection: Connection[Any]) -> None:
        self._bus = bus
        self._connection = connection

    async def publish(self, topic: str, value: Any) -> None:
        """Publish a message to all subscribers of a topic; see :meth:`Bus.publish`.

        Raises:
            HandedOff, ConnectionMoved: the connection has moved, as for :meth:`Connection.send`; nothing was published.
            StateError: the value cannot travel.
            ValueError: the topic is none, or the value is too large.
        """
        connection = self._connection
        if not connection._clear:
            await connection._may_write()
        await self._bus.publish(topic, value)


class _Once:
    """A callback that can be found again although the same function was subscribed twice."""

    __slots__ = ("_callback",)

    def __init__(self, callback: Callback) -> None:
        self._callback = callback

    def __call__(self, value: Any) -> object:
        return self._callback(value)


def check_topic(topic: str) -> None:
    """See that a topic can be one.

    Raises:
        ValueError: it cannot.
    """
    if not isinstance(topic, str) or not 1 <= len(topic) <= MAX_TOPIC:
        raise ValueError(f"a topic is text of 1 to {MAX_TOPIC} characters")
    try:
        topic.encode()
    except UnicodeEncodeError:
        raise ValueError("a topic is text that UTF-8 can write") from None


def _written(topic: str, value: Any) -> bytes:
    check_topic(topic)
    data = encode_any(value)
    if len(data) > MAX_VALUE:
        raise ValueError(f"the value has {len(data)} bytes when encoded; the bus takes {MAX_VALUE}")
    return data
