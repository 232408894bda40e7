"""What is published on one topic, gathered for one connection until its handler takes it."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

from hotfd import log
from hotfd.errors import ConnectionMoved, HandedOff
from hotfd.state import decode_any

if TYPE_CHECKING:
    from hotfd.server.connection import Connection
    from hotfd.server.order_log import Entry

SUBSCRIPTION_LIMIT: Final = 1024
"""Messages that wait for one handler. Who falls further behind is better served by knowing that than by more."""


class Subscription:
    """The messages of one topic, for one connection. Made by :meth:`Connection.subscribe`.

    Messages that the handler has not taken travel with the connection. When more than ``SUBSCRIPTION_LIMIT``
    wait, the oldest are dropped and counted in :attr:`lost`.

    Attributes:
        topic: its topic.
        lost: how many messages were dropped, since the handler did not take them.
    """

    __slots__ = ("_attended", "_connection", "_discard", "_messages", "_over", "_seen", "_waiters", "lost", "topic")

    def __init__(self, topic: str, connection: Connection[Any], discard: Callable[[Subscription], None]) -> None:
        self.topic = topic
        self.lost = 0
        self._connection = connection
        self._discard = discard
        self._messages: deque[bytes] = deque()
        self._seen: dict[bytes, int] = {}
        self._waiters: set[asyncio.Future[None]] = set()
        self._attended = False
        self._over = False

    def __repr__(self) -> str:
        return f"<Subscription of connection {self._connection.id}, {len(self._messages)} waiting>"

    # -- for handlers --------------------------------------------------------------------------------

    def get(self) -> Get:
        """Wait for the next message, and take it; for :meth:`Connection.wait`. Loses nothing when it is cancelled.

        Returns:
            a coroutine that returns the message.

        Raises:
            HandedOff, ConnectionMoved: the connection has moved; the message waits for it in its new process.
            RuntimeError: the subscription is closed.
        """
        return Get(self)

    async def _get(self) -> Any:
        while self.empty():
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.add(waiter)
            try:
                await waiter
            finally:
                self._waiters.discard(waiter)
        return self.get_nowait()

    def get_nowait(self) -> Any:
        """Take the next message.

        Raises:
            asyncio.QueueEmpty: there is none.
        """
        if self.empty():
            raise asyncio.QueueEmpty
        self._connection._touch()
        return decode_any(self._messages.popleft())

    def empty(self) -> bool:
        """Whether no message can be taken now: none waits, or the connection is being moved; raises as :meth:`get`."""
        connection = self._connection
        if connection.handed_off:
            if connection._is_own():
                raise HandedOff
            raise ConnectionMoved(f"connection {connection.id} has moved to another process, and its messages too")
        if self._over:
            raise RuntimeError("the subscription is closed")
        return not self._messages or connection._gated or connection._stream.fenced

    def close(self) -> None:
        """Gather nothing more; what waits is gone. Idempotent; does nothing once the connection has moved."""
        if not self._over and not self._connection.handed_off:
            self._end()
            self._discard(self)

    # -- for the bus ---------------------------------------------------------------------------------

    def _end(self) -> None:
        self._over = True
        self._messages.clear()
        self._wake()

    def _offer(self, entry: Entry) -> None:
        """Gather a message, unless it has come with the connection already."""
        if self._seen and entry.number <= self._seen.get(entry.origin, 0):
            return
        self._gather(entry.value)
        self._wake()

    def _gather(self, value: bytes) -> None:
        if len(self._messages) >= SUBSCRIPTION_LIMIT:
            self._messages.popleft()
            if not self.lost:
                log.event(
                    logging.WARNING, "subscription-overflow", connection=self._connection.id, limit=SUBSCRIPTION_LIMIT
                )
            self.lost += 1
        self._messages.append(value)

    def _wake(self) -> None:
        """Somebody may take something now. A handler that merges it, or waits for it, stands at its boundary."""
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        if self._attended and not self._connection._gated:
            self._connection._wake()

    @property
    def _ready(self) -> bool:
        """Whether a message waits, for whoever may take it."""
        return bool(self._messages)

    def _heir(self, connection: Connection[Any]) -> Subscription:
        """Return the subscription that goes on in place of this one, for the connection that does."""
        heir = Subscription(self.topic, connection, self._discard)
        heir.lost = self.lost
        heir._seen = self._seen
        heir._messages.extend(self._messages)
        self._end()
        return heir


class Get(Coroutine[Any, Any, Any]):
    """What :meth:`Subscription.get` returns. :meth:`Connection.wait` looks into it, and takes the message itself.

    So a message leaves the subscription in the handler's own task, as a frame does: a cancellation in the same
    turn of the loop does not find it in between.
    """

    __slots__ = ("_running", "subscription")

    def __init__(self, subscription: Subscription) -> None:
        self.subscription = subscription
        self._running: Coroutine[Any, Any, Any] | None = None

    def _inner(self) -> Coroutine[Any, Any, Any]:
        if self._running is None:
            self._running = self.subscription._get()
        return self._running

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._inner().__await__()

    def send(self, value: Any) -> Any:
        """Go on, as a coroutine does."""
        return self._inner().send(value)

    def throw(
        self,
        kind: type[BaseException] | BaseException,
        value: BaseException | object = None,
        trace: TracebackType | None = None,
    ) -> Any:
        """Go on with an exception, as a coroutine does."""
        if isinstance(kind, BaseException):
            return self._inner().throw(kind)
        return self._inner().throw(kind, value, trace)

    def close(self) -> None:
        """End it, as a coroutine is."""
        if self._running is not None:
            self._running.close()
