"""A connection as its handler sees it: frames in, frames out, state, and the frame boundary.

The boundary is one predicate, :meth:`Connection._obstacle`: the handler's own task has come to
``_stand`` and waits (for a frame, in ``wait`` or in ``merge``), no other task that it made is alive, and it has not
said that it cannot move. A frame leaves the stream's buffer in the resumed coroutine and never as a
future's result: so whatever happens in the turn of the loop in which a handler is woken, a frame is
either in the buffer or with the handler.
"""

from __future__ import annotations

import asyncio
import logging
from asyncio import current_task
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Coroutine, Iterable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from hotfd import log
from hotfd.errors import ConnectionClosed, ConnectionMoved, FramingError, HandedOff
from hotfd.server.bus import ConnectionBus
from hotfd.server.helpers import NO_HELPERS, Helpers
from hotfd.server.merge import Merge
from hotfd.server.session import tell_the_end
from hotfd.server.stream import OPEN, Life, Stream
from hotfd.server.subscription import Get, Subscription
from hotfd.server.tasks import Scope
from hotfd.server.timers import NONE_PENDING, Timer, Timers
from hotfd.server.waiter import Waiter

if TYPE_CHECKING:
    import socket

    from hotfd.framing import Framing
    from hotfd.server.keeper import Keeper
    from hotfd.server.kinds import Declared
    from hotfd.server.session import Session

S = TypeVar("S")
T = TypeVar("T")


