"""Offers cut into parts and put together again, with real descriptors; and everything that a part can lie about."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import pytest

from hotfd import _core
from hotfd.errors import ChannelError
from hotfd.transfer.channel import close_all
from hotfd.transfer.offer import CONNECTIONS_PER_PART, Arrived, Assembler, Bundle, pack
from hotfd.wire import messages, records
from tests.unit.wire_support import nothing_stays_open

__all__ = ["nothing_stays_open"]

pytestmark = pytest.mark.usefixtures("nothing_stays_open")


def bundle_of(wire_id: int, descriptors: list[int]) -> Bundle:
    """A session of these sockets; each connection's state says which it is."""
    connections = [
        records.ConnectionRecord(wire_id, cookie, f"c{cookie}", "127.0.0.1:1", socket.AF_UNIX, "", str(cookie).encode())
        for cookie in _core.cookies(descriptors)
    ]
    return Bundle(records.SessionRecord(wire_id, f"s{wire_id}", len(descriptors)), connections, descriptors)


@contextmanager
def sockets(count: int) -> Iterator[list[int]]:
    """So many sockets, each the end of a pair or its other end."""
    with ExitStack() as stack:
        found: list[int] = []
        while len(found) < count:
            found += [stack.enter_context(end).fileno() for end in socket.socketpair()]
        yield found[:count]


@dataclass
class Part:
    """A part as it travels: what it says, and the descriptors of it, copied as the kernel copies them."""

    message: messages.OfferPart
    descriptors: list[int]


def travel(packed: Iterator[object]) -> list[Part]:
    """Copy each part's descriptors and close its memfd, as sending does."""
    parts = []
    for part in packed:
        parts.append(Part(part.message, [os.dup(fd) for fd in (part.memfd, *part.descriptors)]))  # type: ignore[attr-defined]
        os.close(part.memfd)  # type: ignore[attr-defined]
    return parts


def drop(arrived: Arrived) -> None:
    for bundle in arrived.bundles.values():
        close_all(bundle.descriptors)


def assemble(parts: list[Part]) -> Arrived:
    """Put parts together; all but the last must be silent."""
    assembler = Assembler()
    for part in parts[:-1]:
        assert assembler.add(part.message, part.descriptors) is None
    arrived = assembler.add(parts[-1].message, parts[-1].descriptors)
    assert arrived is not None
    return arrived


def check(arrived: Arrived, sent: list[Bundle]) -> None:
    """Every record is at its session, and beside the descriptor of its own socket."""
    assert sorted(arrived.bundles) == [bundle.record.session for bundle in sent]
    for bundle in sent:
        got = arrived.bundles[bundle.record.session]
        assert got.record == bundle.record
        assert sorted(got.connections, key=lambda c: c.cookie) == sorted(bundle.connections, key=lambda c: c.cookie)
        assert _core.cookies(got.descriptors) == [record.cookie for record in got.connections]
        assert not set(got.descriptors) & set(bundle.descriptors)


@pytest.mark.parametrize(
    ("connections", "parts"),
    [(0, 1), (1, 1), (252, 1), (253, 2), (504, 2), (505, 3), (5000, 20)],
)
def test_one_session_of_any_size_travels_in_as_many_parts_as_it_takes(connections: int, parts: int) -> None:
    with sockets(connections) as fds:
        sent = [bundle_of(7, fds)]
        travelling = travel(pack(3, 7, sent))
        assert [part.message for part in travelling] == [
            messages.OfferPart(3, number, parts, 7, 1) for number in range(parts)
        ]
        assert all(len(part.descriptors) <= _core.MAX_DESCRIPTORS for part in travelling)
        arrived = assemble(travelling)
        check(arrived, sent)
        drop(arrived)


def test_many_sessions_are_cut_across_parts_and_each_record_stands_with_its_first_connection() -> None:
    sizes = [1, 250, 3, 0, 260, 1]
    with sockets(sum(sizes)) as fds:
        sent, at = [], 0
        for wire_id, size in enumerate(sizes, 10):
            sent.append(bundle_of(wire_id, fds[at : at + size]))
            at += size
        travelling = travel(pack(0, 10, sent, b"process"))
        written = [records.decode_part(_core.memfd_load(part.descriptors[0], 1 << 20)) for part in travelling]
        assert [part.process for part in written] == [b"process", None, None]
        arrived = assemble(travelling)
        check(arrived, sent)
        assert arrived.process == b"process"
        drop(arrived)


def test_the_process_state_may_travel_alone_and_may_be_empty() -> None:
    for process in (None, b"", b"state"):
        arrived = assemble(travel(pack(0, 0, [bundle_of(0, [])], process)))
        assert arrived.process == process


