"""Reads from all connections of an engine that have something, in one call.

An event loop looks up a callback for each descriptor that is readable, and the callback reads from it: with many busy
connections that is more work than the reads. So they are registered with an epoll descriptor of their own (epoll(7)),
which alone is registered with the loop. When it is readable, one call into C asks which of them are, and reads from each.

No code of a user's runs while bytes are in nobody's hands. A batch has two phases::

    1   each stream takes what came for it into its buffer, where it is "undelivered" and travels if the stream moves;
        then each looks for frames in it
    2   each stream tells its owner: handlers go on, and may close, abort, fence or move any stream of the batch

A stream that is gone by its turn in the second phase is told nothing. One that has to do something before it is read from
(:attr:`Stream.before_io`), reads large frames, or waits for its peer's end, reads by itself in the second phase, if it is
still polled then.

The kernel keeps a registration with the open file, of which another process may have a copy, and not with the descriptor.
So a stream is dropped before its descriptor is closed or given away, always.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from hotfd import _core

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hotfd.framing import Framing
    from hotfd.server.stream import Stream

READ_SIZE: Final = 1 << 16
"""Bytes asked for per read: what one TCP window of a local client usually holds. A bound too for how long one client
that sends small frames ahead can hold the loop."""

NOWHERE: Final = -1
"""The slot of a stream that is not polled."""


class Poller:
    """Polls the streams of one engine.

    Args:
        framing: the framing of all of them.
    """

    def __init__(self, framing: Framing) -> None:
        self._loop = asyncio.get_running_loop()
        scanner = framing.scanner()
        self._framing = scanner.framing if isinstance(scanner, _core.FrameScanner) else None
        self._sockets: _core.SocketPoll | None = None
        self._streams: list[Stream | None] = []  # by slot
        self._free: list[int] = []
        self._gathering = False
        self._changes: list[int] = []  # gathered, and not made yet: slot, descriptor and what is to be done

    def open(self) -> _core.SocketPoll:
        """Make the epoll descriptor, if it is not there yet.

        The first stream has it made too. Who calls this before he promises to serve finds out in time.

        Raises:
            OSError: EMFILE or ENFILE, no descriptor is left; ENOMEM.
        """
        sockets = self._sockets
        if sockets is None:
            sockets = _core.SocketPoll(self._framing, READ_SIZE)
            self._loop.add_reader(sockets.fileno(), self._on_readable)
            self._sockets = sockets
        return sockets

    def close(self) -> None:
        """Close the descriptor: nothing is polled any more. Idempotent; the next stream makes another one."""
        sockets, self._sockets = self._sockets, None
        if sockets is not None:
            self._loop.remove_reader(sockets.fileno())
            sockets.close()
        for stream in self._streams:
            if stream is not None:
                stream.slot = NOWHERE
        self._streams, self._free, self._changes = [], [], []

    # -- which streams -------------------------------------------------------------------------------

    def add(self, stream: Stream, fd: int) -> None:
        """Poll a stream by its descriptor.

        One that cannot be polled (no descriptor is left to do it with; or ENOMEM, or ENOSPC: this user polls as much as
        the kernel allows, epoll(7)) is lost, as after an error of its socket. It hears of that in the next turn of the loop.
        """
        sockets = self._sockets
        if sockets is None:
            try:
                sockets = self.open()
            except OSError as error:
                self._loop.call_soon(stream.lose, error)
                return
        if not self._free:
            self._add_slot(sockets)
        slot = stream.slot = self._free.pop()
        self._streams[slot] = stream
        if self._gathering:
            self._changes += (slot, fd, _core.POLL_READ if stream.plain else _core.POLL_TELL)
        elif code := sockets.add(slot, fd, stream.plain):
            self._refused(slot, code)

    def _add_slot(self, sockets: _core.SocketPoll) -> None:
        slot = len(self._streams)
        if slot == sockets.size:
            sockets.grow()
        self._streams.append(None)
        self._free.append(slot)

    def remove(self, stream: Stream, fd: int) -> None:
        """Poll a stream no more."""
        slot = self._forget(stream)
        if self._gathering:
            self._changes += (slot, fd, _core.POLL_DROP)
        else:
            assert self._sockets is not None
            self._sockets.drop(slot, fd)

    def update(self, stream: Stream) -> None:
        """A stream that is polled has become one that is read from here, or none any more."""
        self.settle()
        if stream.slot != NOWHERE:
            assert self._sockets is not None
            self._sockets.set_reads(stream.slot, stream.plain)

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """Add and remove many streams: what is asked for inside is done in one call, at the end."""
        outer, self._gathering = self._gathering, True
        try:
            yield
        finally:
            self._gathering = outer
            if not outer:
                self.settle()

    def settle(self) -> None:
        """Do now what was gathered: a descriptor is about to be closed, or given away."""
        changes = self._changes
        if changes:
            self._changes = []
            assert self._sockets is not None
            codes = self._sockets.change(changes)
            if any(codes):  # what was done last with a slot is what counts, and no drop can fail
                last = dict(zip(changes[::3], zip(changes[2::3], codes, strict=True), strict=True))
                for slot, (how, code) in last.items():
                    if code and how != _core.POLL_DROP:
                        self._refused(slot, code)

    def _refused(self, slot: int, code: int) -> None:
        stream = self._streams[slot]
        assert stream is not None
        self._forget(stream)
        self._loop.call_soon(stream.lose, OSError(code, os.strerror(code)))

    def _forget(self, stream: Stream) -> int:
        slot, stream.slot = stream.slot, NOWHERE
        self._streams[slot] = None
        self._free.append(slot)
        return slot

    # -- a batch -------------------------------------------------------------------------------------

    def _on_readable(self) -> None:
        sockets, streams = self._sockets, self._streams
        assert sockets is not None
        found, taken = sockets.read(), sockets.taken
        if len(found) == 4:  # what comes by itself, as most does where little comes, costs little
            slot, size, payload, payload_end = found
            stream = streams[slot]
            if stream is not None and size > 0:
                if stream.receive(taken[:size], payload, payload_end):
                    stream.look()
                stream.tell()
                return
        numbers, at = iter(found), 0
        told, looking, alone = [], [], []
        # Nothing is called here that could take a slot from a stream, or give it to another one.
        for slot, size, payload, payload_end in zip(numbers, numbers, numbers, numbers, strict=True):
            stream = streams[slot]
            if stream is None:  # ended since by a finalizer, which the garbage collector may run anywhere
                at += max(size, 0)
            elif size > 0:
                if stream.receive(taken[at : at + size], payload, payload_end):
                    looking.append(stream)
                at += size
                told.append(stream)
            elif size == _core.POLL_UNREAD:
                alone.append(stream)
            else:
                stream.receive_end(-size)
                looking.append(stream)
                told.append(stream)
        for stream in looking:
            stream.look()
        self._tell(iter(told), iter(alone))

    def _tell(self, told: Iterator[Stream], alone: Iterator[Stream]) -> None:
        """The second phase. What a handler raises that ends a loop, as SystemExit, keeps no other one from being told."""
        try:
            for stream in told:
                stream.tell()
            for stream in alone:
                if stream.slot != NOWHERE:
                    stream.read()
        except BaseException:
            self._loop.call_soon(self._tell, told, alone)
            raise
