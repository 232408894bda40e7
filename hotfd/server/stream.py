"""One socket with its buffers: bytes in, frames out, and the other way; the seam below a connection.

A stream registers its own descriptor, with its engine's poller and with the loop, instead of using an asyncio
transport. So every byte is in exactly one place that can be named: the kernel, ``undelivered`` or ``unsent``; and
letting go of a socket is two ``epoll_ctl`` calls.

How a stream ends
-----------------
close(2) with unread input sends a reset, which can destroy bytes on their way to a slow client; and
while any copy of the descriptor exists (another process's escrow), close(2) sends nothing at all. So a
stream always ends by sending what is unsent, shutdown(SHUT_WR), reading to the peer's end or a limit, and
only then close(2)::

    OPEN --close()--> FLUSHING --unsent is empty--> DRAINING --peer's end, or limit--> CLOSED
      |                  |                             |
      +------------------+------- abort(), reset ------+--> CLOSED
      +--detach()--> DETACHED     (the descriptor lives on elsewhere)
"""

from __future__ import annotations

import asyncio
import enum
import errno
import fcntl
import logging
import os
import socket
import struct
import termios
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Protocol

from hotfd import _core, log
from hotfd.errors import ConnectionClosed, FramingError
from hotfd.server.poller import NOWHERE, READ_SIZE, REPLY_SIZE

if TYPE_CHECKING:
    from hotfd.framing import Framing, Scanner
    from hotfd.server.poller import Poller

MSG_DONTWAIT: Final = int(socket.MSG_DONTWAIT)
"""With each call, and not by O_NONBLOCK alone: that is in the open file, which another process may share and change."""

LARGE_READ_SIZE: Final = 31 << 12
"""Bytes that a stream reads by itself, once ``READ_SIZE`` of them were here and no whole frame: frames of that size come
with fewer reads, and are copied once less. More than 128 KiB is mapped by glibc for each read, and unmapped after it
(mallopt(3), M_MMAP_THRESHOLD), which costs more than it saves."""

LARGE_SPANS: Final = 2 * 3
"""Numbers in ``spans`` above which frames are not that large (any more): for the sake of that bound, it is ``READ_SIZE`` again."""

JOIN_LIMIT: Final = 1 << 14
"""Bytes of half a frame below which what comes is joined to them by a copy, so that frames are cut out of ``bytes``, which
is fastest. To copy so many costs less than the read that brought the rest."""

READ_HIGH_WATER: Final = 1 << 18
"""Undelivered bytes above which a stream with a frame at hand stops reading."""

WRITE_HIGH_WATER: Final = 1 << 16
"""Unsent bytes above which ``send`` waits; asyncio's own default."""

GATED_WRITE_HIGH_WATER: Final = 1 << 24
"""The same while a handoff wants the session: unsent bytes travel, so a slow reader need not be waited
for; a handler that writes without end still is."""

COMPACT_AT: Final = 1 << 16
"""Consumed bytes at the front of the buffer above which they are cut off."""

FLUSH_LIMIT: Final = 30.0
"""Seconds without progress after which a closing stream with unsent bytes is aborted."""

DRAIN_LIMIT: Final = 5.0
"""Seconds that a closed stream waits for the peer's end; nginx's lingering_timeout."""

STOP_DRAIN_LIMIT: Final = 1.0
"""The same when the whole server stops, and somebody waits for that."""

DRAIN_BYTES: Final = 1 << 24
"""Bytes that are read and dropped while waiting for the peer's end."""


_family: Final[Callable[[socket.SocketType], int]] = socket.SocketType.family.__get__
"""Reads the address family of a socket as a number: of each connection that moves, no object needs to be looked up."""


class Life(enum.Enum):
    """Where a stream is between its start and its end."""

    OPEN = "open"
    FLUSHING = "flushing"
    DRAINING = "draining"
    CLOSED = "closed"
    DETACHED = "detached"


OPEN: Final = Life.OPEN


