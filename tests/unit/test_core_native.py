"""The C core through its binding: descriptors, exceptions, and what Python adds. The C itself has tests/csrc."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import resource
import select
import socket
from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from hotfd import _core

if TYPE_CHECKING:
    from collections.abc import Iterator


def open_descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


@pytest.fixture(autouse=True)
def nothing_stays_open() -> Iterator[None]:
    before = open_descriptors()
    yield
    assert open_descriptors() == before


@contextmanager
def channel() -> Iterator[tuple[int, int]]:
    ends = _core.channel_pair()
    try:
        yield ends
    finally:
        for end in ends:
            os.close(end)


@contextmanager
def tcp_pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        server, _ = listener.accept()
    with client, server:
        yield client, server


@contextmanager
def descriptor_limit(limit: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def lowest_free_descriptor() -> int:
    fd = os.open("/dev/null", os.O_RDONLY)
    os.close(fd)
    return fd


def close_all(message: _core.Message) -> None:
    for fd in (*message.descriptors, message.pidfd):
        if fd >= 0:
            os.close(fd)


# ---------------------------------------------------------------- messages


def test_a_message_arrives_with_its_descriptors_and_its_sender() -> None:
    with channel() as (ours, theirs):
        _core.send_message(ours, b"state\0\xff", [ours, theirs])
        message = _core.receive_message(theirs)
        try:
            assert message.data == b"state\0\xff"
            assert not message.truncated
            assert (message.pid, message.uid) == (os.getpid(), os.getuid())
            assert _core.cookies(message.descriptors) == _core.cookies([ours, theirs])
            assert not any(os.get_inheritable(fd) for fd in message.descriptors)
        finally:
            close_all(message)


def test_the_pidfd_is_the_senders_and_not_inherited() -> None:
    with channel() as (ours, theirs):
        if not _core.set_pass_pidfd(theirs, True):
            pytest.skip("the kernel puts no pidfd on messages")
        _core.send_message(ours, b"x")
        message = _core.receive_message(theirs)
        try:
            with open(f"/proc/self/fdinfo/{message.pidfd}") as info:
                assert f"Pid:\t{os.getpid()}\n" in info.read()
            assert not os.get_inheritable(message.pidfd)
        finally:
            close_all(message)
        _core.set_pass_pidfd(theirs, False)
        _core.send_message(ours, b"x")
        assert _core.receive_message(theirs).pidfd == -1


def test_a_kernel_without_pidfds_on_messages_is_said_and_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    old_kernel = SimpleNamespace(hotfd_pass_pidfd=lambda *_: -errno.ENOPROTOOPT)
    monkeypatch.setattr(_core, "lib", old_kernel)
    assert _core.set_pass_pidfd(0, True) is False


def test_an_empty_channel_raises_blocking_io_error() -> None:
    with channel() as (ours, _), pytest.raises(BlockingIOError):
        _core.receive_message(ours)


def test_a_full_channel_raises_blocking_io_error() -> None:
    with channel() as (ours, _), pytest.raises(BlockingIOError):
        for _ in range(100_000):
            _core.send_message(ours, b"x")


def test_a_closed_channel_ends_with_an_empty_message() -> None:
    ours, theirs = _core.channel_pair()
    os.close(ours)
    end = _core.receive_message(theirs)
    assert (end.data, end.descriptors, end.truncated, end.pidfd) == (b"", [], False, -1)
    with pytest.raises(BrokenPipeError):
        _core.send_message(theirs, b"x")
    os.close(theirs)


def test_253_descriptors_pass_and_254_do_not() -> None:
    with channel() as (ours, theirs):
        _core.send_message(ours, b"x", [0] * _core.MAX_DESCRIPTORS)
        message = _core.receive_message(theirs)
        close_all(message)
        assert len(message.descriptors) == 253
        with pytest.raises(OSError) as caught:
            _core.send_message(ours, b"x", [0] * 254)
        assert caught.value.errno == errno.EINVAL


@pytest.mark.parametrize(("size", "number"), [(0, errno.EINVAL), (65537, errno.EMSGSIZE)])
def test_a_message_of_a_wrong_size_is_refused(size: int, number: int) -> None:
    with channel() as (ours, _):
        with pytest.raises(OSError) as caught:
            _core.send_message(ours, bytes(size))
        assert caught.value.errno == number


def test_at_the_descriptor_limit_what_came_is_closed_and_the_message_says_so() -> None:
    with channel() as (ours, theirs):
        _core.send_message(ours, b"x", [0] * 10)
        before = open_descriptors()
        with descriptor_limit(lowest_free_descriptor() + 4):
            message = _core.receive_message(theirs)
        assert message.truncated
        assert (message.data, message.descriptors, message.pidfd) == (b"x", [], -1)
        assert open_descriptors() == before


def test_data_beyond_the_limit_is_truncated_and_takes_its_descriptors_along() -> None:
    with channel() as (ours, theirs):
        with socket.socket(fileno=os.dup(ours)) as peer:  # somebody who does not use our functions
            socket.send_fds(peer, [bytes(_core.MAX_MESSAGE + 1)], [ours])
        before = open_descriptors()
        message = _core.receive_message(theirs)
        assert message.truncated
        assert (len(message.data), message.descriptors) == (_core.MAX_MESSAGE, [])
        assert open_descriptors() == before


def test_without_free_descriptors_there_is_no_channel() -> None:
    with descriptor_limit(lowest_free_descriptor() + 1), pytest.raises(OSError) as caught:
        _core.channel_pair()
    assert caught.value.errno == errno.EMFILE


# ---------------------------------------------------------------- memory


def test_sealed_memory_reads_back_whatever_its_pieces_are() -> None:
    fd = _core.memfd_seal("test", [b"one ", bytearray(b"two "), memoryview(b"-three-")[1:-1], b""])
    try:
        os.lseek(fd, 3, os.SEEK_SET)  # the offset is shared with whoever has a copy
        assert _core.memfd_load(fd, 13) == b"one two three"
        assert not os.get_inheritable(fd)
        with pytest.raises(PermissionError):
            os.pwrite(fd, b"x", 0)
        with pytest.raises(ValueError, match="larger than 12 bytes"):
            _core.memfd_load(fd, 12)
    finally:
        os.close(fd)


def test_empty_sealed_memory_reads_back_empty() -> None:
    fd = _core.memfd_seal("test", [])
    assert _core.memfd_load(fd, 0) == b""
    os.close(fd)


def test_memory_that_somebody_could_still_change_is_refused() -> None:
    with channel() as (ours, _):
        shared = _core.memfd_shared("test", 10)
        plain = os.memfd_create("test", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        fcntl.fcntl(plain, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK)
        for fd in (shared, plain, ours):
            with pytest.raises(ValueError, match="not sealed memory"):
                _core.memfd_load(fd, 100)
        os.close(shared)
        os.close(plain)


def test_memory_behind_a_closed_descriptor_is_an_os_error() -> None:
    with pytest.raises(OSError) as caught:
        _core.memfd_load(-1, 100)
    assert caught.value.errno == errno.EBADF


def test_memory_that_cannot_be_filled_is_closed() -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4, before[1]))
    try:
        with pytest.raises(OSError) as sealed:
            _core.memfd_seal("test", [b"12345"])
        with pytest.raises(OSError) as shared:
            _core.memfd_shared("test", 5)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (sealed.value.errno, shared.value.errno) == (errno.EFBIG, errno.EFBIG)


def test_shared_memory_is_zero_and_written_by_everybody_who_maps_it() -> None:
    fd = _core.memfd_shared("test", 5000)
    try:
        assert _core.memfd_shared_size(fd, 5000) == 5000
        with mmap.mmap(fd, 5000) as one, mmap.mmap(fd, 5000) as two:
            assert one[:] == bytes(5000)
            one[4999] = 1
            assert two[4999] == 1
        with pytest.raises(PermissionError):
            os.ftruncate(fd, 0)
        with pytest.raises(ValueError, match="larger than 4999"):
            _core.memfd_shared_size(fd, 4999)
    finally:
        os.close(fd)


def test_memory_whose_size_can_change_is_not_shared_memory() -> None:
    fd = os.memfd_create("test", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with pytest.raises(ValueError, match="not shared memory"):
        _core.memfd_shared_size(fd, 100)
    os.close(fd)


# ---------------------------------------------------------------- facts


def test_cookies_name_sockets_and_not_descriptors_in_any_number() -> None:
    with channel() as (ours, theirs):
        names = _core.cookies([ours, theirs] * 300)
        assert len(names) == 600
        assert set(names) == set(names[:2])
        assert len(set(names)) == 2
        with pytest.raises(OSError) as caught:
            _core.cookies([ours] * 600 + [-1])
        assert caught.value.errno == errno.EBADF
    assert _core.cookies([]) == []


def test_consumed_moves_by_reading_and_written_by_writing() -> None:
    with tcp_pair() as (client, server):
        before = _core.tcp_facts(server.fileno())
        client.sendall(bytes(100))
        select.select([server], [], [])
        arrived = _core.tcp_facts(server.fileno())
        assert (arrived.consumed, arrived.written) == (before.consumed, before.written)
        assert (arrived.received, arrived.unread) == (100, 100)
        server.recv(40)
        assert _core.tcp_facts(server.fileno()).consumed == before.consumed + 40
        server.sendall(bytes(7))
        assert _core.tcp_facts(server.fileno()).written == before.written + 7


def test_a_fin_is_no_byte_read() -> None:
    with tcp_pair() as (client, server):
        client.sendall(bytes(10))
        client.shutdown(socket.SHUT_WR)
        poll = select.poll()
        poll.register(server, select.POLLRDHUP)
        poll.poll()
        facts = _core.tcp_facts(server.fileno())
        assert (facts.fin_received, facts.closed, facts.consumed) == (True, False, 0)
        assert server.recv(100) == bytes(10)
        assert server.recv(100) == b""
        assert _core.tcp_facts(server.fileno()).consumed == 10


def test_an_abort_is_a_reset_although_a_copy_is_open() -> None:
    with tcp_pair() as (client, server), server.dup():
        _core.abort(server.fileno())
        with pytest.raises(ConnectionResetError):
            client.recv(1)
        assert _core.tcp_facts(client.fileno()).closed


def test_facts_of_what_is_no_tcp_socket_are_an_error() -> None:
    with channel() as (ours, _):
        with pytest.raises(OSError) as caught:
            _core.tcp_facts(ours)
        assert caught.value.errno == errno.EOPNOTSUPP


def test_many_connections_are_counted_at_once_and_what_cannot_be_says_why() -> None:
    with tcp_pair() as (client, server):
        codes, before = _core.tcp_counts([server.fileno()] * 600)
        assert (set(codes), len(before), len(set(before))) == ({0}, 600, 1)
        client.sendall(bytes(100))
        select.select([server], [], [])
        assert _core.tcp_counts([server.fileno()])[1] == before[:1]
        server.recv(40)
        server.sendall(bytes(7))
        consumed, written = before[0]
        assert _core.tcp_counts([server.fileno()]) == ([0], [(consumed + 40, written + 7)])
        with channel() as (ours, _):
            _core.abort(client.fileno())
            assert _core.tcp_counts([ours, -1, client.fileno()])[0] == [errno.EOPNOTSUPP, errno.EBADF, errno.ENOTCONN]
    assert _core.tcp_counts([]) == ([], [])


def test_the_peer_of_a_unix_socket_is_named() -> None:
    with channel() as (ours, _):
        assert _core.peer_credentials(ours) == (os.getpid(), os.getuid(), os.getgid())
        pidfd = _core.peer_pidfd(ours)
        assert not os.get_inheritable(pidfd)
        os.close(pidfd)
    with tcp_pair() as (client, _):
        with pytest.raises(OSError) as caught:
            _core.peer_credentials(client.fileno())
        assert caught.value.errno == errno.ENOTCONN
        with pytest.raises(OSError, match=r".+"):
            _core.peer_pidfd(client.fileno())