def test_parts_may_arrive_in_any_order() -> None:
    with sockets(600) as fds:
        sent = [bundle_of(0, fds[:300]), bundle_of(1, fds[300:])]
        travelling = travel(pack(0, 0, sent))
        travelling.reverse()
        arrived = assemble(travelling)
        check(arrived, sent)
        drop(arrived)


def test_offers_may_arrive_mixed() -> None:
    with sockets(600) as fds:
        sent = [bundle_of(0, fds[:300]), bundle_of(1, fds[300:])]
        first, second = travel(pack(0, 0, sent[:1])), travel(pack(1, 1, sent[1:]))
        assembler = Assembler()
        assert assembler.add(first[0].message, first[0].descriptors) is None
        assert assembler.add(second[0].message, second[0].descriptors) is None
        for parts, bundle in ((second, sent[1]), (first, sent[0])):
            arrived = assembler.add(parts[1].message, parts[1].descriptors)
            assert arrived is not None
            check(arrived, [bundle])
            drop(arrived)


def test_descriptors_are_matched_by_their_cookie_whatever_their_order() -> None:
    with sockets(40) as fds:
        sent = [bundle_of(0, fds[:20]), bundle_of(1, fds[20:])]
        (part,) = travel(pack(0, 0, sent))
        memfd, *rest = part.descriptors
        random.Random(1).shuffle(rest)
        arrived = assemble([Part(part.message, [memfd, *rest])])
        check(arrived, sent)
        drop(arrived)


def test_a_memfd_exists_for_one_part_at_a_time() -> None:
    with sockets(600) as fds:
        before = len(os.listdir("/proc/self/fd"))
        for part in pack(0, 0, [bundle_of(0, fds)]):
            assert len(os.listdir("/proc/self/fd")) == before + 1
            os.close(part.memfd)


# ---------------------------------------------------------------- parts that lie

Spoil = Callable[[Part], None]


def close_at(part: Part, at: int) -> None:
    os.close(part.descriptors.pop(at))


def rewrite(part: Part, change: Callable[[records.Part], None]) -> None:
    """Replace the records by changed ones, honestly sealed."""
    data = records.decode_part(_core.memfd_load(part.descriptors[0], 1 << 20))
    change(data)
    os.close(part.descriptors[0])
    part.descriptors[0] = _core.memfd_seal("lie", [records.encode_part(data)])


def no_descriptors(part: Part) -> None:
    close_all(part.descriptors)
    part.descriptors.clear()


def duplicate(part: Part) -> None:
    os.close(part.descriptors[2])
    part.descriptors[2] = os.dup(part.descriptors[1])


def one_more(part: Part) -> None:
    with socket.socket() as other:
        part.descriptors.append(os.dup(other.fileno()))


def stranger(part: Part) -> None:
    os.close(part.descriptors[1])
    with socket.socket() as other:
        part.descriptors[1] = os.dup(other.fileno())


def no_socket(part: Part) -> None:
    os.close(part.descriptors[1])
    part.descriptors[1] = os.open("/dev/null", os.O_RDONLY)


