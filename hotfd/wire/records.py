"""What travels of a session beside its descriptors: the records in an offer's sealed memfd.

A part's memfd holds one :class:`Part`. A session's own record stands in the part that has its first
connection; a connection's record stands in the part that has its descriptor.
"""

from __future__ import annotations

import sys
from typing import Annotated, Any, Final

import msgspec

from hotfd.errors import ChannelError

Id = Annotated[int, msgspec.Meta(ge=0, lt=1 << 62)]
Cookie = Annotated[int, msgspec.Meta(ge=0)]

MAX_TIMERS: Final = 1024
"""Timers of one connection or session that may be pending; a program that needs more wants a queue of its own."""

MAX_TIMER_NAME: Final = 255
"""Characters of a timer's name: what a qualified name of Python hardly ever has."""

Left = Annotated[float, msgspec.Meta(ge=0.0, le=sys.float_info.max)]  # the upper bound shuts infinity out
Timers = Annotated[
    tuple[tuple[Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_TIMER_NAME)], Left], ...],
    msgspec.Meta(max_length=MAX_TIMERS),
]


class SubscriptionRecord(msgspec.Struct, array_like=True, gc=False):
    """One subscription: its topic, how many messages it has lost, and the encoded ones that wait for the handler."""

    topic: str
    lost: int
    values: list[bytes]


class ConnectionRecord(msgspec.Struct, array_like=True, gc=False):
    """One connection at its frame boundary. Most have none of what comes in tuples: there is one empty tuple for all.

    Attributes:
        session: the wire id of its session.
        cookie: the socket's SO_COOKIE, which ties the record to its descriptor.
        id: the connection's id, the same in every generation.
        listener: what the server listens on, as it was told; tells the framing.
        family: the address family of the socket.
        peername: the peer's address as accept(2) gave it.
        state: the encoded state.
        undelivered: bytes received and not given to the handler.
        unsent: bytes written by the handler and not taken by the kernel.
        end_of_stream: the peer's end was read already.
        write_closed: the handler has shut its direction down.
        fenced_ns: CLOCK_MONOTONIC when the old process read last, in nanoseconds.
        merged: encoded queue items that the handler has not been given, or None.
        joining: key and kind of the shared session that it is on its way into, or None.
        timers: name and remaining seconds of each pending timer.
        subscriptions: what it has subscribed to on the bus.
        mark: how far ``subscriptions`` are: for each origin, the last message that was given to them.
    """

    session: Id
    cookie: Cookie
    id: str
    listener: str
    family: int
    peername: Any
    state: bytes
    undelivered: bytes = b""
    unsent: bytes = b""
    end_of_stream: bool = False
    write_closed: bool = False
    fenced_ns: int = 0
    merged: bytes | None = None
    joining: tuple[str, str] | None = None
    timers: Timers = ()
    subscriptions: tuple[SubscriptionRecord, ...] = ()
    mark: tuple[tuple[bytes, Id], ...] = ()


class SessionRecord(msgspec.Struct, array_like=True, gc=False):
    """One session: its wire id, its id for people, of a shared one its key, its state and that one's kind; its timers.

    ``release`` is the serial number of the snapshot of the configuration that it holds; 0 for none.
    """

    session: Id
    id: str
    connections: int
    key: str | None = None
    state: bytes | None = None
    kind: str = ""
    timers: Timers = ()
    release: Id = 0


class Part(msgspec.Struct, array_like=True):
    """The records of one part of an offer. ``process`` is the process-wide state, in the first part."""

    sessions: list[SessionRecord]
    connections: list[ConnectionRecord]
    process: bytes | None = None


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Part)


def encode_part(part: Part) -> bytes:
    """Return the bytes of a part's memfd."""
    return _encoder.encode(part)


def decode_part(data: bytes) -> Part:
    """Read a part's memfd.

    Raises:
        ChannelError: the bytes are no part.
    """
    try:
        return _decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ChannelError(f"an offer's records cannot be read: {error}") from None