class Connection(Generic[S]):
    """One accepted connection, in the hands of its handler.

    Iterating over it gives the payload of one frame after another, until the peer ends its direction. Each
    ``async for`` step is a **frame boundary**: there, and in :meth:`wait` and :meth:`merge`, the
    connection can move to a new process. Then :exc:`hotfd.HandedOff` unwinds the handler, and in the new
    process the handler starts again with :attr:`resumed` true and :attr:`state` as it was.

    Attributes:
        id: unique among all connections of all generations of this server.
        state: the handler's own state, of the type that the server was given; it travels.
        resumed: whether the handler starts again on a connection that has been served before.
        handed_off: whether the connection has moved; then nothing can be written, and ``close`` does nothing.
        peername: the peer's address, as accept(2) gave it.
        listener: the address that the connection came in by, as the server was told to listen on it.
    """

    __slots__ = (
        "_act_later",
        "_awaited",
        "_clear",
        "_cookie",
        "_end_callbacks",
        "_fence_waiters",
        "_framing",
        "_gated",
        "_helpers",
        "_immovable",
        "_items",
        "_joining",
        "_keeper",
        "_merge",
        "_on_touch",
        "_parked",
        "_rest",
        "_resuming",
        "_scope",
        "_session",
        "_stranded",
        "_stream",
        "_task",
        "_timers",
        "_waiter",
        "handed_off",
        "id",
        "listener",
        "peername",
        "resumed",
        "state",
    )

    def __init__(
        self,
        id: str,
        sock: socket.SocketType,
        framing: Framing,
        state: S,
        session: Session,
        *,
        listener: str,
        peername: Any,
        resumed: bool,
        keeper: Keeper,
        on_touch: Callable[[], None] | None = None,
    ) -> None:
        self.id = id
        self.state = state
        self.resumed = resumed
        self.handed_off = False
        self.peername = peername
        self.listener = listener
        self._framing = framing
        self._session = session
        self._stream = Stream(sock, framing, self, keeper.poller)
        self._keeper = keeper
        self._on_touch: Callable[[], None] | None = None
        self._rest: tuple[Callable[[], None], Callable[[], None]] | None = None
        self._gated = False
        self._resuming = resumed  # its handler starts again, and has not waited for a frame yet
        self._clear = not resumed  # the fast path: no gate, no fence, not moved, nothing to be noted first
        self._timers: Timers | None = None
        self._task: asyncio.Task[None] | None = None
        self._scope: Scope | None = None
        self._helpers = NO_HELPERS
        self._awaited: asyncio.Task[Any] | None = None
        self._items: deque[tuple[int, Any]] | None = None  # an empty deque takes more than all else of a connection
        self._merge: Merge | None = None
        self._joining: tuple[str, str] | None = None
        self._cookie: int | None = None
        self._act_later: Callable[[], None] | None = None
        self._waiter: Waiter | None = None
        self._fence_waiters: list[asyncio.Future[None]] | None = None
        self._parked = False
        self._immovable: str | None = None
        self._stranded: str | None = None  # why it cannot get to the session that it wants to join
        self._end_callbacks: list[Callable[[], object]] | None = None
        session.connections.append(self)
        if on_touch is not None:
            self._expect_touch(on_touch)

    def __repr__(self) -> str:
        return f"<Connection {self.id} from {self.peername!r} {self._stream.life.value}>"

    # -- frames in -----------------------------------------------------------------------------------

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        stream = self._stream
        while not (self._clear and stream.spans):
            if self._clear or not self._held():
                if stream.spans:
                    self._touch()
                    break
                if stream.end_of_stream or stream.error is not None or stream.life is not OPEN:  # input_over
                    self._touch()
                    self._raise_framing_error()
                    raise StopAsyncIteration
            waiter = self._stand()  # what _park does, in this coroutine: it is the one that all idle connections have
            try:
                if waiter.armed:
                    await waiter
            finally:
                waiter.armed = waiter.taken = self._parked = False
        return stream.take()

    async def receive(self) -> bytes | None:
        """Return the payload of the next frame, or None when the peer has ended its direction.

        The same boundary as ``async for``.

        Raises:
            FramingError: the peer sent what is no frame, or one larger than ``max_size``.
            HandedOff: the connection moved.
        """
        try:
            return await self.__anext__()
        except StopAsyncIteration:
            return None

    def _held(self) -> bool:
        """Say whether nothing may be given to the handler now; raise HandedOff if it never will be here."""
        self._begun()
        self._check_owner()
        return self._gated and self._stream.life is Life.OPEN

    def _raise_framing_error(self) -> None:
        if isinstance(self._stream.error, FramingError):
            raise self._stream.error

    async def wait(self, awaitable: Awaitable[T]) -> T:
        """Wait for something else than a frame, at a boundary.

        At a cut-over the awaitable is cancelled; the handler starts again in the new process and waits
        anew. So it must lose nothing by that: ``event.wait()`` and ``queue.get()`` do not.

        Args:
            awaitable: a coroutine, future or task. A task or future is cancelled itself.

        Returns:
            what the awaitable returns; raises what it raises.
        """
        self._check_owner()
        self._begun()
        if isinstance(awaitable, Get):
            message: T = await self._wait_for(awaitable.subscription)
            return message
        if isinstance(awaitable, asyncio.Task) and self._scope is not None:
            self._scope.discard(awaitable)
        task: asyncio.Task[T] = self._have_helpers().start(_await(awaitable), f"{self.id}-wait")
        self._awaited = task
        task.add_done_callback(lambda _: self._wake())
        if isinstance(awaitable, Coroutine):  # cancelled before its first step, it has never begun, and nobody ends it
            task.add_done_callback(lambda _: awaitable.close())
        try:
            while not task.done() or self._stopped(task):
                await self._park()
                self._check_owner()
                if self._stopped(task) and self._stream.life is not Life.OPEN:
                    raise ConnectionClosed("the connection was closed, and what its handler waited for cancelled")
            self._touch()
            return task.result()
        finally:
            self._awaited = None
            if not task.done():
                task.cancel()

    async def _wait_for(self, subscription: Subscription) -> Any:
        subscription._attended = True
        while subscription.empty():
            await self._park()
            self._check_owner()
        return subscription.get_nowait()

    def merge(self, *queues: asyncio.Queue[Any] | Subscription) -> Merge:
        """Iterate over the frames and over the items of queues, in the order in which they come.

        Args:
            queues: where other tasks put items for this handler; and its subscriptions.

        Returns:
            an asynchronous iterator of pairs ``(source, value)``: ``source`` is this connection for a
            frame and the queue for an item. It ends with the peer's direction. Each step is a boundary.
            Items that the handler has not been given travel; in the new process they come first, from
            the queue at the same place among the arguments.
        """
        return Merge(self, queues)

    # -- frames out ----------------------------------------------------------------------------------

    async def send(self, payload: bytes) -> None:
        """Send one frame.

        Args:
            payload: the frame's content; the connection's framing wraps it.

        Raises:
            ConnectionClosed: the connection is over.
            ConnectionMoved: the caller is not the handler, and the connection has moved; nothing was sent.
            ValueError: the framing cannot carry this payload.
        """
        data = self._framing.encode(payload)
        if not self._clear:  # what write does, without a coroutine more
            await self._may_write()
        if self._stream.write(data):
            await self._stream.drained()

    async def write(self, data: bytes) -> None:
        """Send raw bytes, as they are; raises what :meth:`send` raises. Waits while too much is unsent."""
        if not self._clear:
            await self._may_write()
        if self._stream.write(data):
            await self._stream.drained()

    async def _may_write(self) -> None:
        own = self._is_own()
        if own and self._stream.fenced and not self.handed_off:
            self._keeper.left_boundary(self._session)  # a timeout of the handler's own woke it
        while self._stream.fenced and not self.handed_off:
            waiter = asyncio.get_running_loop().create_future()
            if self._fence_waiters is None:
                self._fence_waiters = []
            self._fence_waiters.append(waiter)
            await waiter
        if self.handed_off:
            if own:
                raise HandedOff
            raise ConnectionMoved(f"connection {self.id} has moved to another process; nothing was sent")
        self._touch()

    def _cast(self, data: bytes, limit: int) -> None:
        """Send bytes without waiting; a peer that leaves more than ``limit`` of them unread is reset."""
        stream = self._stream
        if stream.life is not Life.OPEN:
            return
        self._touch()
        with suppress(ConnectionClosed):  # its own handler learns that
            stream.write(data)
        if stream.unsent_size > limit:
            log.event(logging.WARNING, "slow-reader", connection=self.id, unsent=stream.unsent_size)
            self.abort()

    def write_eof(self) -> None:
        """End this direction (half-close): what is unsent is sent, then the end; frames still come in."""
        self._act(self._stream.shut_write)

    def close(self) -> None:
        """End the connection: what is unsent is sent first. Does nothing once it has moved."""
        self._act(self._stream.close)

    def abort(self) -> None:
        """Reset the connection at once, so that the peer cannot take what it got for complete."""
        self._act(self._stream.abort)

    def _act(self, how: Callable[[], None]) -> None:
        """Do what changes the connection for good, unless another process may be its owner now."""
        if self.handed_off:
            return
        if self._stream.fenced and self._stream.life is Life.OPEN:
            # Offered at this moment. If it comes back it is done then; if it moves, it is not ours to do.
            self._act_later = how
            self._keeper.left_boundary(self._session)
            return
        self._touch()
        how()
        self._wake()

    # -- the bus -------------------------------------------------------------------------------------

    @property
    def bus(self) -> ConnectionBus:
        """What is published among all connections of the server, in whichever process they are."""
        return ConnectionBus(self._keeper.bus, self)

    def subscribe(self, topic: str) -> Subscription:
        """Gather what is published on a topic from now on, for this connection's handler.

        The subscription goes where the connection goes, with the messages that the handler has not taken. A
        handler that starts again subscribes again, and is given the one that came along.

        Args:
            topic: text of 1 to 255 characters; exactly this topic, there are no patterns.

        Returns:
            the subscription, the same one each time; for :meth:`merge`, and ``wait(subscription.get())``.

        Raises:
            ConnectionClosed: the connection is over.
            HandedOff: the connection moved.
            RuntimeError: the caller is not the connection's handler, but another task.
            ValueError: the topic is none.
        """
        if not self._is_own():
            raise RuntimeError("subscribe is for the connection's own handler, not for another task")
        self._check_owner()
        if self._stream.life is not Life.OPEN and (self._task is None or self._task.done()):
            raise ConnectionClosed("the connection is over: it gathers nothing any more")
        return self._keeper.bus.subscription(self, topic)

    # -- moving --------------------------------------------------------------------------------------

    @property
    def session(self) -> Session:
        """The session that the connection belongs to: one by itself, or the shared one that it has joined."""
        return self._session

    @property
    def config(self) -> Any:
        """The configuration that the connection's session began with; see :attr:`Session.config`."""
        release = self._session.release
        return release.value if release is not None else None

    async def join(self, key: str, state: Declared = None) -> Session:
        """Join the shared session with a key; make it if there is none. The connections of a session move together.

        Where the session is on its way to a new process, or there already, this is a frame boundary: the
        connection moves there, the handler starts again there, and :attr:`session` is that session then. So what
        follows a ``join`` must be what a resumed handler does, too: the frame that it was about is not given again.
        A handler that joins because of a frame keeps in :attr:`state` what is still to be done for it. To join the
        session that it is in already changes nothing. Joining another one leaves the first.

        Args:
            key: text of 1 to 255 characters.
            state: the type of the session's state, as :class:`hotfd.Server` takes it: the first to join has it
                made, without arguments. None expects nothing of the state.

        Returns:
            the session.

        Raises:
            ConnectionClosed: the connection was lost while it waited.
            HandedOff: the connection moved.
            RuntimeError: the caller is not the connection's handler, but another task.
            SessionElsewhere: the connection would have to move, and :attr:`movable` forbids it, or its state cannot.
            StateError: the state's type cannot travel.
            ValueError: the key is none, or the session keeps another kind of state.
        """
        rooms = self._keeper.rooms
        wish = rooms.wish(key, state)
        if current_task() is not self._task:
            raise RuntimeError("join is for the connection's own handler, not for another task")
        self._check_owner()
        if self._session.key == key:
            return self._session
        self._stranded = None
        self._joining = wish
        try:
            while not rooms.admit(self):
                rooms.wait(self)
                await self._park()
                self._check_owner()
                while self._gated and self._stream.life is Life.OPEN:
                    await self._park()  # nothing new is given to it; it moves, or goes on when the gate opens
                    self._check_owner()
                if self._stream.over:
                    raise ConnectionClosed("the connection was lost while it waited for a session")
        finally:
            rooms.forget(self, key)
            if not self.handed_off:  # then the wish is its next handler's, here too if it comes back
                self._joining = None
        return self._session

    async def leave(self) -> None:
        """Leave the shared session; the connection is one by itself again. Without one, nothing changes.

        A shared session that its last connection has left is over, and its state gone. A connection that is over has
        left already.

        Raises:
            HandedOff, ConnectionMoved: the connection has moved, as for :meth:`send`.
        """
        if not self._clear:
            await self._may_write()
        if self._session.shared and self in self._session.connections:
            self._keeper.rooms.leave(self)

    @property
    def movable(self) -> bool:
        """Whether the handler lets the connection move. Set it to ``False, "reason"`` or to ``True``."""
        return self._immovable is None

    @movable.setter
    def movable(self, value: bool | tuple[bool, str]) -> None:
        allowed, reason = value if isinstance(value, tuple) else (value, "")
        self._immovable = None if allowed else (reason or "the handler said so")
        self._maybe_boundary()

    def spawn(self, coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Start a helper task that lives as long as the handler and does not keep it from moving.

        It is cancelled before the connection is offered to a new process, and when the handler ends. The
        resumed handler starts its helpers again. An exception in it is logged.
        """
        self._check_owner()
        task = self._have_helpers().start(coroutine, f"{self.id}-helper")
        task.add_done_callback(self._helper_failed)
        return task

    def call_later(self, delay: float, callback: Callable[..., object], *args: Any, name: str | None = None) -> Timer:
        """Call a function once, later; the timer pauses while the connection is moved, and travels.

        What travels is the name and the time that is left. A handler that starts again sets its timers again,
        before it first waits for a frame: one that came along keeps the time that is left, whatever ``delay``
        says. See :attr:`timers` for those that came along.

        Args:
            delay: seconds; finite, not negative.
            callback: a function, or a coroutine function: then the connection does not move before it has ended.
                What it raises is logged, and ends nothing.
            args: what it is called with.
            name: its name, at most 255 characters; by default the callback's ``__qualname__``. A connection has one
                pending timer of a name: to set it again is to replace it.

        Raises:
            ConnectionClosed: the connection is over.
            HandedOff, ConnectionMoved: it has moved, as for :meth:`send`.
            ValueError: the delay or the name is none, or 1024 timers are pending.
        """
        own = self._is_own()
        if self.handed_off:
            raise HandedOff if own else ConnectionMoved(f"connection {self.id} has moved; no timer was set")
        if self._stream.life is not Life.OPEN:
            raise ConnectionClosed("the connection is closed: no timer was set")
        return self._have_timers().call_later(delay, callback, args, name, resuming=own and self._resuming)

    @property
    def timers(self) -> Mapping[str, Timer]:
        """The timers that are pending, by name; those too that came along and have not been set again."""
        return self._timers.pending if self._timers is not None else NONE_PENDING

    def on_end(self, callback: Callable[[], object]) -> None:
        """Call ``callback()`` when the connection really ends, and not when it moves.

        A resumed handler registers anew: callbacks do not travel.
        """
        if self._end_callbacks is None:
            self._end_callbacks = []
        self._end_callbacks.append(callback)

    def _helper_failed(self, task: asyncio.Task[Any]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            log.event(logging.ERROR, "helper-failed", exc_info=error, connection=self.id)

    # -- what the server does with it ----------------------------------------------------------------

    def _start(self, handler: Callable[[Connection[S]], Awaitable[None]]) -> None:
        """Run the handler in a scope of its own."""
        self._scope = Scope(self._maybe_boundary, resuming=self._resuming)
        task = self._scope.run(self._handle(handler), f"{self.id}-handler", self._stream.loop)
        self._task = self._task or task

    async def _handle(self, handler: Callable[[Connection[S]], Awaitable[None]]) -> None:
        if self._task is None:
            self._task = current_task()  # and not in _start: an eager task runs before that returns
        try:
            await handler(self)
        except HandedOff:
            pass
        except asyncio.CancelledError:
            if not self.handed_off:
                log.event(logging.DEBUG, "handler-cancelled", connection=self.id)
        except (ConnectionClosed, ConnectionMoved) as error:
            log.event(logging.INFO, "connection-ended", connection=self.id, reason=str(error))
        except BaseExceptionGroup as group:
            rest = group.split(HandedOff)[1]
            if rest is not None:
                log.event(logging.ERROR, "handler-failed", exc_info=rest, connection=self.id)
        except Exception as error:  # noqa: BLE001 - a handler's fault ends its own connection only
            if error is self._stream.error:  # the peer's fault, and told as such
                log.event(logging.WARNING, "connection-ended", connection=self.id, reason=str(error))
            else:
                log.event(logging.ERROR, "handler-failed", exc_info=error, connection=self.id)
        finally:
            if self._helpers is not NO_HELPERS:
                self._helpers.stop()
            self._leave_scope()

    def _leave_scope(self) -> None:
        """The handler is over: end the connection, unless it has moved."""
        if not self.handed_off:
            self._stream.flush()
            self._act(self._finish)

    def _finish(self) -> None:
        if self._timers is not None:
            self._timers.end()
        callbacks, self._end_callbacks = self._end_callbacks, None
        tell_the_end(callbacks or (), connection=self.id)
        self._keeper.connection_ending(self)
        self._stream.close()

    def _obstacle(self) -> tuple[str, str] | None:
        task = self._task
        if self._stream.life is not OPEN or (task is not None and task.done()):
            return "ending", "it is being closed"
        if task is None:
            return None
        if self._immovable is not None:
            return "not-movable", self._immovable
        if self._scope is not None and self._scope.tasks:
            return "handler-tasks", ", ".join(self._scope.names())
        if self._timers is not None and (busy := self._timers.busy()):
            return "handler-tasks", ", ".join(busy)
        if not self._parked or (self._awaited is not None and self._awaited_has_result()):
            return "no-boundary", "its handler works on a frame"
        return None

    def _awaited_has_result(self) -> bool:
        task = self._awaited
        return task is not None and task.done() and not self._stopped(task)

    def _stopped(self, task: asyncio.Task[Any]) -> bool:
        """Whether what the handler waits for was cancelled for a handoff: it waits anew when it starts again."""
        return task.cancelled() and self._helpers.stopped

    def _maybe_boundary(self) -> None:
        if (self._gated or self._session.stale) and not self.handed_off:
            self._keeper.at_boundary(self._session)

    def _gate(self, closed: bool) -> None:
        if self._gated == closed:
            return
        self._gated = closed
        self._stream.gate(closed)
        if self._timers is not None and not self._stream.fenced:
            if closed:
                self._timers.hold()
            else:
                self._timers.go_on()
        if closed:
            self._clear = False
        else:
            self._update_clear()
            if self._task is None:
                self._keeper.start_handler(self)
            self._wake()
            self._keeper.bus.wake(self.id)

    def _update_clear(self) -> None:
        held = self._on_touch is not None or self._gated or self._resuming or self.handed_off or self._stream.fenced
        self._clear = not held

    def _begun(self) -> None:
        """The handler waits for a frame: if it has started again, it has set up what it needs."""
        if self._resuming:
            self._resuming = False
            if self._scope is not None:
                self._scope.resuming = False
            self._update_clear()

    def _have_timers(self) -> Timers:
        if self._timers is None:
            self._timers = Timers(self.id, self._touch, self._maybe_boundary)
            if self._gated:
                self._timers.hold()
            if self._stream.fenced:
                self._timers.freeze()
        return self._timers

    def _have_helpers(self) -> Helpers:
        if self._helpers is NO_HELPERS:
            self._helpers = Helpers(self._maybe_boundary)
        return self._helpers

    def _fence(self) -> None:
        """Neither read nor write, and let the timers' clock stand."""
        self._stream.fence()
        self._clear = False
        if self._timers is not None:
            self._timers.freeze()

    def _add_items(self, items: Iterable[tuple[int, Any]]) -> None:
        """Keep items of merged queues until the handler is given them."""
        if self._items is None:
            self._items = deque()
        self._items.extend(items)

    def _undelivered_items(self) -> Collection[tuple[int, Any]]:
        """Return the items of merged queues that the handler has not been given, in order."""
        if self._merge is not None:
            self._merge._collect()
        return self._items or ()

    def _hand_off(self) -> None:
        """The connection has moved: unwind the handler, in the next turn of the loop."""
        self._give_up()
        self._wake()

    def _unwind_now(self) -> None:
        """Unwind the handler of a connection that is given up; for a function that the loop itself has called."""
        if self._waiter is not None:
            self._waiter.wake_now()

    def _give_up(self) -> None:
        """The connection has moved, and its handler is to unwind."""
        self.handed_off = True
        self._clear = False
        if self._joining is not None:
            self._keeper.rooms.forget(self, self._joining[0])
        if self._timers is not None:
            self._timers.moved()
        self._session.moved()
        self._act_later = None
        self._decided()

    def _unfenced(self) -> None:
        """The session goes on here."""
        self._update_clear()
        if self._timers is not None and not self._gated:
            self._timers.go_on()
        how, self._act_later = self._act_later, None
        if how is not None and not self.handed_off:
            self._act(how)
        self._decided()

    def _decided(self) -> None:
        """The session goes on here, or has moved: let go who waited to know."""
        if self._fence_waiters is not None:
            waiters, self._fence_waiters = self._fence_waiters, None
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)
        self._keeper.bus.wake(self.id)

    def _touch(self) -> None:
        """Note in shared memory that this process has acted on the session, before it does."""
        if self._on_touch is not None:
            self._on_touch()
            self._touched()

    def _expect_touch(self, on_touch: Callable[[], None]) -> None:
        self._on_touch = on_touch
        self._stream.before_io = self._touch
        self._clear = False

    def _expect_rest(self, on_rest: Callable[[], None], on_touch: Callable[[], None]) -> None:
        """Have it noted when everything that has touched the session is done with, and when it is touched again."""
        self._rest = on_rest, on_touch

    def _note_rest(self) -> None:
        if self._rest is None or self._on_touch is not None or not self._parked:
            return
        if not (self._stream.has_undelivered or self._stream.unsent_size or self._items):
            on_rest, on_touch = self._rest
            on_rest()
            self._expect_touch(on_touch)

    def _unhook(self) -> None:
        """Nobody reads any more what is noted."""
        self._rest = None
        self._cookie = None
        self._touched()

    def _touched(self) -> None:
        """Nothing has to be noted any more: it is noted, or nobody would read it."""
        self._on_touch = None
        self._stream.before_io = None
        self._update_clear()

    # -- waiting -------------------------------------------------------------------------------------

    async def _park(self) -> None:
        """Stand at the boundary until something may have changed."""
        waiter = self._stand()
        try:
            if waiter.armed:
                await waiter
        finally:
            waiter.leave()
            self._parked = False

    def _stand(self) -> Waiter:
        """Come to the boundary. The caller waits, unless it was woken by that, and then leaves."""
        waiter, stream = self._waiter, self._stream
        if waiter is None:
            waiter = self._waiter = Waiter(stream.loop)
        waiter.arm()
        self._parked = current_task(stream.loop) is self._task
        try:
            if stream.corked:
                stream.flush()  # may find the connection lost, which wakes the waiter
            if self._rest is not None:
                stream.flush()  # of a reply that the poller has gathered, too: with it nothing is at rest
                self._note_rest()
            if self._gated or self._session.stale:
                self._maybe_boundary()
        except BaseException:
            waiter.leave()
            self._parked = False
            raise
        return waiter

    def _wake(self) -> None:
        if self._waiter is not None:
            self._waiter.wake()

    def _on_input(self) -> None:
        waiter = self._waiter
        if waiter is None:
            self._on_lost()
        elif not self._gated:
            waiter.wake_now()

    def _on_lost(self) -> None:
        if self._task is None:
            self._keeper.start_handler(self)
        elif not self._gated:
            self._wake()

    def _on_stream_closed(self) -> None:
        self._wake()
        self._keeper.connection_closed(self)

    def _check_owner(self) -> None:
        if self.handed_off:
            raise HandedOff

    def _is_own(self) -> bool:
        return bool(
            (self._scope is not None and self._scope.current)
            or self._helpers.current
            or (self._timers is not None and self._timers.current)
        )


async def _await(awaitable: Awaitable[T]) -> T:
    return await awaitable
