"""A session at its boundary as records, and back again: what a handoff, a take-back and a test do."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import msgspec

from hotfd import _core
from hotfd.errors import ConfigError, StateError
from hotfd.server.connection import Connection
from hotfd.server.session import Session
from hotfd.state import decode_any, encode_any
from hotfd.transfer.offer import Bundle
from hotfd.wire.records import ConnectionRecord, SessionRecord

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from hotfd.config.carry import Luggage
    from hotfd.config.slots import Slots
    from hotfd.config.snapshots import Snapshot
    from hotfd.framing import Framing
    from hotfd.server.engine import Engine
    from hotfd.server.keeper import Keeper


NON_BLOCKING: Final = int(socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
"""The type of a socket that is made of a descriptor: it takes it for non-blocking, as it is, without a fcntl(2) that the
other process would feel."""


class UnreadableRelease(StateError):  # noqa: N818 - reads as the condition
    """A session holds a release of the configuration that this program cannot read."""

    def __str__(self) -> str:
        return self.problem


@dataclass(slots=True)
class Writers:
    """What writes states down: those of connections, and those of shared sessions by their kind."""

    connection: Callable[[Any], bytes]
    shared: Callable[[str, Any], bytes]

    @classmethod
    def of(cls, engine: Engine) -> Writers:
        """Write as this process does."""
        return cls(engine.codec.encode, engine.rooms.kinds.encode)


@dataclass(slots=True)
class Readers:
    """What reads states: those of connections, and those of shared sessions by their kind."""

    connection: Callable[[bytes], Any]
    shared: Callable[[str, bytes], Any]
    release: Callable[[SessionRecord], Snapshot | None] = lambda record: None
    """Finds what a session holds of the configuration."""

    @classmethod
    def of(
        cls,
        engine: Engine,
        schema: dict[str, Any] | None = None,
        kinds: Mapping[str, dict[str, Any]] | None = None,
        luggage: Luggage | None = None,
    ) -> Readers:
        """Read what a process with these schemas has written; by default, what this one has.

        Args:
            engine: who reads.
            schema: of a connection's state, as it was written.
            kinds: of the states of shared sessions.
            luggage: what the process has sent of its configuration.
        """
        known = engine.rooms.kinds
        return cls(
            engine.codec.reader(engine.codec.schema if schema is None else schema),
            known.reader(known.schemas if kinds is None else kinds),
            partial(_release_of, engine.slots, luggage if luggage is not None else engine.slots),
        )


@dataclass(slots=True)
class States:
    """The states of one session: the shared one, and each connection's."""

    shared: Any
    connections: list[Any]
    release: Snapshot | None = None
    """What it holds of the configuration."""


def capture(session: Session, wire_id: int, write: Writers) -> Bundle:
    """Write a fenced session down.

    Args:
        session: the session; its streams are fenced, its helpers stopped.
        wire_id: its id in the offer.
        write: how states are written.

    Returns:
        the records, and the descriptors, which stay the streams'.

    Raises:
        StateError: a state, or an item that waits in a merged queue, cannot travel.
    """
    connections = session.connections
    fenced_ns, write_state = session.fenced_ns, write.connection
    records, descriptors = [], []
    for connection in connections:
        cookie = connection._cookie
        if cookie is None:
            know_cookies([session])
            cookie = connection._cookie or 0
        state, items = write_state(connection.state), connection._undelivered_items()
        merged = encode_any(list(items)) if items else None
        records.append(_capture_connection(connection, wire_id, cookie, fenced_ns, state, merged))
        descriptors.append(connection._stream.fileno())
    for connection, written in zip(connections, records, strict=True):
        connection._keeper.bus.capture(connection, written)
    record = SessionRecord(wire_id, session.id, len(records))
    if session.release is not None:
        record.release = session.release.serial
    if session._timers is not None:
        record.timers = _timers(session)
    if session.key is not None:
        record.key, record.kind = session.key, session.kind
        record.state = write.shared(session.kind, session.state)
    return Bundle(record, records, descriptors)


def know_cookies(sessions: Iterable[Session]) -> None:
    """See that each connection of sessions knows its socket's SO_COOKIE, which never changes: all are asked for at once.

    Raises:
        OSError: one is no open socket.
    """
    unknown = [connection for session in sessions for connection in session.connections if connection._cookie is None]
    if unknown:
        found = _core.cookies([connection._stream.fileno() for connection in unknown])
        for connection, cookie in zip(unknown, found, strict=True):
            connection._cookie = cookie


def rewritten(bundle: Bundle, session: Session, write: Writers) -> Bundle:
    """Return a copy of a captured session with its states written in another way.

    Args:
        bundle: the session as it was captured; the copy borrows the same descriptors.
        session: the session.
        write: how states are written in the copy.

    Raises:
        StateError: a state cannot be written like this.
    """
    replace, head = msgspec.structs.replace, bundle.record
    if session.shared:
        head = replace(head, state=write.shared(session.kind, session.state))
    records = [
        replace(record, state=write.connection(connection.state))
        for record, connection in zip(bundle.connections, session.connections, strict=True)
    ]
    return Bundle(head, records, list(bundle.descriptors))