def replace_memfd(fd: int) -> Spoil:
    def spoil(part: Part) -> None:
        os.close(part.descriptors[0])
        part.descriptors[0] = fd_of(part)

    def fd_of(part: Part) -> int:
        if fd == 0:
            return os.memfd_create("unsealed", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        if fd == 1:
            return _core.memfd_shared("shared", 4096)
        if fd == 2:
            return os.open("/dev/null", os.O_RDONLY)
        if fd == 3:
            return os.dup(part.descriptors[1])
        return _core.memfd_seal("garbage", [b"garbage"])

    return spoil


def without_connection(data: records.Part) -> None:
    del data.connections[0]


def connection_twice(data: records.Part) -> None:
    data.connections[1] = data.connections[0]


def unknown_cookie(data: records.Part) -> None:
    data.connections[0].cookie += 1 << 40


def other_session(data: records.Part) -> None:
    data.connections[0].session += 1


def unknown_session(data: records.Part) -> None:
    data.connections[0].session = 99


def without_session(data: records.Part) -> None:
    del data.sessions[0]


def session_twice(data: records.Part) -> None:
    data.sessions[1] = data.sessions[0]


def session_of_another_offer(data: records.Part) -> None:
    data.sessions[0].session = 99


def wrong_count(data: records.Part) -> None:
    data.sessions[0].connections += 1


def connection_twice_and_counted(data: records.Part) -> None:
    data.connections.append(data.connections[0])
    data.sessions[0].connections += 1


def unknown_session_and_not_counted(data: records.Part) -> None:
    data.connections[0].session = 99
    data.sessions[0].connections -= 1


def one_session_more(data: records.Part) -> None:
    data.sessions.append(records.SessionRecord(99, "s99", 0))


LIES: dict[str, Spoil] = {
    "no-descriptors": no_descriptors,
    "no-memfd": lambda part: close_at(part, 0),
    "descriptor-missing": lambda part: close_at(part, 1),
    "descriptor-twice": duplicate,
    "one-descriptor-more": one_more,
    "another-socket": stranger,
    "no-socket": no_socket,
    "memfd-not-sealed": replace_memfd(0),
    "memfd-writable": replace_memfd(1),
    "memfd-is-a-device": replace_memfd(2),
    "memfd-is-a-socket": replace_memfd(3),
    "memfd-is-garbage": replace_memfd(4),
    **{
        change.__name__.replace("_", "-"): (lambda part, change=change: rewrite(part, change))
        for change in (
            without_connection,
            connection_twice,
            unknown_cookie,
            other_session,
            unknown_session,
            without_session,
            session_twice,
            session_of_another_offer,
            wrong_count,
            connection_twice_and_counted,
            unknown_session_and_not_counted,
            one_session_more,
        )
    },
}


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize("connections", [6, CONNECTIONS_PER_PART + 6], ids=["one-part", "two-parts"])
def test_a_part_that_lies_is_refused_and_everything_of_its_offer_is_closed(lie: str, connections: int) -> None:
    """With two parts, the one that lies comes first, so that what came before and after it is closed too."""
    with sockets(connections) as fds:
        sent = [bundle_of(0, fds[:3]), bundle_of(1, fds[3:])]
        travelling = travel(pack(0, 0, sent))
        LIES[lie](travelling[0])
        assembler = Assembler()
        with pytest.raises(ChannelError, match="offer 0"):
            while travelling:
                part = travelling.pop(0)
                assembler.add(part.message, part.descriptors)
        for part in travelling:  # what the refusal has left unread is not the assembler's
            close_all(part.descriptors)


def test_a_socket_that_stands_in_two_parts_is_refused_and_both_parts_are_closed() -> None:
    with sockets(CONNECTIONS_PER_PART + 6) as fds:
        first, second = travel(pack(0, 0, [bundle_of(0, fds)]))
        os.close(second.descriptors[1])
        second.descriptors[1] = os.dup(first.descriptors[1])
        assembler = Assembler()
        assert assembler.add(first.message, first.descriptors) is None
        with pytest.raises(ChannelError, match="stands twice"):
            assembler.add(second.message, second.descriptors)


def test_a_session_that_was_not_announced_is_refused_in_the_place_of_one_that_was() -> None:
    with sockets(2) as fds:
        (part,) = travel(pack(0, 0, [bundle_of(0, fds[:1]), bundle_of(5, fds[1:])]))
        with pytest.raises(ChannelError, match="announces"):
            Assembler().add(part.message, part.descriptors)


def test_an_offer_that_announces_more_sessions_than_it_has_is_refused() -> None:
    with sockets(2) as fds:
        (part,) = travel(pack(0, 0, [bundle_of(0, fds)]))
        part.message.sessions = 2
        with pytest.raises(ChannelError):
            Assembler().add(part.message, part.descriptors)


def test_what_never_became_complete_is_closed_with_the_assembler() -> None:
    with sockets(600) as fds:
        first, *rest = travel(pack(0, 0, [bundle_of(0, fds)]))
        for part in rest:
            close_all(part.descriptors)
        assembler = Assembler()
        assert assembler.add(first.message, first.descriptors) is None
        assembler.close()
        assembler.close()


def test_an_offer_can_be_dropped_alone() -> None:
    with sockets(600) as fds:
        one, two = travel(pack(0, 0, [bundle_of(0, fds[:300])])), travel(pack(1, 1, [bundle_of(1, fds[300:])]))
        close_all(one[1].descriptors)
        assembler = Assembler()
        assembler.add(one[0].message, one[0].descriptors)
        assembler.add(two[0].message, two[0].descriptors)
        assembler.drop(0)
        assembler.drop(0)
        arrived = assembler.add(two[1].message, two[1].descriptors)
        assert arrived is not None
        drop(arrived)


def test_all_that_can_be_large_counts_towards_the_size_of_an_offer() -> None:
    assert Bundle(records.SessionRecord(1, "s1", 0), [], []).size == 0
    record = records.ConnectionRecord(1, 1, "c1", "127.0.0.1:1", socket.AF_UNIX, "", bytes(1), bytes(20), bytes(300))
    record.merged = bytes(4000)
    record.subscriptions = (records.SubscriptionRecord("news", 0, [bytes(10_000), bytes(40_000)]),)
    assert Bundle(records.SessionRecord(1, "s1", 1, state=bytes(600_000)), [record], [-1]).size == 654_321
