"""One call reads from all connections that have something, and nothing that a handler does then takes bytes astray."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import select
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from hotfd import _core
from hotfd.framing import Framing, Lines
from hotfd.server.engine import Engine
from hotfd.server.poller import NOWHERE, READ_SIZE
from hotfd.server.stream import Life, Stream
from hotfd.state import Codec
from tests.unit.poller_rig import End, Rig, rig
from tests.unit.wire_support import descriptor_limit, nothing_stays_open, on_each_loop, turns

if TYPE_CHECKING:
    from hotfd.server.connection import Connection

__all__ = ["nothing_stays_open"]

pytestmark = pytest.mark.usefixtures("nothing_stays_open")


async def answer(conn: Connection[Any]) -> None:
    async for line in conn:
        await conn.send(line)


def say_to_both(one: End, other: End) -> None:
    """Have something come for both, so that it is found in one call, in this order."""
    one.send(b"one\n")
    other.send(b"other\n")


# ---------------------------------------------------------------- a batch


@on_each_loop
async def test_all_that_have_something_are_read_before_anybody_is_told() -> None:
    with rig() as made:
        one, other = made.pair()
        seen: list[bytes] = []
        one.does = lambda: seen.append(other.stream.undelivered)
        say_to_both(one, other)
        await turns()
        assert seen == [b"other\n"]
        assert (one.inputs, other.inputs) == (1, 1)
        assert (one.stream.take(), other.stream.take()) == (b"one", b"other")


@on_each_loop
async def test_who_is_fenced_by_anothers_handler_has_its_bytes_and_is_not_told() -> None:
    with rig() as made:
        one, other = made.pair()
        one.does = other.stream.fence
        say_to_both(one, other)
        await turns()
        assert (other.inputs, other.stream.undelivered, other.unread()) == (0, b"other\n", b"")
        other.stream.unfence()
        assert other.stream.take() == b"other"


@on_each_loop
async def test_who_is_moved_by_anothers_handler_travels_with_what_had_come() -> None:
    with rig() as made:
        one, other = made.pair()
        moved: list[tuple[bytes, int]] = []

        def move() -> None:
            other.stream.fence()
            moved.append((other.stream.undelivered, other.stream.detach()))

        one.does = move
        say_to_both(one, other)
        await turns()
        ((undelivered, fd),) = moved
        os.close(fd)
        assert (undelivered, other.inputs) == (b"other\n", 0)


@pytest.mark.parametrize("end", [Stream.close, Stream.abort])
@on_each_loop
async def test_who_is_ended_by_anothers_handler_is_told_nothing_of_what_had_come(end: Callable[[Stream], None]) -> None:
    with rig() as made:
        one, other = made.pair()
        one.does = lambda: end(other.stream)
        say_to_both(one, other)
        await turns()
        assert one.inputs == 1
        assert other.inputs == 0
        assert not other.stream.frame_at_hand


@on_each_loop
async def test_who_is_closed_by_anothers_handler_and_has_much_to_send_yet_is_not_told_of_its_end() -> None:
    with rig() as made:
        one, other = made.pair()
        other.stream.write(b"x" * (1 << 20))
        one.does = other.stream.close
        one.send(b"one\n")
        other.peer.shutdown(socket.SHUT_WR)
        await turns()
        assert (other.inputs, other.stream.life) == (0, Life.FLUSHING)


@on_each_loop
async def test_what_had_come_for_a_closed_descriptor_is_not_given_to_who_has_its_number_then() -> None:
    with rig() as made:
        one, other = made.pair()
        fd = other.stream.fileno()
        heirs: list[End] = []

        def replace() -> None:
            other.stream.abort()
            heirs.append(made.end())

        one.does = replace
        say_to_both(one, other)
        await turns()
        (heir,) = heirs
        assert heir.stream.fileno() == fd
        assert (heir.inputs, heir.stream.undelivered, other.inputs) == (0, b"", 0)
        heir.send(b"mine\n")
        await turns()
        assert heir.stream.take() == b"mine"


@on_each_loop
async def test_an_end_or_an_error_that_was_read_is_kept_although_the_stream_is_fenced_before_it_is_told() -> None:
    with rig() as made:
        one, ended, broken = made.end(), made.end(), made.end()

        def fence() -> None:
            ended.stream.fence()
            broken.stream.fence()

        one.does = fence
        broken.stream.write(b"left unread")
        one.send(b"one\n")
        for end in (ended, broken):
            end.peer.close()
        await turns()
        assert (ended.inputs, broken.inputs) == (0, 0)
        assert ended.stream.end_of_stream
        assert isinstance(broken.stream.error, ConnectionResetError)


@on_each_loop
async def test_a_batch_tells_of_ends_and_errors_as_of_frames() -> None:
    with rig() as made:
        one, ended, broken = made.end(), made.end(), made.end()
        broken.stream.write(b"left unread")
        one.send(b"one\n")
        for end in (ended, broken):
            end.peer.close()
        await turns()
        assert [end.inputs for end in made.ends] == [1, 1, 1]
        assert ended.stream.input_over
        assert isinstance(broken.stream.error, ConnectionResetError)
        assert (ended.stream.slot, broken.stream.slot) == (NOWHERE, NOWHERE)


def test_what_a_handler_raises_to_end_the_loop_keeps_nobody_else_from_being_told() -> None:
    def leave() -> None:
        raise SystemExit(3)

    async def main(made: Rig) -> None:
        one, other = made.pair()
        marked = made.end()
        marked.stream.before_io = lambda: None  # reads by itself
        one.does = leave
        say_to_both(one, other)
        marked.send(b"marked\n")
        await asyncio.sleep(20)

    async def new_rig() -> Rig:
        return Rig(Lines())

    loop = asyncio.new_event_loop()
    try:
        made = loop.run_until_complete(new_rig())
        task = loop.create_task(main(made))
        with pytest.raises(SystemExit):
            loop.run_until_complete(task)
        loop.run_until_complete(turns())
        assert [end.inputs for end in made.ends] == [1, 1, 1]
        task.cancel()
        loop.run_until_complete(turns())
        made.close()
    finally:
        loop.close()


class Torn(BaseException):
    """What no handler and no framing should raise."""


@on_each_loop
async def test_what_a_framing_raises_that_is_no_mere_error_keeps_no_other_stream_from_its_turn() -> None:
    def tear() -> None:
        framing.does = lambda: None
        raise Torn

    faults: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context["exception"]))
    framing = Meddling()
    with rig(framing) as made:
        one, other = made.pair()
        framing.does = tear
        say_to_both(one, other)
        await turns()
        assert [type(fault) for fault in faults] == [Torn]
        assert other.stream.take() == b"other"
        assert other.inputs == 1


def no_memory_for(stream: Stream, monkeypatch: pytest.MonkeyPatch) -> None:
    join = Stream._join

    def joined(self: Stream, data: bytes) -> None:
        if self is stream:
            raise MemoryError
        join(self, data)

    monkeypatch.setattr(Stream, "_join", joined)


@pytest.mark.parametrize("company", [0, 2], ids=["alone", "with others"])
@pytest.mark.parametrize("before_io", [None, lambda: None], ids=["read for it", "reads by itself"])
@on_each_loop
async def test_a_client_for_whose_bytes_there_is_no_memory_is_reset_and_the_others_have_all_of_theirs(
    before_io: Callable[[], None] | None, company: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with rig() as made:
        one, others = made.tcp_end(), [made.end() for _ in range(company)]
        one.stream.before_io = before_io
        one.send(b"a frame\n")
        for end in made.ends:
            end.send(b"half ")
        await turns()
        no_memory_for(one.stream, monkeypatch)
        for end in made.ends:
            end.send(b"a line\n")
        await turns()
        assert isinstance(one.stream.error, OSError)
        assert one.stream.error.errno == errno.ENOMEM
        assert (one.inputs, one.stream.frame_at_hand) == (2, False), "its handler learns of it"
        with pytest.raises(ConnectionResetError):
            one.peer.recv(1)
        assert [end.stream.take() for end in others] == [b"half a line"] * company
        assert [end.inputs for end in others] == [1] * company


@on_each_loop
async def test_what_a_handlers_fault_raises_is_told_to_the_loop_and_the_others_go_on() -> None:
    faults: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context["exception"]))

    def fail() -> None:
        raise RuntimeError("a fault")

    with rig() as made:
        one, other = made.pair()
        one.does = fail
        say_to_both(one, other)
        await turns()
        assert [str(fault) for fault in faults] == ["a fault"]
        assert other.inputs == 1


class Meddling(Framing):
    """A framing of the user's own, which does what it should not."""

    name = "meddling"

    def __init__(self) -> None:
        super().__init__()
        self.does: Callable[[], None] = lambda: None

    def find(self, data: bytes | bytearray, start: int, seen: int) -> tuple[int, int, int] | None:
        self.does()
        end = data.find(b"\n", start)
        return None if end < 0 else (start, end, end + 1)

    def encode(self, payload: bytes) -> bytes:
        return payload + b"\n"


