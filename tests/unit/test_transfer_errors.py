"""What the layer of descriptors does when the system fails it: nothing stays open, and somebody is told."""

from __future__ import annotations

import errno
import os
import socket
from typing import TYPE_CHECKING

import pytest

from hotfd import _core
from hotfd.transfer import fingerprint
from hotfd.transfer.channel import Channel, is_channel
from hotfd.transfer.fingerprint import Fingerprint, Mark, loaded_files, read
from hotfd.transfer.listening import listening_socket, parse
from hotfd.transfer.process import ORIGIN, Origin
from hotfd.transfer.touch import TouchMap
from hotfd.wire.messages import Ready
from tests.unit.wire_support import Inbox, nothing_stays_open, on_each_loop, turns

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["nothing_stays_open"]

pytestmark = pytest.mark.usefixtures("nothing_stays_open")


def failing(code: int) -> Callable[..., object]:
    def fail(*arguments: object, **named: object) -> object:
        raise OSError(code, os.strerror(code))

    return fail


# ---------------------------------------------------------------- the channel


@on_each_loop
async def test_a_channel_that_cannot_be_read_is_broken_once_and_asked_no_more() -> None:
    mine, peer = _core.channel_pair()
    inbox = Inbox()
    channel = Channel(mine, inbox.on_message, inbox.on_broken)
    calls = []

    def receive(fd: int) -> object:
        calls.append(fd)
        raise OSError(errno.ENOMEM, "no memory")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_core, "receive_message", receive)
        channel.start()
        _core.send_message(peer, b"x", [])
        await turns(5)
        channel.drain()
    assert calls == [mine]
    assert [str(error) for error in inbox.broken] == ["the channel cannot be read: no memory"]
    channel.close()
    os.close(peer)


@on_each_loop
async def test_a_send_that_fails_in_a_way_nobody_expects_breaks_the_channel_and_leaks_nothing() -> None:
    mine, peer = _core.channel_pair()
    inbox = Inbox()
    channel = Channel(mine, inbox.on_message, inbox.on_broken)

    def send(*arguments: object) -> None:
        raise LookupError("secret")

    null = os.open(os.devnull, os.O_RDONLY)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_core, "send_message", send)
        channel.send(Ready(), [null], owned=[null])
    assert [str(error) for error in inbox.broken] == ["a message cannot be sent: LookupError"]
    assert (channel.queued, await channel.flushed()) == (0, False)
    channel.close()
    os.close(peer)


def test_only_a_connected_packet_socket_of_unix_is_a_channel() -> None:
    mine, peer = _core.channel_pair()
    streams = socket.socketpair()
    alone = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    null = os.open(os.devnull, os.O_RDONLY)
    assert is_channel(mine)
    assert not any(map(is_channel, (streams[0].fileno(), alone.fileno(), null)))
    for fd in (mine, peer, null):
        os.close(fd)
    for sock in (*streams, alone):
        sock.close()


# ---------------------------------------------------------------- memory


def test_a_touch_map_that_cannot_be_mapped_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hotfd.transfer.touch.mmap.mmap", failing(errno.ENOMEM))
    with pytest.raises(OSError, match="memory"):
        TouchMap.create()


def test_memory_that_the_kernel_reads_in_parts_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.pread
    memfd = _core.memfd_seal("test", [b"abc", b"defgh"])
    monkeypatch.setattr(os, "pread", lambda fd, size, at: real(fd, min(size, 3), at))
    assert _core.memfd_load(memfd, 100) == b"abcdefgh"
    os.close(memfd)


# ---------------------------------------------------------------- listening sockets


def test_a_dead_unix_socket_is_replaced_and_a_living_one_is_not(tmp_path: Path) -> None:
    spec = f"unix:{tmp_path}/s"
    listening_socket(spec).close()
    living = listening_socket(spec)
    with pytest.raises(OSError, match="cannot listen on unix:") as caught:
        listening_socket(spec)
    assert caught.value.errno == errno.EADDRINUSE
    living.close()


def test_a_file_where_a_socket_is_to_be_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "s").write_text("precious")
    with pytest.raises(OSError, match="cannot listen on unix:"):
        listening_socket(f"unix:{tmp_path}/s")
    assert (tmp_path / "s").read_text() == "precious"


def test_a_socket_that_cannot_listen_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hotfd.transfer.listening.BACKLOG", 0)
    first = listening_socket("127.0.0.1:0")
    with pytest.raises(OSError, match="cannot listen on 127"):
        listening_socket(f"127.0.0.1:{first.getsockname()[1]}")
    first.close()


@pytest.mark.skipif(not socket.has_ipv6, reason="this Python knows no IPv6")
def test_a_listening_socket_of_ipv6_leaves_ipv4_to_others() -> None:
    try:
        sock = listening_socket("[::1]:0")
    except OSError as error:
        pytest.skip(f"there is no IPv6 here: {error}")
    assert sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == 1
    sock.close()


