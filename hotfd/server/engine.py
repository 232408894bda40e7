"""All sessions and listeners of a process: what accepts, adopts, starts handlers, and ends them.

The engine knows nothing of handoffs but three hooks: who wants to hear of boundaries (``mover``), who
must have a copy of each new connection before it is read (``on_newcomer``), and who keeps copies that are
to be dropped when a connection is over (``on_ended``).
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from hotfd import _core, log
from hotfd.errors import ConfigError
from hotfd.server import tasks
from hotfd.server.bus import Bus
from hotfd.server.connection import Connection
from hotfd.server.kinds import Kinds
from hotfd.server.link import Links
from hotfd.server.listener import Listener
from hotfd.server.poller import Poller
from hotfd.server.rooms import Rooms
from hotfd.server.session import Session
from hotfd.server.snapshot import renew
from hotfd.server.stream import Life

if TYPE_CHECKING:
    from hotfd.config.slots import Slots
    from hotfd.config.snapshots import Snapshot
    from hotfd.framing import Framing
    from hotfd.server.keeper import Mover
    from hotfd.state import Codec

Handler = Callable[[Connection[Any]], Awaitable[None]]

SLICE: Final = 32
"""Handlers of idle adopted connections that are started in one turn of the loop."""

STOP_LIMIT: Final = 10.0
"""Seconds that a stopping server gives its connections to send what is unsent."""


class Engine:
    """Serves connections.

    Args:
        handler: the coroutine function that serves one connection.
        framing: where frames end.
        codec: the state of a connection.
        kinds: the states of shared sessions; by default those that can be found by name.
        bus: what is published among the connections; by default a new one.
        slots: the configuration; None for a server without one, until it takes over sessions that hold one.
    """

    def __init__(
        self,
        handler: Handler,
        framing: Framing,
        codec: Codec[Any],
        kinds: Kinds | None = None,
        bus: Bus | None = None,
        slots: Slots | None = None,
    ) -> None:
        self.handler = handler
        self.framing = framing
        self.codec = codec
        self.slots = slots
        self.rooms = Rooms(self, kinds or Kinds(getattr(handler, "__module__", "__main__")))
        self.bus = bus if bus is not None else Bus()
        self.poller = Poller(framing)
        self.links = Links([self.rooms.directory, self.bus])
        self.listeners: dict[str, Listener] = {}
        self.carried: dict[str, Listener] = {}
        self._carriers: dict[str, Callable[[Listener, socket.socket, Any], None]] = {}
        self.sessions: dict[str, Session] = {}
        self.mover: Mover | None = None
        self.on_newcomer: Callable[[Connection[Any]], Callable[[], None] | None] | None = None
        self.stopping = False
        self.on_ended: Callable[[int], None] | None = None
        self._closing: set[Connection[Any]] = set()
        self._unstarted: deque[Connection[Any]] = deque()
        self._slicing = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._loop = asyncio.get_running_loop()
        self._prefix = secrets.token_hex(4)
        self._count = 0
        tasks.install(self._loop)

    # -- listeners -----------------------------------------------------------------------------------

    def bind(self, specs: Iterable[str]) -> None:
        """Make a listening socket for each address that has none.

        Raises:
            OSError, ValueError: one cannot be made; those made before it stay, and are closed by ``stop``.
        """
        for spec in specs:
            if spec not in self.listeners:
                self.listeners[spec] = Listener.bind(spec, self._accepted)

    def inherit(self, spec: str, sock: socket.socket, *, lent: bool) -> None:
        """Take over a listening socket; the engine owns it from here on. See :class:`Listener` for ``lent``."""
        self.listeners[spec] = Listener(spec, sock, self._accepted, lent=lent)

    def carry(self, name: str, on_accept: Callable[[Listener, socket.socket, Any], None]) -> None:
        """Let a listening socket under this name pass from process to process with the engine's own.

        What comes in by it is none of the engine's connections, and whoever carries it decides when it is polled:
        it is in ``carried`` once it is there. The engine owns it.
        """
        self._carriers[name] = on_accept

    def inherit_carried(self, name: str, sock: socket.socket) -> bool:
        """Take over such a socket; False when nobody carries that name, and the socket stays the caller's."""
        on_accept = self._carriers.get(name)
        if on_accept is None:
            return False
        self.carried[name] = Listener(name, sock, on_accept)
        return True

    def start_accepting(self) -> None:
        """Poll all listeners.

        Raises:
            OSError: there is no descriptor to poll connections with.
        """
        self.poller.open()
        for listener in self.listeners.values():
            listener.start()

    def mend_listeners(self) -> None:
        """Make the listening sockets what they were before a new process had copies of them."""
        for listener in [*self.listeners.values(), *self.carried.values()]:
            try:
                listener.mend()
            except OSError as error:
                log.event(logging.ERROR, "listener-lost", listener=listener.spec, reason=error.strerror)

    def stop_accepting(self) -> None:
        """Poll no listener; their queues go on to fill."""
        for listener in self.listeners.values():
            listener.stop()

    def close_listeners(self, *, unlink: bool) -> None:
        """Close all listeners; see :meth:`Listener.close`."""
        for listener in [*self.listeners.values(), *self.carried.values()]:
            listener.close(unlink=unlink)
        self.listeners.clear()
        self.carried.clear()

    # -- connections ---------------------------------------------------------------------------------

    @property
    def connections(self) -> int:
        """How many connections are served."""
        return sum(len(session.connections) for session in self.sessions.values())

    def _accepted(self, listener: Listener, sock: socket.socket, peername: Any) -> None:
        self.welcome(listener.spec, sock, peername)

    def welcome(self, listener: str, sock: socket.socket, peername: Any) -> None:
        """Serve a fresh connection; the engine owns the socket from here on."""
        if sock.family != socket.AF_UNIX:
            with suppress(OSError):  # reset by the peer already, as the first read will tell
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            state = self.codec.new()
        except Exception as error:  # noqa: BLE001 - the program's own class; its fault costs this connection only
            log.event(logging.ERROR, "state-not-made", exc_info=error)
            sock.close()
            return
        id = self.new_id()
        try:
            session = Session(id, release=self.release_for(id))
        except ConfigError as error:
            log.event(logging.ERROR, "session-not-begun", reason=str(error))
            sock.close()
            return
        connection: Connection[Any] = Connection(
            id,
            sock,
            self.framing,
            state,
            session,
            listener=listener,
            peername=peername,
            resumed=False,
            keeper=self,
        )
        self.keep(session)
        if self.on_newcomer is not None and (touch := self.on_newcomer(connection)) is not None:
            connection._expect_touch(touch)
        connection._start(self.handler)
        connection._stream.start()

    def welcome_descriptor(self, listener: str, fd: int) -> None:
        """Serve a fresh connection of which only the descriptor is at hand; the engine owns it from here on."""
        sock = socket.socket(fileno=fd)
        sock.setblocking(False)
        try:
            peername = sock.getpeername()
        except OSError:  # the peer is gone; the handler will see the end
            peername = None
        self.welcome(listener, sock, peername)

    def adopt(self, sessions: Iterable[Session]) -> None:
        """Serve sessions that were served before. Their idle handlers start in slices, the others at once."""
        adopted: list[Connection[Any]] = []
        with self.poller.gathered():
            for session in sessions:
                if session.connections:
                    self.keep(session)
                    adopted += session.connections
            for connection in adopted:
                connection._stream.start()
        for connection in adopted:
            stream = connection._stream
            if stream.spans or stream.input_over or connection._items or self.bus.waits(connection.id):
                self.start_handler(connection)
            else:
                self._unstarted.append(connection)
        self._start_slice_soon()

    def _start_slice_soon(self) -> None:
        if self._unstarted and not self._slicing:
            self._slicing = True
            self._loop.call_soon(self._start_slice)

    def _start_slice(self) -> None:
        self._slicing = False
        for _ in range(min(SLICE, len(self._unstarted))):
            connection = self._unstarted.popleft()
            stream = connection._stream
            if connection._task is None and stream.life is Life.OPEN and not connection._gated:
                self.start_handler(connection)
        self._start_slice_soon()

    def release_for(self, key: str) -> Snapshot | None:
        """Return what a session that begins now holds of the configuration; None for a server without one."""
        return self.slots.begin(key) if self.slots is not None else None

    def held_releases(self) -> Counter[Snapshot]:
        """Return how many sessions hold which snapshot of the configuration."""
        return Counter(session.release for session in self.sessions.values() if session.release is not None)

    def new_id(self, mark: str = "") -> str:
        """Return an id that no process of this server has given before."""
        self._count += 1
        return f"{self._prefix}-{mark}{self._count}"

    def keep(self, session: Session) -> None:
        """Serve a session; one with the same id was its former self."""
        self.sessions[session.id] = session
        if session.key is not None:
            self.rooms.served(session)

    def release(self, session: Session) -> None:
        """Serve a session no more; it lives on elsewhere, or as another object here."""
        if self.sessions.get(session.id) is session:
            del self.sessions[session.id]
            if session.key is not None:
                self.rooms.gone(session, over=False)
            self._arrived(session)
            if not self.sessions:
                self._check_idle()

    def thinned(self, session: Session) -> None:
        """A connection is not in a session any more: without any it is over, else it may be at a boundary now."""
        if session.connections:
            if session.gated or session.stale:
                self.at_boundary(session)
            return
        session.end_timers()
        if self.sessions.get(session.id) is session:
            del self.sessions[session.id]
            session.over()
            self.rooms.gone(session, over=True)
        if self.mover is not None:
            self.mover.at_boundary(session)

    def resume(self, session: Session) -> None:
        """Go on with a session that was fenced, as if nothing had been."""
        session.resume()
        self.rooms.resumed(session)
        self._arrived(session)

    def _arrived(self, session: Session) -> None:
        """A session is not on its way any more: it is here to stay, or another process has what it needs."""
        for connection in session.connections:
            self.bus.release(connection.id)

    def renew(self, session: Session) -> Session:
        """Serve a session with fresh handlers: the old ones have unwound, or have lost their helpers.

        Returns:
            the session as it is from here on. One of which a connection is about to end goes on until it has ended.
        """
        if any(connection._act_later is not None for connection in session.connections):
            self.resume(session)
            return self.renew_soon(session) if session.connections and session.disturbed else session
        session.fence()
        renewed = renew(session, self.framing, self)
        self.adopt([renewed])  # in the place of the old one, whose id it has
        return renewed

    def renew_soon(self, session: Session) -> Session:
        """The same now if the session stands at a boundary, else when it comes to its next one."""
        if session.obstacle() is None:
            return self.renew(session)
        session.stale = True
        session.gate(False)
        return session

    def _renew_stale(self, session: Session) -> None:
        if (
            session.stale
            and not session.gated
            and self.sessions.get(session.id) is session
            and not session.restless
            and session.stop_helpers()
        ):
            self.renew(session)

    def end(self, session: Session) -> None:
        """End a session's connections, whatever their handlers do."""
        for connection in list(session.connections):
            connection.close()
            if connection._task is not None:
                connection._task.cancel()

    # -- what connections tell (Keeper) ----------------------------------------------------------------

    def start_handler(self, connection: Connection[Any]) -> None:
        """Start the handler of an adopted connection: it has input, or it is its turn, or its session is here."""
        if connection._task is not None:
            return
        if connection._joining is not None and (not self.rooms.ready(connection) or connection._task is not None):
            return  # not yet; or joining its session has opened its gate, and with it started it
        connection._start(self.handler)

    def at_boundary(self, session: Session) -> None:
        """Tell the mover; or renew the handlers of a session that it has left behind."""
        if session.stale and not session.gated:
            self._loop.call_soon(self._renew_stale, session)
        if self.mover is not None:
            self.mover.at_boundary(session)

    def left_boundary(self, session: Session) -> None:
        """Tell the mover."""
        if self.mover is not None:
            self.mover.left_boundary(session)

    def connection_ending(self, connection: Connection[Any]) -> None:
        """The handler is over; the stream sends what is unsent, and closes."""
        session = connection._session
        self.bus.forget(connection.id)
        if connection._joining is not None:
            self.rooms.forget(connection, connection._joining[0])
        if connection in session.connections:
            session.connections.remove(connection)
            if connection._stream.life is not Life.CLOSED:
                self._closing.add(connection)
        self.thinned(session)
        self._check_idle()

    def connection_closed(self, connection: Connection[Any]) -> None:
        """Forget a connection; whoever has a copy drops it."""
        if self.on_ended is not None and connection._cookie is not None:
            self.on_ended(connection._cookie)
        self._closing.discard(connection)
        if connection._task is None:
            self.connection_ending(connection)
        self._check_idle()

    # -- ending --------------------------------------------------------------------------------------

    def _check_idle(self) -> None:
        if not self.sessions and not self._closing:
            self._idle.set()

    async def idle(self) -> None:
        """Wait until no connection is served and none is on its way out."""
        while self.sessions or self._closing:
            self._idle.clear()
            await self._idle.wait()

    async def stop(self) -> None:
        """End every connection in order, within ``STOP_LIMIT`` seconds; then what is left is reset."""
        self.stopping = True
        self.close_listeners(unlink=True)
        for connection in [*self._all(), *self._closing]:
            connection._stream.hurry()
        for connection in self._all():
            if connection._stream.fenced:  # offered: another process may be its owner
                self._let_go(connection)
            elif connection._task is None:
                connection.close()
            else:
                connection._task.cancel()
        try:
            async with asyncio.timeout(STOP_LIMIT):
                await self.idle()
        except TimeoutError:
            for connection in [*self._all(), *self._closing]:
                connection._stream.abort()
        self.poller.close()

    def abandon(self) -> None:
        """Let go of everything without a trace on the wire: another process serves it."""
        self.close_listeners(unlink=False)
        for session in list(self.sessions.values()):
            session.gate(True)
            session.fence()
            for connection in session.connections:
                self._let_go(connection)
        for connection in list(self._closing):
            connection._stream.fence()
            connection._stream.let_go()
        self.sessions.clear()
        self._closing.clear()
        self.poller.close()
        self._idle.set()

    def _let_go(self, connection: Connection[Any]) -> None:
        connection._hand_off()
        connection._stream.let_go()
        self.sessions.pop(connection._session.id, None)
        self._check_idle()

    def _all(self) -> list[Connection[Any]]:
        return [connection for session in self.sessions.values() for connection in session.connections]


def cookie_of(connection: Connection[Any]) -> int:
    """Return the SO_COOKIE of a connection's socket, and remember it there."""
    if connection._cookie is None:
        connection._cookie = _core.cookies([connection._stream.fileno()])[0]
    return connection._cookie
