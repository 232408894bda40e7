"""Frames and queue items of one connection, in the order in which they come."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any

from hotfd.server.stream import Life
from hotfd.server.subscription import Subscription

if TYPE_CHECKING:
    from hotfd.server.connection import Connection


class Merge:
    """Frames and queue items of one connection; see :meth:`Connection.merge`."""

    __slots__ = ("_connection", "_getters", "_item_was_last", "_queues", "_sources", "_subscriptions")

    def __init__(self, connection: Connection[Any], queues: tuple[asyncio.Queue[Any] | Subscription, ...]) -> None:
        self._connection = connection
        connection._merge = self
        self._sources = queues
        self._queues = [(index, queue) for index, queue in enumerate(queues) if isinstance(queue, asyncio.Queue)]
        # What waits in a subscription stays there until the handler is given it, and travels with it.
        self._subscriptions = [queue for queue in queues if isinstance(queue, Subscription)]
        for subscription in self._subscriptions:
            subscription._attended = True
        self._getters: dict[int, asyncio.Task[Any]] = {}
        self._item_was_last = False

    def __aiter__(self) -> Merge:
        return self

    async def __anext__(self) -> tuple[Any, Any]:
        connection, stream = self._connection, self._connection._stream
        connection._begun()
        while True:
            connection._check_owner()
            if not connection._gated or stream.life is not Life.OPEN:
                self._collect()
                frame = stream.frame_at_hand
                if not (frame and self._item_was_last) and (found := self._item()) is not None:
                    self._item_was_last = True
                    return found
                if frame:
                    self._item_was_last = False
                    connection._touch()
                    return connection, stream.take()
                if stream.input_over:
                    connection._touch()
                    self._stop()
                    connection._raise_framing_error()
                    raise StopAsyncIteration
            await self._park()

    def _item(self) -> tuple[Any, Any] | None:
        """Take the next item of a queue or a subscription, of whichever it is the turn."""
        connection = self._connection
        if connection._items:
            connection._touch()
            index, item = connection._items.popleft()
            return self._sources[index], item
        for at, subscription in enumerate(self._subscriptions):
            if subscription._ready and not subscription.empty():
                self._subscriptions.append(self._subscriptions.pop(at))  # the others are next
                return subscription, subscription.get_nowait()
        return None

    def _collect(self) -> None:
        """Take what is in the queues now, so that nothing depends on which task runs first."""
        for index, queue in self._queues:
            while not queue.empty() and index not in self._getters:
                self._connection._add_items([(index, queue.get_nowait())])

    async def _park(self) -> None:
        connection = self._connection
        if not connection._helpers.stopped:
            for index, queue in self._queues:
                if index not in self._getters:
                    task = connection._have_helpers().start(queue.get(), f"{connection.id}-merge")
                    self._getters[index] = task
                    task.add_done_callback(partial(self._got, index))
        await connection._park()

    def _got(self, index: int, task: asyncio.Task[Any]) -> None:
        self._getters.pop(index, None)
        if not task.cancelled():
            self._connection._add_items([(index, task.result())])
            self._connection._wake()

    def _stop(self) -> None:
        for task in self._getters.values():
            task.cancel()
