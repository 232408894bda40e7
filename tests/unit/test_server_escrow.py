"""The escrow closes each copy that it holds once, and none that it has given back."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from hotfd.server.escrow import Escrow, Newcomer
from hotfd.transfer.offer import Bundle
from hotfd.wire.records import ConnectionRecord, SessionRecord
from tests.unit.wire_support import is_open, nothing_stays_open

__all__ = ["nothing_stays_open"]

pytestmark = pytest.mark.usefixtures("nothing_stays_open")


def descriptor() -> int:
    """Open something; the caller owns it. The lowest free number is taken, as open(2) says."""
    return os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)


def bundle(wire_id: int, *cookies: int) -> Bundle:
    """A session with so many connections, each with a descriptor of its own."""
    records = [ConnectionRecord(wire_id, cookie, f"c{cookie}", "here", socket.AF_INET, None, b"") for cookie in cookies]
    return Bundle(SessionRecord(wire_id, f"s{wire_id}", len(cookies)), records, [descriptor() for _ in cookies])


@pytest.fixture()
def escrow() -> Iterator[Escrow]:
    """An escrow that is closed twice, with descriptors under the old numbers in between, which it must leave alone."""
    made = Escrow()
    before = set(os.listdir("/proc/self/fd"))
    yield made
    made.close()
    others = [descriptor() for _ in range(16)]
    made.close()
    assert all(is_open(fd) for fd in others), "a number that is somebody else's now was closed"
    for fd in others:
        os.close(fd)
    assert set(os.listdir("/proc/self/fd")) == before


def test_what_is_held_is_closed_with_the_escrow(escrow: Escrow) -> None:
    held = [bundle(0, 10), bundle(1, 11, 12)]
    for each in held:
        escrow.hold(each.record.session, each)
    newcomer = Newcomer(descriptor(), 7, "here")
    escrow.hold_newcomer(20, newcomer)
    descriptors = [fd for each in held for fd in each.descriptors] + [newcomer.fd]
    assert all(is_open(fd) for fd in descriptors)
    escrow.close()
    assert not any(is_open(fd) for fd in descriptors)
    assert escrow.newcomers == []


def test_a_connection_that_has_ended_leaves_its_session(escrow: Escrow) -> None:
    held = bundle(0, 10, 11, 12)
    first, second, third = held.descriptors
    escrow.hold(0, held)
    escrow.drop(11)
    assert not is_open(second)
    given = escrow.take(0)
    assert given.descriptors == [first, third]
    assert [record.cookie for record in given.connections] == [10, 12]
    for fd in given.descriptors:
        os.close(fd)


def test_a_session_whose_last_connection_has_ended_is_given_back_empty(escrow: Escrow) -> None:
    escrow.hold(0, bundle(0, 10))
    escrow.drop(10)
    assert escrow.take(0).connections == []


def test_an_ending_that_is_told_twice_closes_once(escrow: Escrow) -> None:
    held = bundle(0, 10)
    (fd,) = held.descriptors
    escrow.hold(0, held)
    escrow.drop(10)
    other = descriptor()
    assert other == fd, "the number is somebody else's now"
    escrow.drop(10)
    escrow.close()
    assert is_open(other)
    os.close(other)


def test_an_ending_of_nobody_says_nothing(escrow: Escrow) -> None:
    held = bundle(0, 10)
    escrow.hold(0, held)
    escrow.drop(99)
    assert all(is_open(fd) for fd in held.descriptors)


def test_what_is_given_back_is_its_new_owners(escrow: Escrow) -> None:
    escrow.hold(0, bundle(0, 10))
    escrow.hold(1, bundle(1, 11))
    given = escrow.take(0)
    escrow.drop(10)  # told late: it belongs to the session that is served here again
    escrow.close()
    (fd,) = given.descriptors
    assert is_open(fd)
    os.close(fd)


def test_a_session_is_given_back_once(escrow: Escrow) -> None:
    escrow.hold(0, bundle(0))
    assert escrow.take(0).descriptors == []
    with pytest.raises(KeyError):
        escrow.take(0)


def test_a_newcomer_that_has_ended_is_dropped(escrow: Escrow) -> None:
    newcomer = Newcomer(descriptor(), 7, "here")
    escrow.hold_newcomer(20, newcomer)
    assert escrow.newcomers == [newcomer]
    escrow.drop(20)
    assert not is_open(newcomer.fd)
    assert escrow.newcomers == []


def test_a_second_copy_of_a_newcomer_takes_the_place_of_the_first(escrow: Escrow) -> None:
    first, second = Newcomer(descriptor(), 7, "here"), Newcomer(descriptor(), 8, "here")
    escrow.hold_newcomer(20, first)
    escrow.hold_newcomer(20, second)
    assert not is_open(first.fd)
    assert escrow.newcomers == [second]


def test_newcomers_that_are_given_back_are_their_new_owners(escrow: Escrow) -> None:
    newcomers = [Newcomer(descriptor(), slot, "here") for slot in range(3)]
    for cookie, newcomer in enumerate(newcomers):
        escrow.hold_newcomer(cookie, newcomer)
    escrow.drop(1)
    given = escrow.take_newcomers()
    assert given == [newcomers[0], newcomers[2]]
    assert escrow.take_newcomers() == []
    escrow.close()
    for newcomer in given:
        assert is_open(newcomer.fd)
        os.close(newcomer.fd)
