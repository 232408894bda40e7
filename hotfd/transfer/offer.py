"""Offers: sessions with their descriptors, cut into parts that fit a packet, and put together again.

A part is one packet: up to 253 descriptors, of which the first is a sealed memfd with the records. The
receiver does not trust their order: a record names its socket's SO_COOKIE, and a descriptor belongs to
the record whose cookie it has.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec

from hotfd import _core
from hotfd.errors import ChannelError
from hotfd.faults import Point, reach
from hotfd.transfer.channel import close_all
from hotfd.wire import messages, records

CONNECTIONS_PER_PART: Final = _core.MAX_DESCRIPTORS - 1
"""Connections in one packet; the remaining descriptor is the memfd."""

MAX_RECORDS: Final = 4 << 30
"""Bytes of one part's records that are accepted; a broken partner cannot make this process map more."""


class Bundle(msgspec.Struct, gc=False):
    """One session as it travels. The descriptors are borrowed on the old side, owned on the new one."""

    record: records.SessionRecord
    connections: list[records.ConnectionRecord]
    descriptors: list[int]

    @property
    def size(self) -> int:
        """Bytes of states, buffers and what waits in queues: what can be large of its records."""
        size = len(self.record.state) if self.record.state is not None else 0
        for each in self.connections:
            size += len(each.state) + len(each.undelivered) + len(each.unsent)
            if each.merged is not None:
                size += len(each.merged)
            for subscription in each.subscriptions:
                size += sum(map(len, subscription.values))
        return size


@dataclass(slots=True)
class PackedPart:
    """A part that is ready to be sent: its message, its memfd (owned), its connections (borrowed)."""

    message: messages.OfferPart
    memfd: int
    descriptors: Sequence[int]


def pack(offer: int, first: int, bundles: Sequence[Bundle], process: bytes | None = None) -> Iterator[PackedPart]:
    """Cut an offer into parts, one after another, so that a single memfd exists at a time.

    Args:
        offer: the offer's id.
        first: the wire id of the first bundle; the records carry the following ones already.
        bundles: the sessions.
        process: the process-wide state, when it moves with them.

    Yields:
        each part; the caller closes its memfd.

    Raises:
        OSError: no memfd can be made (EMFILE, ENOMEM).
    """
    connections = [record for bundle in bundles for record in bundle.connections]
    descriptors = [fd for bundle in bundles for fd in bundle.descriptors]
    parts = max(1, -(-len(descriptors) // CONNECTIONS_PER_PART))
    heads = {bundle.record.session: bundle.record for bundle in bundles}
    for number in range(parts):
        window = slice(number * CONNECTIONS_PER_PART, (number + 1) * CONNECTIONS_PER_PART)
        here = connections[window]
        if number < parts - 1:
            sessions = [heads.pop(record.session) for record in here if record.session in heads]
        else:
            sessions = list(heads.values())  # those without a connection too
        part = records.Part(sessions, here, process if number == 0 else None)
        message = messages.OfferPart(offer, number, parts, first, len(bundles))
        reach(Point.OLD_MEMFD)
        memfd = _core.memfd_seal("hotfd-offer", [records.encode_part(part)])
        yield PackedPart(message, memfd, descriptors[window])


@dataclass(slots=True)
class Arrived:
    """A complete offer on the new side. Its bundles own their descriptors."""

    bundles: dict[int, Bundle]
    process: bytes | None


@dataclass(slots=True)
class _Gathering:
    sessions: list[records.SessionRecord] = field(default_factory=list)
    connections: list[records.ConnectionRecord] = field(default_factory=list)
    by_cookie: dict[int, int] = field(default_factory=dict)
    process: bytes | None = None
    arrived: int = 0


class Assembler:
    """Puts the parts of offers together. Owns every descriptor until it hands out the :class:`Arrived`."""

    def __init__(self) -> None:
        self._gathering: dict[int, _Gathering] = {}

    def add(self, part: messages.OfferPart, descriptors: list[int]) -> Arrived | None:
        """Take one part and its descriptors.

        Returns:
            the offer when this was its last part, else None.

        Raises:
            ChannelError: the part, or the offer as a whole, is not what it says. Everything that came of
                the offer is closed.
        """
        gathering = self._gathering.setdefault(part.offer, _Gathering())
        try:
            self._read(gathering, descriptors)
            gathering.arrived += 1
            if gathering.arrived < part.parts:
                return None
            arrived = _match(part, gathering)
        except (ChannelError, OSError, ValueError) as error:
            self.drop(part.offer)
            raise ChannelError(f"offer {part.offer}: {error}") from error
        del self._gathering[part.offer]
        return arrived

    def _read(self, gathering: _Gathering, descriptors: list[int]) -> None:
        if not descriptors:
            raise ChannelError("a part without its memfd")
        memfd, *connections = descriptors
        try:
            cookies = _core.cookies(connections)
            data = _core.memfd_load(memfd, MAX_RECORDS)
        except BaseException:
            close_all(connections)
            raise
        finally:
            os.close(memfd)
        found = dict(zip(cookies, connections, strict=True))
        if len(found) != len(connections) or not found.keys().isdisjoint(gathering.by_cookie.keys()):
            close_all(connections)
            raise ChannelError("a socket stands twice in it")
        gathering.by_cookie |= found
        part = records.decode_part(data)
        gathering.sessions += part.sessions
        gathering.connections += part.connections
        if part.process is not None:
            gathering.process = part.process

    def drop(self, offer: int) -> None:
        """Close everything that came of an offer. Idempotent."""
        gathering = self._gathering.pop(offer, None)
        if gathering is not None:
            close_all(list(gathering.by_cookie.values()))

    def close(self) -> None:
        """Close everything that is not handed out."""
        for offer in list(self._gathering):
            self.drop(offer)


def _match(part: messages.OfferPart, gathering: _Gathering) -> Arrived:
    """Tie each record to its descriptor by cookie; every record and every descriptor must be used."""
    bundles = {record.session: Bundle(record, [], []) for record in gathering.sessions}
    expected = range(part.first, part.first + part.sessions)
    if len(gathering.sessions) != part.sessions or not all(map(bundles.__contains__, expected)):
        raise ChannelError("its sessions are not those that it announces")
    if len(gathering.connections) != len(gathering.by_cookie):
        raise ChannelError("it has another number of records than of sockets")
    # As many records as sockets, and the same cookies: so each stands there once.
    if {record.cookie for record in gathering.connections} != gathering.by_cookie.keys():
        raise ChannelError("a record and its socket do not belong together")
    by_cookie = gathering.by_cookie
    for record in gathering.connections:
        bundle = bundles.get(record.session)
        if bundle is None:
            raise ChannelError("a connection belongs to none of its sessions")
        bundle.connections.append(record)
        bundle.descriptors.append(by_cookie[record.cookie])
    for bundle in bundles.values():
        if bundle.record.connections != len(bundle.connections):
            raise ChannelError("a session lacks a connection")
    return Arrived(bundles, gathering.process)
