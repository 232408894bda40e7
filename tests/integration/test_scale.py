"""Fifteen thousand connections move where the descriptor limit allows it, and nothing moves where it does not."""

from __future__ import annotations

import resource
import socket
from pathlib import Path

import pytest

from tests.integration import harness

pytestmark = pytest.mark.alone

MANY = 15_000


def crowd(service: harness.Server, count: int) -> list[socket.socket]:
    """Open many connections; each has been greeted."""
    clients = []
    for at in range(0, count, 500):
        batch = [service.connect() for _ in range(min(500, count - at))]
        clients += batch
        for client in batch:
            assert client.recv(6, socket.MSG_WAITALL) == b"hello\n"
    return clients


def say(clients: list[socket.socket], number: int) -> None:
    """Everybody says a line, then everybody hears his answer."""
    for client in clients:
        client.sendall(b"x\n")
    want = b"%d x\n" % number
    for client in clients:
        assert client.recv(len(want), socket.MSG_WAITALL) == want


@pytest.mark.timeout(180)
def test_fifteen_thousand_connections_hand_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < MANY + 500:
        pytest.skip(f"RLIMIT_NOFILE allows {hard} descriptors, {MANY + 500} are needed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        with harness.counter(tmp_path) as service:
            clients = crowd(service, MANY)
            try:
                say(clients, 1)
                report = service.handoff("--probation", "1")
                assert report["connections"] == {"moved": MANY, "kept": 0, "returned": 0, "closed": 0}
                say(clients, 2)
                with capsys.disabled():
                    move = report["phases_ms"]["move"]
                    print(f"\n{MANY} connections in {move:.0f} ms, pause {report['pause_ms']}", end=" ")
            finally:
                for client in clients:
                    client.close()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_more_connections_than_the_limit_allows_are_refused_before_anything_moves(tmp_path: Path) -> None:
    def low() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (340, 340))

    with harness.counter(tmp_path, preexec_fn=low) as service:
        clients = crowd(service, 300)
        try:
            report = service.handoff(expect=1)
            assert report["reason"].startswith("descriptor-limit: this process may open 340 descriptors")
            assert "hotfd doctor" in report["reason"]
            say(clients, 1)
            doctor = harness.hotfd("doctor", "--pid", str(service.pid))
            assert "LimitNOFILE" in doctor.stdout
        finally:
            for client in clients:
                client.close()
