"""The shared sessions of a process: who joins them, who leaves, and who waits for one that is elsewhere."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Final

from hotfd import log
from hotfd.errors import SessionElsewhere
from hotfd.server.directory import Directory, Verdict
from hotfd.server.kinds import NOTHING, Declared, Kinds
from hotfd.server.session import Session

if TYPE_CHECKING:
    from collections.abc import Callable

    from hotfd.server.connection import Connection
    from hotfd.server.engine import Engine

MAX_KEY: Final = 255
"""Characters of a key: enough for names and ids, and few enough that a packet lists two hundred of them."""


class Rooms:
    """The shared sessions of one process, by key.

    Args:
        engine: whose connections join.
        kinds: the types of state.
    """

    def __init__(self, engine: Engine, kinds: Kinds) -> None:
        self.kinds = kinds
        self.directory = Directory(lambda: list(self._by_key), self.wake, self._wanted)
        self.on_must_move: Callable[[Session], None] = lambda session: None
        """Called with a session that is to move to a newer process, which has what its connection joins."""
        self.on_wanted: Callable[[Session], None] = lambda session: None
        """Called with a session that a connection of a newer process waits for."""
        self.on_founded: Callable[[Session], None] = lambda session: None
        """Called with a session that its first connection has just joined."""
        self._engine = engine
        self._by_key: dict[str, Session] = {}
        self._waiting: dict[str, dict[Connection[Any], None]] = {}

    def __len__(self) -> int:
        return len(self._by_key)

    def wish(self, key: str, state: Declared) -> tuple[str, str]:
        """Check what ``join`` was given.

        Returns:
            the key, and the name of the state's kind.

        Raises:
            ValueError: the key is none.
            StateError: the state cannot travel.
        """
        if not isinstance(key, str) or not 1 <= len(key) <= MAX_KEY:
            raise ValueError(f"a session's key is a text of 1 to {MAX_KEY} characters")
        key = str.__str__(key)  # and nothing more: a type derived from it cannot travel
        try:
            key.encode()
        except UnicodeEncodeError:
            raise ValueError("a session's key must be text that UTF-8 can carry") from None
        return key, self.kinds.name(state)

    # -- joining and leaving -------------------------------------------------------------------------

    def admit(self, connection: Connection[Any]) -> bool:
        """Put a connection into the session that it is on its way into, if that is possible now.

        Raises:
            SessionElsewhere: it would have to move for that, and must not.
            StateError: it has arrived with the wish for a kind of state that this program has not.
            ValueError: the session keeps another kind of state than it expects.
        """
        assert connection._joining is not None
        key, kind = connection._joining
        kind = self.kinds.canonical(kind)
        own = connection._session
        if own.fenced:
            return False
        target = self._by_key.get(key)
        if target is not None:
            if target.fenced:
                return False
            if kind not in {NOTHING, target.kind}:
                raise ValueError(f"the session keeps a state of the kind {target.kind!r} and not {kind!r}")
            self._enter(connection, target)
            return True
        match self.directory.verdict(key):
            case Verdict.CREATE:
                state = self.kinds.new(kind)
                release = self._engine.release_for(key)
                self._enter(connection, Session(self._engine.new_id("s"), key, kind, state, release))
                return True
            case Verdict.ORPHANED:
                raise SessionElsewhere(None)
            case Verdict.MOVE:
                hindrance = connection._immovable or connection._stranded
                if hindrance is not None:
                    raise SessionElsewhere(hindrance)
                self.on_must_move(own)
        return False

    def _enter(self, connection: Connection[Any], target: Session) -> None:
        connection._session.touch()
        target.touch()
        self._quit(connection)
        target.connections.append(connection)
        connection._session = target
        connection._joining = None  # before the gate opens, which may start the handler
        connection._gate(target.gated)
        if target.gated and self._engine.mover is not None:
            self._engine.mover.grown(target)
        if self._engine.sessions.get(target.id) is not target:
            self._engine.keep(target)
            self.on_founded(target)
        log.event(logging.DEBUG, "joined", connection=connection.id, session=target.id)

    def leave(self, connection: Connection[Any]) -> None:
        """Give a connection of a shared session one of its own."""
        own = Session(connection.id, release=self._engine.release_for(connection.id))
        connection._session.touch()
        self._quit(connection)
        own.connections.append(connection)
        connection._session = own
        connection._gate(False)
        self._engine.keep(own)
        if self._engine.mover is not None:
            self._engine.mover.appeared(own)

    def _quit(self, connection: Connection[Any]) -> None:
        session = connection._session
        session.connections.remove(connection)
        self._engine.thinned(session)

    # -- waiting -------------------------------------------------------------------------------------

    def wait(self, connection: Connection[Any]) -> None:
        """Have a connection looked at again when its wish may have become possible."""
        assert connection._joining is not None
        self._waiting.setdefault(connection._joining[0], {})[connection] = None

    def forget(self, connection: Connection[Any], key: str) -> None:
        """A connection does not wait any more."""
        waiting = self._waiting.get(key)
        if waiting is not None:
            waiting.pop(connection, None)
            if not waiting:
                del self._waiting[key]

    def wake(self, key: str | None) -> None:
        """Look again at those who wait for a key, or for any."""
        for concerned in list(self._waiting) if key is None else [key]:
            for connection in list(self._waiting.get(concerned, ())):
                if connection._task is None and not connection._gated:
                    self._engine.start_handler(connection)
                else:
                    connection._wake()

    def stranded(self, session: Session, reason: str) -> None:
        """A session cannot go to a newer process, whatever its handlers do: who waits to join one there is told."""
        for connection in session.connections:
            if connection._joining is not None:
                connection._stranded = reason
                connection._wake()

    def ready(self, connection: Connection[Any]) -> bool:
        """Whether the handler of a connection that has arrived may start: whether it is where it was going."""
        if connection._joining is None:
            return True
        key = connection._joining[0]
        if not connection._stream.over:
            try:
                if not self.admit(connection):
                    self.wait(connection)
                    return False
            except Exception as error:  # noqa: BLE001 - the handler starts all the same, and finds itself alone
                log.event(logging.ERROR, "join-failed", exc_info=error, connection=connection.id)
        connection._joining = None
        self.forget(connection, key)
        return True

    def _wanted(self, key: str) -> None:
        session = self._by_key.get(key)
        if session is not None:
            self.on_wanted(session)

    # -- what the engine tells -----------------------------------------------------------------------

    def served(self, session: Session) -> None:
        """A session is served here from now on."""
        if session.key is not None:
            self._by_key[session.key] = session
            self.directory.arrived(session.key)

    def gone(self, session: Session, *, over: bool) -> None:
        """A session is not served here any more: it is over, or has moved."""
        key = session.key
        if key is None or self._by_key.get(key) is not session:
            return
        del self._by_key[key]
        if over:
            self.directory.released(key)
        self.wake(key)

    def resumed(self, session: Session) -> None:
        """A session that was fenced goes on here."""
        if session.key is not None:
            # Not from within: the session's own connections are told first.
            asyncio.get_running_loop().call_soon(self.wake, session.key)
