"""The C core seen from Python: descriptors in messages, sealed memory, socket facts, directories, frame scanners, polls.

This is the only module that touches cffi. A negative code of the C core becomes an exception in
:func:`_checked` and nowhere else; what the functions promise is written in ``csrc/hotfd.h``.

Descriptors that a function returns belong to the caller and are close-on-exec. No function here closes a
descriptor that it was given.
"""

from __future__ import annotations

import errno
import os
import select
import struct
from typing import TYPE_CHECKING, NamedTuple

from hotfd._core._native import ffi, lib
from hotfd.errors import FrameTooLarge, FramingError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TypeAlias

    Buffer: TypeAlias = bytes | bytearray | memoryview

MAX_DESCRIPTORS = lib.HOTFD_MAX_DESCRIPTORS
"""Descriptors in one message: SCM_MAX_FD of the kernel. One more is EINVAL."""

MAX_MESSAGE = lib.HOTFD_MAX_MESSAGE
"""Bytes of data in one message."""

MAX_SPANS = lib.HOTFD_LOOK_SPANS
"""Frames that one call of :meth:`FrameScanner.scan` finds."""

MAX_SIZE = lib.HOTFD_MAX_MAX_SIZE
"""Bytes: the largest ``max_size`` of a framing."""

MAX_DELIMITER = lib.HOTFD_MAX_DELIMITER
"""Bytes of a delimiter."""

MAX_HEADER_PART = lib.HOTFD_MAX_HEADER_PART
"""Bytes of a header before, and after, its length field."""

RESP_DEPTH = lib.HOTFD_RESP_DEPTH
"""RESP aggregates inside each other."""


_new_uncleared = ffi.new_allocator(should_clear_after_alloc=False)
"""Makes what C fills before anybody looks: to clear 64 KiB first takes longer than to receive a message."""


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
    data = _new_uncleared("uint8_t[]", MAX_MESSAGE)
    found = _new_uncleared("struct hotfd_message *")
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


def tcp_counts(fds: Sequence[int]) -> tuple[list[int], list[tuple[int, int]]]:
    """Count what was read from TCP connections, and written to them; one that cannot be counted raises nothing.

    Returns:
        for each a code, and its :attr:`TcpFacts.consumed` and :attr:`TcpFacts.written`. The code is 0, or else the errno
        of what :func:`tcp_facts` raises, or ENOTCONN for a connection that is over: then its counts mean nothing.
    """
    codes: list[int] = []
    counts: list[tuple[int, int]] = []
    for at in range(0, len(fds), lib.HOTFD_MAX_COOKIES):
        batch = list(fds[at : at + lib.HOTFD_MAX_COOKIES])
        size = len(batch)
        consumed, written, found = ffi.new("uint64_t[]", size), ffi.new("uint64_t[]", size), ffi.new("int[]", size)
        _checked(lib.hotfd_tcp_counts(batch, size, consumed, written, found))
        codes += [-code for code in ffi.unpack(found, size)]
        counts += zip(ffi.unpack(consumed, size), ffi.unpack(written, size), strict=True)
    return codes, counts


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

    __slots__ = ("max_size", "native", "sought")

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
        # The byte that ends every frame, if one does.
        self.sought = spec.delimiter if spec.kind == KIND_DELIMITED and len(spec.delimiter) == 1 else b""

    def is_whole(self, data: bytes) -> bool:
        """Whether these are ``bytes`` and exactly one frame, no larger than ``HOTFD_WHOLE_MAX``; nothing else is looked at."""
        return type(data) is bytes and _whole(self.native, data, 0, len(data)) >= 0


# A room is a struct hotfd_look, read as an array of numbers of 64 bits.
_ROOM_NUMBERS = ffi.sizeof("struct hotfd_look") // 8
_BOOKMARK = ffi.offsetof("struct hotfd_look", "scan") // 8
_BOOKMARK_SIZE = ffi.sizeof("struct hotfd_scan")