@on_each_loop
async def test_a_framing_in_python_that_ends_another_stream_of_the_batch_hurts_nobody() -> None:
    framing = Meddling()
    with rig(framing) as made:
        one, other = made.pair()
        framing.does = other.stream.abort
        say_to_both(one, other)
        await turns()
        assert (one.inputs, other.inputs) == (1, 0)
        assert not other.stream.frame_at_hand
        assert one.stream.take() == b"one"


@on_each_loop
async def test_what_had_come_for_a_stream_that_a_finalizer_ends_is_given_to_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with rig() as made:
        one, other = made.pair()
        read = _core.SocketPoll.read

        def read_and_collect(sockets: _core.SocketPoll) -> list[int]:
            found = read(sockets)
            one.stream.abort()  # as a finalizer may, whenever the garbage collector runs
            return found

        say_to_both(one, other)
        with monkeypatch.context() as patch:
            patch.setattr(_core.SocketPoll, "read", read_and_collect)
            await turns()
        assert (one.inputs, other.inputs) == (0, 1)
        assert other.stream.take() == b"other"


# ---------------------------------------------------------------- who reads


@on_each_loop
async def test_who_has_to_do_something_first_does_it_before_the_read_and_only_if_he_is_still_polled() -> None:
    with rig() as made:
        one, other, fenced = made.end(), made.end(), made.end()
        marks: list[str] = []
        other.stream.before_io = lambda: marks.append("other")
        fenced.stream.before_io = lambda: marks.append("fenced")
        one.does = fenced.stream.fence
        say_to_both(one, other)
        fenced.send(b"untouched\n")
        await turns()
        assert marks == ["other"]
        assert other.stream.take() == b"other"
        assert (fenced.stream.undelivered, fenced.unread()) == (b"", b"untouched\n")


