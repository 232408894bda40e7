"""What configuration servers and their subscribers say to each other: messages, their limits, their frames. No I/O.

A frame is a length in four bytes, big-endian, and a message in MessagePack. A subscriber speaks first, and says which
version of the protocol it speaks::

    subscriber                                configuration server
      Subscribe  what it is, its modules  ->
                                          <-  Addresses   who serves these modules
                                          <-  Welcome     which of them this one serves, and how often it will speak
                                          <-  Digest      what is in force; again every interval, and after each change
      Want       a release that it lacks  ->
                                          <-  Body, or Unavailable
      Report     what became of releases  ->              (no answer: the newest counts, and comes again)
      Declare    the schemas that it has  ->
      Lookup     who serves its modules   ->
                                          <-  Addresses

A release travels only to who wants it. ``Refused`` is the last that a server says on a connection. Every field has a
limit, so that neither side can make the other grow.
"""

from __future__ import annotations

import re
from typing import Annotated, Final, TypeVar

import msgspec

from hotfd.config import release
from hotfd.config.release import MAX_MODULES, MAX_RELEASE, Head, Line, Name, Version
from hotfd.config.store import MAX_FAULTS, Acknowledgement
from hotfd.errors import PushRefused

PROTOCOL: Final = 1
"""The version of these messages; a server refuses the others."""

HEADER: Final = 4
"""Bytes of a frame's length."""

MAX_REQUEST: Final = 1 << 18
"""Bytes of a message to a server, which may have ten thousand subscribers in the middle of one."""

MAX_ANSWER: Final = 1 << 21
"""Bytes of a message to a subscriber: a release, or the heads of all modules, with what is around them."""

MAX_HEAD: Final = 24 * 1024
"""Bytes of an encoded head: those of ``MAX_MODULES`` modules fit one answer."""

MAX_SCHEMA: Final = MAX_REQUEST - 4096
"""Bytes of a JSON Schema that can be declared: it fits one request."""

MAX_ADDRESSES: Final = 64
"""Configuration servers of one module that are told; a subscriber holds two at a time."""

MAX_FAULT_BYTES: Final = 16 * 1024
"""Bytes of the faults in one report: some screens, and a server holds as much for each subscriber and module."""

MAX_PINNED: Final = 256
"""Versions with their sessions in one report."""

ADDRESS: Final = re.compile(r"unix:/[^\0,?]{1,107}|(?:\[[0-9A-Fa-f:.%]{2,64}\]|[A-Za-z0-9_.-]{1,253}):[0-9]{1,5}")
"""Addresses of configuration servers: ``HOST:PORT``, ``[IPV6]:PORT``, ``unix:/PATH``."""

Sha256 = release.Digest
Modules = Annotated[tuple[Name, ...], msgspec.Meta(min_length=1, max_length=MAX_MODULES)]
Address = Annotated[str, msgspec.Meta(pattern=rf"^(?:{ADDRESS.pattern})\Z", max_length=300)]
Addressed = Annotated[tuple[Address, ...], msgspec.Meta(max_length=MAX_ADDRESSES)]


class Subscribe(msgspec.Struct, tag="subscribe", frozen=True):
    """The first message of a subscriber.

    Attributes:
        protocol: :data:`PROTOCOL`.
        server: the id of its process.
        service: its service's name.
        zone: its zone; empty for none.
        host: its host's name.
        pid: its process id.
        generation: of the process.
        modules: what it wants to hear of.
        have: by module, the sequence of the newest head that it knows: it is told of no older one.
    """

    protocol: int
    server: Line
    service: Line
    zone: Line
    host: Line
    pid: int
    generation: int
    modules: Modules
    have: Annotated[dict[Name, Version], msgspec.Meta(max_length=MAX_MODULES)] = {}


class Want(msgspec.Struct, tag="want", frozen=True):
    """A release that the subscriber lacks."""

    module: Name
    version: Version
    sha256: Sha256


class Report(msgspec.Struct, tag="report", frozen=True):
    """What the subscriber has made of the newest releases; the newest report of a module replaces older ones."""

    reports: Annotated[tuple[Acknowledgement, ...], msgspec.Meta(max_length=MAX_MODULES)]


class Declare(msgspec.Struct, tag="declare", frozen=True):
    """The JSON Schema that the subscriber checks a module's releases against."""

    module: Name
    schema_id: Line
    schema: Annotated[bytes, msgspec.Meta(max_length=MAX_SCHEMA)]


class Lookup(msgspec.Struct, tag="lookup", frozen=True):
    """Asks who serves these modules."""

    modules: Modules


