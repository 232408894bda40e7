"""The handoff channel: wire messages and descriptors over a ``SOCK_SEQPACKET`` pair, on an event loop.

Who closes what:

* The channel owns its own descriptor until :meth:`Channel.close`.
* Descriptors given to :meth:`Channel.send` as ``descriptors`` stay the caller's; those given as ``owned``
  are closed by the channel as soon as the packet is in the kernel, or is dropped.
* Received descriptors belong to whoever gets them from ``on_message``. What comes with a packet that is
  not delivered (a stranger's, or no message) is closed here.

The end of the channel says nothing about the other process: a reset can arrive before queued messages,
and a wrapper can hold an end open. Death is known from a pidfd alone (pidfd_open(2)).
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from hotfd import _core
from hotfd.errors import ChannelError
from hotfd.faults import Point, reach
from hotfd.wire import messages

RETRY_PAUSE: Final = 0.005
"""Seconds before a send is tried again after ETOOMANYREFS, ENOBUFS or ENOMEM, whose end no event tells."""

MAX_READS: Final = 64
"""Packets taken in one turn of the loop, so that a flood on the channel cannot starve the clients."""

MAX_QUEUED: Final = 4096
"""Packets that wait for the kernel. Offers stop far below, at the pipeline's depth; what can reach this
are the short notes (newcomers, endings) of a process whose partner hangs."""


@dataclass(slots=True)
class Arrival:
    """One message as it came.

    Attributes:
        message: the message.
        descriptors: what came with it, close-on-exec; the receiver of the Arrival owns them.
        truncated: descriptors were lost on the way (MSG_CTRUNC); none is in ``descriptors``.
        pid: the sender's pid as the kernel tells it (SCM_CREDENTIALS).
        pidfd: the sender's pidfd, owned by the receiver of the Arrival, or -1.
        uid: the sender's user id (SCM_CREDENTIALS), or -1.
    """

    message: messages.AnyMessage
    descriptors: list[int]
    truncated: bool
    pid: int
    pidfd: int
    uid: int = -1

    def close(self) -> None:
        """Close everything that came with the message."""
        close_all(self.descriptors)
        if self.pidfd >= 0:
            os.close(self.pidfd)


def is_channel(fd: int) -> bool:
    """Whether a descriptor that another process has sent is an end of a channel, by its kind and its having a partner."""
    try:
        sock = socket.socket(fileno=fd)
    except OSError:
        return False
    try:
        sock.getpeername()
        return (sock.family, sock.type) == (socket.AF_UNIX, socket.SOCK_SEQPACKET)
    except OSError:
        return False
    finally:
        sock.detach()


def close_all(descriptors: Sequence[int]) -> None:
    """Close descriptors, all of them, whatever one says."""
    for fd in descriptors:
        try:  # noqa: SIM105 - to make and enter a contextlib.suppress takes twice as long as close(2)
            os.close(fd)
        except OSError:  # EIO and friends: the descriptor is gone all the same, close(2)
            pass


@dataclass(slots=True)
class _Packet:
    data: bytes
    descriptors: Sequence[int]
    owned: Sequence[int]


class Channel:
    """One end of the handoff channel.

    Args:
        fd: the socket; the channel owns it from here on.
        on_message: called with each :class:`Arrival`, in order; it owns the arrival's descriptors.
        on_broken: called once, when the other side broke the protocol, or a stranger spoke.
        on_end: called once, when the other end is closed and everything is read; says nothing of a death.
    """

    def __init__(
        self,
        fd: int,
        on_message: Callable[[Arrival], None],
        on_broken: Callable[[ChannelError], None],
        on_end: Callable[[], None] = lambda: None,
    ) -> None:
        self._fd = fd
        self._loop = asyncio.get_running_loop()
        self._on_message = on_message
        self._on_broken = on_broken
        self._on_end = on_end
        self._queue: deque[_Packet] = deque()
        self._flush_waiters: list[asyncio.Future[None]] = []
        self._writing = False
        self._retry: asyncio.TimerHandle | None = None
        self._reading = False
        self.peer: int | None = None
        """The pid whose messages count; None until the first message has shown who it is."""
        self.ended = False
        """Whether the other end is closed and everything is read."""
        self._broken = False
        self._dropped = False

    def start(self) -> None:
        """Begin to receive."""
        if not self._reading and not self._over:
            self._reading = True
            self._loop.add_reader(self._fd, self._on_readable)

    def close(self) -> None:
        """Close the channel and what still waits in it. Idempotent."""
        if self._fd < 0:
            return
        self._stop_reading()
        self._drop_queue()
        os.close(self._fd)
        self._fd = -1

    # -- sending -------------------------------------------------------------------------------------

    def send(self, message: messages.Message, descriptors: Sequence[int] = (), owned: Sequence[int] = ()) -> None:
        """Queue one message; it goes to the kernel at once when the kernel takes it.

        Args:
            message: what to say.
            descriptors: what to pass, at most 253; a packet in the kernel holds its own references.
            owned: those of ``descriptors`` that the channel closes afterwards.

        Raises:
            BufferError: the other side reads nothing and ``MAX_QUEUED`` packets wait already.
            ValueError: the message is too large for a packet.
        """
        try:
            if len(self._queue) >= MAX_QUEUED:
                raise BufferError("the other process does not read the handoff channel")
            packet = _Packet(messages.encode(message), descriptors, owned)
        except BaseException:
            close_all(owned)
            raise
        if self._fd < 0 or self.ended:
            self._dropped = True
            close_all(owned)
            return
        self._queue.append(packet)
        if len(self._queue) == 1:
            self._flush()

    @property
    def queued(self) -> int:
        """How many packets the kernel has not taken yet."""
        return len(self._queue)

    async def flushed(self) -> bool:
        """Wait until the kernel has every packet.

        Returns:
            False when any packet was dropped instead, since nobody can read it any more.
        """
        while self._queue:
            waiter = self._loop.create_future()
            self._flush_waiters.append(waiter)
            await waiter
        return not self._dropped

    def _flush(self) -> None:
        self._retry = None
        while self._queue:
            packet = self._queue[0]
            try:
                reach(Point.SEND)
                _core.send_message(self._fd, packet.data, packet.descriptors)
            except BlockingIOError:
                if not self._writing:
                    self._writing = True
                    self._loop.add_writer(self._fd, self._flush)
                return
            except OSError as error:
                if error.errno in {errno.ETOOMANYREFS, errno.ENOBUFS, errno.ENOMEM}:
                    self._stop_writing()
                    self._retry = self._loop.call_later(RETRY_PAUSE, self._flush)
                    return
                if error.errno == errno.ECONNRESET:  # the pending error of a dead partner; then EPIPE
                    continue
                # EPIPE: nobody reads any more. What there is to read is read before the end is believed.
                self._drop_queue()
                if error.errno != errno.EPIPE:
                    self._break(ChannelError(f"a message cannot be sent: {error.strerror}"))
                return
            except Exception as error:  # noqa: BLE001 - it would stay at the head of the queue for ever
                self._drop_queue()
                self._break(ChannelError(f"a message cannot be sent: {type(error).__name__}"))
                return
            self._queue.popleft()
            close_all(packet.owned)
        self._stop_writing()
        self._wake()

    def _stop_writing(self) -> None:
        if self._writing:
            self._writing = False
            self._loop.remove_writer(self._fd)

    def _drop_queue(self) -> None:
        self._stop_writing()
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        while self._queue:
            self._dropped = True
            close_all(self._queue.popleft().owned)
        self._wake()

    def _wake(self) -> None:
        waiters, self._flush_waiters = self._flush_waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    # -- receiving -----------------------------------------------------------------------------------

    def drain(self) -> None:
        """Read everything that is queued; for the moment after the other process has died."""
        while not self._over and self._receive():
            pass

    @property
    def _over(self) -> bool:
        return self._fd < 0 or self.ended or self._broken

    def _on_readable(self) -> None:
        for _ in range(MAX_READS):
            if self._over or not self._receive():
                return

    def _receive(self) -> bool:
        """Take one packet; False when there is none now."""
        try:
            reach(Point.RECEIVE)
            raw = _core.receive_message(self._fd)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno in {errno.ECONNRESET, errno.EINTR}:
                return True  # a reset overtakes queued messages: read on to the real end
            # ENOMEM and the like. Raised, it would be met again in each turn of the loop, and nobody would be told.
            self._break(ChannelError(f"the channel cannot be read: {error.strerror}"))
            return False
        if raw.pid < 0 and not raw.data and not raw.descriptors and not raw.truncated:
            self.ended = True
            self._stop_reading()
            self._drop_queue()
            self._on_end()
            return False
        try:
            if raw.pid <= 0 or (self.peer is not None and raw.pid != self.peer):
                raise ChannelError(f"process {raw.pid} spoke on the channel of process {self.peer}")
            message = messages.decode(raw.data)
        except ChannelError as error:
            close_all(raw.descriptors)
            if raw.pidfd >= 0:
                os.close(raw.pidfd)
            self._break(error)
            return False
        self._on_message(Arrival(message, raw.descriptors, raw.truncated, raw.pid, raw.pidfd, raw.uid))
        return True

    def _break(self, error: ChannelError) -> None:
        """Read nothing more of it. Sending goes on: revocations must reach the other side all the same."""
        self._broken = True
        self._stop_reading()
        self._on_broken(error)

    def _stop_reading(self) -> None:
        if self._reading:
            self._reading = False
            self._loop.remove_reader(self._fd)
