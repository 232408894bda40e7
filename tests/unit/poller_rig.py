"""Streams of one poller on sockets of this process, with owners that note what they are told."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from hotfd.framing import Framing, Lines
from hotfd.server.poller import Poller
from hotfd.server.stream import Stream
from tests.unit.wire_support import tcp_pair


class End:
    """A stream on one end of a pair of sockets, Unix ones if none are given, its owner, and the other end."""

    def __init__(
        self, poller: Poller, framing: Framing, pair: tuple[socket.socket, socket.socket] | None = None
    ) -> None:
        near, self.peer = pair or socket.socketpair()
        near.setblocking(False)
        self.inputs = self.lost = self.closed = 0
        self.does: Callable[[], object] = lambda: None
        self.does_when_lost: Callable[[], object] = lambda: None
        self.stream = Stream(near, framing, self, poller)

    def _on_input(self) -> None:
        self.inputs += 1
        self.does()

    def _on_lost(self) -> None:
        self.lost += 1
        self.does_when_lost()

    def _on_stream_closed(self) -> None:
        self.closed += 1

    def send(self, data: bytes) -> None:
        self.peer.sendall(data)

    def unread(self) -> bytes:
        """What waits in the kernel; it is read by this."""
        with socket.socket(fileno=os.dup(self.stream.fileno())) as copy:
            try:
                return copy.recv(1 << 20, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return b""


class Rig:
    """Streams of one poller."""

    def __init__(self, framing: Framing) -> None:
        self.framing = framing
        self.poller = Poller(framing)
        self.ends: list[End] = []

    def end(self, *, start: bool = True) -> End:
        made = End(self.poller, self.framing)
        self.ends.append(made)
        if start:
            made.stream.start()
        return made

    def tcp_end(self) -> End:
        with tcp_pair() as (peer, near):
            made = End(self.poller, self.framing, (near.dup(), peer.dup()))
        self.ends.append(made)
        made.stream.start()
        return made

    def pair(self) -> tuple[End, End]:
        return self.end(), self.end()

    def close(self) -> None:
        for end in self.ends:
            end.stream.abort()
            end.peer.close()
        self.poller.close()


@contextmanager
def rig(framing: Framing | None = None) -> Iterator[Rig]:
    made = Rig(framing or Lines())
    try:
        yield made
    finally:
        made.close()
