"""The C core seen from Python: descriptors in messages, sealed memory, socket facts, directories, frame scanners.

This is the only module that touches cffi. A negative code of the C core becomes an exception in
:func:`_checked` and nowhere else; what the functions promise is written in ``csrc/hotfd.h``.

Descriptors that a function returns belong to the caller and are close-on-exec. No function here closes a
descriptor that it was given.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, NamedTuple

from hotfd._core._native import ffi, lib
from hotfd.errors import FrameTooLarge, FramingError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TypeAlias

    from hotfd._core._native import CData

    Buffer: TypeAlias = bytes | bytearray | memoryview

MAX_DESCRIPTORS = lib.HOTFD_MAX_DESCRIPTORS
"""Descriptors in one message: SCM_MAX_FD of the kernel. One more is EINVAL."""

MAX_MESSAGE = lib.HOTFD_MAX_MESSAGE
"""Bytes of data in one message."""

MAX_SPANS = 256
"""Frames that one call of :meth:`FrameScanner.scan` finds. A read of 64 KiB seldom has more, and the array
for them takes 6 KiB."""

MAX_SIZE = lib.HOTFD_MAX_MAX_SIZE
"""Bytes: the largest ``max_size`` of a framing."""

MAX_DELIMITER = lib.HOTFD_MAX_DELIMITER
"""Bytes of a delimiter."""

MAX_HEADER_PART = lib.HOTFD_MAX_HEADER_PART
"""Bytes of a header before, and after, its length field."""

RESP_DEPTH = lib.HOTFD_RESP_DEPTH
"""RESP aggregates inside each other."""


def _checked(code: int) -> int:
    """Return what a C function returned, or raise the ``OSError`` that its negative code stands for."""
    if code < 0:
        raise OSError(-code, os.strerror(-code))
    return code


# ---------------------------------------------------------------- descriptors in messages


class Message(NamedTuple):
    """One message received from a channel.

    Attributes:
        data: the bytes. ``b""`` with no descriptors and not truncated: the end of the channel.
        descriptors: what came with it; the receiver closes each.
        truncated: something was cut off, and every descriptor that came has been closed.
        pid: of the sender (SCM_CREDENTIALS), -1 if the message says nothing of it.
        uid: of the sender, -1 likewise.
        pidfd: of the sender (SCM_PIDFD), which the receiver closes; -1 where the kernel gave none.
    """

    data: bytes
    descriptors: list[int]
    truncated: bool
    pid: int
    uid: int
    pidfd: int


def channel_pair() -> tuple[int, int]:
    """Make the two ends of a channel.

    Returns:
        Two connected SOCK_SEQPACKET descriptors, non-blocking and close-on-exec. Each message that arrives
        at either end carries its sender's credentials and, from Linux 6.5 on, its pidfd.

    Raises:
        OSError: the process or the system is out of descriptors (EMFILE, ENFILE) or memory.
    """
    ends = ffi.new("int[2]")
    _checked(lib.hotfd_channel_pair(ends))
    return ends[0], ends[1]


def set_pass_pidfd(channel: int, on: bool) -> bool:
    """Have the kernel put the sender's pidfd on each message that arrives at ``channel``, or stop it.

    Returns:
        False where the kernel does not know how (before Linux 6.5); nothing has changed then.

    Raises:
        OSError: ``channel`` is no socket.
    """
    code = lib.hotfd_pass_pidfd(channel, 1 if on else 0)
    if code == -errno.ENOPROTOOPT:
        return False
    _checked(code)
    return True


def send_message(channel: int, data: bytes, descriptors: Sequence[int] = ()) -> None:
    """Send one message, with copies of ``descriptors``, which stay the caller's.

    Args:
        channel: one end of a channel.
        data: 1 to :data:`MAX_MESSAGE` bytes. (A message without data would look like the channel's end.)
        descriptors: at most :data:`MAX_DESCRIPTORS`.

    Raises:
        BlockingIOError: the queue is full; poll the channel until it is writable.
        BrokenPipeError: the other end is closed.
        OSError: ETOOMANYREFS, too many descriptors are in flight: wait until the receiver has taken some;
            EMSGSIZE or EINVAL, the limits above; EBADF, a descriptor is not open.
    """
    _checked(lib.hotfd_send(channel, data, len(data), list(descriptors), len(descriptors)))


def receive_message(channel: int) -> Message:
    """Receive one message.

    Raises:
        BlockingIOError: there is none yet.
        ConnectionResetError: the peer closed its end with messages unread. This is not the end: messages
            that it had sent before follow.
        OSError: ``channel`` is no socket.
    """
    data = ffi.new("uint8_t[]", MAX_MESSAGE)
    found = ffi.new("struct hotfd_message *")
    _checked(lib.hotfd_receive(channel, data, MAX_MESSAGE, found))
    return Message(
        bytes(ffi.buffer(data, found.length)),
        ffi.unpack(found.descriptors, found.count),
        bool(found.truncated),
        found.pid,
        found.uid,
        found.pidfd,
    )


# ---------------------------------------------------------------- memory that can be passed


def memfd_seal(name: str, chunks: Sequence[Buffer]) -> int:
    """Make a memfd of the given content, sealed so that nobody can change it any more.

    Args:
        name: shows in ``/proc/PID/fd``, so it must say nothing of the content.
        chunks: the content, in pieces.

    Raises:
        OSError: EMFILE, ENFILE, ENOMEM or ENOSPC.
    """
    views = [ffi.from_buffer(chunk) for chunk in chunks]
    vectors = ffi.new("struct iovec[]", len(views))
    for vector, view in zip(vectors, views, strict=True):
        vector.iov_base = view
        vector.iov_len = len(view)
    return _checked(lib.hotfd_memory_sealed(os.fsencode(name), vectors, len(views)))


def memfd_load(fd: int, limit: int) -> bytes:
    """Read the whole content of a memfd that :func:`memfd_seal` made, here or in another process.

    Args:
        fd: the memfd, which stays open; its file offset does not matter and does not move.
        limit: bytes; more are refused before anything is read.

    Raises:
        ValueError: ``fd`` is no memfd, or is not sealed, or has more than ``limit`` bytes.
        OSError: ``fd`` is not open, or not for reading.
    """
    size = _memory_size(fd, writable=False, limit=limit)
    content = os.pread(fd, size, 0)
    if len(content) == size:
        return content
    pieces = [content]  # the kernel reads 2 GiB at once
    done = len(content)
    while done < size:
        piece = os.pread(fd, size - done, done)
        pieces.append(piece)
        done += len(piece)
    return b"".join(pieces)


def memfd_shared(name: str, size: int) -> int:
    """Make a memfd of ``size`` zero bytes that processes can map and write, and none can resize.

    Raises:
        OSError: EMFILE, ENFILE, ENOMEM; EFBIG for a size that no file can have.
    """
    return _checked(lib.hotfd_memory_shared(os.fsencode(name), size))


def memfd_shared_size(fd: int, limit: int) -> int:
    """Return the size in bytes of a memfd that :func:`memfd_shared` made, here or in another process.

    The size cannot change any more, so a mapping of that many bytes cannot be cut short (SIGBUS).

    Raises:
        ValueError: ``fd`` is no memfd, or its size can still change, or is above ``limit`` bytes.
        OSError: ``fd`` is not open.
    """
    return _memory_size(fd, writable=True, limit=limit)


def _memory_size(fd: int, *, writable: bool, limit: int) -> int:
    size = lib.hotfd_memory_size(fd, 1 if writable else 0, limit)
    if size == -errno.EPERM:
        kind = "shared" if writable else "sealed"
        raise ValueError(f"descriptor {fd} is not {kind} memory: it is no memfd, or its seals are wrong")
    if size == -errno.EFBIG:
        raise ValueError(f"the memory behind descriptor {fd} is larger than {limit} bytes")
    return _checked(size)


# ---------------------------------------------------------------- socket facts


def cookies(fds: Sequence[int]) -> list[int]:
    """Return the kernel's unique name of each socket (SO_COOKIE); every copy of a socket has the same.

    Raises:
        OSError: ENOTSOCK or EBADF, one of ``fds`` is no open socket; nothing is returned for the others.
    """
    found: list[int] = []
    for at in range(0, len(fds), lib.HOTFD_MAX_COOKIES):
        batch = list(fds[at : at + lib.HOTFD_MAX_COOKIES])
        names = ffi.new("uint64_t[]", len(batch))
        _checked(lib.hotfd_cookies(batch, len(batch), names))
        found += ffi.unpack(names, len(batch))
    return found


class TcpFacts(NamedTuple):
    """How far a TCP connection is, as its kernel counts.

    Two readings with the same :attr:`consumed` and :attr:`written` mean that nobody has read from the
    connection or written to it in between, in whatever process. Urgent data, and a connection that is over
    (:attr:`closed`), are outside this: then the counters prove nothing.

    Attributes:
        received: bytes that came in order; the peer's FIN counts as one.
        acked: bytes that the peer acknowledged; our SYN, if we connected, and our FIN count as one each.
        unread: bytes that have come and that no process has read.
        unacked: bytes written and not acknowledged; our FIN counts as one.
        fin_received: the peer has ended its direction.
        closed: the connection is over, by a reset or because both directions have ended.
    """

    received: int
    acked: int
    unread: int
    unacked: int
    fin_received: bool
    closed: bool

    @property
    def consumed(self) -> int:
        """Bytes that have been read from the connection, ever."""
        return self.received - self.unread - self.fin_received

    @property
    def written(self) -> int:
        """Bytes that have been written to the connection, ever, plus a constant of its own."""
        return self.acked + self.unacked


def tcp_facts(fd: int) -> TcpFacts:
    """Read how far a TCP connection is; all figures belong to one instant.

    Raises:
        BlockingIOError: packets came so fast that no two readings agreed.
        OSError: EOPNOTSUPP, no TCP socket; ENOTSOCK or EBADF; EPROTONOSUPPORT before Linux 4.2.
    """
    found = ffi.new("struct hotfd_tcp_facts *")
    _checked(lib.hotfd_tcp_facts(fd, found))
    return TcpFacts(
        found.received,
        found.acked,
        found.unread,
        found.unacked,
        bool(found.fin_received),
        bool(found.closed),
    )


def peer_credentials(fd: int) -> tuple[int, int, int]:
    """Return pid, uid and gid of who connected, or made, the other end of a Unix socket (SO_PEERCRED).

    On a socket pair that is its maker, whoever holds the end now. The pid is 0 for a process that this pid
    namespace does not show.

    Raises:
        OSError: ENOTCONN, no connected Unix socket; ENOTSOCK or EBADF.
    """
    peer = ffi.new("struct hotfd_peer *")
    _checked(lib.hotfd_peer_credentials(fd, peer))
    return peer.pid, peer.uid, peer.gid


def peer_pidfd(fd: int) -> int:
    """Return a pidfd of who connected, or made, the other end of a Unix socket (SO_PEERPIDFD).

    Raises:
        OSError: ENOPROTOOPT before Linux 6.5; ENODATA or ENOTCONN without a peer; ESRCH, it is gone.
    """
    return _checked(lib.hotfd_peer_pidfd(fd))


def abort(fd: int) -> None:
    """Reset a TCP connection at once, whoever else holds a copy; what is unsent is dropped.

    Raises:
        OSError: ``fd`` is no TCP socket.
    """
    _checked(lib.hotfd_abort(fd))


# ---------------------------------------------------------------- changes in a directory


class WatchNews(NamedTuple):
    """What has happened in a directory since it was last asked.

    Attributes:
        new: another file has the name, or the kernel has lost count of what happened.
        over: the directory was removed, moved or unmounted; the watch says nothing more of that place.
    """

    new: bool
    over: bool


def watch_directory(directory: int) -> int:
    """Watch a directory (inotify(7)) for files that come to their names by rename(2).

    Args:
        directory: a descriptor of it, an O_PATH one will do; it can be closed afterwards.

    Returns:
        a non-blocking descriptor, readable when :func:`watch_news` has something to say.

    Raises:
        OSError: EMFILE or ENOSPC, this user watches as much as the kernel allows
            (``/proc/sys/fs/inotify/``); EACCES, the directory is not readable; ENOTDIR, it is none.
    """
    return _checked(lib.hotfd_watch(directory))


def watch_news(watch: int, name: str) -> WatchNews:
    """Return what has happened to the file of this name, and to the directory. Never blocks.

    Raises:
        OSError: ``watch`` is not what :func:`watch_directory` returns.
    """
    news = _checked(lib.hotfd_watch_read(watch, os.fsencode(name)))
    return WatchNews(bool(news & lib.HOTFD_WATCH_NEW), bool(news & lib.HOTFD_WATCH_OVER))


# ---------------------------------------------------------------- frame scanners


class FramingSpec(NamedTuple):
    """What a native framing is; the fields are those of ``struct hotfd_framing``.

    Attributes:
        kind: one of the ``KIND_`` constants.
        max_size: bytes of payload as delivered; of the whole frame for RESP.
        flags: the ``FLAG_`` constants, or-ed.
        size: bytes of a fixed frame.
        length_bytes: bytes of the length field: 1, 2, 4 or 8.
        offset: bytes of header before the length field.
        trailer: bytes of header after the length field.
        delimiter: 1 to :data:`MAX_DELIMITER` bytes.
    """

    kind: int
    max_size: int
    flags: int = 0
    size: int = 0
    length_bytes: int = 0
    offset: int = 0
    trailer: int = 0
    delimiter: bytes = b""


KIND_DELIMITED = lib.HOTFD_DELIMITED
KIND_FIXED = lib.HOTFD_FIXED
KIND_LENGTH = lib.HOTFD_LENGTH
KIND_VARINT = lib.HOTFD_VARINT
KIND_NETSTRING = lib.HOTFD_NETSTRING
KIND_RESP = lib.HOTFD_RESP

FLAG_STRIP_CR = lib.HOTFD_STRIP_CR
FLAG_LITTLE_ENDIAN = lib.HOTFD_LITTLE_ENDIAN
FLAG_INCLUDES_HEADER = lib.HOTFD_INCLUDES_HEADER
FLAG_KEEP_HEADER = lib.HOTFD_KEEP_HEADER
FLAG_INLINE = lib.HOTFD_INLINE


class CompiledFraming:
    """A framing as the C core wants it; constant, shared by the scanners of all connections.

    Raises:
        ValueError: the parameters make no framing.
    """

    __slots__ = ("max_size", "native")

    def __init__(self, spec: FramingSpec) -> None:
        if not 0 < spec.max_size <= MAX_SIZE:
            raise ValueError(f"max_size must be 1 to {MAX_SIZE} bytes, not {spec.max_size}")
        if len(spec.delimiter) > MAX_DELIMITER:
            raise ValueError(f"a delimiter has at most {MAX_DELIMITER} bytes")
        fields = {**spec._asdict(), "delimiter_size": len(spec.delimiter)}
        try:
            native = ffi.new("struct hotfd_framing *", fields)
        except OverflowError as error:
            raise ValueError(f"a parameter is negative or far too large: {spec}") from error
        if lib.hotfd_framing_check(native) < 0:
            raise ValueError(f"these parameters make no framing: {spec}")
        self.native = native
        self.max_size = spec.max_size


# Arrays for spans that no call is using. A scan takes one and puts it back: the interpreter's list operations
# are atomic, so calls from several threads never share one, and a single thread allocates one in its life.
_idle_spans: list[CData] = []

_scan = lib.hotfd_scan
_unpack = ffi.unpack
_from_buffer = ffi.from_buffer


class FrameScanner:
    """Finds the frames of one connection; see ``csrc/hotfd.h`` for the convention.

    It is a bookmark in the current frame and nothing more: a fresh scanner over the same bytes finds the
    same frames.
    """

    __slots__ = ("_framing", "_native", "_state")

    def __init__(self, framing: CompiledFraming) -> None:
        self._framing = framing
        self._native = framing.native
        self._state = ffi.new("struct hotfd_scan *")

    def scan(self, data: bytes | bytearray, start: int) -> list[int]:
        """Find the complete frames in ``data`` from ``start``, at most :data:`MAX_SPANS`.

        Args:
            data: what was received; it must not become shorter than a previous call has seen it, counted
                from ``start``, while the current frame is incomplete.
            start: offset in ``data`` of the first byte of the current, unfinished frame.

        Returns:
            For each frame three offsets in ``data``: payload start, payload end, frame end. The next call
            starts at the last frame end. With :data:`MAX_SPANS` frames found there may be more.

        Raises:
            FrameTooLarge: the current frame is larger than ``max_size``.
            FramingError: the current bytes are no frame. Both come after all frames before the bad one
                have been returned, and from every call after that.
            ValueError: ``start`` is outside ``data``, or ``data`` became shorter.
        """
        try:
            spans = _idle_spans.pop()
        except IndexError:
            spans = ffi.new("uint64_t[]", 3 * MAX_SPANS)
        buffer = data if type(data) is bytes else _from_buffer(data)
        count = _scan(self._native, self._state, buffer, start, len(data), spans, MAX_SPANS)
        found = _unpack(spans, 3 * count) if count > 0 else []
        _idle_spans.append(spans)
        if count < 0:
            self._fail(count)
        return found

    def _fail(self, code: int) -> None:
        if code == -errno.EMSGSIZE:
            raise FrameTooLarge(self._framing.max_size)
        if code == -errno.EBADMSG:
            raise FramingError("the peer sent bytes that are no frame of this protocol")
        if code == -errno.EINVAL:
            raise ValueError("start is outside the data, or the data became shorter while a frame is incomplete")
        _checked(code)
