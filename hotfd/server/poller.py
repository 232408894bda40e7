"""Reads from all connections of an engine that have something, in one call, and sends their replies in another.

An event loop looks up a callback for each descriptor that is readable, and the callback reads from it: with many busy
connections that is more work than the reads. So they are registered with an epoll descriptor of their own (epoll(7)),
which alone is registered with the loop. When it is readable, one call into C asks which of them are, and reads from each.

No code of a user's runs while bytes are in nobody's hands. A batch has two phases::

    1   each stream takes what came for it into its buffer, where it is "undelivered" and travels if the stream moves;
        then each looks for frames in it
    2   each stream tells its owner: handlers go on, and may close, abort, fence or move any stream of the batch

What they write meanwhile is gathered: it is "unsent", which travels too, until one call has sent all of it. A reply that
somebody has to send before that (its stream is closed, or has a lot to send) is left out of it.

A stream that is gone by its turn in the second phase is told nothing. One that has to do something before it is read from
(:attr:`Stream.before_io`), reads large frames, or waits for its peer's end, reads by itself in the second phase, if it is
still polled then.

The kernel keeps a registration with the open file, of which another process may have a copy, and not with the descriptor.
So a stream is dropped before its descriptor is closed or given away, always.
"""

from __future__ import annotations

import asyncio
import errno
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

SLOTS: Final = 32
"""Slots that are made at once where none is free: a batch of connections that a handoff brings, and no memory to speak of."""

GATHERED: Final = 8
"""Streams in a batch from which on their replies are sent together: for fewer, each by itself costs less."""

REPLIES: Final = 32
"""Replies that are sent at a time: the first waits for the handlers of the others."""

REPLY_SIZE: Final = 1 << 12
"""Bytes of a reply that is gathered; to copy a larger one costs more than is gained."""

NOWHERE: Final = -1
"""The slot of a stream that is not polled."""


class Poller:
    """Polls the streams of one engine.

    Args:
        framing: the framing of all of them.
    """

    def __init__(self, framing: Framing) -> None:
        self.loop = asyncio.get_running_loop()
        scanner = framing.scanner()
        self._framing = scanner.framing if isinstance(scanner, _core.FrameScanner) else None
        self._sockets: _core.SocketPoll | None = None
        self._streams: list[Stream | None] = []  # by slot
        self._free: list[int] = []
        self.replies: list[Stream] | None = None
        """In the second phase of a batch, streams with a reply that is to be sent with those of others; else None."""
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
            self.loop.add_reader(sockets.fileno(), self._on_readable)
            self._sockets = sockets
        return sockets

    def close(self) -> None:
        """Close the descriptor: nothing is polled any more. Idempotent; the next stream makes another one."""
        sockets, self._sockets = self._sockets, None
        if sockets is not None:
            self.loop.remove_reader(sockets.fileno())
            sockets.close()
        for stream in self._streams:
            if stream is not None:
                stream.slot = NOWHERE
        self._streams, self._free, self._changes = [], [], []

    # -- which streams -------------------------------------------------------------------------------

    def add(self, stream: Stream, fd: int) -> None:
        """Poll a stream by its descriptor.

        One that cannot be polled (no descriptor is left to do it with; or ENOMEM, or ENOSPC: this user polls as much as
        the kernel allows, epoll(7)) is reset, and lost. It hears of that in the next turn of the loop.
        """
        sockets = self._sockets
        if sockets is None:
            try:
                sockets = self.open()
            except OSError as error:
                self.loop.call_soon(stream.refused, error.errno or errno.EMFILE)
                return
        if not self._free:
            self._add_slots(sockets)
        slot = stream.slot = self._free.pop()
        self._streams[slot] = stream
        if self._gathering:
            self._changes += (slot, fd, _core.POLL_READ if stream.plain else _core.POLL_TELL)
        elif code := sockets.add(slot, fd, stream.plain):
            self._refused(slot, code)

    def _add_slots(self, sockets: _core.SocketPoll) -> None:
        first = len(self._streams)
        if first + SLOTS > sockets.size:
            sockets.grow()
        self._streams += [None] * SLOTS
        self._free += range(first + SLOTS - 1, first - 1, -1)

    def remove(self, stream: Stream, fd: int) -> None:
        """Poll a stream no more."""
        slot, stream.slot = stream.slot, NOWHERE
        self._streams[slot] = None
        self._free.append(slot)
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
        stream.slot, self._streams[slot] = NOWHERE, None
        self._free.append(slot)
        self.loop.call_soon(stream.refused, code)

    # -- a batch -------------------------------------------------------------------------------------

    def _on_readable(self) -> None:
        sockets, streams = self._sockets, self._streams
        assert sockets is not None
        found, taken = sockets.read(), sockets.taken
        if len(found) == 4:  # what comes by itself, as most does where little comes, costs little
            slot, size, payload, payload_end = found
            stream = streams[slot]
            if stream is not None and size > 0:
                try:
                    if stream.receive(taken[:size], payload, payload_end):
                        stream.look()
                except MemoryError:
                    stream.cut(errno.ENOMEM)
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
                try:
                    if stream.receive(taken[at : at + size], payload, payload_end):
                        looking.append(stream)
                except MemoryError:  # whose bytes were large; those of the others are here still
                    stream.cut(errno.ENOMEM)
                    looking.append(stream)
                at += size
                told.append(stream)
            elif size == _core.POLL_UNREAD:
                alone.append(stream)
            else:
                stream.receive_end(-size)
                looking.append(stream)
                told.append(stream)
        self._tell(iter(looking), iter(told), iter(alone), gather=len(told) >= GATHERED)

    def _tell(
        self, looking: Iterator[Stream], told: Iterator[Stream], alone: Iterator[Stream], *, gather: bool = False
    ) -> None:
        """All that runs code of a user's. What it raises that ends a loop, as SystemExit, keeps no other stream from its turn."""
        replies: list[Stream] = []
        try:
            for stream in looking:
                stream.look()
            self.replies = replies if gather else None
            for stream in told:
                stream.tell()
                if len(replies) >= REPLIES:
                    self._send(replies)
            for stream in alone:
                if stream.slot != NOWHERE:
                    stream.read()
        except BaseException:
            self.loop.call_soon(self._tell, looking, told, alone)
            raise
        finally:
            self.replies = None
            if replies:
                self._send(replies)

    def _send(self, replies: list[Stream]) -> None:
        """Send what was gathered, in one call."""
        streams, data = [], []
        numbers: list[int] = []
        for stream in replies:
            reply = stream.reply()
            if reply:
                streams.append(stream)
                data.append(reply)
                numbers += (stream.fileno(), len(reply))
        replies.clear()
        if not streams:
            return
        assert self._sockets is not None
        try:
            sent = self._sockets.send(b"".join(data), numbers)
        except BaseException:  # MemoryError: nothing was sent, and who answers has done with it
            for stream, reply in zip(streams, data, strict=True):
                stream.not_sent(reply)
            raise
        if sent is None:
            return
        lost = []
        for stream, reply, taken in zip(streams, data, sent, strict=True):
            if taken < 0 and -taken not in {errno.EAGAIN, errno.EINTR}:
                lost.append((stream, OSError(-taken, os.strerror(-taken))))
            elif rest := reply[max(taken, 0) :]:
                stream.not_sent(rest)
        for stream, error in lost:  # when all others have theirs back: who is told may do anything
            stream.lose(error)
