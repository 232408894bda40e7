"""A stream over real sockets: every byte is in one place that can be named, and an end destroys nothing."""

from __future__ import annotations

import array
import asyncio
import fcntl
import os
import socket
import termios
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hotfd.errors import ConnectionClosed, FrameTooLarge
from hotfd.framing import Fixed, Framing, LengthPrefix, Lines
from hotfd.server import poller as polling
from hotfd.server import stream as module
from hotfd.server.poller import READ_SIZE, Poller
from hotfd.server.stream import LARGE_READ_SIZE, Life, Stream
from tests.unit.wire_support import LIMIT, Happening, is_open, nothing_stays_open, on_each_loop, tcp_pair, turns

__all__ = ["nothing_stays_open"]

pytestmark = pytest.mark.usefixtures("nothing_stays_open")

KINDS = ("tcp", "unix")
SMALL_BUFFER = 4096
"""Bytes: what makes the kernel take a part of a write only."""

FULL = 16 * SMALL_BUFFER
"""Bytes unsent of which some are unsent in the next moment, too: the kernel takes a little more as it passes data on."""


class Counting(socket.socket):
    """A socket that notes how much each send was given."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(fileno=sock.detach())
        self.setblocking(False)
        self.sends: list[int] = []

    def send(self, data: bytes, flags: int = 0) -> int:  # type: ignore[override]
        self.sends.append(len(data))
        return super().send(data, flags)


class Noting(Stream):
    """A stream that notes how much each read has brought, whoever made it."""

    def __init__(self, *arguments: Any, **buffers: Any) -> None:
        super().__init__(*arguments, **buffers)
        self.reads: list[int] = []

    def receive(self, data: bytes, payload: int, payload_end: int) -> bool:
        self.reads.append(len(data))
        return super().receive(data, payload, payload_end)


class Rig:
    """A stream and its peer, which does not block."""

    def __init__(self, sock: Counting, peer: socket.socket, framing: Framing) -> None:
        self.peer = peer
        self.sock = sock
        self.framing = framing
        self.happening = Happening()
        self.closed = 0
        self.inputs = 0
        self.on_input: Callable[[], None] = lambda: None
        self.poller = Poller(framing)
        self.stream = self.make(sock)

    def make(self, sock: socket.socket, **buffers: bytes | bool) -> Noting:
        stream = Noting(sock, self.framing, self, self.poller)
        stream.bring(**buffers)
        return stream

    def _on_input(self) -> None:
        self.inputs += 1
        self.on_input()
        self.happening.note()

    _on_lost = _on_input

    def _on_stream_closed(self) -> None:
        self.closed += 1
        self.happening.note()

    def send(self, data: bytes) -> None:
        self.peer.sendall(data)

    async def until(self, condition: Callable[[], bool]) -> None:
        await self.happening.until(condition)

    async def frames(self, count: int) -> list[bytes]:
        """Take so many frames."""
        found: list[bytes] = []
        while len(found) < count:
            await self.until(lambda: self.stream.frame_at_hand)
            found.append(self.stream.take())
        return found

    async def received(self, count: int) -> bytes:
        """What the peer reads, until it has so many bytes."""
        data = b""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(LIMIT):
            while len(data) < count:
                more = await loop.sock_recv(self.peer, 1 << 16)
                assert more, f"the end after {len(data)} of {count} bytes"
                data += more
        return data

    async def received_to_the_end(self, chunk: int = 1 << 16) -> bytes:
        data = b""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(LIMIT):
            while more := await loop.sock_recv(self.peer, chunk):
                data += more
        return data

    def unread(self) -> int:
        """Bytes that wait for the stream in the kernel."""
        count = array.array("i", [0])
        fcntl.ioctl(self.sock.fileno(), termios.FIONREAD, count)
        return count[0]

    def fill(self, more: int) -> bytes:
        """Write until so many bytes are unsent; return everything that was written."""
        written = b""
        while len(self.stream.unsent) < more:
            piece = bytes([len(written) % 251]) * SMALL_BUFFER
            self.stream.write(piece)
            written += piece
        return written


@contextmanager
def rig(kind: str = "tcp", framing: Framing | None = None) -> Iterator[Rig]:
    if kind == "tcp":
        with tcp_pair() as (peer, sock):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16 * SMALL_BUFFER)  # fixed: it grows else
            made = Rig(Counting(sock), peer, framing or Lines())
            yield from finished(made)
    else:
        sock, peer = socket.socketpair()
        with peer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL_BUFFER)
            made = Rig(Counting(sock), peer, framing or Lines())
            yield from finished(made)


def finished(made: Rig) -> Iterator[Rig]:
    made.peer.setblocking(False)
    try:
        yield made
    finally:
        made.stream.abort()
        made.poller.close()
        made.sock.close()


def on_each_kind(test: Callable[..., None]) -> Callable[..., None]:
    return pytest.mark.parametrize("kind", KINDS)(test)


# ---------------------------------------------------------------- frames in


@on_each_kind
@on_each_loop
async def test_frames_are_found_wherever_the_bytes_are_split(kind: str) -> None:
    with rig(kind) as made:
        made.stream.start()
        for at in range(len(b"one\ntwo\n")):
            made.send(b"one\ntwo\n"[:at])
            await turns()
            made.send(b"one\ntwo\n"[at:])
            assert await made.frames(2) == [b"one", b"two"]
            assert made.stream.undelivered == b""


@on_each_loop
async def test_a_frame_of_many_reads_is_delivered_once_and_whole() -> None:
    frame = bytes(range(256)) * (1 << 12)
    with rig("tcp", LengthPrefix(32)) as made:
        made.stream.start()
        loop = asyncio.get_running_loop()
        sending = asyncio.ensure_future(loop.sock_sendall(made.peer, made.framing.encode(frame) + b"\0\0\0\2x"))
        assert await made.frames(1) == [frame]
        await sending
        await turns()
        assert made.stream.undelivered == b"\0\0\0\2x"
        assert not made.stream.frame_at_hand


@on_each_loop
async def test_more_frames_than_one_scan_finds_are_all_delivered() -> None:
    with rig() as made:
        made.stream.start()
        lines = [b"%d" % n for n in range(2000)]
        made.send(b"\n".join(lines) + b"\nrest")
        assert await made.frames(len(lines)) == lines
        assert made.stream.undelivered == b"rest"


@on_each_loop
async def test_nothing_is_read_before_the_start_and_what_was_left_over_comes_first() -> None:
    with rig() as made:
        made.send(b"ond\nthird\n")
        made.stream = made.make(made.sock, undelivered=b"first\nsec")
        await turns()
        assert made.stream.undelivered == b"first\nsec"
        made.stream.start()
        assert made.stream.frame_at_hand
        assert await made.frames(3) == [b"first", b"second", b"third"]


@on_each_loop
async def test_a_handler_that_takes_nothing_stops_the_reading_and_gets_everything_later() -> None:
    with rig() as made:
        made.stream.start()
        lines = [b"%07d" % n * 8 for n in range(60_000)]
        loop = asyncio.get_running_loop()
        sending = asyncio.ensure_future(loop.sock_sendall(made.peer, b"\n".join(lines) + b"\n"))
        await made.until(lambda: len(made.stream.undelivered) > module.READ_HIGH_WATER)
        await turns(20)
        assert len(made.stream.undelivered) <= module.READ_HIGH_WATER + READ_SIZE
        assert await made.frames(len(lines)) == lines
        await sending


@on_each_loop
async def test_a_client_that_is_always_one_frame_ahead_costs_no_more_memory_with_time() -> None:
    line = b"x" * 999 + b"\n"
    with rig("unix") as made:
        made.stream.start()
        made.send(line)
        for _ in range(4 * module.COMPACT_AT // len(line)):
            made.send(line)
            await made.until(lambda: made.stream.frame_at_hand and len(made.stream.undelivered) == 2 * len(line))
            assert made.stream.take() == line[:-1]
        assert len(made.stream._buffer) < 2 * module.COMPACT_AT
        assert await made.frames(1) == [line[:-1]]


@on_each_loop
async def test_frames_before_one_that_is_too_large_are_delivered_and_then_the_error_stands() -> None:
    with rig("tcp", Lines(max_size=8)) as made:
        made.stream.start()
        made.send(b"good\n" + b"x" * 20)
        assert await made.frames(1) == [b"good"]
        await made.until(lambda: made.stream.error is not None)
        assert isinstance(made.stream.error, FrameTooLarge)
        assert made.stream.input_over
        made.send(b"more\n")
        await turns()
        made.send(b"and more\n")
        await turns()
        assert made.unread() > 0, "the reading has stopped"
        made.stream.write(b"bye\n")
        assert await made.received(4) == b"bye\n"


@on_each_kind
@on_each_loop
async def test_the_peers_end_comes_after_its_frames_and_leaves_half_a_frame_undelivered(kind: str) -> None:
    with rig(kind) as made:
        made.stream.start()
        made.send(b"last\nhalf")
        made.peer.shutdown(socket.SHUT_WR)
        assert await made.frames(1) == [b"last"]
        await made.until(lambda: made.stream.end_of_stream)
        assert made.stream.input_over
        assert made.stream.undelivered == b"half"


@on_each_loop
async def test_a_reset_is_told_and_frames_that_came_before_it_are_still_delivered() -> None:
    with rig() as made:
        made.stream.start()
        made.send(b"one\ntwo\n")
        await made.until(lambda: made.stream.frame_at_hand)
        made.peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        made.peer.close()
        await made.until(lambda: made.stream.error is not None)
        assert isinstance(made.stream.error, ConnectionResetError)
        assert await made.frames(2) == [b"one", b"two"]
        with pytest.raises(ConnectionClosed):
            made.stream.write(b"answer\n")
        made.stream.close()
        assert (made.stream.life, made.closed) == (Life.CLOSED, 1)


async def test_who_sends_large_frames_is_read_from_in_larger_pieces() -> None:
    with rig("unix", Fixed(READ_SIZE + 1)) as made:
        made.peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * READ_SIZE)
        frame = bytes(READ_SIZE + 1)
        made.send(frame)
        made.stream.start()
        assert await made.frames(1) == [frame]
        made.send(frame)
        assert await made.frames(1) == [frame]
    assert made.stream.reads == [READ_SIZE, 1, READ_SIZE + 1]


async def test_who_sends_many_small_frames_ahead_after_large_ones_is_read_from_in_small_pieces_again() -> None:
    with rig("unix", LengthPrefix(32)) as made:
        made.peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16 * READ_SIZE)
        made.send(made.framing.encode(bytes(2 * READ_SIZE)))
        made.stream.start()
        await made.frames(1)
        small = made.framing.encode(b"x" * 12)
        count = 3 * LARGE_READ_SIZE // len(small)
        made.send(small * count)
        before = len(made.stream.reads)
        await made.frames(count)
    assert [size > READ_SIZE for size in made.stream.reads[before:]].count(True) <= 1


@on_each_loop
async def test_of_frames_that_are_delivered_nothing_is_kept_although_there_is_always_one_at_hand() -> None:
    with rig() as made:
        made.stream.start()
        made.send(b"first\n")
        for number in range(100):
            made.send(b"%d\n" % number)
            await made.until(lambda: len(made.stream.undelivered.splitlines()) == 2)
            made.stream.take()
            assert len(made.stream.spans) <= 2 * 3
        assert made.stream.take() == b"99"


@pytest.mark.parametrize("takes", [True, False], ids=["slow", "busy"])
async def test_frames_at_hand_are_not_copied_for_each_that_comes(takes: bool) -> None:
    with rig("unix") as made:
        made.stream.start()
        made.send(b"\n" * 300)
        await made.until(lambda: made.stream.frame_at_hand)
        copies, taken = 0, 0
        for number in range(300):
            before, size = made.stream.spans, len(made.stream.undelivered)
            if takes:
                taken += len(made.stream.take()) + 1
            made.send(b"%d\n" % number)
            await made.until(lambda size=size: len(made.stream.undelivered) > size)  # type: ignore[misc]
            copies += made.stream.spans is not before
        assert copies <= 3
        empty = [b""] * (300 - taken)
        assert await made.frames(600 - taken) == empty + [b"%d" % number for number in range(300)]


@on_each_loop
async def test_something_can_be_done_before_a_byte_is_read() -> None:
    with rig() as made:
        seen: list[int] = []
        made.stream.before_io = lambda: seen.append(made.unread())
        made.stream.start()
        made.send(b"one\n")
        await made.frames(1)
        assert seen == [4], "called once, while the bytes are still in the kernel"


# ---------------------------------------------------------------- bytes out


def answer_all(made: Rig) -> None:
    while made.stream.frame_at_hand:
        made.stream.write(made.stream.take() + b"!\n")


@pytest.mark.parametrize("when", ["frames are at hand", "fenced"])
@on_each_loop
async def test_what_is_no_bytes_is_an_error_and_nothing_of_it_is_sent(when: str) -> None:
    with rig() as made:
        made.stream.start()
        made.send(b"one\ntwo\n")
        await made.until(lambda: made.stream.frame_at_hand)
        if when == "fenced":
            made.stream.fence()
        for wrong in (3, [1, 2], "text", None):
            with pytest.raises(TypeError):
                made.stream.write(wrong)  # type: ignore[arg-type]
        made.stream.unfence()
        made.stream.write(b"right")
        await made.frames(2)
        assert await made.received(5) == b"right"


@on_each_loop
async def test_replies_are_sent_in_their_turn_also_after_the_owner_has_failed_to_take_a_frame() -> None:
    def fail() -> None:
        raise LookupError("on purpose")

    with rig() as made:
        told: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context.get("exception")))
        made.on_input = fail
        made.stream.start()
        made.send(b"one\ntwo\n")
        async with asyncio.timeout(LIMIT):
            while not told:
                await asyncio.sleep(0)
        made.stream.write(b"answer\n")
        await turns()
        assert made.sock.sends == [7]
        assert [type(error) for error in told] == [LookupError]


@on_each_kind
@on_each_loop
async def test_replies_to_pipelined_frames_go_out_in_one_send(kind: str) -> None:
    with rig(kind) as made:
        made.on_input = lambda: answer_all(made)
        made.stream.start()
        made.send(b"a\nb\nc\n")
        assert await made.received(9) == b"a!\nb!\nc!\n"
        assert made.sock.sends == [9]


@on_each_loop
async def test_gathered_replies_go_out_before_the_loop_goes_on_although_more_frames_are_at_hand() -> None:
    def answer_one() -> None:
        made.stream.write(made.stream.take() + b"!\n")

    with rig() as made:
        made.on_input = answer_one
        made.stream.start()
        made.send(b"a\nb\nc\n")
        await made.until(lambda: made.inputs == 1)
        assert made.sock.sends == [3]
        assert not made.stream.corked


@on_each_loop
async def test_writing_nothing_while_fenced_holds_up_nothing_that_is_written_later() -> None:
    with rig() as made:
        made.stream.start()
        made.stream.fence()
        made.stream.write(b"")
        made.stream.unfence()
        made.stream.write(b"later")
        assert await made.received(5) == b"later"


@on_each_loop
async def test_a_reply_to_a_single_frame_goes_out_at_once() -> None:
    with rig() as made:
        made.on_input = lambda: answer_all(made)
        made.stream.start()
        made.send(b"a\n")
        await made.until(lambda: made.inputs == 1)
        assert made.sock.sends == [3]
        assert made.stream.unsent == b""


@on_each_loop
async def test_gathered_replies_can_be_sent_now_and_are_not_sent_twice() -> None:
    with rig() as made:
        made.stream.start()
        made.send(b"a\nb\n")
        await made.until(lambda: made.stream.frame_at_hand)
        made.stream.take()
        made.stream.write(b"one\n")
        assert (made.stream.unsent, made.sock.sends) == (b"one\n", [])
        made.stream.flush()
        assert (made.stream.unsent, made.sock.sends) == (b"", [4])
        await turns()
        assert made.sock.sends == [4]


@on_each_kind
@on_each_loop
async def test_a_peer_that_reads_late_gets_every_byte_in_order(kind: str) -> None:
    with rig(kind) as made:
        made.stream.start()
        written = made.fill(1 << 18)
        assert await made.received(len(written)) == written
        await turns()
        assert made.stream.unsent == b""


@on_each_loop
async def test_a_writer_waits_while_too_much_is_unsent_and_no_longer() -> None:
    with rig() as made:
        made.stream.start()
        await made.stream.drained()
        written = made.fill(module.WRITE_HIGH_WATER + 1)
        assert made.stream.congested
        waiters = [asyncio.ensure_future(made.stream.drained()) for _ in range(2)]
        await turns()
        assert not any(waiter.done() for waiter in waiters)
        assert await made.received(len(written)) == written
        async with asyncio.timeout(LIMIT):
            await asyncio.gather(*waiters)
        assert not made.stream.congested


@on_each_loop
async def test_a_waiting_writer_can_be_cancelled_and_another_still_wakes() -> None:
    with rig() as made:
        made.stream.start()
        made.fill(module.WRITE_HIGH_WATER + 1)
        one, other = (asyncio.ensure_future(made.stream.drained()) for _ in range(2))
        await turns()
        one.cancel()
        await turns()
        made.stream.gate(True)
        async with asyncio.timeout(LIMIT):
            await other
        assert one.cancelled()


@on_each_loop
async def test_a_gate_lets_a_writer_go_on_while_a_slow_peer_has_not_read() -> None:
    with rig() as made:
        made.stream.start()
        made.fill(module.WRITE_HIGH_WATER + 1)
        waiter = asyncio.ensure_future(made.stream.drained())
        await turns()
        made.stream.gate(True)
        async with asyncio.timeout(LIMIT):
            await waiter
        made.stream.gate(False)
        assert made.stream.congested


@on_each_loop
async def test_a_gate_holds_a_writer_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GATED_WRITE_HIGH_WATER", module.WRITE_HIGH_WATER * 2)
    with rig() as made:
        made.stream.start()
        made.stream.gate(True)
        made.fill(module.WRITE_HIGH_WATER * 2 + 1)
        waiter = asyncio.ensure_future(made.stream.drained())
        await turns()
        assert not waiter.done()
        made.stream.abort()
        async with asyncio.timeout(LIMIT):
            await waiter


@on_each_loop
async def test_a_write_to_a_peer_that_has_reset_is_told_to_the_writer() -> None:
    with rig("unix") as made:
        made.peer.close()
        with pytest.raises(ConnectionClosed, match="lost"):
            made.stream.write(b"x")
        assert isinstance(made.stream.error, OSError)
        assert made.inputs == 1


# ---------------------------------------------------------------- fenced, and handed over


@on_each_kind
@on_each_loop
async def test_a_fence_stops_reading_and_writing_and_loses_nothing(kind: str) -> None:
    with rig(kind) as made:
        made.stream.start()
        made.send(b"one\nha")
        assert await made.frames(1) == [b"one"]
        made.stream.fence()
        made.send(b"lf\n")
        made.stream.write(b"later\n")
        await turns()
        assert made.stream.fenced
        assert (made.stream.undelivered, made.unread()) == (b"ha", 3)
        assert (made.stream.unsent, made.sock.sends) == (b"later\n", [])
        made.stream.unfence()
        assert not made.stream.fenced
        assert await made.frames(1) == [b"half"]
        assert await made.received(6) == b"later\n"


@on_each_loop
async def test_a_fence_keeps_replies_that_were_gathered_in_this_turn() -> None:
    with rig() as made:
        made.stream.start()
        made.send(b"a\nb\n")
        await made.until(lambda: made.stream.frame_at_hand)
        made.stream.take()
        made.stream.write(b"one\n")
        made.stream.fence()
        await turns()
        assert (made.stream.unsent, made.stream.undelivered) == (b"one\n", b"b\n")
        assert made.sock.sends == []


@on_each_loop
async def test_a_fence_holds_a_write_that_the_kernel_had_taken_in_part() -> None:
    with rig() as made:
        made.stream.start()
        written = made.fill(SMALL_BUFFER)
        made.stream.fence()
        unsent = made.stream.unsent
        assert await made.received(len(written) - len(unsent)) + unsent == written
        await turns()
        assert made.stream.unsent == unsent


@on_each_kind
@on_each_loop
async def test_a_detached_stream_goes_on_in_another_with_every_byte(kind: str) -> None:
    with rig(kind) as made:
        made.stream.start()
        made.send(b"one\ntwo\nthr")
        assert await made.frames(1) == [b"one"]
        made.stream.fence()
        made.stream.write(b"reply\n")
        undelivered, unsent = made.stream.undelivered, made.stream.unsent
        assert (undelivered, unsent) == (b"two\nthr", b"reply\n")
        fd = made.stream.detach()
        assert is_open(fd)
        assert made.stream.life is Life.DETACHED
        with pytest.raises(ConnectionClosed):
            made.stream.write(b"x")
        made.stream.close()
        made.stream.abort()
        assert (is_open(fd), made.closed) == (True, 0)
        made.sock = Counting(socket.socket(fileno=fd))
        made.stream = made.make(made.sock, undelivered=undelivered, unsent=unsent)
        made.stream.start()
        made.send(b"ee\n")
        assert await made.frames(2) == [b"two", b"three"]
        assert await made.received(6) == b"reply\n"


@on_each_loop
async def test_letting_go_closes_this_copy_and_the_peer_notices_nothing() -> None:
    with rig() as made:
        other = os.dup(made.sock.fileno())
        made.stream.start()
        waiter = asyncio.ensure_future(made.stream.drained())
        made.stream.fence()
        made.stream.let_go()
        made.stream.let_go()
        await waiter
        await turns()
        assert made.closed == 0
        with pytest.raises(BlockingIOError):
            made.peer.recv(1)
        with socket.socket(fileno=other) as copy:
            copy.send(b"still here")
        assert await made.received_to_the_end() == b"still here"


@on_each_loop
async def test_a_restored_stream_knows_the_ends_of_either_direction() -> None:
    with rig() as made:
        made.peer.shutdown(socket.SHUT_WR)
        made.stream = made.make(made.sock, undelivered=b"last\n", end_of_stream=True)
        made.stream.start()
        assert made.stream.take() == b"last"
        assert made.stream.input_over
        made.stream.write(b"answer\n")
        made.stream.shut_write()
        assert await made.received_to_the_end() == b"answer\n"
    with rig() as made:
        made.stream = made.make(made.sock, unsent=b"rest", write_closed=True)
        made.stream.start()
        with pytest.raises(ConnectionClosed):
            made.stream.write(b"x")
        assert await made.received_to_the_end() == b"rest"


OPERATIONS = st.one_of(
    st.tuples(st.just("send"), st.binary(min_size=1, max_size=30).map(lambda data: data.replace(b"\r", b"\n"))),
    st.tuples(st.just("send"), st.just(b"line\n")),
    st.tuples(st.just("write"), st.sampled_from([1, 100, 5000, 40_000])),
    st.tuples(st.sampled_from(["take", "turn", "read", "fence", "unfence", "move", "flush"]), st.none()),
)


class Ledger:
    """Everything that went in at either end, and what has come out."""

    def __init__(self, made: Rig) -> None:
        self.made = made
        self.sent = self.delivered = b""
        self.written = self.read = b""

    async def apply(self, operation: str, argument: object) -> None:
        made, stream = self.made, self.made.stream
        match operation, argument:
            case "send", bytes(data):
                self.sent += data
                made.send(data)
            case "write", int(size):
                piece = bytes([len(self.written) % 251]) * size
                self.written += piece
                stream.write(piece)
            case "take", _ if stream.frame_at_hand:
                self.delivered += stream.take() + b"\n"
            case "read", _:
                self.receive()
            case "turn", _:
                await turns()
            case "fence", _:
                stream.fence()
            case "unfence", _:
                stream.unfence()
            case "flush", _:
                stream.flush()
            case "move", _:
                self.move()

    def take_all(self) -> None:
        while self.made.stream.frame_at_hand:
            self.delivered += self.made.stream.take() + b"\n"

    def receive(self) -> None:
        try:
            self.read += self.made.peer.recv(20_000)
        except BlockingIOError:
            return

    def move(self) -> None:
        """Hand the socket over to another stream."""
        made, stream = self.made, self.made.stream
        stream.fence()
        buffers = {"undelivered": stream.undelivered, "unsent": stream.unsent}
        made.sock = Counting(socket.socket(fileno=stream.detach()))
        made.stream = made.make(made.sock, **buffers)
        made.stream.start()

    def check(self) -> None:
        stream = self.made.stream
        taken = self.delivered + stream.undelivered
        assert self.sent[: len(taken)] == taken
        assert len(self.sent) - len(taken) == self.made.unread(), "a byte is here, or in the kernel"
        unsent = stream.unsent
        assert self.written.startswith(self.read)
        assert self.written.endswith(unsent)
        assert len(self.read) + len(unsent) <= len(self.written)

    async def finish(self) -> None:
        self.made.stream.unfence()
        async with asyncio.timeout(LIMIT):
            while self.read != self.written or len(self.delivered + self.made.stream.undelivered) < len(self.sent):
                await turns(1)
                self.receive()
                self.take_all()
        self.take_all()
        assert self.delivered == self.sent[: self.sent.rfind(b"\n") + 1]
        assert self.delivered + self.made.stream.undelivered == self.sent
        assert self.made.stream.unsent == b""


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(OPERATIONS, min_size=8, max_size=40),
    st.sampled_from([8, module.COMPACT_AT]),
    st.sampled_from([7, READ_SIZE]),
)
def test_at_any_moment_every_byte_is_in_exactly_one_place(
    operations: list[tuple[str, object]], compact_at: int, read_size: int
) -> None:
    async def run() -> None:
        with rig("unix") as made:
            ledger = Ledger(made)
            made.stream.start()
            for operation, argument in operations:
                await ledger.apply(operation, argument)
                ledger.check()
            await ledger.finish()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "COMPACT_AT", compact_at)
        patch.setattr(module, "READ_SIZE", read_size)
        patch.setattr(polling, "READ_SIZE", read_size)
        patch.setattr(module, "READ_HIGH_WATER", 8 * compact_at)
        asyncio.run(run())


# ---------------------------------------------------------------- ending


@on_each_loop
async def test_a_close_sends_everything_to_a_slow_reader_although_input_is_unread() -> None:
    with rig() as made:
        made.stream.start()
        made.send(b"x" * 100_000)
        written = made.fill(400_000)
        made.stream.close()
        made.stream.close()
        assert made.stream.life is Life.FLUSHING
        assert await made.received_to_the_end(4096) == written
        made.peer.close()
        await made.until(lambda: made.closed == 1)
        assert made.stream.life is Life.CLOSED


@on_each_loop
async def test_a_close_sends_what_was_gathered_and_what_was_fenced() -> None:
    with rig() as made:
        made.stream.start()
        made.send(b"a\nb\n")
        await made.until(lambda: made.stream.frame_at_hand)
        made.stream.take()
        made.stream.write(b"gathered ")
        made.stream.fence()
        made.stream.write(b"fenced")
        made.stream.close()
        assert await made.received_to_the_end() == b"gathered fenced"


@on_each_kind
@on_each_loop
async def test_a_closed_stream_waits_for_the_peers_end_and_drops_what_still_comes(kind: str) -> None:
    with rig(kind) as made:
        made.stream.start()
        made.stream.close()
        assert await made.received_to_the_end() == b""
        for _ in range(3):
            made.send(b"too late\n" * 100)
            await turns()
        assert (made.stream.life, made.closed, made.inputs) == (Life.DRAINING, 0, 0)
        assert made.unread() == 0
        made.peer.shutdown(socket.SHUT_WR)
        await made.until(lambda: made.closed == 1)
        with pytest.raises(ConnectionClosed):
            made.stream.write(b"x")


@on_each_loop
async def test_a_close_after_the_peers_end_is_done_at_once() -> None:
    with rig() as made:
        made.stream.start()
        made.peer.shutdown(socket.SHUT_WR)
        await made.until(lambda: made.stream.end_of_stream)
        made.stream.close()
        assert (made.stream.life, made.closed) == (Life.CLOSED, 1)
        assert await made.received_to_the_end() == b""


@on_each_loop
async def test_a_peer_that_never_ends_is_waited_for_no_longer_than_the_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "DRAIN_LIMIT", 0.0)
    with rig() as made:
        made.stream.start()
        made.stream.close()
        await made.until(lambda: made.closed == 1)
        assert made.stream.life is Life.CLOSED


@pytest.mark.parametrize(
    ("flush_limit", "looks"),
    [
        (30.0, [5000, 3000, 3000, 0, 0]),  # it takes something, rests, takes the last, and has its time to end then
        (0.0, [5000, 5000]),  # it takes nothing for too long
        (0.0, [5000, 3000, 3000]),
        (30.0, [0]),
    ],
)
@on_each_loop
async def test_a_peer_that_has_not_taken_everything_is_waited_for_while_it_takes_something(
    monkeypatch: pytest.MonkeyPatch, flush_limit: float, looks: list[int]
) -> None:
    left = iter(looks)
    monkeypatch.setattr(module, "DRAIN_LIMIT", 0.0)
    monkeypatch.setattr(module, "FLUSH_LIMIT", flush_limit)
    monkeypatch.setattr(module, "_unacked", lambda fd: next(left))
    with rig() as made:
        made.stream.start()
        made.stream.close()
        await made.until(lambda: made.closed == 1)
        assert list(left) == []


@on_each_kind
@on_each_loop
async def test_what_a_peer_has_not_taken_is_counted_without_the_end(kind: str) -> None:
    with rig(kind) as made:
        made.stream.start()
        made.stream.shut_write()
        await made.until(lambda: module._unacked(made.sock.fileno()) == 0)
    with open(os.devnull, "rb") as file:  # what is not, or no longer, a connection
        assert module._unacked(file.fileno()) == 0


@on_each_loop
async def test_a_peer_that_sends_without_end_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DRAIN_BYTES", 10_000)
    with rig() as made:
        made.stream.start()
        made.stream.close()
        made.send(b"x" * 10_001)
        await made.until(lambda: made.closed == 1)


@on_each_loop
async def test_a_peer_that_reads_nothing_is_reset_after_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FLUSH_LIMIT", 0.0)
    with rig() as made:
        made.stream.start()
        made.fill(FULL)
        made.stream.close()
        await made.until(lambda: made.closed == 1)
        with pytest.raises(ConnectionResetError):
            await made.received_to_the_end()


@on_each_loop
async def test_a_stopping_server_waits_for_a_peer_no_longer_than_its_own_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "STOP_DRAIN_LIMIT", 0.0)
    with rig() as made:
        made.stream.start()
        made.stream.write(b"bye\n")
        made.stream.close()
        assert await made.received_to_the_end() == b"bye\n"
        assert made.closed == 0
        made.stream.hurry()
        await made.until(lambda: made.closed == 1)


@on_each_loop
async def test_an_abort_resets_at_once_although_another_copy_is_open() -> None:
    with rig() as made:
        copy = os.dup(made.sock.fileno())
        try:
            made.stream.start()
            made.fill(FULL)
            made.stream.abort()
            made.stream.abort()
            assert (made.stream.life, made.closed) == (Life.CLOSED, 1)
            with pytest.raises(ConnectionResetError):
                await made.received_to_the_end()
        finally:
            os.close(copy)


@pytest.mark.parametrize("before", ["flushing", "draining"])
@on_each_loop
async def test_an_abort_ends_a_close_that_takes_its_time(before: str) -> None:
    with rig() as made:
        made.stream.start()
        if before == "flushing":
            made.fill(FULL)
        made.stream.close()
        assert made.stream.life.value == before
        made.stream.abort()
        assert (made.stream.life, made.closed) == (Life.CLOSED, 1)


@on_each_loop
async def test_a_peer_that_resets_ends_a_close_that_takes_its_time() -> None:
    with rig() as made:
        made.stream.start()
        made.fill(FULL)
        made.stream.close()
        made.peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        made.peer.close()
        await made.until(lambda: made.closed == 1)


@on_each_kind
@on_each_loop
async def test_a_half_closed_stream_has_sent_everything_and_goes_on_reading(kind: str) -> None:
    with rig(kind) as made:
        made.stream.start()
        written = made.fill(SMALL_BUFFER)
        made.stream.shut_write()
        with pytest.raises(ConnectionClosed):
            made.stream.write(b"x")
        assert await made.received_to_the_end() == written
        made.send(b"still heard\n")
        assert await made.frames(1) == [b"still heard"]
        assert made.stream.life is Life.OPEN


@on_each_kind
@on_each_loop
async def test_a_fenced_stream_ends_its_direction_only_when_it_goes_on(kind: str) -> None:
    with rig(kind) as made:
        made.stream.start()
        made.stream.fence()
        made.stream.shut_write()
        await turns()
        with pytest.raises(BlockingIOError):
            made.peer.recv(1)
        made.stream.unfence()
        assert await made.received_to_the_end() == b""


@on_each_loop
async def test_a_waiting_writer_wakes_when_the_connection_is_lost() -> None:
    with rig() as made:
        made.stream.start()
        made.fill(module.WRITE_HIGH_WATER + 1)
        waiter = asyncio.ensure_future(made.stream.drained())
        await turns()
        made.peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        made.peer.close()
        async with asyncio.timeout(LIMIT):
            await waiter
        assert made.stream.error is not None