class Welcome(msgspec.Struct, tag="welcome", frozen=True):
    """The subscriber is taken on.

    Attributes:
        server: an id of the configuration server, the same at all its addresses and over its handoffs.
        modules: those that were asked for and are served here.
        interval: seconds between two digests, at most and about.
    """

    server: Line
    modules: Modules
    interval: Annotated[float, msgspec.Meta(gt=0.0, le=3600.0)]


class Digest(msgspec.Struct, tag="digest", frozen=True):
    """The newest heads that the server knows, of the modules that it serves to this subscriber.

    Attributes:
        heads: of modules without a release there is none.
        silent: modules of which that cannot be said: something is in force, and the server cannot read it.
    """

    heads: Annotated[tuple[Head, ...], msgspec.Meta(max_length=MAX_MODULES)]
    silent: Annotated[tuple[Name, ...], msgspec.Meta(max_length=MAX_MODULES)] = ()


class Body(msgspec.Struct, tag="body", frozen=True):
    """A release, encoded."""

    module: Name
    version: Version
    sha256: Sha256
    data: Annotated[bytes, msgspec.Meta(max_length=MAX_RELEASE)]


class Unavailable(msgspec.Struct, tag="unavailable", frozen=True):
    """A release that was wanted cannot be had here, and why; another server may have it."""

    module: Name
    version: Version
    sha256: Sha256
    text: Line


class Addresses(msgspec.Struct, tag="addresses", frozen=True):
    """By module, where configuration servers serve it."""

    addresses: Annotated[dict[Name, Addressed], msgspec.Meta(max_length=MAX_MODULES)]


class Refused(msgspec.Struct, tag="refused", frozen=True):
    """The end of a connection, and why."""

    code: Line
    text: Line


Request = Subscribe | Want | Report | Declare | Lookup
Answer = Welcome | Digest | Body | Unavailable | Addresses | Refused

_Message = TypeVar("_Message")

_encoder = msgspec.msgpack.Encoder()
_requests: msgspec.msgpack.Decoder[Request] = msgspec.msgpack.Decoder(Request)
_answers: msgspec.msgpack.Decoder[Answer] = msgspec.msgpack.Decoder(Answer)


def frame(message: Request | Answer) -> bytes:
    """Return a message as a frame.

    Raises:
        PushRefused: it is larger than the other side takes.
    """
    data = _encoder.encode(message)
    limit = MAX_REQUEST if isinstance(message, Request) else MAX_ANSWER
    if len(data) > limit:
        raise PushRefused("malformed", f"a message of {len(data)} bytes; at most {limit} can be sent")
    return len(data).to_bytes(HEADER) + data


def read_request(data: bytes) -> Request:
    """Read what came from a subscriber.

    Raises:
        PushRefused: it is no message, or one that breaks a limit.
    """
    return _read(_requests, data)


def read_answer(data: bytes) -> Answer:
    """Read what came from a configuration server.

    Raises:
        PushRefused: it is no message, or one that breaks a limit.
    """
    return _read(_answers, data)


def _read(decoder: msgspec.msgpack.Decoder[_Message], data: bytes) -> _Message:
    try:
        return decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        # What the decoder says names fields and types, and no values.
        raise PushRefused("malformed", f"what came is no message: {error}"[:1000]) from None


class Splitter:
    """Divides what is received into the payloads of frames.

    Args:
        limit: bytes of a payload.
    """

    __slots__ = ("_buffer", "_limit")

    def __init__(self, limit: int) -> None:
        self._buffer = bytearray()
        self._limit = limit

    def feed(self, data: bytes) -> list[bytes]:
        """Return the payloads that are complete with these bytes.

        Raises:
            PushRefused: a frame is larger than the limit. That is known from its first four bytes: no more than a
                frame and one read is ever held.
        """
        self._buffer += data
        found, at, held = [], 0, len(self._buffer)
        while held - at >= HEADER:
            size = int.from_bytes(self._buffer[at : at + HEADER])
            if size > self._limit:
                raise PushRefused("malformed", f"a message of {size} bytes; at most {self._limit} are taken")
            end = at + HEADER + size
            if end > held:
                break
            found.append(bytes(memoryview(self._buffer)[at + HEADER : end]))
            at = end
        if at:
            del self._buffer[:at]
        return found


def bounded(report: Acknowledgement) -> Acknowledgement:
    """Return a report without what exceeds the limits of one: the last faults, and the oldest pinned versions."""
    faults: list[str] = []
    size = 0
    for fault in report.faults[:MAX_FAULTS]:
        size += len(fault.encode(errors="replace"))
        if size > MAX_FAULT_BYTES:
            break
        faults.append(fault)
    pinned = report.pinned
    if len(pinned) > MAX_PINNED:
        pinned = {version: pinned[version] for version in sorted(pinned)[-MAX_PINNED:]}
    return msgspec.structs.replace(report, faults=tuple(faults), pinned=pinned)
