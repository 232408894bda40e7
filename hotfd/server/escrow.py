"""What the old process still holds of what it has given away, until the new process has proved itself.

The escrow owns one copy of each committed connection's descriptor, and of each connection that the new
process has accepted. They are never read, written or shut down here; they are either closed without a
trace (the new process's copy lives on), or, when the new process has died, given back.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hotfd import _core
from hotfd.errors import ChannelError
from hotfd.faults import Point, reach
from hotfd.transfer.channel import close_all
from hotfd.transfer.touch import NEWCOMERS

if TYPE_CHECKING:
    from hotfd.transfer.offer import Bundle
    from hotfd.wire import messages as m


@dataclass(slots=True)
class Newcomer:
    """A copy of a connection that the new process accepted."""

    fd: int
    slot: int
    listener: str


def newcomer_of(message: m.Newcomer, descriptors: list[int]) -> Newcomer:
    """Take the copy that came with a Newcomer, once it is certain that it can be served if the new process dies.

    Args:
        message: what the new process says of it.
        descriptors: what came with it; the copy is taken out of them, and belongs to what is returned.

    Raises:
        ChannelError: it is no connection, or not the one that the message names; everything stays the caller's.
    """
    if len(descriptors) != 1 or message.slot < NEWCOMERS or not _is_connection(descriptors[0], message.cookie):
        raise ChannelError("a newcomer that is no connection, or another one than it says")
    return Newcomer(descriptors.pop(), message.slot, message.listener)


def _is_connection(fd: int, cookie: int) -> bool:
    """Whether a descriptor is a stream socket with this cookie that does not listen; its client may have gone."""
    try:
        if _core.cookies([fd])[0] != cookie:
            return False
        sock = socket.socket(fileno=fd)
    except OSError:
        return False
    try:
        return sock.type == socket.SOCK_STREAM and not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    finally:
        sock.detach()


class Escrow:
    """Holds committed sessions and newcomers.

    Args:
        on_gone: called with the id of each connection that will not come back.
    """

    def __init__(self, on_gone: Callable[[str], None] = lambda id: None) -> None:
        self._on_gone = on_gone
        self._bundles: dict[int, Bundle] = {}
        self._by_cookie: dict[int, tuple[int, int]] = {}  # cookie -> wire id, descriptor
        self._newcomers: dict[int, Newcomer] = {}

    def hold(self, wire_id: int, bundle: Bundle) -> None:
        """Keep a committed session; the escrow owns the bundle's descriptors from here on."""
        self._bundles[wire_id] = bundle
        for record, fd in zip(bundle.connections, bundle.descriptors, strict=True):
            self._by_cookie[record.cookie] = (wire_id, fd)

    def hold_newcomer(self, cookie: int, newcomer: Newcomer) -> None:
        """Keep a copy of what the new process accepted; the escrow owns its descriptor from here on."""
        before = self._newcomers.pop(cookie, None)
        if before is not None:
            os.close(before.fd)
        self._newcomers[cookie] = newcomer

    def drop(self, cookie: int) -> None:
        """The connection is over: close the copy. Unknown cookies say nothing."""
        reach(Point.OLD_ENDED)
        newcomer = self._newcomers.pop(cookie, None)
        if newcomer is not None:
            os.close(newcomer.fd)
        wire_id, fd = self._by_cookie.pop(cookie, (-1, -1))
        if fd >= 0:
            bundle = self._bundles[wire_id]
            at = bundle.descriptors.index(fd)
            self._on_gone(bundle.connections[at].id)
            del bundle.descriptors[at], bundle.connections[at]
            os.close(fd)

    def held(self, wire_id: int) -> Bundle | None:
        """Return a session that is held, without giving it back; None when none is."""
        return self._bundles.get(wire_id)

    @property
    def sessions(self) -> list[int]:
        """The sessions that are held."""
        return list(self._bundles)

    def take(self, wire_id: int) -> Bundle:
        """Give a session back; the caller owns its descriptors. Connections that ended are not in it."""
        bundle = self._bundles.pop(wire_id)
        for record in bundle.connections:
            del self._by_cookie[record.cookie]
        return bundle

    @property
    def newcomers(self) -> list[Newcomer]:
        """The newcomers that are held."""
        return list(self._newcomers.values())

    def take_newcomers(self) -> list[Newcomer]:
        """Give all newcomers back; the caller owns their descriptors."""
        newcomers = list(self._newcomers.values())
        self._newcomers.clear()
        return newcomers

    def close(self) -> None:
        """Close every copy; the new process's own live on. Idempotent."""
        bundles = self._bundles.values()
        close_all([fd for bundle in bundles for fd in bundle.descriptors])
        close_all([newcomer.fd for newcomer in self._newcomers.values()])
        for bundle in bundles:
            for record in bundle.connections:
                self._on_gone(record.id)
        self._bundles.clear()
        self._by_cookie.clear()
        self._newcomers.clear()
