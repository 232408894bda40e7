"""The kernel's counters tell whether anybody has acted on a connection, and nothing else moves them."""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator

import pytest

from hotfd import _core
from hotfd.server import witness
from hotfd.server.witness import Witness, used
from hotfd.transfer.offer import Bundle
from hotfd.wire.records import ConnectionRecord, SessionRecord
from tests.unit.wire_support import tcp_pair


@pytest.fixture()
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    with tcp_pair() as (client, server):
        yield client, server


def bundle(*socks: socket.socket) -> Bundle:
    descriptors = [sock.fileno() for sock in socks]
    records = [
        ConnectionRecord(1, cookie, "c", "here", sock.family, None, b"")
        for cookie, sock in zip(_core.cookies(descriptors), socks, strict=True)
    ]
    return Bundle(SessionRecord(1, "s", len(records)), records, descriptors)


def noted(*socks: socket.socket) -> tuple[Witness, Bundle]:
    seen, session = Witness(), bundle(*socks)
    seen.note(session)
    return seen, session


def wait_for(sock: socket.socket) -> None:
    """Wait until something can be read, without reading it."""
    sock.setblocking(True)
    sock.settimeout(10)
    sock.recv(1, socket.MSG_PEEK)
    sock.setblocking(False)


def test_nobody_has_acted_on_a_connection_that_was_left_alone(pair: tuple[socket.socket, socket.socket]) -> None:
    seen, session = noted(pair[1])
    assert not seen.acted(session)


def test_what_the_peer_does_is_no_act(pair: tuple[socket.socket, socket.socket]) -> None:
    client, server = pair
    server.sendall(b"x" * 100_000)  # unread and partly unacknowledged when it is noted
    client.sendall(b"before")
    wait_for(server)
    seen, session = noted(server)
    client.sendall(b"more, which nobody reads")
    left = 100_000
    while left:
        left -= len(client.recv(left))
    client.shutdown(socket.SHUT_WR)
    while not _core.tcp_facts(server.fileno()).fin_received:
        os.sched_yield()
    assert not seen.acted(session)


@pytest.mark.parametrize(
    "act",
    [
        lambda sock: sock.send(b"x"),
        lambda sock: sock.recv(1),
        lambda sock: sock.shutdown(socket.SHUT_WR),
        lambda sock: _core.abort(sock.fileno()),
    ],
    ids=["write", "read", "half-close", "reset"],
)
def test_every_act_of_an_owner_is_seen_through_any_copy(pair: tuple[socket.socket, socket.socket], act) -> None:
    client, server = pair
    client.sendall(b"input")
    wait_for(server)
    seen, session = noted(server)
    with socket.socket(fileno=os.dup(server.fileno())) as copy:
        act(copy)
    assert seen.acted(session)


def test_one_member_s_connection_is_enough(pair: tuple[socket.socket, socket.socket]) -> None:
    with tcp_pair() as (_, other):
        seen, session = noted(pair[1], other)
        assert not seen.acted(session)
        other.send(b"x")
        assert seen.acted(session)


def test_a_connection_that_has_ended_is_not_asked_about(pair: tuple[socket.socket, socket.socket]) -> None:
    with tcp_pair() as (_, other):
        seen, session = noted(pair[1], other)
        other.send(b"x")
        del session.connections[1], session.descriptors[1]  # as the escrow drops it
        assert not seen.acted(session)


def test_what_was_never_noted_is_in_doubt(pair: tuple[socket.socket, socket.socket]) -> None:
    assert Witness().acted(bundle(pair[1]))


def test_a_connection_that_the_peer_has_reset_is_in_doubt(pair: tuple[socket.socket, socket.socket]) -> None:
    client, server = pair
    seen, session = noted(server)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    while not _core.tcp_facts(server.fileno()).closed:
        os.sched_yield()
    assert seen.acted(session)
    assert used(server.fileno())
    again = Witness()
    again.note(session)
    assert again.acted(session)


def test_counters_that_cannot_be_read_are_in_doubt(
    pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, session = noted(pair[1])

    def busy(fds: list[int]) -> tuple[list[int], list[tuple[int, int]]]:
        return [errno.EAGAIN for _ in fds], [(0, 0) for _ in fds]

    with monkeypatch.context() as patched:
        patched.setattr(witness._core, "tcp_counts", busy)
        assert seen.acted(session)
        assert used(pair[1].fileno())
        seen.note(session)
    assert seen.acted(session), "an earlier note is not what counts"


def test_a_unix_socket_has_no_counters_and_the_touch_byte_stands_alone() -> None:
    one, other = socket.socketpair()
    with one, other:
        seen, session = noted(one)
        one.send(b"x")
        assert not seen.acted(session)
        assert not used(one.fileno())


def test_an_accepted_connection_is_unused_until_its_owner_acts(pair: tuple[socket.socket, socket.socket]) -> None:
    client, server = pair
    client.sendall(b"hello")
    wait_for(server)
    assert not used(server.fileno())
    server.recv(1)
    assert used(server.fileno())


def test_an_end_of_file_that_nobody_has_read_is_no_act_before_or_after_it_is_noted(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    client, server = pair
    client.sendall(b"data")
    client.shutdown(socket.SHUT_WR)
    while not _core.tcp_facts(server.fileno()).fin_received:
        os.sched_yield()
    assert not used(server.fileno())
    seen, session = noted(server)
    assert not seen.acted(session)
    server.recv(2)
    assert seen.acted(session)


def test_what_fills_a_window_and_is_drained_later_is_no_act(pair: tuple[socket.socket, socket.socket]) -> None:
    client, server = pair
    server.setblocking(False)
    client.setblocking(False)
    for sock in pair:  # in both directions: until neither takes any more, and the other side has to probe
        try:
            while True:
                sock.send(b"x" * 65536)
        except BlockingIOError:
            continue
    seen, session = noted(server)
    acked = _core.tcp_facts(server.fileno()).acked
    client.setblocking(True)
    client.settimeout(10)
    while _core.tcp_facts(server.fileno()).acked == acked:
        client.recv(65536)
    assert not seen.acted(session)