def _capture_connection(
    connection: Connection[Any], wire_id: int, cookie: int, fenced_ns: int, state: bytes, merged: bytes | None
) -> ConnectionRecord:
    stream = connection._stream
    return ConnectionRecord(
        session=wire_id,
        cookie=cookie,
        id=connection.id,
        listener=connection.listener,
        family=stream.family,
        peername=_encode_name(connection.peername),
        state=state,
        undelivered=stream.undelivered,
        unsent=stream.unsent,
        end_of_stream=stream.end_of_stream,
        write_closed=stream.write_closed,
        fenced_ns=fenced_ns,
        merged=merged,
        joining=connection._joining,
        timers=tuple(connection._timers.written()) if connection._timers is not None else (),
    )


def restore(
    bundle: Bundle,
    states: States,
    framing: Framing,
    keeper: Keeper,
    on_touch: Callable[[], None] | None = None,
) -> Session:
    """Make a session of its records; its connections own the bundle's descriptors from here on.

    Args:
        bundle: records and descriptors.
        states: the decoded states.
        framing: the server's framing.
        keeper: who keeps the connections.
        on_touch: notes that the session is acted on, or None when nobody would read that.

    Returns:
        the session, with streams that do not read yet.
    """
    head = bundle.record
    kind = keeper.rooms.kinds.canonical(head.kind) if head.key is not None else ""
    session = Session(head.id, head.key, kind, states.shared, states.release)
    if head.timers:
        session._have_timers().bring(head.timers)
    for record, fd, state in zip(bundle.connections, bundle.descriptors, states.connections, strict=True):
        sock = socket.SocketType(record.family, NON_BLOCKING, 0, fd)
        connection: Connection[Any] = Connection(
            head.id if record.id == head.id else record.id,  # one object for both, as where it began
            sock,
            framing,
            state,
            session,
            listener=sys.intern(record.listener),  # one for all, not one of each record's own
            peername=_decode_name(record.peername),
            resumed=True,
            keeper=keeper,
            on_touch=on_touch,
        )
        if record.undelivered or record.unsent or record.end_of_stream or record.write_closed:
            connection._stream.bring(
                record.undelivered,
                record.unsent,
                end_of_stream=record.end_of_stream,
                write_closed=record.write_closed,
            )
        connection._cookie = record.cookie or None
        connection._joining = record.joining
        if record.timers:
            connection._have_timers().bring(record.timers)
        if record.merged is not None:
            connection._add_items(_items(record.merged))
        keeper.bus.take_up(connection, record)
    return session


def renew(session: Session, framing: Framing, keeper: Keeper) -> Session:
    """Serve a fenced session in this process with fresh handlers, which take up the live states.

    Nothing is encoded: a state that cannot travel need not, here.

    Args:
        session: its handlers are unwound by this, or have unwound already.
        framing: the server's framing.
        keeper: who keeps the connections.

    Returns:
        the session that takes its place, with streams that do not read yet.
    """
    before = list(session.connections)
    items = [list(connection._undelivered_items()) for connection in before]
    records = [_capture_connection(connection, 0, 0, session.fenced_ns, b"", None) for connection in before]
    for connection in before:
        connection._hand_off()
    descriptors = [connection._stream.detach() for connection in before]
    head = SessionRecord(0, session.id, len(before), session.key, None, session.kind, _timers(session))
    states = States(session.state, [connection.state for connection in before], session.release)
    renewed = restore(Bundle(head, records, descriptors), states, framing, keeper)
    for connection, left in zip(renewed.connections, items, strict=True):
        if left:
            connection._add_items(left)
    return renewed


def decode_states(bundle: Bundle, read: Readers) -> States:
    """Decode everything of a bundle that can fail, before it is accepted.

    Raises:
        StateError: this code cannot read it.
        UnreadableRelease: it cannot read the release of the configuration that the session holds.
    """
    head, read_state, states = bundle.record, read.connection, []
    shared = read.shared(head.kind, head.state) if head.state is not None else None
    for record in bundle.connections:
        states.append(read_state(record.state))
        if record.merged is not None:
            _items(record.merged)
        for subscription in record.subscriptions:
            for value in subscription.values:
                decode_any(value)
    return States(shared, states, read.release(head))


def _release_of(slots: Slots | None, origin: Slots | Luggage | None, record: SessionRecord) -> Snapshot | None:
    """Find what a session holds of the configuration; one that began without any begins with it now."""
    if slots is None or origin is None:
        return None
    try:
        if not record.release:
            return slots.begin(record.key or record.id) if record.connections else None
        return origin.snapshot(record.release)
    except ConfigError as error:
        raise UnreadableRelease("config", str(error)) from None


def _timers(session: Session) -> tuple[tuple[str, float], ...]:
    return tuple(session._timers.written()) if session._timers is not None else ()


def _encode_name(peername: Any) -> Any:
    """The path of a Unix socket need not be text (unix(7)); an address of the internet is a tuple."""
    return os.fsencode(peername) if isinstance(peername, str) else peername


def _decode_name(peername: Any) -> Any:
    if isinstance(peername, list):
        return tuple(peername)
    return os.fsdecode(peername) if isinstance(peername, bytes) else peername


def _items(merged: bytes) -> list[tuple[int, Any]]:
    items = decode_any(merged)
    if not isinstance(items, list):
        raise StateError("merge", "the undelivered items are no list")
    return items
