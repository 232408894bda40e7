"""The channel over real sockets and loops: order, descriptors and who closes them, back-pressure, identity, the end."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import socket
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from hotfd import _core
from hotfd.transfer import channel as module
from hotfd.transfer.channel import Channel, close_all
from hotfd.wire import messages as m
from tests.unit.wire_support import (
    LIMIT,
    Inbox,
    descriptor_limit,
    is_open,
    nothing_stays_open,
    on_each_loop,
    turns,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["nothing_stays_open"]

pytestmark = pytest.mark.usefixtures("nothing_stays_open")


@dataclass
class Ends:
    """A channel, its inbox, and the other end as a bare descriptor."""

    channel: Channel
    inbox: Inbox
    peer: int

    def say(self, message: m.Message, descriptors: list[int] | None = None) -> None:
        _core.send_message(self.peer, m.encode(message), descriptors or [])

    def heard(self) -> list[m.Message]:
        """Read everything that is at the other end now, and close what came with it."""
        found = []
        while True:
            try:
                raw = _core.receive_message(self.peer)
            except BlockingIOError:
                return found
            close_all(raw.descriptors)
            if raw.pidfd >= 0:
                os.close(raw.pidfd)
            if not raw.data:
                return found
            found.append(m.decode(raw.data))

    def leave(self) -> None:
        """Close the other end."""
        os.close(self.peer)
        self.peer = -1


@contextmanager
def ends() -> Iterator[Ends]:
    mine, peer = _core.channel_pair()
    inbox = Inbox()
    both = Ends(Channel(mine, inbox.on_message, inbox.on_broken), inbox, peer)
    try:
        yield both
    finally:
        both.channel.close()
        both.inbox.close()
        if both.peer >= 0:
            os.close(both.peer)


@contextmanager
def pipe() -> Iterator[tuple[int, int]]:
    """A pipe whose ends are closed at the end unless somebody has closed them."""
    pair = os.pipe()
    inodes = [os.fstat(fd).st_ino for fd in pair]
    try:
        yield pair
    finally:
        for fd, inode in zip(pair, inodes, strict=True):
            if is_open(fd) and os.fstat(fd).st_ino == inode:
                os.close(fd)


def fill(both: Ends) -> list[m.Message]:
    """Send until the kernel takes no more and packets wait in the channel; return everything that was sent."""
    sent: list[m.Message] = []
    while both.channel.queued < 3:
        sent.append(m.Accept([len(sent)]))
        both.channel.send(sent[-1])
    return sent


# ---------------------------------------------------------------- messages and descriptors


@on_each_loop
async def test_messages_arrive_in_order_and_say_who_sent_them() -> None:
    with ends() as both:
        both.channel.start()
        sent = [m.Accept([n]) for n in range(20)]
        for message in sent:
            both.say(message)
        await both.inbox.until(len(sent))
        assert both.inbox.messages == sent
        assert {arrival.pid for arrival in both.inbox.arrivals} == {os.getpid()}
        assert not any(arrival.truncated for arrival in both.inbox.arrivals)


@on_each_loop
async def test_nothing_is_received_before_the_start() -> None:
    with ends() as both:
        both.say(m.Ready())
        await turns()
        assert both.inbox.messages == []
        both.channel.start()
        both.channel.start()
        await both.inbox.until(1)
        assert both.inbox.messages == [m.Ready()]


@on_each_loop
async def test_descriptors_arrive_close_on_exec_in_their_order_and_belong_to_the_receiver() -> None:
    with ends() as both, pipe() as (reader, writer):
        both.channel.start()
        both.say(m.Ready(), [reader, writer])
        await both.inbox.until(1)
        (arrival,) = both.inbox.arrivals
        assert [os.fstat(fd).st_ino for fd in arrival.descriptors] == [os.fstat(fd).st_ino for fd in (reader, writer)]
        assert [os.get_inheritable(fd) for fd in arrival.descriptors] == [False, False]
        assert [fcntl.fcntl(fd, fcntl.F_GETFD) for fd in arrival.descriptors] == [fcntl.FD_CLOEXEC] * 2
        arrival.close()
        assert not any(is_open(fd) for fd in arrival.descriptors)
        both.inbox.arrivals.clear()


@on_each_loop
async def test_what_is_sent_goes_out_at_once_and_in_order() -> None:
    with ends() as both:
        sent = [m.Accept([n]) for n in range(20)]
        for message in sent:
            both.channel.send(message)
        assert both.channel.queued == 0
        assert both.heard() == sent
        assert await both.channel.flushed()


@on_each_loop
async def test_borrowed_descriptors_stay_open_and_owned_ones_are_closed_once_sent() -> None:
    with ends() as both, pipe() as (borrowed, owned):
        both.channel.send(m.Ready(), [borrowed, owned], owned=[owned])
        assert is_open(borrowed)
        assert not is_open(owned)
        assert both.heard() == [m.Ready()]


# ---------------------------------------------------------------- owned descriptors that are never sent


@on_each_loop
async def test_owned_descriptors_are_closed_when_the_queue_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_QUEUED", 2)
    with ends() as both, pipe() as (borrowed, owned):
        while both.channel.queued < 2:
            both.channel.send(m.Ready())
        with pytest.raises(BufferError):
            both.channel.send(m.Ready(), [borrowed, owned], owned=[owned])
        assert is_open(borrowed)
        assert not is_open(owned)
        assert both.channel.queued == 2


@on_each_loop
async def test_owned_descriptors_are_closed_when_the_message_fits_no_packet() -> None:
    with ends() as both, pipe() as (borrowed, owned):
        with pytest.raises(ValueError, match="packet"):
            both.channel.send(m.Accept(list(range(1 << 15))), [borrowed, owned], owned=[owned])
        assert is_open(borrowed)
        assert not is_open(owned)
        both.channel.send(m.Ready())
        assert both.heard() == [m.Ready()]


@on_each_loop
async def test_owned_descriptors_in_the_queue_are_closed_with_the_channel() -> None:
    with ends() as both, pipe() as (borrowed, owned):
        fill(both)
        both.channel.send(m.Ready(), [borrowed, owned], owned=[owned])
        assert is_open(owned)
        both.channel.close()
        both.channel.close()
        assert is_open(borrowed)
        assert not is_open(owned)


@on_each_loop
async def test_owned_descriptors_are_closed_when_the_channel_is_closed_already() -> None:
    with ends() as both, pipe() as (borrowed, owned):
        both.channel.close()
        both.channel.send(m.Ready(), [borrowed, owned], owned=[owned])
        assert is_open(borrowed)
        assert not is_open(owned)
        assert not await both.channel.flushed()


@on_each_loop
async def test_owned_descriptors_are_closed_when_the_other_side_is_gone() -> None:
    with ends() as both, pipe() as (borrowed, owned):
        both.leave()
        both.channel.send(m.Ready(), [borrowed, owned], owned=[owned])
        assert is_open(borrowed)
        assert not is_open(owned)


@on_each_loop
async def test_owned_descriptors_are_closed_after_the_end_was_read() -> None:
    with ends() as both, pipe() as (borrowed, owned):
        both.leave()
        both.channel.drain()
        assert both.channel.ended
        both.channel.send(m.Ready(), [borrowed, owned], owned=[owned])
        assert is_open(borrowed)
        assert not is_open(owned)


@on_each_loop
async def test_owned_descriptors_in_the_queue_are_closed_when_the_other_side_dies() -> None:
    with ends() as both, pipe() as (borrowed, owned):
        both.channel.start()
        fill(both)
        both.channel.send(m.Ready(), [borrowed, owned], owned=[owned])
        both.leave()
        async with asyncio.timeout(LIMIT):
            assert not await both.channel.flushed()
        assert is_open(borrowed)
        assert not is_open(owned)
        assert both.channel.queued == 0


@on_each_loop
async def test_a_packet_that_the_kernel_refuses_breaks_the_channel_and_leaks_nothing() -> None:
    with ends() as both, pipe() as (borrowed, owned):
        both.channel.send(m.Ready(), [borrowed] * 254 + [owned], owned=[owned])
        assert not is_open(owned)
        assert len(both.inbox.broken) == 1
        assert not await both.channel.flushed()


# ---------------------------------------------------------------- back-pressure


@on_each_loop
async def test_a_peer_that_reads_late_gets_everything_in_order() -> None:
    with ends() as both, pipe() as (borrowed, owned):
        sent = fill(both)
        both.channel.send(m.Ready(), [borrowed, owned], owned=[owned])
        flushed = asyncio.ensure_future(both.channel.flushed())
        await turns()
        assert not flushed.done()
        heard = []
        async with asyncio.timeout(LIMIT):
            while not flushed.done():
                heard += both.heard()
                await asyncio.sleep(0)
        assert flushed.result() is True
        heard += both.heard()
        assert heard == [*sent, m.Ready()]
        assert not is_open(owned)


@on_each_loop
async def test_a_channel_that_is_closed_while_somebody_waits_says_that_packets_are_lost() -> None:
    with ends() as both:
        fill(both)
        waiting = [asyncio.ensure_future(both.channel.flushed()) for _ in range(2)]
        await turns()
        both.channel.close()
        async with asyncio.timeout(LIMIT):
            assert await asyncio.gather(*waiting) == [False, False]


@on_each_loop
async def test_packets_for_a_peer_that_is_gone_do_not_count_as_taken() -> None:
    with ends() as both:
        both.leave()
        both.channel.send(m.Ready())
        assert not await both.channel.flushed()


@pytest.mark.parametrize("code", [errno.ETOOMANYREFS, errno.ENOBUFS, errno.ENOMEM], ids=errno.errorcode.get)
@on_each_loop
async def test_a_kernel_that_is_short_of_something_is_asked_again(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    refusals = [code, code]
    real = _core.send_message

    def send_message(*args: object) -> None:
        if refusals:
            raise OSError(refusals.pop(), "later")
        real(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(_core, "send_message", send_message)
    with ends() as both, pipe() as (_, owned):
        both.channel.send(m.Ready(), [owned], owned=[owned])
        both.channel.send(m.Finish(1.0))
        assert both.channel.queued == 2
        async with asyncio.timeout(LIMIT):
            assert await both.channel.flushed()
        assert both.heard() == [m.Ready(), m.Finish(1.0)]
        assert not is_open(owned)


@on_each_loop
async def test_a_channel_that_waits_to_ask_again_can_be_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    def send_message(*args: object) -> None:
        raise OSError(errno.ETOOMANYREFS, "later")

    monkeypatch.setattr(_core, "send_message", send_message)
    monkeypatch.setattr(module, "RETRY_PAUSE", 0.0)
    with ends() as both, pipe() as (_, owned):
        both.channel.send(m.Ready(), [owned], owned=[owned])
        await turns()
        both.channel.close()
        assert not is_open(owned)
        await turns()


@on_each_loop
async def test_a_flood_leaves_turns_of_the_loop_to_others() -> None:
    with ends() as both:
        count = module.MAX_READS + 20
        for n in range(count):
            both.say(m.Accept([n]))
        both.channel.start()
        counts: list[int] = []
        async with asyncio.timeout(LIMIT):
            while len(both.inbox.arrivals) < count:
                await asyncio.sleep(0)
                counts.append(len(both.inbox.arrivals))
        assert module.MAX_READS in counts


# ---------------------------------------------------------------- who speaks, and what

SPEAK = """
import socket, sys
channel = socket.socket(fileno=int(sys.argv[1]))
socket.send_fds(channel, [b"HF\\x01\\x00\\x91\\xa5ready"], [0, 1])
"""
"""A Ready with two descriptors, from another process."""


def speak_from_another_process(fd: int) -> int:
    """Return the pid of the process that spoke; it is dead by then."""
    with subprocess.Popen([sys.executable, "-S", "-c", SPEAK, str(fd)], pass_fds=[fd]) as child:
        pass
    assert child.returncode == 0
    return child.pid


@on_each_loop
async def test_the_first_speaker_is_not_known_and_is_told_by_the_kernel() -> None:
    with ends() as both:
        pid = speak_from_another_process(both.peer)
        both.channel.start()
        await both.inbox.until(1)
        assert both.inbox.arrivals[0].pid == pid
        assert len(both.inbox.arrivals[0].descriptors) == 2


@on_each_loop
async def test_a_stranger_is_refused_and_what_he_sent_is_closed() -> None:
    with ends() as both:
        both.channel.peer = os.getpid()
        both.channel.start()
        both.say(m.Ready())
        await both.inbox.until(1)
        pid = speak_from_another_process(both.peer)
        both.say(m.Finish(1.0))
        await both.inbox.until_broken()
        await turns()
        assert len(both.inbox.broken) == 1
        assert str(pid) in str(both.inbox.broken[0])
        assert both.inbox.messages == [m.Ready()], "nothing of a broken channel is delivered"


GARBAGE = {
    "no-header": b"x",
    "header-only": m.HEADER,
    "unknown-tag": m.HEADER + b"\x91\xa4nope",
    "no-utf-8": m.HEADER + b"\x93\xa6failed\xa1\xff\xa0",
    "long": b"\0" * _core.MAX_MESSAGE,
}


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE)
@on_each_loop
async def test_garbage_breaks_the_channel_once_and_what_came_with_it_is_closed(garbage: bytes) -> None:
    with ends() as both, pipe() as (reader, writer):
        both.channel.start()
        _core.send_message(both.peer, garbage, [reader, writer])
        both.say(m.Ready())
        _core.send_message(both.peer, garbage, [reader])
        await both.inbox.until_broken()
        await turns()
        both.channel.drain()
        assert len(both.inbox.broken) == 1
        assert both.inbox.messages == []


@on_each_loop
async def test_a_packet_without_data_is_garbage_and_not_the_end() -> None:
    with ends() as both:
        both.channel.start()
        with socket.socket(fileno=os.dup(both.peer)) as peer:
            peer.send(b"")
        await both.inbox.until_broken()


@on_each_loop
async def test_descriptors_that_are_lost_on_the_way_are_reported_and_none_stays() -> None:
    with ends() as both, pipe() as (reader, writer):
        both.say(m.Ready(), [reader, writer] * 4)
        lowest = os.dup(0)
        os.close(lowest)
        with descriptor_limit(lowest + 3):
            both.channel.drain()
        (arrival,) = both.inbox.arrivals
        assert arrival.message == m.Ready()
        assert arrival.truncated
        assert arrival.descriptors == []


# ---------------------------------------------------------------- the end


@on_each_loop
async def test_what_was_said_before_the_end_is_heard_before_it() -> None:
    with ends() as both:
        both.channel.start()
        sent = [m.Accept([n]) for n in range(5)]
        for message in sent:
            both.say(message)
        both.leave()
        await both.inbox.until(len(sent))
        await turns()
        assert both.inbox.messages == sent
        assert both.channel.ended
        assert both.inbox.broken == []


@pytest.mark.parametrize("polled", [True, False], ids=["polled", "drained"])
@on_each_loop
async def test_a_reset_does_not_hide_what_was_said_before_it(polled: bool) -> None:
    with ends() as both:
        both.channel.send(m.Ready())  # stays unread: it is this that makes the close a reset
        sent = [m.Commit([n]) for n in range(5)]
        for message in sent:
            both.say(message)
        both.leave()
        if polled:
            both.channel.start()
            await both.inbox.until(len(sent))
            await turns()
        else:
            both.channel.drain()
        assert both.inbox.messages == sent
        assert both.channel.ended


@on_each_loop
async def test_a_reset_that_a_send_meets_first_does_not_hide_what_was_said_before_it() -> None:
    with ends() as both:
        both.channel.send(m.Ready())
        both.say(m.Commit([1]))
        both.leave()
        both.channel.send(m.Finish(1.0))
        both.channel.drain()
        assert both.inbox.messages == [m.Commit([1])]
        assert both.channel.ended


@on_each_loop
async def test_draining_an_empty_channel_is_not_its_end() -> None:
    with ends() as both:
        both.channel.drain()
        assert not both.channel.ended
        both.say(m.Ready())
        both.channel.drain()
        assert both.inbox.messages == [m.Ready()]


@on_each_loop
async def test_a_channel_can_be_closed_by_what_it_delivers() -> None:
    mine, peer = _core.channel_pair()
    inbox = Inbox()

    def on_message(arrival: module.Arrival) -> None:
        inbox.on_message(arrival)
        channel.close()

    channel = Channel(mine, on_message, inbox.on_broken)
    try:
        for n in range(3):
            _core.send_message(peer, m.encode(m.Accept([n])))
        channel.start()
        await inbox.until(1)
        await turns()
        assert inbox.messages == [m.Accept([0])]
    finally:
        inbox.close()
        channel.close()
        os.close(peer)


def test_close_all_closes_all_whatever_one_says() -> None:
    with pipe() as (reader, writer):
        os.close(reader)
        close_all([reader, writer])
        assert not is_open(writer)


@on_each_loop
async def test_a_broken_channel_still_tells_the_other_side_what_it_has_to_know() -> None:
    with ends() as both:
        both.channel.start()
        _core.send_message(both.peer, b"garbage")
        await both.inbox.until_broken()
        both.channel.send(m.Revoke([1]))
        assert await both.channel.flushed()
        assert both.heard() == [m.Revoke([1])]