class _Room:
    """Where a call into C puts what it finds."""

    __slots__ = ("bytes", "numbers")

    def __init__(self) -> None:
        self.numbers = ffi.new("uint64_t[]", _ROOM_NUMBERS)
        self.bytes = ffi.buffer(self.numbers, 8 * _ROOM_NUMBERS)  # the same memory


# Rooms that no call is using. A scan takes one and puts it back: the interpreter's list operations are atomic, so calls
# from several threads never share one, and a single thread makes one in its life.
_idle_rooms: list[_Room] = []

_FEW = 4
"""Frames below which :mod:`struct` is faster to make Python's numbers of a room's than cffi, whose call costs more to begin
with."""

_few = tuple(struct.Struct(f"{3 * frames + 1}Q").unpack_from for frames in range(_FEW))
_six = struct.Struct("6Q").unpack_from

_NOWHERE = ffi.NULL
_REST = lib.HOTFD_LOOK_REST
_look = lib.hotfd_look
_whole = lib.hotfd_whole
_unpack = ffi.unpack
_from_buffer = ffi.from_buffer

BOOKMARK_FROM = 4096
"""Bytes of an unfinished frame above which a scanner keeps a bookmark: to look through fewer once more costs little
beside the read that brought the rest, and most connections never have so much of one; a bookmark takes 300 bytes."""


class FrameScanner:
    """Finds the frames of one connection; see ``csrc/hotfd.h`` for the convention.

    It is a bookmark in the current frame and nothing more: a fresh scanner over the same bytes finds the
    same frames.

    Attributes:
        framing: what frames are.
        need: bytes of the current frame below which another call finds nothing; 0, it may find something at once.
    """

    __slots__ = ("_alone", "_have", "_native", "_sought", "_state", "framing", "need")

    def __init__(self, framing: CompiledFraming) -> None:
        self.framing = framing
        self._native = framing.native
        self._sought = framing.sought
        self._alone = True  # the last read was one whole frame, as most are: then there is nothing to remember
        self._state = _NOWHERE
        self._have = 0  # bytes of the current frame that the last call has seen
        self.need = 0

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
        size = len(data)
        if self._alone:
            try:
                ends = _whole(self._native, data, start, size)  # type: ignore[arg-type]
            except TypeError:  # a bytearray, which cffi does not take as it is
                ends = -errno.ENOMSG
            if ends >= 0:
                return [ends >> 15, ends & 0x7FFF, size]
            self._alone = False
        have = size - start
        if have < self.need:
            if have < self._have:
                self._fail(-errno.EINVAL)
            return []
        if self.need > BOOKMARK_FROM and self._is_unended(data, start, have):
            return []
        try:
            room = _idle_rooms.pop()
        except IndexError:
            room = _Room()
        buffer = data if type(data) is bytes else _from_buffer(data)
        count = _look(self._native, self._state, buffer, start, size, room.numbers)
        if count < 0:
            _idle_rooms.append(room)
            self._fail(count)
        if count < _REST:
            found = _unpack(room.numbers, 3 * count)
            _idle_rooms.append(room)
            self._have = self.need = 0
            self._state = _NOWHERE
            self._alone = count == 1
            return found
        count -= _REST
        if count == 1:  # as when reads split large frames; a list of so few is cheaper written out
            payload, payload_end, end, self.need = _few[1](room.bytes)
            found = [payload, payload_end, end]
        else:
            found = [*_few[count](room.bytes)] if count < _FEW else _unpack(room.numbers, 3 * count + 1)
            self.need = found.pop()
        self._have = have = size - found[-1] if count else have
        if have > BOOKMARK_FROM:
            self._keep_bookmark(room)
        else:
            self._state = _NOWHERE
        _idle_rooms.append(room)
        return found

    def _keep_bookmark(self, room: _Room) -> None:
        if self._state is _NOWHERE:  # else C has moved it
            self._state = ffi.new("struct hotfd_scan *")
            ffi.memmove(self._state, room.numbers + _BOOKMARK, _BOOKMARK_SIZE)

    def _is_unended(self, data: bytes | bytearray, start: int, have: int) -> bool:
        """Whether a long frame that was incomplete still is: what ends it does not occur behind what was seen.

        Its bytes come in many reads, and ``find`` costs a third of what it takes to ask C about a ``bytearray``.
        """
        if not self._sought or have > self.framing.max_size or data.find(self._sought, start + self._have) >= 0:
            return False
        self._have = have
        self.need = have + 1
        return True

    def _fail(self, code: int) -> None:
        if code != -errno.EINVAL:  # it stays: nobody can say where the next frame begins
            self._state = ffi.new("struct hotfd_scan *", {"error": code})
            self._have = self.need = 0
        if code == -errno.EMSGSIZE:
            raise FrameTooLarge(self.framing.max_size)
        if code == -errno.EBADMSG:
            raise FramingError("the peer sent bytes that are no frame of this protocol")
        if code == -errno.EINVAL:
            raise ValueError("start is outside the data, or the data became shorter while a frame is incomplete")
        _checked(code)