@on_each_loop
async def test_what_is_to_be_done_first_may_be_named_and_dropped_while_the_stream_is_polled() -> None:
    with rig() as made:
        one, other = made.pair()
        marks: list[str] = []
        one.stream.before_io = lambda: marks.append("one")
        say_to_both(one, other)
        await turns()
        one.stream.before_io = None
        say_to_both(one, other)
        await turns()
        assert marks == ["one"]
        assert (one.inputs, one.stream.undelivered) == (2, b"one\none\n")


@on_each_loop
async def test_who_waits_for_his_peers_end_drops_what_comes_and_sees_that_end() -> None:
    with rig() as made:
        one = made.end()
        one.stream.close()
        one.send(b"too late\n")
        await turns()
        assert (one.unread(), one.stream.undelivered, one.closed) == (b"", b"", 0)
        one.peer.shutdown(socket.SHUT_WR)
        await turns()
        assert (one.closed, one.inputs) == (1, 0)


@pytest.mark.parametrize(("framing", "looks"), [(Lines, 1), (Meddling, 2)])
@on_each_loop
async def test_what_is_one_whole_frame_is_looked_at_in_the_call_that_reads_it(
    framing: Callable[[], Framing], looks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[Stream] = []
    look = Stream.look

    def noted(stream: Stream) -> None:
        looked.append(stream)
        look(stream)

    monkeypatch.setattr(Stream, "look", noted)
    with rig(framing()) as made:
        one, other = made.pair()
        one.send(b"one whole line\n")
        other.send(b"two\nlines\n")
        await turns()
        assert [one.stream.take(), other.stream.take(), other.stream.take()] == [b"one whole line", b"two", b"lines"]
        assert len(looked) == looks


@on_each_loop
async def test_who_is_alone_and_has_to_do_something_first_reads_by_himself() -> None:
    with rig() as made:
        one, marks = made.end(), list[str]()
        one.stream.before_io = lambda: marks.append("one")
        one.send(b"one\n")
        await turns()
        assert (marks, one.stream.take()) == (["one"], b"one")


@on_each_loop
async def test_a_client_that_sends_without_end_gets_one_read_a_turn_as_all_others() -> None:
    with rig() as made:
        flood, other = made.pair()
        line = b"x" * 999 + b"\n"
        flood.peer.setblocking(False)
        turns_told: list[str] = []

        def told(name: str, end: End) -> None:
            turns_told.append(name)
            while end.stream.frame_at_hand:
                end.stream.take()

        flood.does = lambda: told("flood", flood)
        other.does = lambda: told("other", other)
        for _ in range(5):
            with pytest.raises(BlockingIOError):
                while True:
                    flood.peer.send(line)
            other.send(b"other\n")
            before = len(turns_told)
            made.poller._on_readable()  # what the loop does in a turn
            assert sorted(turns_told[before:]) == ["flood", "other"]


@on_each_loop
async def test_what_the_room_does_not_take_is_read_by_the_streams_themselves() -> None:
    with rig() as made:
        size = 2 * READ_SIZE - 1
        ends = [made.end() for _ in range(2 * _core.POLL_ROOM // READ_SIZE)]
        for end in ends:
            end.peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * READ_SIZE)
            end.send(b"x" * size + b"\n")
        made.poller._on_readable()
        assert all(len(end.stream.undelivered) >= READ_SIZE for end in ends), "nobody waits for the others"
        await turns()
        assert [len(end.stream.take()) for end in ends] == [size] * len(ends)


@on_each_loop
async def test_who_has_sent_a_large_frame_is_read_by_himself_until_he_sends_a_small_one() -> None:
    with rig() as made:
        one = made.end()
        one.peer.setblocking(False)
        loop = asyncio.get_running_loop()
        sending = asyncio.create_task(loop.sock_sendall(one.peer, b"x" * (4 * READ_SIZE) + b"\n"))
        while not one.stream.frame_at_hand:
            await turns()
        await sending
        assert not one.stream.plain
        assert len(one.stream.take()) == 4 * READ_SIZE
        one.send(b"small\n")
        await turns()
        assert one.stream.take() == b"small"
        assert one.stream.plain


@on_each_loop
async def test_more_connections_than_the_table_begins_with_or_one_call_takes_are_all_served() -> None:
    with rig() as made:
        ends = [made.end() for _ in range(2 * _core.POLL_MAX + 1)]
        for number, end in enumerate(ends):
            end.send(b"%d\n" % number)
        await turns(6)
        assert [end.stream.take() for end in ends] == [b"%d" % number for number in range(len(ends))]
        for end in ends[:100]:
            end.stream.abort()
        for end in [made.end() for _ in range(100)]:
            end.send(b"again\n")
        await turns(6)
        assert [end.stream.take() for end in made.ends[-100:]] == [b"again"] * 100


# ---------------------------------------------------------------- coming and going


@on_each_loop
async def test_of_a_fenced_stream_nothing_is_heard_although_a_copy_of_it_is_open() -> None:
    with rig() as made:
        one, other = made.pair()
        epoll = made.poller.open().fileno()
        copy = os.dup(other.stream.fileno())
        other.stream.fence()
        os.close(other.stream.detach())
        other.send(b"for the copy\n")
        await turns()
        assert not select.select([epoll], [], [], 0)[0]
        os.close(copy)
        one.send(b"one\n")
        await turns()
        assert one.stream.take() == b"one"


@on_each_loop
async def test_what_is_gathered_is_done_at_the_end_in_its_order(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    change = _core.SocketPoll.change

    def noted(sockets: _core.SocketPoll, changes: list[int]) -> list[int]:
        calls.append(len(changes) // 3)
        return change(sockets, changes)

    monkeypatch.setattr(_core.SocketPoll, "change", noted)
    with rig() as made:
        one, other = made.pair()
        with made.poller.gathered():
            with made.poller.gathered():
                one.stream.fence()
                third = made.end()
            one.stream.unfence()
            other.stream.fence()
            assert calls == []
        assert calls == [4]
        for end in (one, other, third):
            end.send(b"hello\n")
        await turns()
        assert (one.stream.take(), third.stream.take()) == (b"hello", b"hello")
        assert (other.inputs, other.unread()) == (0, b"hello\n")


@pytest.mark.parametrize("end", [Stream.abort, Stream.let_go, Stream.detach])
@on_each_loop
async def test_a_descriptor_that_goes_away_within_is_dropped_before_it_does(end: Callable[[Stream], object]) -> None:
    with rig() as made:
        one, other = made.pair()
        copy = os.dup(one.stream.fileno())
        with made.poller.gathered():
            one.stream.fence()
            fd = end(one.stream)
            if isinstance(fd, int):
                os.close(fd)
        one.send(b"for the copy\n")
        await turns()
        assert not select.select([made.poller.open().fileno()], [], [], 0)[0]
        os.close(copy)
        other.send(b"other\n")
        await turns()
        assert other.stream.take() == b"other"


@on_each_loop
async def test_what_is_to_be_done_first_counts_for_a_stream_that_is_only_about_to_be_added() -> None:
    with rig() as made:
        marks: list[str] = []
        with made.poller.gathered():
            one = made.end()
            one.stream.before_io = lambda: marks.append("one")
        one.send(b"one\n")
        await turns()
        assert marks == ["one"]


@on_each_loop
async def test_the_descriptor_is_not_inherited_and_closes_with_the_poller_which_may_begin_again() -> None:
    with rig() as made:
        one = made.end()
        epoll = made.poller.open().fileno()
        assert fcntl.fcntl(epoll, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
        made.poller.close()
        made.poller.close()
        assert one.stream.slot == NOWHERE
        one.stream.fence()
        one.stream.unfence()
        one.send(b"one\n")
        await turns()
        assert one.stream.take() == b"one"


@on_each_loop
async def test_without_a_descriptor_to_poll_with_a_connection_is_lost_and_the_next_one_tries_again() -> None:
    with rig() as made:
        one, other = made.end(start=False), made.end(start=False)
        with descriptor_limit(0):
            with pytest.raises(OSError, match="Too many open files"):
                made.poller.open()
            one.stream.start()
        assert one.lost == 0, "whoever has started it goes on first"
        await turns(1)
        assert (one.lost, one.stream.over) == (1, True)
        assert isinstance(one.stream.error, OSError)
        assert one.stream.error.errno == errno.EMFILE
        other.stream.start()
        other.send(b"other\n")
        await turns()
        assert other.stream.take() == b"other"


@on_each_loop
async def test_a_server_that_has_none_does_not_begin_to_accept() -> None:
    engine = Engine(answer, Lines(), Codec.of(None))
    with descriptor_limit(0), pytest.raises(OSError, match="Too many open files"):
        engine.start_accepting()
    await engine.stop()


@on_each_loop
async def test_a_connection_that_the_kernel_does_not_poll_is_lost_and_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with rig() as made:
        made.poller.open()
        one = made.end(start=False)
        with monkeypatch.context() as patch:
            patch.setattr(_core.SocketPoll, "add", lambda *_: errno.ENOSPC)
            one.stream.start()
        await turns(1)
        assert (one.lost, one.stream.slot) == (1, NOWHERE)
        assert isinstance(one.stream.error, OSError)
        assert one.stream.error.errno == errno.ENOSPC
        other = made.end()
        other.send(b"other\n")
        await turns()
        assert other.stream.take() == b"other"


@contextmanager
def polled_by_nobody() -> Iterator[None]:
    """As where a user polls as many descriptors as fs.epoll.max_user_watches allows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_core.SocketPoll, "add", lambda *_: errno.ENOSPC)
        yield


@on_each_loop
async def test_who_cannot_be_polled_and_was_owed_something_is_reset_so_that_he_takes_nothing_for_complete() -> None:
    with rig() as made:
        one = made.tcp_end()
        one.does_when_lost = one.stream.close
        one.stream.write(b"x" * (1 << 24))
        assert one.stream.unsent
        one.stream.fence()
        with polled_by_nobody():
            one.stream.unfence()
        await turns()
        assert (one.lost, one.closed) == (1, 1)
        with pytest.raises(ConnectionResetError):
            while one.peer.recv(1 << 20):
                pass


@on_each_loop
async def test_who_cannot_be_polled_and_is_fenced_before_he_learns_of_it_is_not_lost_but_tried_again() -> None:
    with rig() as made:
        one, other = made.tcp_end(), made.tcp_end()
        for end in (one, other):
            end.stream.fence()
        with polled_by_nobody():
            one.stream.unfence()
            other.stream.unfence()
        for end in (one, other):
            end.stream.fence()
        other.stream.unfence()
        await turns()
        assert (one.lost, one.stream.error, other.lost, other.stream.error) == (0, None, 0, None)
        one.stream.unfence()
        for end in (one, other):
            end.send(b"served\n")
        await turns()
        assert (one.stream.take(), other.stream.take()) == (b"served", b"served")


@on_each_loop
async def test_of_many_that_are_added_only_those_are_lost_that_the_kernel_does_not_poll(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    change = _core.SocketPoll.change

    def full(sockets: _core.SocketPoll, changes: list[int]) -> list[int]:
        codes = change(sockets, changes)
        codes[1] = errno.ENOSPC
        return codes

    with rig() as made:
        one, other, again = (made.end(start=False) for _ in range(3))
        with monkeypatch.context() as patch, made.poller.gathered():
            patch.setattr(_core.SocketPoll, "change", full)
            for end in (one, other, again):
                end.stream.start()
            made.poller.settle()
        await turns(1)
        assert [end.lost for end in (one, other, again)] == [0, 1, 0]
        assert other.stream.slot == NOWHERE
        for end in (one, again):
            end.send(b"hello\n")
        await turns()
        assert (one.stream.take(), again.stream.take()) == (b"hello", b"hello")


@on_each_loop
async def test_what_cannot_be_dropped_is_dropped_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    change = _core.SocketPoll.change

    def unknown(sockets: _core.SocketPoll, changes: list[int]) -> list[int]:
        return [code or errno.ENOENT for code in change(sockets, changes)]

    with rig() as made:
        one, other = made.pair()
        with monkeypatch.context() as patch, made.poller.gathered():
            patch.setattr(_core.SocketPoll, "change", unknown)
            one.stream.fence()
            made.poller.settle()
        say_to_both(one, other)
        await turns()
        assert (one.inputs, one.lost, other.inputs) == (0, 0, 1)


@on_each_loop
async def test_a_stream_that_has_moved_before_it_learns_that_it_is_lost_is_not() -> None:
    with rig() as made:
        one = made.end(start=False)
        with descriptor_limit(0):
            one.stream.start()
        one.stream.fence()
        os.close(one.stream.detach())
        await turns(1)
        assert (one.lost, one.stream.life) == (0, Life.DETACHED)


def test_a_read_fits_into_the_room_and_no_error_is_taken_for_what_was_not_read() -> None:
    assert READ_SIZE <= _core.POLL_ROOM
    assert -max(errno.errorcode) > _core.POLL_UNREAD
