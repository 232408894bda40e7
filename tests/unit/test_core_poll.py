"""Many sockets that are read at once, through the C core's binding. The C itself has tests/csrc/test_poll.c."""

from __future__ import annotations

import errno
import os
import select
import socket
from collections.abc import Iterator

import pytest

from hotfd import _core
from hotfd.framing import Lines
from tests.unit.wire_support import descriptor_limit, open_descriptors

EACH = 16
"""Bytes that are read of one socket."""


@pytest.fixture
def sockets() -> Iterator[_core.SocketPoll]:
    before = open_descriptors()
    scanner = Lines().scanner()
    assert isinstance(scanner, _core.FrameScanner)
    made = _core.SocketPoll(scanner.framing, EACH)
    yield made
    made.close()
    made.close()
    assert open_descriptors() == before


def test_what_was_read_is_said_in_four_numbers_and_is_there_until_the_next_read(sockets: _core.SocketPoll) -> None:
    (one, peer), (other, others_peer) = socket.socketpair(), socket.socketpair()
    with one, peer, other, others_peer:
        assert sockets.add(1, one.fileno(), reads=True) == 0
        assert sockets.add(0, other.fileno(), reads=False) == 0
        assert sockets.read() == []
        peer.send(b"frame\n")
        others_peer.send(b"x")
        assert select.select([sockets], [], [], 0)[0] == [sockets]
        assert sockets.read() == [1, 6, 0, 5, 0, _core.POLL_UNREAD, -1, 0]
        assert sockets.taken[:6] == b"frame\n"
        sockets.set_reads(0, True)
        peer.close()
        found = sockets.read()
        assert sorted([found[:4], found[4:]]) == [[0, 1, -1, 0], [1, 0, -1, 0]]
        sockets.drop(0, other.fileno())
        sockets.drop(1, one.fileno())
        assert sockets.read() == []


def test_a_table_that_has_grown_has_all_that_was_in_it(sockets: _core.SocketPoll) -> None:
    one, peer = socket.socketpair()
    with one, peer:
        sockets.add(0, one.fileno(), reads=True)
        before = sockets.size
        sockets.grow()
        assert sockets.size == 2 * before
        assert sockets.add(before, peer.fileno(), reads=True) == 0
        one.send(b"to the peer\n")
        peer.send(b"to the one\n")
        found = sockets.read()
        assert {found[0]: found[1], found[4]: found[5]} == {0: len(b"to the one\n"), before: len(b"to the peer\n")}
        sockets.drop(0, one.fileno())
        sockets.drop(before, peer.fileno())


def test_many_changes_are_one_call_and_each_says_what_became_of_it(sockets: _core.SocketPoll) -> None:
    (one, peer), file = socket.socketpair(), os.open("/proc/self/exe", os.O_RDONLY | os.O_CLOEXEC)
    with one, peer:
        changes = [0, one.fileno(), _core.POLL_READ, 1, file, _core.POLL_TELL, 0, one.fileno(), _core.POLL_DROP]
        assert sockets.change(changes) == [0, errno.EPERM, 0]
        assert sockets.add(1, file, reads=True) == errno.EPERM
        peer.send(b"x")
        assert sockets.read() == []
    os.close(file)


def test_without_a_descriptor_there_is_none_and_a_closed_one_is_an_error(sockets: _core.SocketPoll) -> None:
    with descriptor_limit(0), pytest.raises(OSError, match="Too many open files"):
        _core.SocketPoll(None, EACH)
    fd = sockets.fileno()
    sockets.close()
    with select.epoll() as other:
        assert other.fileno() == fd, "its number is another one's"
        with pytest.raises(OSError, match="Bad file descriptor"):
            sockets.read()


def test_of_replies_that_the_kernel_does_not_take_whole_it_is_said_how_much_it_took(sockets: _core.SocketPoll) -> None:
    (one, peer), (other, others_peer) = socket.socketpair(), socket.socketpair()
    with one, peer, other, others_peer:
        replies = [one.fileno(), 5, other.fileno(), 6]
        assert sockets.send(b"firstsecond", replies) is None
        assert (peer.recv(100), others_peer.recv(100)) == (b"first", b"second")
        peer.close()
        assert sockets.send(b"firstsecond", replies) == [-errno.EPIPE, 6]
        assert sockets.send(b"", []) is None