_SHORTEST_WORD = len("$0\r\n\r\n")
_words = lib.hotfd_resp_words


def resp_words(frame: bytes) -> list[bytes] | None:
    """Return the words of a RESP command, an array of bulk strings; None if ``frame`` is not exactly one."""
    try:
        room = _idle_rooms.pop()
    except IndexError:
        room = _Room()
    count = _words(frame, len(frame), room.numbers, _ROOM_NUMBERS // 2)
    if count == 3:  # as most have; nothing is set up for so few
        first, first_end, second, second_end, third, third_end = _six(room.bytes)
        _idle_rooms.append(room)
        return [frame[first:first_end], frame[second:second_end], frame[third:third_end]]
    numbers = room.numbers
    if count == -errno.E2BIG:
        most = len(frame) // _SHORTEST_WORD
        numbers = ffi.new("uint64_t[]", 2 * most)
        count = _words(frame, len(frame), numbers, most)
    ends = iter(_unpack(numbers, 2 * count) if count > 0 else ())
    _idle_rooms.append(room)
    return None if count < 0 else [frame[begin : next(ends)] for begin in ends]


# ---------------------------------------------------------------- many sockets, read at once

POLL_MAX = lib.HOTFD_POLL_MAX
"""Sockets of which one :meth:`SocketPoll.read` says something."""

POLL_UNREAD = lib.HOTFD_POLL_UNREAD
"""What :meth:`SocketPoll.read` says of a socket that has something, and was not read from."""

POLL_DROP = lib.HOTFD_POLL_DROP
POLL_TELL = lib.HOTFD_POLL_TELL
POLL_READ = lib.HOTFD_POLL_READ
"""What :meth:`SocketPoll.change` does with a socket: drop it, add it to be told, add it to be read."""

POLL_ROOM = 1 << 18
"""Bytes that one :meth:`SocketPoll.read` can take: all small requests, and of large ones as much as stays in the cache of a
processor until they are cut out. Whoever finds no room is read from by himself."""

_FIRST_SLOTS = 64
"""Slots of a new table, which doubles when it is full: as many connections as a small server has."""

_READY_NUMBERS = ffi.sizeof("struct hotfd_ready") // 4
_poll_read = lib.hotfd_poll_read


class SocketPoll:
    """Many sockets, and one call that says which of them have something to read, and reads it.

    It owns an epoll descriptor, close-on-exec, which is readable itself while any of the sockets is. Each socket has a
    slot, a number below :attr:`size` that its caller chooses, and gives to no other one meanwhile.

    Args:
        framing: how what is read divides into frames; None to have that not looked at.
        each: bytes that are read of one socket at a time, at most :data:`POLL_ROOM`.

    Raises:
        OSError: EMFILE or ENFILE, no descriptor is left; ENOMEM.
    """

    __slots__ = ("_epoll", "_fd", "_framing", "_poll", "_ready", "_room", "_slots", "size", "taken")

    def __init__(self, framing: CompiledFraming | None, each: int) -> None:
        self._epoll = select.epoll()
        self._fd = self._epoll.fileno()
        self._framing = framing  # as all that the struct points to, it lives as long as that
        self._slots = ffi.new("struct hotfd_slot[]", _FIRST_SLOTS)
        self._room = _new_uncleared("uint8_t[]", POLL_ROOM)  # only those of its pages are there that were used
        self._ready = _new_uncleared("int32_t[]", _READY_NUMBERS * POLL_MAX)
        self._poll = ffi.new("struct hotfd_poll *")
        self._poll.epoll = self._fd
        self._poll.slots = self._slots
        self._poll.framing = framing.native if framing is not None else _NOWHERE
        self._poll.buf = self._room
        self._poll.size = POLL_ROOM
        self._poll.each = each
        self._poll.ready = ffi.cast("struct hotfd_ready *", self._ready)
        self.size = _FIRST_SLOTS
        """How many slots there are."""
        self.taken = ffi.buffer(self._room, POLL_ROOM)
        """What :meth:`read` has read, of one socket behind that of another, until it is called again; slices are bytes."""

    def fileno(self) -> int:
        """Return the epoll descriptor, which stays the object's."""
        return self._fd

    def grow(self) -> None:
        """Make as many slots again, behind those that there are."""
        slots = ffi.new("struct hotfd_slot[]", 2 * self.size)
        ffi.memmove(slots, self._slots, ffi.sizeof("struct hotfd_slot") * self.size)
        self.size *= 2
        self._slots = self._poll.slots = slots

    def add(self, slot: int, fd: int, reads: bool) -> int:
        """Poll a socket; with ``reads``, read from it. Returns 0, or the errno of epoll_ctl(2): then it is not polled."""
        return -lib.hotfd_poll_add(self._fd, self._slots, slot, fd, reads)

    def drop(self, slot: int, fd: int) -> None:
        """Poll a socket no more; before its descriptor is closed, or it is heard of while a copy of it is open."""
        lib.hotfd_poll_drop(self._fd, self._slots, slot, fd)

    def change(self, changes: list[int]) -> list[int]:
        """Add and drop many, in one call and in this order.

        Args:
            changes: three numbers for each: the slot, the descriptor, and one of :data:`POLL_DROP`, :data:`POLL_TELL`
                and :data:`POLL_READ`.

        Returns:
            for each 0, or an errno.
        """
        count = len(changes) // 3
        codes = ffi.new("int32_t[]", count)
        lib.hotfd_poll_change(self._fd, self._slots, ffi.new("int32_t[]", changes), count, codes)
        return [-code for code in ffi.unpack(codes, count)]

    def set_reads(self, slot: int, reads: bool) -> None:
        """Read from a socket that is polled, or only say that it has something."""
        self._slots[slot].reads = reads

    def read(self) -> list[int]:
        """Read from the sockets that have something, into :attr:`taken`; never blocks.

        Returns:
            four numbers for each of at most :data:`POLL_MAX` sockets: its slot; how many bytes were read, or 0 for the
            peer's end, or :data:`POLL_UNREAD`, or a negative errno; and where in these bytes the payload begins and ends
            if they are exactly one frame, else -1 and 0.

        Raises:
            OSError: EBADF, it is closed; ENOMEM.
        """
        count = _poll_read(self._poll)
        if count < 0:
            _checked(count)
        return _unpack(self._ready, _READY_NUMBERS * count)

    def send(self, data: bytes, replies: list[int]) -> list[int] | None:
        """Send a reply to each of many sockets; never blocks.

        Args:
            data: the replies, one behind the other.
            replies: two numbers for each: the descriptor, and how many bytes the reply has.

        Returns:
            for each how many bytes the kernel has taken, or a negative errno; None when it has taken everything.
        """
        count = len(replies) // 2
        sent = ffi.new("int32_t[]", count)
        if not lib.hotfd_poll_send(data, ffi.new("int32_t[]", replies), count, sent):
            return None
        return _unpack(sent, count)

    def close(self) -> None:
        """Close the epoll descriptor: nothing is polled any more. Idempotent."""
        self._epoll.close()
        self._fd = self._poll.epoll = -1  # its number may be another descriptor's from here on