@pytest.mark.parametrize(
    "spec", ["unix:/a\ud800", "127.0.0.1:7\udc80", "[::1", "unix:", "a:b:c:1", "here", "here:x", "here:65536"]
)
def test_an_address_that_is_none_is_refused_before_a_socket_is_made(spec: str) -> None:
    with pytest.raises(ValueError):
        listening_socket(spec)


def test_a_name_in_brackets_that_is_no_address_is_for_the_system_to_judge() -> None:
    assert parse("[nobody]:7000") == (socket.AF_INET6, ("nobody", 7000))


# ---------------------------------------------------------------- what a process was started with


def test_the_watchdog_of_this_process_is_kept_and_that_of_another_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builtins.open", failing(errno.EACCES))
    monkeypatch.setenv("WATCHDOG_USEC", "5000000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    kept = Origin.of_this_process().environment
    assert (kept.get("WATCHDOG_USEC"), kept.get("WATCHDOG_PID")) == ("5000000", None)
    monkeypatch.setenv("WATCHDOG_PID", "1")
    assert "WATCHDOG_USEC" not in Origin.of_this_process().environment


def test_a_script_behind_a_link_is_known_by_its_own_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = tmp_path / "v1.py"
    real.write_text("")
    (tmp_path / "server.py").symlink_to(real)
    script = str(tmp_path / "server.py")
    monkeypatch.setattr("sys.orig_argv", ["python3", script, "--port", "1"])
    monkeypatch.setattr("sys.argv", [script, "--port", "1"])
    origin = Origin.of_this_process()
    assert (origin.command[1:], origin.exact[1:]) == ((script, "--port", "1"), (str(real), "--port", "1"))


def test_a_process_that_may_not_read_its_environment_takes_the_present_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builtins.open", failing(errno.EACCES))
    monkeypatch.setenv("COLOUR", "green")
    assert Origin.of_this_process().environment["COLOUR"] == "green"


def test_a_directory_that_is_gone_is_known_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone() -> str:
        raise FileNotFoundError(errno.ENOENT, "gone")

    monkeypatch.setattr("hotfd.transfer.process.os.getcwd", gone)
    monkeypatch.setattr("builtins.open", failing(errno.EACCES))
    monkeypatch.setenv("PWD", "/srv/current")
    origin = Origin.of_this_process()
    assert (origin.cwd, origin.directory) == ("/srv/current", "")


# ---------------------------------------------------------------- fingerprints


@pytest.fixture
def unreadable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that may be looked at and not read, also by root."""
    path = tmp_path / "server.py"
    path.write_text("x")
    monkeypatch.setattr(fingerprint, "_open", failing(errno.EACCES))
    return path


def test_a_file_that_may_not_be_read_is_known_by_its_looks(unreadable: Path) -> None:
    marked = read([(str(unreadable), "")])
    assert [mark.digest for mark in marked.marks] == [None]
    assert marked.change() is None
    unreadable.write_text("longer")
    assert "cannot be read any more" in str(marked.change())


def test_a_file_that_can_be_neither_read_nor_looked_at_is_not_marked_and_counts_as_changed(
    unreadable: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    marked = read([(str(unreadable), "")])
    monkeypatch.setattr("hotfd.transfer.fingerprint.os.stat", failing(errno.EACCES))
    assert read([(str(unreadable), "")]).marks == []
    assert "may have changed" in str(marked.change())


def test_a_directory_in_place_of_a_file_is_not_marked(tmp_path: Path) -> None:
    assert read([(str(tmp_path), ""), (str(tmp_path / "x" / "y"), "")]).marks == []


def test_more_files_than_are_marked_make_a_fingerprint_that_is_not_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [(str(tmp_path / name), "") for name in "abc"]
    for path, _ in files:
        with open(path, "w") as file:
            file.write(path)
    first = read(files[:1])
    assert len(first.and_later(files).later) == 2
    monkeypatch.setattr(fingerprint, "MAX_MARKS", 1)
    assert not read(files).complete
    late = first.and_later(files)
    assert (late.complete, len(late.later)) == (False, 1)


def test_modules_that_are_known_already_are_not_asked_about_again() -> None:
    assert loaded_files(ORIGIN, {"json": object()}, without={"json"}) == loaded_files(ORIGIN, {}, without={"json"})


def test_a_site_directory_that_cannot_be_listed_has_no_distributions(tmp_path: Path) -> None:
    assert list(fingerprint._distributions(str(tmp_path / "gone"), {"x"})) == []


def test_a_file_inside_of_an_archive_stands_for_the_archive(tmp_path: Path) -> None:
    archive = tmp_path / "app.pyz"
    archive.write_text("zip")
    assert fingerprint._lasting(f"{archive}/inner/module.py", ()) == str(archive)
    mark = Mark(os.fsencode(archive), "", 3, 0, 0, None)
    assert not Fingerprint([mark], complete=False).same(Fingerprint([mark]))
