"""Replies of many connections that were read together are sent together, and arrive as if each had been sent by itself."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from hotfd import _core
from hotfd.errors import ConnectionClosed
from hotfd.framing import Lines
from hotfd.server.poller import GATHERED, REPLIES, REPLY_SIZE
from hotfd.server.stream import Life, Stream
from tests.unit.poller_rig import End, Rig
from tests.unit.wire_support import nothing_stays_open, on_each_loop, turns

__all__ = ["nothing_stays_open"]

pytestmark = pytest.mark.usefixtures("nothing_stays_open")


class Crowd(Rig):
    """Streams that echo each line, so many that their replies are gathered."""

    def __init__(self, count: int) -> None:
        super().__init__(Lines())
        for _ in range(count):
            end = self.end()
            end.does = lambda end=end: echo(end.stream)  # type: ignore[misc]

    async def answers(self, request: bytes = b"line\n") -> list[bytes]:
        """Have all ask in the same turn; return what each has got."""
        for end in self.ends:
            end.send(request)
        await turns()
        return [got(end) for end in self.ends]


@contextmanager
def crowd(count: int = GATHERED) -> Iterator[Crowd]:
    made = Crowd(count)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def sends(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many replies each call into C has sent."""
    counts: list[int] = []
    send = _core.SocketPoll.send

    def counting(self: _core.SocketPoll, data: bytes, replies: list[int]) -> list[int] | None:
        counts.append(len(replies) // 2)
        return send(self, data, replies)

    monkeypatch.setattr(_core.SocketPoll, "send", counting)
    return counts


def echo(stream: Stream) -> None:
    while stream.frame_at_hand:
        stream.write(stream.take() + b"\n")


def got(end: End) -> bytes:
    """What the peer has got."""
    try:
        return end.peer.recv(1 << 20, socket.MSG_DONTWAIT)
    except BlockingIOError:
        return b""


def after_echo(end: End, then: Callable[[], object]) -> None:
    """Have an end do something when it has written its reply."""

    def does() -> None:
        echo(end.stream)
        then()

    end.does = does


@on_each_loop
async def test_many_replies_are_sent_in_few_calls(sends: list[int]) -> None:
    with crowd(REPLIES + GATHERED) as made:
        assert await made.answers() == [b"line\n"] * (REPLIES + GATHERED)
        assert sends == [REPLIES, GATHERED]
        assert all(end.stream.unsent_size == 0 for end in made.ends)


@on_each_loop
async def test_few_replies_are_sent_each_by_itself(sends: list[int]) -> None:
    with crowd(GATHERED - 1) as made:
        assert await made.answers() == [b"line\n"] * (GATHERED - 1)
        assert sends == []


async def test_all_replies_to_one_client_are_one_of_those_that_are_gathered(sends: list[int]) -> None:
    with crowd() as made:
        assert await made.answers(b"one\ntwo\nthree\n") == [b"one\ntwo\nthree\n"] * GATHERED
        assert sends == [GATHERED]


async def test_what_is_written_behind_a_gathered_reply_comes_behind_it(sends: list[int]) -> None:
    large = b"x" * (2 * REPLY_SIZE)
    with crowd() as made:
        after_echo(made.ends[0], lambda: made.ends[0].stream.write(b"more\n"))
        after_echo(made.ends[1], lambda: made.ends[1].stream.write(large))
        made.ends[2].does = lambda: made.ends[2].stream.write(large + made.ends[2].stream.take())
        answers = await made.answers()
        assert answers[:3] == [b"line\nmore\n", b"line\n" + large, large + b"line"]
        assert sends == [GATHERED - 1], "a large reply is not copied"


async def test_more_than_a_stream_may_keep_is_sent_before_the_others_are_done() -> None:
    with crowd() as made:
        stream = made.ends[0].stream
        seen: list[int] = []

        def much() -> None:
            for _ in range(100):
                stream.write(b"x" * 1000)
            seen.append(stream.unsent_size)

        after_echo(made.ends[0], much)
        for end in made.ends:
            end.send(b"line\n")
        await turns()
        received = await everything(made.ends[0], b"", 5 + 100_000)
        assert received == b"line\n" + b"x" * 100_000
        assert seen[0] < 100_000


async def everything(end: End, first: bytes, size: int) -> bytes:
    """What an end's peer gets, until it has so many bytes; ``first`` is what it has got already."""
    received = first
    async with asyncio.timeout(30):
        while len(received) < size:
            received += got(end)
            await turns()
    return received


async def test_a_client_that_does_not_read_gets_its_reply_when_it_does_and_nobody_else_waits() -> None:
    with crowd() as made:
        slow, much = made.ends[0], b"x" * (1 << 20)
        slow.stream.write(much)
        assert slow.stream.unsent_size
        first, *others = await made.answers()
        assert others == [b"line\n"] * (GATHERED - 1)
        assert await everything(slow, first, len(much) + 5) == much + b"line\n"


@pytest.mark.parametrize("room", [0, 1500], ids=["nothing", "a part"])
async def test_what_the_kernel_does_not_take_of_a_reply_follows(room: int, monkeypatch: pytest.MonkeyPatch) -> None:
    send = _core.SocketPoll.send

    def sparing(self: _core.SocketPoll, data: bytes, replies: list[int]) -> list[int]:
        """Have the kernel take less of the first reply."""
        descriptor, size = replies[:2]
        taken = os.write(descriptor, data[:room]) if room else -errno.EAGAIN
        send(self, data[size:], replies[2:])
        return [taken, *replies[3::2]]

    reply = b"y" * 3000 + b"\n"
    with crowd() as made:
        slow = made.ends[0]
        after_echo(slow, lambda: slow.stream.write(reply))
        with monkeypatch.context() as patched:
            patched.setattr(_core.SocketPoll, "send", sparing)
            first, *others = await made.answers()
        assert others == [b"line\n"] * (GATHERED - 1)
        assert await everything(slow, first, 5 + len(reply)) == b"line\n" + reply
        assert not slow.stream.unsent_size


async def test_a_client_that_has_gone_is_lost_and_the_others_get_their_replies() -> None:
    with crowd() as made:
        gone = made.ends[0]
        after_echo(gone, gone.peer.close)
        for end in made.ends:
            end.send(b"line\n")
        await turns()
        assert [got(end) for end in made.ends[1:]] == [b"line\n"] * (GATHERED - 1)
        assert gone.lost == 1
        assert isinstance(gone.stream.error, BrokenPipeError)
        with pytest.raises(ConnectionClosed, match="lost"):
            gone.stream.write(b"more")


async def test_who_learns_that_he_is_lost_writes_behind_what_others_still_have_to_be_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refusing(self: _core.SocketPoll, data: bytes, replies: list[int]) -> list[int]:
        return [-errno.EPIPE, *[-errno.EAGAIN] * (len(replies) // 2 - 1)]

    with crowd() as made:
        gone, other = made.ends[:2]
        gone.does_when_lost = lambda: other.stream.write(b"has left\n")
        with monkeypatch.context() as patched:
            patched.setattr(_core.SocketPoll, "send", refusing)
            first = (await made.answers())[1]
        assert gone.lost == 1
        assert await everything(other, first, 14) == b"line\nhas left\n"


@pytest.mark.parametrize(
    ("end", "left"),
    [(Stream.close, b"line\n"), (Stream.abort, b""), (Stream.shut_write, b"line\n")],
    ids=["close", "abort", "shut_write"],
)
async def test_who_is_ended_after_his_reply_ends_as_ever(end: Callable[[Stream], None], left: bytes) -> None:
    with crowd() as made:
        one, other = made.ends[:2]
        after_echo(one, lambda: end(one.stream))  # by himself
        after_echo(made.ends[2], lambda: end(other.stream))  # by somebody whose turn comes after his
        answers = await made.answers()
        assert answers == [left, left, *[b"line\n"] * (GATHERED - 2)]
        for each in (one, other):
            assert each.peer.recv(1) == b"", "and then its end"
            assert (each.stream.life is Life.OPEN) == (end is Stream.shut_write)


async def test_a_reply_of_a_stream_that_is_fenced_before_it_was_sent_travels() -> None:
    with crowd() as made:
        one = made.ends[0]
        after_echo(made.ends[1], one.stream.fence)
        assert (await made.answers())[0] == b""
        assert one.stream.unsent == b"line\n"
        one.stream.unfence()
        await turns()
        assert got(one) == b"line\n"
        assert one.stream.unsent == b""
        after_echo(made.ends[1], lambda: None)
        assert (await made.answers())[0] == b"line\n", "and the next one is gathered as ever"


async def test_what_is_written_to_one_who_was_not_read_is_sent_with_the_others(sends: list[int]) -> None:
    with crowd() as made:
        listener = End(made.poller, made.framing)
        listener.stream.start()
        after_echo(made.ends[0], lambda: listener.stream.write(b"heard\n"))
        await made.answers()
        assert sends == [GATHERED + 1]
        assert got(listener) == b"heard\n"
        made.ends.append(listener)


async def test_what_is_written_after_the_batch_is_sent_at_once() -> None:
    with crowd() as made:
        await made.answers()
        made.ends[0].stream.write(b"later\n")
        assert got(made.ends[0]) == b"later\n"


def test_replies_are_sent_although_a_handler_ends_the_loop() -> None:
    async def main() -> None:
        def leave() -> None:
            raise SystemExit(3)

        after_echo(made.ends[GATHERED // 2], leave)
        for end in made.ends:
            end.send(b"line\n")
        await turns()

    with asyncio.Runner() as runner:
        made = runner.run(_made())
        with pytest.raises(SystemExit):
            runner.run(main())
        assert [got(end) for end in made.ends[: GATHERED // 2]] == [b"line\n"] * (GATHERED // 2)
        runner.run(turns())
        assert [got(end) for end in made.ends[GATHERED // 2 + 1 :]] == [b"line\n"] * (GATHERED - GATHERED // 2 - 1)
        runner.run(_closed(made))


async def _made() -> Crowd:
    return Crowd(GATHERED)


async def _closed(made: Crowd) -> None:
    made.close()