class Owner(Protocol):
    """Whom a stream tells what happens. One object, and not a bound method for each call: every connection has them."""

    def _on_input(self) -> None:
        """A frame, the peer's end or an error has come. The loop has called; whoever waits may go on before this returns."""

    def _on_lost(self) -> None:
        """The connection is lost, which somebody has found out who goes on after this: whoever waits goes on later."""

    def _on_stream_closed(self) -> None:
        """The descriptor is closed; told once."""


class Stream:
    """A connected stream socket, its framing and its buffers.

    Args:
        sock: the socket, non-blocking; the stream owns it until it is closed or detached.
        framing: where frames end; the poller's.
        owner: who is told what happens.
        poller: who says when there is something to read, and reads it.
    """

    __slots__ = (
        "_before_io",
        "_buffer",
        "_drained",
        "_fd",
        "_fenced",
        "_framing",
        "_gathered",
        "_head",
        "_later",
        "_owner",
        "_poller",
        "_read_size",
        "_scanner",
        "_sock",
        "_taken_at",
        "_telling",
        "_timer",
        "_unsent",
        "_untaken",
        "_write_waiter",
        "_writing",
        "corked",
        "end_of_stream",
        "error",
        "gated",
        "hurried",
        "life",
        "loop",
        "slot",
        "spans",
        "write_closed",
    )

    def __init__(
        self,
        sock: socket.SocketType,
        framing: Framing,
        owner: Owner,
        poller: Poller,
    ) -> None:
        self.loop = poller.loop
        self._sock = sock
        self._fd = sock.fileno()
        self._framing = framing
        self._scanner: Scanner | None = None  # most find their frames without
        self._owner = owner
        self._poller = poller
        self.slot = NOWHERE  # the poller's; only that changes it
        self._buffer: bytes | bytearray = b""
        self._head = 0  # the first byte that is not delivered
        self._read_size = READ_SIZE
        # Of each frame at hand three offsets: its end, its payload's end and start; the last three are those of the next
        # frame. What is found while some are at hand comes into `_later`, the other way around, until these are delivered.
        self.spans: list[int] | tuple[()] = ()
        self._later: list[int] | tuple[()] = ()
        self._unsent: bytearray | None = None
        self._writing = self._fenced = self._telling = False
        self.corked = False  # what is unsent was gathered, and flush sends it
        self._gathered = False  # the same, and the poller sends it with the replies of others
        self._write_waiter: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._drained = 0
        self._untaken = 0  # bytes that the peer had not acknowledged when the drain limit was reached last
        self._taken_at = 0.0  # when that was seen to change
        self.life = Life.OPEN
        self.error: OSError | FramingError | None = None
        self.end_of_stream = self.write_closed = False
        self.gated = False
        self.hurried = False
        self._before_io: Callable[[], None] | None = None

    def bring(
        self, undelivered: bytes = b"", unsent: bytes = b"", *, end_of_stream: bool = False, write_closed: bool = False
    ) -> None:
        """Take up what another stream of the same socket had left; before :meth:`start`.

        Args:
            undelivered: bytes that were received already.
            unsent: bytes that were written already.
            end_of_stream: the peer's end was read already.
            write_closed: this side's direction was shut down already.
        """
        self._buffer = undelivered
        self._unsent = bytearray(unsent) if unsent else None
        self.end_of_stream = end_of_stream
        self.write_closed = write_closed

    def start(self) -> None:
        """Begin to read, and to send what is unsent."""
        self._fenced = False
        if self._buffer and not self.spans and not isinstance(self.error, FramingError):
            self._find_frames()
        self._update_reading()
        if self._unsent:
            self._start_writing()
        elif self.write_closed:
            self._shutdown()  # asked for while fenced; a second time does no harm

    # -- towards the handler -------------------------------------------------------------------------

    @property
    def frame_at_hand(self) -> bool:
        """Whether :meth:`take` has a frame."""
        return bool(self.spans)

    @property
    def input_over(self) -> bool:
        """Whether no frame will come after those at hand."""
        return self.end_of_stream or self.error is not None or self.life is not OPEN

    @property
    def over(self) -> bool:
        """Whether the connection is closed here, or lost."""
        return self.life is not Life.OPEN or isinstance(self.error, OSError)

    def take(self) -> bytes:
        """Return the payload of the next frame; it is delivered by this."""
        spans, buffer = self.spans, self._buffer
        if len(spans) > 3:
            start, end, self._head = spans.pop(), spans.pop(), spans.pop()
            return buffer[start:end] if type(buffer) is bytes else bytes(memoryview(buffer)[start:end])
        head, end, start = spans  # type: ignore[misc] # take is for those who have seen that there is one
        frame = buffer[start:end] if type(buffer) is bytes else bytes(memoryview(buffer)[start:end])
        if self._later:
            self._head = head
            self.spans, self._later = self._later[::-1], ()
            return frame
        self.spans = ()
        if head == len(buffer):
            self._buffer = b""
            self._head = 0
        else:
            self._head = head
            if head >= COMPACT_AT:
                self._buffer = bytearray(memoryview(buffer)[head:])
                self._head = 0
            if not isinstance(self.error, FramingError):
                self._find_frames()  # a scan may stop early; it has found all when it finds none
        if self.slot == NOWHERE:
            self._update_reading()
        return frame

    # -- what the poller calls -----------------------------------------------------------------------

    @property
    def plain(self) -> bool:
        """Whether the poller may read, at most ``READ_SIZE`` bytes at a time; else it calls :meth:`read`."""
        return self.life is OPEN and self._before_io is None and self._read_size != LARGE_READ_SIZE

    def receive(self, data: bytes, payload: int, payload_end: int) -> bool:
        """Take what came into the buffer; no more, since others have to take what came for them.

        Args:
            data: what came.
            payload: where the payload begins if ``data`` is one whole frame; else a negative number.
            payload_end: one behind its last byte.

        Returns:
            whether :meth:`look` must be called before :meth:`tell`.
        """
        if self._buffer:
            self._join(data)
            return True
        self._buffer = data
        if payload < 0:
            return True
        self.spans = [len(data), payload_end, payload]
        return False

    def receive_end(self, code: int) -> None:
        """The peer's end has come, or with an errno an error; :meth:`look` and :meth:`tell` have to follow."""
        if code:
            self.error = OSError(code, os.strerror(code))
        else:
            self.end_of_stream = True

    def cut(self, code: int) -> None:
        """Reset the connection: this process cannot serve it any more. Of a stream that is read, :meth:`look` has to follow.

        Bytes of it are lost, or will be. Behind a mere end the peer would take what it has got for all there was, and
        whoever serves it after a move would go on behind the gap.

        Args:
            code: the errno of what is missing here.
        """
        self.error = OSError(code, os.strerror(code))
        self.spans = self._later = ()
        with suppress(OSError):  # as in abort
            _core.abort(self._fd)
        log.event(logging.ERROR, "connection-cut", reason=self.error.strerror)

    def look(self) -> None:
        """See what it is that was received."""
        if self.life is not OPEN:
            return  # since then: a framing of the user's own may do anything
        if isinstance(self.error, OSError):
            self._give_up()
        elif self.end_of_stream:
            self._update_reading()
        else:
            self._find_frames()
            undelivered = len(self._buffer) - self._head
            if not self.spans:
                if undelivered >= READ_SIZE:
                    self._resize(LARGE_READ_SIZE)
            elif undelivered > READ_HIGH_WATER:
                self._update_reading()
            elif undelivered < READ_SIZE and self._read_size == LARGE_READ_SIZE:
                self._resize(READ_SIZE)

    def _resize(self, size: int) -> None:
        """Ask for so many bytes with the next reads."""
        self._read_size = size
        if self.slot != NOWHERE:
            self._poller.update(self)

    def tell(self) -> None:
        """Tell the owner of what was received, as the last thing: his handler goes on, and may do anything."""
        if self.life is not OPEN or self._fenced:
            return
        if len(self.spans) == 3:  # no reply to a single frame is gathered
            self._owner._on_input()
        elif self.spans or self.end_of_stream or self.error is not None:
            self._telling = True
            try:
                self._owner._on_input()
            finally:
                self._telling = False
            if self.corked:  # by a handler that waits for something else than frames
                self.flush()

    def read(self) -> None:
        """There is something to read: read it, and tell the owner."""
        if self.life is Life.DRAINING:
            self._drop_input()
            return
        if self._before_io is not None:
            self._before_io()
        try:
            data = self._sock.recv(self._read_size, MSG_DONTWAIT)
            if data:
                self.receive(data, -1, -1)
            else:
                self.receive_end(0)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self.error = error
        except MemoryError:
            self.cut(errno.ENOMEM)
        self.look()
        self.tell()

    # -- frames --------------------------------------------------------------------------------------

    def _join(self, data: bytes) -> None:
        """Put what has come behind what is not delivered."""
        buffer = self._buffer
        if not self.spans and len(buffer) - self._head < JOIN_LIMIT:
            self._buffer = bytes(memoryview(buffer)[self._head :]) + data
            self._head = 0
        elif isinstance(buffer, bytes):
            joined = bytearray(memoryview(buffer)[self._head :])
            joined += data
            self._rebase(joined)
        else:
            if self._head >= COMPACT_AT:  # also while a frame is always at hand, or the buffer grows for ever
                del buffer[: self._head]
                self._rebase(buffer)
            buffer += data

    def _rebase(self, buffer: bytearray) -> None:
        """Replace the buffer by one that begins at ``_head``."""
        if self._head:
            self.spans = [offset - self._head for offset in self.spans]
            self._later = [offset - self._head for offset in self._later]
            self._head = 0
        self._buffer = buffer

    def _find_frames(self) -> None:
        """Look for complete frames behind those that are known."""
        spans, later = self.spans, self._later
        try:
            if self._scanner is None:
                self._scanner = self._framing.scanner()
            if not spans and len(self._buffer) - self._head < self._scanner.need:
                return  # a large frame, of which more has to come
            found = self._scanner.scan(self._buffer, later[-1] if later else spans[0] if spans else self._head)
        except FramingError as error:
            self._fail_framing(error)
            return
        except Exception as error:  # noqa: BLE001 - a framing of the user's own; its fault ends this connection
            log.event(logging.ERROR, "framing-failed", exc_info=error, framing=self._framing.name)
            self._fail_framing(FramingError(f"the framing {self._framing.name} raised {type(error).__name__}"))
            return
        if not found:
            return
        if not spans:
            found.reverse()
            self.spans = found
        elif later:
            later += found
        else:
            self._later = found
        if len(found) > LARGE_SPANS and self._read_size == LARGE_READ_SIZE:
            self._resize(READ_SIZE)

    def _fail_framing(self, error: FramingError) -> None:
        self.error = error
        self._update_reading()

    def _update_reading(self) -> None:
        """Poll for input exactly when a byte would be welcome."""
        if self._fenced or self.end_of_stream:
            wanted = False
        elif self.life is OPEN:
            full = self.spans and len(self._buffer) - self._head > READ_HIGH_WATER
            wanted = self.error is None and not full
        else:
            wanted = self.life is Life.DRAINING
        if not wanted:
            if self.slot != NOWHERE:
                self._poller.remove(self, self._fd)
        elif self.slot == NOWHERE:
            self._poller.add(self, self._fd)
        elif self.life is Life.DRAINING:
            self._poller.update(self)

    def refused(self, code: int) -> None:
        """The poller could not poll it, as an errno says. If that is still so, the connection is lost.

        One that is fenced meanwhile may be another process's; and whoever lets it go on here tries again.
        """
        if self.slot == NOWHERE and not self.fenced and self.life not in {Life.CLOSED, Life.DETACHED}:
            self.cut(code)
            self.lose(OSError(code, os.strerror(code)))

    def lose(self, error: OSError) -> None:
        """The connection is lost: a reset, a timeout, an error of the socket, or nobody can read from it."""
        if self.life in {Life.CLOSED, Life.DETACHED}:
            return
        self.error = error
        if self.life is Life.OPEN:
            self._give_up()
            self._owner._on_lost()
        else:
            self._finish()

    def _give_up(self) -> None:
        """With an error of the socket nothing is read or sent any more."""
        self._unsent = None
        self._stop_writing()
        self._update_reading()
        self._wake_writer()

    # -- towards the peer ----------------------------------------------------------------------------

    def write(self, data: bytes) -> bool:
        """Send bytes, or keep them until the kernel takes them.

        While more frames are at hand, replies are gathered and sent together, in this turn of the loop
        at the latest: a pipelined client costs one send per batch, not one per frame.

        Returns:
            whether :meth:`drained` would wait.

        Raises:
            ConnectionClosed: the connection is over.
        """
        if self.life is not OPEN or self.write_closed:
            raise ConnectionClosed("the connection is closed")
        if self.error is not None and isinstance(self.error, OSError):
            raise ConnectionClosed(f"the connection is lost: {self.error.strerror}") from self.error
        unsent = self._unsent
        if unsent:
            unsent += data
            if len(unsent) <= WRITE_HIGH_WATER:
                return False
            self.flush()
            return self.congested
        replies = self._poller.replies
        if replies is not None and len(data) <= REPLY_SIZE and not self._fenced:
            self._unsent = bytearray() + data
            self._gathered = True
            replies.append(self)
            return False
        if self._fenced:
            self._unsent = bytearray() + data  # and not bytearray(data): of a number that makes as many zeros
            return self.congested
        if self.spans:
            self._unsent = bytearray() + data
            self.corked = True
            if not self._telling:  # else tell sends it, if the handler has not come to its boundary before
                self.loop.call_soon(self.flush)
            return len(data) > WRITE_HIGH_WATER and self.congested
        try:
            sent = self._sock.send(data, MSG_DONTWAIT)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError as error:
            self.lose(error)
            raise ConnectionClosed(f"the connection is lost: {error.strerror}") from error
        if sent == len(data):
            return False
        self._unsent = bytearray(memoryview(data)[sent:])
        self._start_writing()
        return self.congested

    def flush(self) -> None:
        """Send gathered replies now."""
        if self.corked or self._gathered:
            self.corked = self._gathered = False
            if self._unsent and not self._fenced:
                self._on_writable()

    def reply(self) -> bytearray | None:
        """Give away what was gathered, to be sent at once; None if that was done otherwise since, or is not to be done."""
        if not self._gathered:
            return None
        self._gathered = False
        if self.life is not OPEN or self._fenced:
            return None
        if self.write_closed:
            self._on_writable()  # which sends the end behind it
            return None
        reply, self._unsent = self._unsent, None
        return reply

    def not_sent(self, rest: bytearray) -> None:
        """The kernel has not taken this part of what :meth:`reply` gave away."""
        self._unsent = rest
        self._start_writing()

    async def drained(self) -> None:
        """Wait while too much is unsent: back-pressure."""
        limit = GATED_WRITE_HIGH_WATER if self.gated else WRITE_HIGH_WATER
        while self.unsent_size > limit and self.life is Life.OPEN and self.error is None:
            if self._write_waiter is None:
                self._write_waiter = self.loop.create_future()
            await asyncio.shield(self._write_waiter)
            limit = GATED_WRITE_HIGH_WATER if self.gated else WRITE_HIGH_WATER

    @property
    def congested(self) -> bool:
        """Whether :meth:`drained` would wait."""
        return self.unsent_size > (GATED_WRITE_HIGH_WATER if self.gated else WRITE_HIGH_WATER)

    def gate(self, closed: bool) -> None:
        """Say whether a handoff wants this stream; it then waits less for slow readers."""
        self.gated = closed
        if closed and self._write_waiter is not None and not self.congested:
            self._wake_writer()

    def _on_writable(self) -> None:
        if self._before_io is not None:
            self._before_io()
        unsent = self._unsent
        try:
            sent = self._sock.send(unsent, MSG_DONTWAIT) if unsent else 0
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError as error:
            self.lose(error)
            return
        if unsent and sent < len(unsent):
            del unsent[:sent]
            self._start_writing()
            if sent and self._timer is not None and self.life is Life.FLUSHING:
                self._limit(FLUSH_LIMIT)
        else:
            self._unsent = None
            self._stop_writing()
            if self.life is Life.FLUSHING:
                self._drain()
            elif self.write_closed:
                self._shutdown()
        if not self.congested:
            self._wake_writer()

    def _start_writing(self) -> None:
        if not self._writing and not self._fenced:
            self._writing = True
            self.loop.add_writer(self._fd, self._on_writable)

    def _stop_writing(self) -> None:
        if self._writing:
            self._writing = False
            self.loop.remove_writer(self._fd)

    def _wake_writer(self) -> None:
        waiter, self._write_waiter = self._write_waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    # -- handing over --------------------------------------------------------------------------------

    @property
    def before_io(self) -> Callable[[], None] | None:
        """What is to be called before the socket is read from, or sent to when it is writable again; None if nothing is."""
        return self._before_io

    @before_io.setter
    def before_io(self, act: Callable[[], None] | None) -> None:
        self._before_io = act
        if self.slot != NOWHERE:
            self._poller.update(self)

    def fence(self) -> None:
        """Neither read nor write from here on; what is written is kept. The descriptor leaves the poll."""
        self._fenced = True
        if self._writing:
            self._stop_writing()
        if self.slot != NOWHERE:
            self._poller.remove(self, self._fd)

    def unfence(self) -> None:
        """Go on as before :meth:`fence`."""
        self.start()

    @property
    def fenced(self) -> bool:
        """Whether an open stream neither reads nor writes now."""
        return self._fenced and self.life is Life.OPEN

    @property
    def has_undelivered(self) -> bool:
        """Whether :attr:`undelivered` is not empty."""
        return self._head < len(self._buffer)

    @property
    def undelivered(self) -> bytes:
        """What was received and not delivered."""
        return bytes(memoryview(self._buffer)[self._head :]) if self._head < len(self._buffer) else b""

    @property
    def unsent(self) -> bytes:
        """What was written and not taken by the kernel."""
        return bytes(self._unsent) if self._unsent else b""

    @property
    def unsent_size(self) -> int:
        """How many bytes :attr:`unsent` are."""
        return len(self._unsent) if self._unsent is not None else 0

    @property
    def family(self) -> int:
        """The address family of the socket."""
        return _family(self._sock)

    def fileno(self) -> int:
        """Return the socket's descriptor, which the stream owns."""
        return self._fd

    def detach(self) -> int:
        """Let go of a fenced stream: return its descriptor, which the caller owns from here on."""
        assert self._fenced
        assert self.life is Life.OPEN
        self._poller.settle()
        self.life = Life.DETACHED
        if self._write_waiter is not None:
            self._wake_writer()
        return self._sock.detach()

    def let_go(self) -> None:
        """Close this process's copy of a fenced stream; the connection lives on in another process."""
        if self.life not in {Life.CLOSED, Life.DETACHED}:
            self._cancel_limit()
            self._poller.settle()
            self.life = Life.DETACHED
            self._wake_writer()
            self._sock.close()

    # -- ending --------------------------------------------------------------------------------------

    def shut_write(self) -> None:
        """Send what is unsent and then the end; reading goes on (half-close)."""
        self.write_closed = True
        if not self._unsent and not self._fenced:
            self._shutdown()

    def close(self) -> None:
        """End the connection as the module's text says. Idempotent."""
        if self.life is not Life.OPEN:
            return
        if isinstance(self.error, OSError):
            self._finish()
            return
        self._fenced = False
        self.spans = self._later = ()  # nothing is delivered after the end
        self.life = Life.FLUSHING
        if self._unsent:
            self._update_reading()
            self._limit(FLUSH_LIMIT)
            self.corked = self._gathered = False
            self._on_writable()
        else:
            self._drain()

    def abort(self) -> None:
        """Reset the connection at once, whoever else holds a copy. Idempotent."""
        if self.life in {Life.CLOSED, Life.DETACHED}:
            return
        self.spans = self._later = ()  # as after close
        with suppress(OSError):  # not connected any more, or a Unix socket, for which close(2) is enough
            _core.abort(self._fd)
        self._finish()

    def _shutdown(self) -> None:
        with suppress(OSError):  # ENOTCONN: the peer has reset, which the next read tells
            self._sock.shutdown(socket.SHUT_WR)

    def _drain(self) -> None:
        self.life = Life.DRAINING
        self.write_closed = True
        quiet = self.end_of_stream or (self.hurried and _is_quiet(self._fd))
        self._shutdown()
        if quiet:
            self._finish()
            return
        self._limit(STOP_DRAIN_LIMIT if self.hurried else DRAIN_LIMIT)
        self._update_reading()

    def _drop_input(self) -> None:
        try:
            data = self._sock.recv(READ_SIZE, MSG_DONTWAIT)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self._finish()
            return
        self._drained += len(data)
        if not data or self._drained > DRAIN_BYTES:
            self._finish()

    def _limit(self, seconds: float) -> None:
        self._cancel_limit()
        self._timer = self.loop.call_later(seconds, self._limit_reached)

    def _cancel_limit(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def hurry(self) -> None:
        """The server stops: end soon, without waiting for a peer that has everything already."""
        self.hurried = True
        if self.life is Life.DRAINING:
            if _is_quiet(self._fd, fin_sent=True):
                self._finish()
            else:
                self._limit(STOP_DRAIN_LIMIT)

    def _limit_reached(self) -> None:
        self._timer = None
        if self.life is Life.FLUSHING:
            self.abort()
        elif not self.hurried and self._is_taking():
            self._limit(DRAIN_LIMIT)
        else:
            self._finish()

    def _is_taking(self) -> bool:
        """Whether the peer takes what the kernel still holds: until it has everything, it cannot be expected to end.

        Closed now, the connection would be reset by whatever the peer says next, and those bytes lost. A peer that
        has come to have everything since the last look gets the whole limit once more.
        """
        now = self.loop.time()
        before, self._untaken = self._untaken, _unacked(self._fd)
        if self._untaken < before or (self._untaken and not before):
            self._taken_at = now
            return True
        return self._untaken > 0 and now - self._taken_at < FLUSH_LIMIT

    def _finish(self) -> None:
        self._cancel_limit()
        self.life = Life.CLOSED
        self._fenced = True
        self._stop_writing()
        self._update_reading()
        self._poller.settle()
        self._wake_writer()
        self._sock.close()
        self._owner._on_stream_closed()


def _is_quiet(fd: int, *, fin_sent: bool = False) -> bool:
    """Whether nothing is unread and the peer has acknowledged everything: then close(2) destroys nothing.

    tcp(7): SIOCINQ and SIOCOUTQ, which are FIONREAD and TIOCOUTQ. A FIN counts as one byte.
    """
    try:
        unread = fcntl.ioctl(fd, termios.FIONREAD, bytes(4))
        unacked = fcntl.ioctl(fd, termios.TIOCOUTQ, bytes(4))
    except OSError:
        return False
    unread_bytes, unacked_bytes = struct.unpack("ii", unread + unacked)
    return bool(unread_bytes == 0 and unacked_bytes <= fin_sent)


def _unacked(fd: int) -> int:
    """Return how many bytes the peer has not acknowledged, the FIN apart; 0 of a connection that is over. tcp(7): SIOCOUTQ."""
    try:
        (unacked,) = struct.unpack("i", fcntl.ioctl(fd, termios.TIOCOUTQ, bytes(4)))
    except OSError:
        return 0
    return max(0, int(unacked) - 1)
