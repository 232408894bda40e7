"""Listening sockets: addresses, stale paths, and running out of descriptors."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from hotfd.server import listener as module
from hotfd.server.listener import Listener
from hotfd.transfer.listening import parse
from tests.unit.wire_support import Happening, descriptor_limit, nothing_stays_open, on_each_loop, turns

__all__ = ["nothing_stays_open"]

pytestmark = pytest.mark.usefixtures("nothing_stays_open")


class Accepted:
    """What a listener has accepted."""

    def __init__(self) -> None:
        self.sockets: list[socket.socket] = []
        self.peers: list[Any] = []
        self.happening = Happening()

    def __call__(self, listener: Listener, sock: socket.socket, peername: Any) -> None:
        self.sockets.append(sock)
        self.peers.append(peername)
        self.happening.note()

    async def until(self, count: int) -> None:
        await self.happening.until(lambda: len(self.sockets) >= count)

    def close(self) -> None:
        for sock in self.sockets:
            sock.close()
        self.sockets.clear()


@contextmanager
def listening(spec: str) -> Iterator[tuple[Listener, Accepted]]:
    accepted = Accepted()
    listener = Listener.bind(spec, accepted)
    try:
        yield listener, accepted
    finally:
        listener.close(unlink=True)
        accepted.close()


@contextmanager
def clients(listener: Listener, count: int) -> Iterator[list[socket.socket]]:
    found = [socket.socket(listener.sock.family) for _ in range(count)]
    try:
        for client in found:
            client.connect(listener.sock.getsockname())
        yield found
    finally:
        for client in found:
            client.close()


# ---------------------------------------------------------------- addresses


@pytest.mark.parametrize(
    ("spec", "family", "address"),
    [
        ("127.0.0.1:7000", socket.AF_INET, ("127.0.0.1", 7000)),
        ("127.0.0.1:0", socket.AF_INET, ("127.0.0.1", 0)),
        (":65535", socket.AF_INET, ("0.0.0.0", 65535)),
        ("localhost:80", socket.AF_INET, ("127.0.0.1", 80)),
        ("[::1]:7000", socket.AF_INET6, ("::1", 7000)),
        ("[::]:0", socket.AF_INET6, ("::", 0)),
        ("unix:/run/app.sock", socket.AF_UNIX, "/run/app.sock"),
        ("unix:app.sock", socket.AF_UNIX, "app.sock"),
        ("unix:/a:7000", socket.AF_UNIX, "/a:7000"),
    ],
)
def test_an_address_is_read_as_it_is_written(spec: str, family: int, address: object) -> None:
    assert parse(spec) == (family, address)


@pytest.mark.parametrize(
    "spec",
    [
        "",
        "7000",
        "host",
        "host:",
        "host:http",
        "host:-1",
        "host:65536",
        "host:²",
        "host:٣",
        "::1:7000",
        "unix:",
        "unix:a\0b",
    ],
)
def test_what_is_no_address_is_refused_with_an_example(spec: str) -> None:
    with pytest.raises(ValueError, match=r"give HOST:PORT|brackets|needs a path"):
        parse(spec)


# ---------------------------------------------------------------- sockets


@pytest.mark.parametrize("spec", ["127.0.0.1:0", "[::1]:0"])
@on_each_loop
async def test_a_listener_accepts_and_says_where(spec: str) -> None:
    with listening(spec) as (listener, accepted):
        assert listener.spec == spec
        assert parse(listener.address)[1][1] == listener.sock.getsockname()[1] != 0
        listener.start()
        listener.start()
        with clients(listener, 3) as made:
            await accepted.until(3)
            assert [peer[1] for peer in accepted.peers] == [client.getsockname()[1] for client in made]
            assert not any(sock.getblocking() for sock in accepted.sockets)


@on_each_loop
async def test_a_stopped_listener_keeps_its_queue_for_whoever_polls_next() -> None:
    with listening("127.0.0.1:0") as (listener, accepted):
        listener.start()
        listener.stop()
        listener.stop()
        with clients(listener, 2):
            await turns()
            assert accepted.sockets == []
            listener.start()
            await accepted.until(2)


@on_each_loop
async def test_a_listener_can_be_stopped_by_what_it_accepts() -> None:
    with listening("127.0.0.1:0") as (listener, accepted):
        taken: list[socket.socket] = []

        def on_accept(_: Listener, sock: socket.socket, __: object) -> None:
            taken.append(sock)
            listener.stop()

        listener._on_accept = on_accept
        listener.start()
        with clients(listener, 3):
            await turns()
            assert len(taken) == 1
            for sock in taken:
                sock.close()
        assert accepted.sockets == []


@on_each_loop
async def test_a_storm_of_connections_leaves_turns_of_the_loop_to_others() -> None:
    count = module.ACCEPTS_PER_TURN + 5
    with listening("127.0.0.1:0") as (listener, accepted), clients(listener, count):
        listener.start()
        counts = []
        while len(accepted.sockets) < count:
            await asyncio.sleep(0)
            counts.append(len(accepted.sockets))
        assert module.ACCEPTS_PER_TURN in counts


@on_each_loop
async def test_an_address_in_use_is_refused_and_nothing_is_left_over() -> None:
    with listening("127.0.0.1:0") as (listener, accepted):
        with pytest.raises(OSError, match=r"cannot listen on 127\.0\.0\.1") as error:
            Listener.bind(listener.address, accepted)
        assert error.value.errno == errno.EADDRINUSE


@pytest.mark.parametrize("path", ["x" * 200, "missing/app.sock"], ids=["too-long", "no-directory"])
@on_each_loop
async def test_a_path_that_cannot_be_is_refused_with_a_reason(tmp_path: Path, path: str) -> None:
    with pytest.raises(OSError, match="cannot listen on unix:") as error:
        Listener.bind(f"unix:{tmp_path}/{path}", Accepted())
    assert not str(error.value).endswith("None")


@on_each_loop
async def test_accepting_pauses_when_descriptors_run_out_and_goes_on_by_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "FULL_PAUSE", 0.001)
    paused = Happening()
    polled: list[bool] = []
    with listening("127.0.0.1:0") as (listener, accepted), clients(listener, 2):
        pause = listener.pause

        def watched(seconds: float) -> None:
            pause(seconds)
            polled.append(listener._accepting)
            paused.note()

        monkeypatch.setattr(listener, "pause", watched)
        listener.start()
        lowest = os.dup(0)
        os.close(lowest)
        with descriptor_limit(lowest + 1):
            await accepted.until(1)
            await paused.until(lambda: len(polled) >= 2)  # it has tried again by itself, and nothing has changed
            assert len(accepted.sockets) == 1
        await accepted.until(2)
        assert not any(polled), "it polled on for what it cannot accept"


@on_each_loop
async def test_a_paused_listener_that_is_stopped_stays_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FULL_PAUSE", 0.0)
    with listening("127.0.0.1:0") as (listener, accepted), clients(listener, 1):
        lowest = os.dup(0)
        os.close(lowest)
        with descriptor_limit(lowest):
            listener._on_readable()
        listener.stop()
        await turns()
        assert accepted.sockets == []
        listener.start()
        await accepted.until(1)


# ---------------------------------------------------------------- paths


@on_each_loop
async def test_a_unix_path_is_served_and_removed_only_when_nobody_serves_it_any_more(tmp_path: Path) -> None:
    path = tmp_path / "app.sock"
    accepted = Accepted()
    listener = Listener.bind(f"unix:{path}", accepted)
    assert listener.address == f"unix:{path}"
    listener.start()
    with clients(listener, 1):
        await accepted.until(1)
    accepted.close()
    copy = socket.socket(fileno=os.dup(listener.sock.fileno()))
    listener.close(unlink=False)
    assert path.exists(), "another process serves it"
    successor = Listener(f"unix:{path}", copy, accepted)
    successor.close(unlink=True)
    successor.close(unlink=True)
    assert not path.exists()


@on_each_loop
async def test_a_path_that_a_dead_server_has_left_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "app.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
        dead.listen()
    with listening(f"unix:{path}") as (listener, accepted):
        listener.start()
        with clients(listener, 1):
            await accepted.until(1)


@pytest.mark.parametrize("backlog", [10, 0], ids=["free", "queue-full"])
@on_each_loop
async def test_a_path_that_somebody_serves_is_left_alone(tmp_path: Path, backlog: int) -> None:
    path = tmp_path / "app.sock"
    with socket.socket(socket.AF_UNIX) as alive, socket.socket(socket.AF_UNIX) as client:
        alive.bind(str(path))
        alive.listen(backlog)
        client.connect(str(path))
        with pytest.raises(OSError, match="in use"):
            Listener.bind(f"unix:{path}", Accepted())
        assert path.exists()


@pytest.mark.parametrize("kind", ["file", "symlink", "directory"])
@on_each_loop
async def test_what_is_no_socket_is_never_removed(tmp_path: Path, kind: str) -> None:
    path, target = tmp_path / "app.sock", tmp_path / "target"
    if kind == "file":
        path.write_text("precious")
    elif kind == "directory":
        path.mkdir()
    else:
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(target))
        path.symlink_to(target)
    with pytest.raises(OSError, match="in use"):
        Listener.bind(f"unix:{path}", Accepted())
    assert path.exists()
    assert kind != "symlink" or (path.is_symlink() and target.exists())
