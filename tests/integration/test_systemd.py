"""What a service manager hears and gives: sd_notify, the watchdog, socket activation; directly and with ``hotfd run``."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.integration import harness
from tests.integration.supervised import ECHO, Manager, Talker, manager, supervised


@contextmanager
def direct(tmp_path: Path, system: Manager, **environment: str) -> Iterator[harness.Server]:
    """Run the echo server directly under a manager, and wait until it has said that it serves."""
    env = {"NOTIFY_SOCKET": str(system.path), **environment}
    source = ECHO.replace("listen=sys.argv[1]", "listen='127.0.0.1:' + sys.argv[1]")
    with harness.program(tmp_path, source, env=env) as service:
        system.has("READY=1")
        yield service


# -- a server directly under a manager -------------------------------------------------------------


def test_a_server_tells_its_life_and_its_successor_only_after_the_handoff(tmp_path: Path) -> None:
    with manager(tmp_path) as system, direct(tmp_path, system) as service:
        first = service.pid
        assert not [line for line in system.lines() if line.startswith("MAINPID")]
        handoff = subprocess.Popen(
            [*harness.HOTFD, "handoff", "--pid", str(first), "--probation", "2"], stdout=-3, stderr=-3
        )
        system.has("RELOADING=1")
        harness.becomes(lambda: "phase=probation" in service.logged(), True)
        assert [line for line in system.lines() if line.startswith("MONOTONIC_USEC=")]
        assert not [line for line in system.lines() if line.startswith("MAINPID")], "before the handoff was completed"
        assert handoff.wait(harness.PATIENCE) == 0
        system.until(lambda: any(line.startswith("MAINPID=") for line in system.lines(first)), "MAINPID")
        (new,) = {int(line.partition("=")[2]) for line in system.lines() if line.startswith("MAINPID=")}
        service.pids.append(new)
        told = next(lines for pid, lines in system.told if pid == first and f"MAINPID={new}" in lines)
        assert "READY=1" in told, "RELOADING=1 is over with it"
        assert "STOPPING=1" not in system.lines()
        os.kill(new, signal.SIGTERM)
        system.has("STOPPING=1")


def test_an_undone_handoff_is_told_and_names_no_successor(tmp_path: Path) -> None:
    with manager(tmp_path) as system, direct(tmp_path, system) as service:
        service.handoff("--", sys.executable, "-c", "raise SystemExit(1)", expect=1)
        system.until(lambda: system.lines().count("READY=1") == 2, "the second READY=1")
        assert [lines[0] for _, lines in system.told] == ["READY=1", "RELOADING=1", "READY=1"]
        assert not [line for line in system.lines() if line.startswith("MAINPID")]


def test_a_dry_run_tells_the_manager_nothing(tmp_path: Path) -> None:
    with manager(tmp_path) as system, direct(tmp_path, system) as service:
        service.handoff("--dry-run=deep")
        assert "RELOADING=1" not in system.lines()


def test_signs_of_life_come_twice_an_interval_and_go_on_from_the_new_process(tmp_path: Path) -> None:
    with manager(tmp_path) as system, direct(tmp_path, system, WATCHDOG_USEC="200000") as service:
        first = service.pid
        system.hears("WATCHDOG=1", of=first)
        new = service.handoff("--probation", "0.1")["new_pid"]
        harness.wait_gone(first)
        for _ in range(3):
            system.hears("WATCHDOG=1", of=new)
        os.kill(new, signal.SIGSTOP)  # a server that hangs gives no sign of life
        harness.becomes(lambda: harness.stopped(new), True)
        system.lines()
        with pytest.raises(AssertionError):
            system.hears("WATCHDOG=1", limit=1.0)
        os.kill(new, signal.SIGCONT)
        system.hears("WATCHDOG=1", of=new)


def test_a_watchdog_that_is_meant_for_another_process_is_not_answered(tmp_path: Path) -> None:
    with manager(tmp_path) as system, direct(tmp_path, system, WATCHDOG_USEC="200000", WATCHDOG_PID="1") as service:
        assert service.handoff("--probation", "1")["outcome"] == "completed"
        assert "WATCHDOG=1" not in system.lines()


# -- hotfd run under a manager ---------------------------------------------------------------------


def test_the_supervisor_is_the_main_process_for_good(tmp_path: Path) -> None:
    with manager(tmp_path) as system:
        with supervised(tmp_path, env={**os.environ, "NOTIFY_SOCKET": str(system.path)}) as service:
            system.has("READY=1")
            service.handoff()
            system.until(lambda: system.lines().count("READY=1") >= 2, "the second READY=1")
            service.process.terminate()
            assert service.ends() == 0
        lines = system.lines()
        assert {pid for pid, _ in system.told} == {service.pid}, "only the supervisor speaks with the manager"
        order = [line for line in lines if line in {"READY=1", "RELOADING=1", "STOPPING=1"}]
        assert order == ["READY=1", "RELOADING=1", "READY=1", "STOPPING=1"]
        assert not [line for line in lines if line.startswith("MAINPID")]
        assert any(line.startswith("STATUS=") for line in lines)


def test_the_supervisor_gives_signs_of_life_while_its_server_answers(tmp_path: Path) -> None:
    with manager(tmp_path) as system:
        env = {**os.environ, "NOTIFY_SOCKET": str(system.path), "WATCHDOG_USEC": "400000"}
        with supervised(tmp_path, env=env) as service:
            for _ in range(3):
                system.hears("WATCHDOG=1", of=service.pid)
            (server,) = service.servers()
            os.kill(server, signal.SIGSTOP)
            harness.becomes(lambda: harness.stopped(server), True)
            with pytest.raises(AssertionError):
                for _ in range(2):  # one may be on its way
                    system.hears("WATCHDOG=1", limit=1.0)
            os.kill(server, signal.SIGCONT)
            system.hears("WATCHDOG=1", of=service.pid)


def test_a_stranger_cannot_speak_for_the_server(tmp_path: Path) -> None:
    with supervised(tmp_path) as service:
        environ = Path(f"/proc/{service.servers()[0]}/environ").read_bytes().split(b"\0")
        address = next(entry for entry in environ if entry.startswith(b"NOTIFY_SOCKET=")).partition(b"=")[2]
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendto(f"MAINPID={os.getpid()}\nREADY=1".encode(), b"\0" + address[1:])
        service.says("notify-ignored")
        assert service.servers() != [os.getpid()]


# -- socket activation -----------------------------------------------------------------------------


@contextmanager
def activated(
    tmp_path: Path, command: list[str], *sockets: socket.socket
) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """Start a command with sockets as systemd passes them; end it afterwards."""
    log = tmp_path / "activated.log"
    saved = [sock.dup() for sock in sockets]
    script = (
        f"import os, sys, fcntl\nn = {len(sockets)}\n"
        "high = [fcntl.fcntl(int(a), fcntl.F_DUPFD, 100) for a in sys.argv[1 : 1 + n]]\n"
        "for i, fd in enumerate(high):\n    os.dup2(fd, 3 + i, True); os.close(fd)\n"
        "os.environ['LISTEN_PID'] = str(os.getpid())\nos.environ['LISTEN_FDS'] = str(n)\n"
        "os.execvp(sys.argv[1 + n], sys.argv[1 + n :])\n"
    )
    numbers = [str(sock.fileno()) for sock in saved]
    with log.open("ab") as sink:
        process = subprocess.Popen(
            [sys.executable, "-c", script, *numbers, *command],
            pass_fds=[sock.fileno() for sock in saved], stdout=sink, stderr=sink,
        )  # fmt: skip
    for sock in saved:
        sock.close()
    try:
        yield process, log
    finally:
        process.terminate()
        process.wait(harness.PATIENCE)


def listening(family: int = socket.AF_INET, address: object = ("127.0.0.1", 0)) -> socket.socket:
    """Make the socket of a socket unit."""
    sock = socket.socket(family)
    sock.bind(address)  # type: ignore[arg-type]
    sock.listen()
    return sock


def echo(tmp_path: Path, *addresses: str) -> list[str]:
    """Return the command of an echo server that listens on several addresses."""
    source = ECHO.replace("listen=sys.argv[1]", "listen=sys.argv[1:]")
    return [sys.executable, str(harness.script(tmp_path, "program.py", source)), *addresses]


@pytest.mark.parametrize("through", ["directly", "supervised"])
def test_a_server_takes_the_sockets_that_it_is_given_and_they_outlive_it(tmp_path: Path, through: str) -> None:
    path = str(tmp_path / "unit.sock")
    with listening() as tcp, listening(socket.AF_UNIX, path) as unix:
        port = tcp.getsockname()[1]
        command = echo(tmp_path, f"127.0.0.1:{port}", f"unix:{path}")
        if through == "supervised":
            command = [*harness.HOTFD, "run", "--", *command]
        with activated(tmp_path, command, unix, tcp) as (process, log):
            with Talker(("127.0.0.1", port)) as client:  # it waits in the queue until the server is up
                assert client.greeting.startswith(b"hello")
                done = harness.hotfd("handoff", "--pid", str(process.pid), "--probation", "0.1")
                assert done.returncode == 0, done.stderr + log.read_text()
                new = client.served_by()
            os.kill(new if through == "directly" else process.pid, signal.SIGTERM)
            harness.wait_gone(new)
            process.wait(harness.PATIENCE)
        assert os.path.exists(path), "the path is the manager's"
        assert "listen-fds-unused" not in log.read_text()


def test_after_a_crash_the_sockets_are_passed_again(tmp_path: Path) -> None:
    with listening() as tcp:
        port = tcp.getsockname()[1]
        command = [*harness.HOTFD, "run", "--", *echo(tmp_path, f"127.0.0.1:{port}")]
        with activated(tmp_path, command, tcp):
            with Talker(("127.0.0.1", port)) as client:
                client.socket.sendall(b"die\n")
                assert client.read() == b""
            with Talker(("127.0.0.1", port)) as client:
                assert client.greeting.startswith(b"hello")


def test_a_socket_that_no_address_names_is_logged_and_left_alone(tmp_path: Path) -> None:
    with listening() as wanted, listening() as other:
        port = wanted.getsockname()[1]
        with activated(tmp_path, echo(tmp_path, f"127.0.0.1:{port}"), other, wanted) as (process, log):
            with Talker(("127.0.0.1", port)) as client:
                assert client.greeting.startswith(b"hello")
            assert f'listen-fds-unused address="127.0.0.1 port {other.getsockname()[1]}"' in log.read_text()
            assert process.poll() is None


def test_one_socket_for_both_families_serves_an_address_of_version_4(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET6) as both:
        both.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        both.bind(("::", 0))
        both.listen()
        port = both.getsockname()[1]
        with activated(tmp_path, echo(tmp_path, f"0.0.0.0:{port}"), both), Talker(("127.0.0.1", port)) as client:
            assert client.greeting.startswith(b"hello")


def test_a_unix_path_of_the_supervisor_is_gone_after_its_end_and_not_before(tmp_path: Path) -> None:
    path = str(tmp_path / "shared.sock")
    with supervised(tmp_path, "--listen", f"unix:{path}", command=echo(tmp_path, f"unix:{path}")) as service:
        os.kill(service.servers()[0], signal.SIGKILL)
        service.says("crashed")
        assert os.path.exists(path)
        service.serves()
        service.process.terminate()
        assert service.ends() == 0
    assert not os.path.exists(path)
