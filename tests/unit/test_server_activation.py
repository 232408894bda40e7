"""Sockets that a service manager passes, and the addresses that they stand for."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from hotfd.server import activation


@contextmanager
def passed(monkeypatch: pytest.MonkeyPatch, *sockets: socket.socket) -> Iterator[None]:
    """Let a manager pass copies of sockets; close what nobody has taken."""
    numbers = [sock.dup().detach() for sock in sockets]
    monkeypatch.setattr(activation, "listen_descriptors", lambda environment, pid: list(numbers))
    try:
        yield
    finally:
        for number in numbers:
            with suppress(OSError):  # taken, and closed
                socket.close(number)


@pytest.fixture
def sockets() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def listening(stack: ExitStack, address: object = ("127.0.0.1", 0), family: int = socket.AF_INET) -> socket.socket:
    sock = stack.enter_context(socket.socket(family))
    sock.bind(address)  # type: ignore[arg-type]
    sock.listen()
    return sock


def port_of(sock: socket.socket) -> int:
    return int(sock.getsockname()[1])


def taken(specs: list[str]) -> dict[str, object]:
    """Take the sockets, note which they are, and close them."""
    found = activation.activated(specs)
    names = {spec: sock.getsockname() for spec, sock in found.items()}
    assert all(not sock.getblocking() and not sock.get_inheritable() for sock in found.values())
    for sock in found.values():
        sock.close()
    return names


def test_nothing_passed_is_nothing_found(monkeypatch: pytest.MonkeyPatch) -> None:
    with passed(monkeypatch):
        assert activation.activated(["127.0.0.1:1"]) == {}


def test_sockets_are_found_by_address_and_not_by_order(
    monkeypatch: pytest.MonkeyPatch, sockets: ExitStack, tmp_path: Path
) -> None:
    one, two = listening(sockets), listening(sockets)
    path = str(tmp_path / "s")
    three = listening(sockets, path, socket.AF_UNIX)
    specs = [f"unix:{path}", f"127.0.0.1:{port_of(two)}", f"127.0.0.1:{port_of(one)}"]
    with passed(monkeypatch, one, two, three):
        assert taken(specs) == dict(zip(specs, [path, two.getsockname(), one.getsockname()], strict=True))


def test_a_name_is_resolved(monkeypatch: pytest.MonkeyPatch, sockets: ExitStack) -> None:
    one = listening(sockets)
    with passed(monkeypatch, one):
        assert list(taken([f"localhost:{port_of(one)}"])) == [f"localhost:{port_of(one)}"]


@pytest.mark.parametrize("host", ["[::1]", "[0:0::1]", "[0000:0:0:0:0:0:0:0001]"])
def test_an_address_of_version_6_is_found_however_it_is_written(
    host: str, monkeypatch: pytest.MonkeyPatch, sockets: ExitStack
) -> None:
    sock = listening(sockets, ("::1", 0), socket.AF_INET6)
    with passed(monkeypatch, sock):
        assert len(taken([f"{host}:{port_of(sock)}"])) == 1


def test_a_unix_socket_is_found_by_any_path_to_it(
    monkeypatch: pytest.MonkeyPatch, sockets: ExitStack, tmp_path: Path
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "var-run").symlink_to("run")
    sock = listening(sockets, str(tmp_path / "run" / "s"), socket.AF_UNIX)
    with passed(monkeypatch, sock):
        assert len(taken([f"unix:{tmp_path}/var-run/s"])) == 1


def test_port_0_takes_what_no_other_address_names(monkeypatch: pytest.MonkeyPatch, sockets: ExitStack) -> None:
    one, two = listening(sockets), listening(sockets)
    specs = ["127.0.0.1:0", f"127.0.0.1:{port_of(one)}"]
    with passed(monkeypatch, one, two):
        assert taken(specs) == {specs[1]: one.getsockname(), specs[0]: two.getsockname()}


def test_a_socket_of_both_families_stands_for_version_4_and_one_of_version_6_alone_does_not(
    monkeypatch: pytest.MonkeyPatch, sockets: ExitStack
) -> None:
    for only, found in ((0, 1), (1, 0)):
        sock = sockets.enter_context(socket.socket(socket.AF_INET6))
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, only)
        sock.bind(("::", 0))
        sock.listen()
        with passed(monkeypatch, sock):
            assert len(taken([f"0.0.0.0:{port_of(sock)}"])) == found


@pytest.mark.parametrize("kind", ["other port", "datagrams", "not listening", "no socket"])
def test_what_no_address_names_is_logged_and_stays_open(
    kind: str, monkeypatch: pytest.MonkeyPatch, sockets: ExitStack, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    match kind:
        case "other port":
            sock = listening(sockets)
        case "datagrams":
            sock = sockets.enter_context(socket.socket(type=socket.SOCK_DGRAM))
            sock.bind(("127.0.0.1", 0))
        case "not listening":
            sock = sockets.enter_context(socket.socket())
            sock.bind(("127.0.0.1", 0))
        case _:
            file = sockets.enter_context((tmp_path / "file").open("w"))
            monkeypatch.setattr(activation, "listen_descriptors", lambda environment, pid: [file.fileno()])
            assert activation.activated(["127.0.0.1:1"]) == {}
            assert "listen-fds-unused" in caplog.text
            file.write("open still")
            return
    with passed(monkeypatch, sock):
        assert activation.activated(["127.0.0.1:1"]) == {}
        assert "listen-fds-unused" in caplog.text
        (number,) = activation.listen_descriptors({}, 0)
        socket.socket(fileno=number).detach()  # open still
