"""A session: what moves as a unit."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeVar

from hotfd import log
from hotfd.errors import ConnectionClosed, ConnectionMoved, HandedOff
from hotfd.server import tasks
from hotfd.server.helpers import NO_HELPERS
from hotfd.server.timers import NONE_PENDING, Timer, Timers

if TYPE_CHECKING:
    from hotfd.config.snapshots import Snapshot
    from hotfd.server.connection import Connection

T = TypeVar("T")

BROADCAST_LIMIT: Final = 1 << 20
"""Unsent bytes above which a member that does not read is ended by a broadcast: nobody waits for it, and what it
has missed it cannot be given later without an unbounded queue."""


class Session:
    """One connection, or several that share a key and a state.

    Attributes:
        id: unique across generations, for people and logs.
        key: what its connections have joined it by; None for a connection by itself.
        state: the state that its connections share, of the type that the first ``join`` named; it travels.
        connections: its connections.
        kind: the name of the state's type among the program's.
        release: what it holds of the configuration; None in a server without one.
        gated: whether a handoff holds it at its next boundary.
        fenced: whether it neither reads nor writes, because another process may be its owner soon.
        stale: its helpers were stopped for a handoff that it has not joined; its handlers are to start again.
        fenced_ns: CLOCK_MONOTONIC when it was fenced last, in nanoseconds.
    """

    __slots__ = (
        "_end_callbacks",
        "_looked_at",
        "_timers",
        "connections",
        "fenced",
        "fenced_ns",
        "gated",
        "id",
        "key",
        "kind",
        "release",
        "stale",
        "state",
    )

    def __init__(
        self, id: str, key: str | None = None, kind: str = "", state: Any = None, release: Snapshot | None = None
    ) -> None:
        self.id = id
        self.key = key
        self.kind = kind
        self.state = state
        self.release = release
        self.connections: list[Connection[Any]] = []
        self.gated = False
        self.fenced = False
        self.stale = False
        self.fenced_ns = 0
        self._end_callbacks: list[Callable[[], object]] | None = None
        self._timers: Timers | None = None
        # Each member that comes to rest asks for all of them. Whom the others waited for last is looked at first, and
        # the search goes on from there: so thousands of members that come to rest one by one are not looked at each time.
        self._looked_at = 0

    def __repr__(self) -> str:
        return f"<Session {self.id} of {len(self.connections)} connections>"

    @property
    def shared(self) -> bool:
        """Whether it has a key, by which connections join it."""
        return self.key is not None

    # -- for handlers --------------------------------------------------------------------------------

    @property
    def config(self) -> Any:
        """The configuration that the session began with: the same object until it ends, whatever is published.

        The module's value, of the type that the server's :class:`hotfd.Config` declares; of several modules a read-only
        mapping by name, whose items are attributes too. None in a server without a configuration. Fields that are
        marked with :data:`hotfd.Live` follow the newest release.
        """
        return self.release.value if self.release is not None else None

    def checkpoint(self) -> Any:
        """Go on with the newest release, as if the session began now; for sessions that never end.

        Returns:
            :attr:`config` as it is from here on.

        Raises:
            ConnectionClosed: the session is over.
            HandedOff, ConnectionMoved: it has moved, as for :meth:`Connection.send`; nothing has changed.
        """
        self._must_be_here("nothing has changed")
        release = self.connections[0]._keeper.release_for(self.key or self.id)
        if release is not self.release:
            self.touch()
            self.release = release
        return self.config

    def _must_be_here(self, otherwise: str) -> None:
        if not self.connections:
            raise ConnectionClosed(f"the session is over: {otherwise}")
        if self.connections[0].handed_off:
            if tasks.caller() is not None:
                raise HandedOff
            raise ConnectionMoved(f"session {self.id} has moved; {otherwise}")

    async def broadcast(self, payload: bytes, exclude: Iterable[Connection[Any]] = ()) -> None:
        """Send one frame to each connection of the session.

        Nobody is waited for: a member that does not read has its frames kept, and is reset when more than
        ``BROADCAST_LIMIT`` bytes are. Members whose connection is over are left out.

        Args:
            payload: the frame's content; the server's framing wraps it.
            exclude: connections that are to get nothing.

        Raises:
            HandedOff, ConnectionMoved: the session has moved, as for :meth:`Connection.send`; nothing was sent.
            ValueError: the framing cannot carry this payload.
        """
        left_out = set(exclude)
        if self.connections and (self.fenced or self.connections[0].handed_off):
            own = next((member for member in self.connections if member._is_own()), self.connections[0])
            await own._may_write()
        data: bytes | None = None
        for member in list(self.connections):
            if member not in left_out:
                if data is None:
                    data = member._framing.encode(payload)
                member._cast(data, BROADCAST_LIMIT)

    def close(self) -> None:
        """End all its connections, each in order: what is unsent is sent first."""
        for member in list(self.connections):
            member.close()

    def on_end(self, callback: Callable[[], object]) -> None:
        """Call ``callback()`` when the last connection has left or ended, and not when the session moves.

        Callbacks do not travel: a resumed handler registers anew. The same function is called once, however many
        handlers of the session have registered it.
        """
        if self._end_callbacks is None:
            self._end_callbacks = []
        if callback not in self._end_callbacks:
            self._end_callbacks.append(callback)

    def call_later(self, delay: float, callback: Callable[..., object], *args: Any, name: str | None = None) -> Timer:
        """Call a function once, later; the timer pauses while the session is moved, and travels with it.

        As :meth:`Connection.call_later`; it ends with the session and not with a connection. After a move the
        first handler of the session that sets a timer again gives it its callback; to the others that same timer
        is returned, be it over.

        Raises:
            ConnectionClosed: the session is over.
            HandedOff, ConnectionMoved: it has moved, as for :meth:`Connection.send`.
            ValueError: the delay or the name is none, or 1024 timers are pending.
        """
        self._must_be_here("no timer was set")
        scope = tasks.caller()
        resuming = scope is not None and scope.resuming
        return self._have_timers().call_later(delay, callback, args, name, resuming=resuming)

    @property
    def timers(self) -> Mapping[str, Timer]:
        """The timers that are pending, by name; those too that came along and have not been set again."""
        return self._timers.pending if self._timers is not None else NONE_PENDING

    # -- for the server ------------------------------------------------------------------------------

    def _have_timers(self) -> Timers:
        if self._timers is None:
            self._timers = Timers(self.id, self.touch, self._maybe_boundary, shared=True)
            if self.gated:
                self._timers.hold()
            if self.fenced:
                self._timers.freeze()
        return self._timers

    def _maybe_boundary(self) -> None:
        if self.connections:
            self.connections[0]._maybe_boundary()

    def moved(self) -> None:
        """It has moved, or is about to be served anew: nothing of its own runs here any more."""
        if self._timers is not None:
            self._timers.moved()

    def end_timers(self) -> None:
        """It is over, and its timers with it."""
        if self._timers is not None:
            self._timers.end()

    def over(self) -> None:
        """The last connection has gone: tell who wanted to know."""
        callbacks, self._end_callbacks = self._end_callbacks, None
        tell_the_end(callbacks or (), session=self.id)

    def touch(self) -> None:
        """Note that this process has acted on the session, whichever connection it was."""
        for member in self.connections:
            member._touch()

    def gate(self, closed: bool) -> None:
        """With the gate closed no handler of the session is given anything new; open, they go on."""
        if self.gated != closed:
            self.gated = closed
            for connection in list(self.connections):
                connection._gate(closed)
            if self._timers is not None and not self.fenced:
                if closed:
                    self._timers.hold()
                else:
                    self._timers.go_on()

    def obstacle(self) -> tuple[str, str] | None:
        """Say why the session is at no boundary now.

        Returns:
            None at a boundary; else a reason code and what it is about, for people.
        """
        members = self.connections
        found = members[0]._obstacle() if len(members) == 1 else self._search(lambda member: member._obstacle())
        if found is None and self._timers is not None and (busy := self._timers.busy()):
            return "handler-tasks", ", ".join(busy)
        return found

    def _search(self, look: Callable[[Connection[Any]], T | None]) -> T | None:
        """Return what the first member says of which anything is said, beginning with the one that has said it last."""
        members, count = self.connections, len(self.connections)
        for at in range(self._looked_at, self._looked_at + count):
            found = look(members[at % count])
            if found:
                self._looked_at = at % count
                return found
        return None

    def stop_helpers(self) -> bool:
        """Cancel what may be cancelled at a boundary; True when nothing of it is left."""
        stopped = True
        for connection in self.connections:
            helpers = connection._helpers
            if helpers is not NO_HELPERS and not helpers.stop():
                stopped = False
        return stopped

    @property
    def restless(self) -> bool:
        """Whether a member is at no boundary, or a helper that was cancelled has not ended yet: it tells when that is over.

        Each member that comes to rest asks this of all of them: so it is one search, which goes on where it stopped.
        """
        members = self.connections
        if _is_restless(members[0]) if len(members) == 1 else self._search(_is_restless):
            return True
        return self._timers is not None and bool(self._timers.busy())

    def fence(self) -> None:
        """Neither read nor write any connection from here on."""
        self.fenced = True
        for connection in self.connections:
            connection._fence()
        if self._timers is not None:
            self._timers.freeze()
        self.fenced_ns = time.monotonic_ns()

    def resume(self) -> None:
        """Go on after a fence, as if nothing had been."""
        self.fenced = False
        for connection in self.connections:
            connection._stream.unfence()
        self.gate(False)
        if self._timers is not None:
            self._timers.go_on()
        for connection in list(self.connections):
            connection._unfenced()

    @property
    def disturbed(self) -> bool:
        """Whether helpers were stopped, so that handlers must start again to go on."""
        return any(connection._helpers.stopped for connection in self.connections)


def _is_restless(member: Connection[Any]) -> bool:
    return (member._helpers is not NO_HELPERS and member._helpers.ending) or member._obstacle() is not None


def tell_the_end(callbacks: Iterable[Callable[[], object]], **of: str) -> None:
    """Call what ``on_end`` has registered; one callback's fault is not the others', and holds up no end.

    Args:
        callbacks: the callbacks, in the order in which they are called.
        of: whose end it is, for the log.
    """
    for callback in callbacks:
        try:
            callback()
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - as the result of a cancelled task raises it
            log.event(logging.ERROR, "end-callback-failed", exc_info=error, **of)
