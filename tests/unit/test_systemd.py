"""What passes between a service manager and its service, as variables, datagrams and descriptors."""

from __future__ import annotations

import logging
import os
import socket
from pathlib import Path

import pytest

from hotfd import systemd
from tests.integration.harness import descriptors


def receiver(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    sock.bind(path)
    return sock


def test_assignments_are_one_datagram(tmp_path: Path) -> None:
    path = str(tmp_path / "notify")
    with receiver(path) as sock:
        assert systemd.notify("MAINPID=7", "READY=1", environment={"NOTIFY_SOCKET": path})
        assert sock.recv(100) == b"MAINPID=7\nREADY=1"


def test_an_abstract_socket_begins_with_an_at_sign() -> None:
    with receiver("\0hotfd-test-notify") as sock:
        assert systemd.notify("READY=1", environment={"NOTIFY_SOCKET": "@hotfd-test-notify"})
        assert sock.recv(100) == b"READY=1"


@pytest.mark.parametrize("environment", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "vsock:2:1234"}])
def test_without_a_manager_nothing_is_sent(environment: dict[str, str]) -> None:
    assert not systemd.notify("READY=1", environment=environment)


def test_the_environment_of_the_process_counts_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(tmp_path / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", path)
    with receiver(path):
        assert systemd.notify("READY=1")


def test_a_manager_that_cannot_be_told_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = descriptors()
    with caplog.at_level(logging.WARNING, "hotfd"):
        assert not systemd.notify("READY=1", environment={"NOTIFY_SOCKET": str(tmp_path / "nobody")})
    assert "notify-failed" in caplog.text
    assert descriptors() == before


def test_a_handoff_is_told_with_its_time_and_its_limit() -> None:
    reloading, when, limit = systemd.reloading(90.0)
    assert reloading == "RELOADING=1"
    assert int(when.removeprefix("MONOTONIC_USEC=")) > 0
    assert limit == "X_HOTFD_LIMIT_USEC=90000000"
    assert len(systemd.reloading()) == 2


@pytest.mark.parametrize(
    ("environment", "interval"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "500000", "WATCHDOG_PID": "7"}, 0.5),
        ({"WATCHDOG_USEC": "500000", "WATCHDOG_PID": "8"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": "-1"}, None),
        ({"WATCHDOG_PID": "7"}, None),
    ],
)
def test_the_watchdogs_interval(environment: dict[str, str], interval: float | None) -> None:
    assert systemd.watchdog_interval(environment, 7) == interval


def test_descriptors_for_this_process_are_taken_and_become_close_on_exec(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as one:
        os.set_inheritable(one.fileno(), True)
        monkeypatch.setattr(systemd, "LISTEN_FDS_START", one.fileno())
        environment = {"LISTEN_PID": "7", "LISTEN_FDS": "1", "LISTEN_FDNAMES": "web", "HOME": "/"}
        assert systemd.listen_descriptors(environment, 7) == [one.fileno()]
        assert not one.get_inheritable()
        assert environment == {"HOME": "/"}


def test_descriptors_for_another_process_are_left_alone() -> None:
    environment = {"LISTEN_PID": "8", "LISTEN_FDS": "1"}
    assert systemd.listen_descriptors(environment, 7) == []
    assert systemd.listen_descriptors({"LISTEN_FDS": "1"}, 7) == []
    assert environment == {"LISTEN_PID": "8", "LISTEN_FDS": "1"}


@pytest.mark.parametrize("count", ["", "many", "0", "99999999999999999999999"])
def test_a_count_that_is_none_brings_nothing(count: str) -> None:
    assert systemd.listen_descriptors({"LISTEN_PID": "7", "LISTEN_FDS": count}, 7) == []


def test_a_descriptor_that_is_not_open_ends_the_list(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(systemd, "LISTEN_FDS_START", 1000)
    assert systemd.listen_descriptors({"LISTEN_PID": "7", "LISTEN_FDS": "3"}, 7) == []
    assert "listen-fds-wrong" in caplog.text


def test_a_datagram_is_read_as_assignments() -> None:
    assert systemd.parse(b"READY=1\nSTATUS=a=b\nnonsense\n=x\n\xff=1") == {"READY": "1", "STATUS": "a=b", "\ufffd": "1"}
    assert systemd.parse(b"") == {}
