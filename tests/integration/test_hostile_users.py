"""Processes of other users, and what they can have prepared: at the control socket, on the channel, at the paths."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from hotfd import _core
from hotfd.wire import messages as m
from tests.integration import harness
from tests.integration.hostile import LIAR, Deceived, Witness
from tests.integration.test_operator import other_user

NOBODY = 65534

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can run processes as another user")

PIDFD_GETFD = 438
"""The number of pidfd_getfd(2), the same on every architecture."""


def as_nobody(source: str, *arguments: str) -> str:
    """Run a program as another user; return what it prints."""
    who = other_user()
    command = [who.pop("python"), "-c", source, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=harness.PATIENCE, check=True, **who)
    return done.stdout.strip()


# -- the control socket --------------------------------------------------------------------------------------------

CONNECT = """
import socket, sys
with socket.socket(socket.AF_UNIX) as sock:
    try:
        sock.connect(sys.argv[1])
    except PermissionError:
        sys.exit(print("PermissionError") or 0)
    sock.settimeout(60)
    while data := sock.recv(65536):
        print(data.decode(), end="")
"""


def test_another_user_gets_neither_into_the_directory_nor_to_the_socket_nor_an_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tempfile.TemporaryDirectory() as base:  # pytest's own directories are closed to others
        os.chmod(base, 0o711)
        directory = Path(base, "run")
        monkeypatch.setenv("HOTFD_RUNTIME_DIR", str(directory))
        with harness.counter(tmp_path) as service:
            path = directory / f"{service.pid}.sock"
            harness.becomes(path.exists, True)
            assert as_nobody(CONNECT, str(path)) == "PermissionError"
            os.chmod(directory, 0o711)  # whoever opens the directory to others has still closed the socket
            assert as_nobody(CONNECT, str(path)) == "PermissionError"
            os.chmod(path, 0o666)
            said = as_nobody(CONNECT, str(path))
            assert '"not-permitted"' in said
            assert "generation" not in said, "not even the greeting is for others"
            os.chmod(directory, 0o700)
            assert service.handoff("--probation", "0.1")["outcome"] == "completed"


def of_another_user(path: Path) -> None:
    path.mkdir(mode=0o700)
    os.chown(path, NOBODY, NOBODY)


def world_writable(path: Path) -> None:
    path.mkdir()
    path.chmod(0o1777)


def a_link(path: Path) -> None:
    path.with_name("real").mkdir(mode=0o700)
    path.symlink_to(path.with_name("real"))


def a_file(path: Path) -> None:
    path.touch(0o600)


PREPARED = {of_another_user: "owned by uid 65534", world_writable: "mode 1777", a_link: "link", a_file: "no directory"}


def test_a_runtime_directory_that_somebody_has_prepared_is_not_used_and_the_server_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Root's server looks at the same path in each of them, one after another.
    directory = tmp_path / "prepared"
    for prepare, reason in PREPARED.items():
        prepare(directory)
        monkeypatch.setenv("HOTFD_RUNTIME_DIR", str(directory))
        with harness.counter(tmp_path) as service:
            witness = Witness(service)
            witness.say()
            witness.close()
            log = service.logged()
            assert "no-control-socket" in log
            assert reason in log, log
            done = harness.hotfd("handoff", "--pid", str(service.pid))
            assert (done.returncode, reason in done.stderr) == (2, True), done.stderr
        service.log.unlink()
        assert list(directory.iterdir() if directory.is_dir() else []) == []
        _remove(directory)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def test_a_socket_of_a_dead_server_whose_pid_is_another_process_now_is_left_over_and_no_server(
    runtime_directory: Path,
) -> None:
    other = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
    path = runtime_directory / f"{other.pid}.sock"
    try:
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(path))
            dead.listen()
        done = harness.hotfd("handoff", "--pid", str(other.pid))
        assert (done.returncode, "left over" in done.stderr) == (2, True), done.stderr
        assert other.poll() is None, "the process that has the pid now is nobody's business"
    finally:
        other.kill()
        other.wait()
        path.unlink()


GREETER = """
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as listener:
    listener.bind(os.path.join(sys.argv[1], f"{os.getpid()}.sock"))
    listener.listen()
    print("listening", flush=True)
    while True:
        client, _ = listener.accept()
        with client:
            client.sendall(json.dumps({"hotfd": 1, "pid": os.getpid(), "start_time": 1, "generation": 1}).encode() + b"\\n")
            if heard := client.recv(65536):
                print("heard", heard, flush=True)
"""


def test_a_process_that_started_at_another_time_than_the_server_that_was_meant_is_told_nothing(
    runtime_directory: Path,
) -> None:
    # What a reused pid looks like: the right number, and another start.
    other = subprocess.Popen([sys.executable, "-c", GREETER, str(runtime_directory)], stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    try:
        assert other.stdout.readline() == "listening\n"
        done = harness.hotfd("handoff", "--pid", str(other.pid))
        assert (done.returncode, "is another process" in done.stderr) == (2, True), done.stderr
    finally:
        other.kill()
        other.wait()
        assert other.stdout.read() == ""
        other.stdout.close()
        (runtime_directory / f"{other.pid}.sock").unlink()


# -- the channel, towards the old process --------------------------------------------------------------------------

HELD_OPEN = """
print(f"channel {os.getpid()} {channel}", file=sys.stderr, flush=True)
hang()
"""


@contextmanager
def borrowed(pid: int, fd: int) -> Iterator[int]:
    """Take a copy of another process's descriptor, pidfd_getfd(2)."""
    pidfd = os.pidfd_open(pid)
    try:
        copy = ctypes.CDLL(None, use_errno=True).syscall(PIDFD_GETFD, pidfd, fd, 0)
        if copy < 0:
            pytest.skip(f"pidfd_getfd: {os.strerror(ctypes.get_errno())}")
    finally:
        os.close(pidfd)
    try:
        yield copy
    finally:
        os.close(copy)


def test_a_process_that_this_one_could_not_end_is_not_taken_for_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    who: dict[str, Any] = other_user()
    python = who.pop("python")
    port = harness.free_port()
    with tempfile.TemporaryDirectory() as directory:
        os.chown(directory, NOBODY, NOBODY)
        who["env"]["HOTFD_RUNTIME_DIR"] = directory
        monkeypatch.setenv("HOTFD_RUNTIME_DIR", directory)
        command = [python, str(harness.EXAMPLES / "counter.py"), "--listen", f"127.0.0.1:{port}"]
        liar = [python, "-c", LIAR.format(root=str(harness.ROOT)) + HELD_OPEN]
        with harness.server(tmp_path, command, port, **who) as service, Deceived(tmp_path, service).watched():
            handoff = subprocess.Popen(
                [*harness.HOTFD, "handoff", "--pid", str(service.pid), "--json", "--", *liar],
                stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            )  # fmt: skip
            assert handoff.stdout is not None
            harness.becomes(lambda: "channel " in service.logged(), True)
            found = re.search(r"^channel (\d+) (\d+)$", service.logged(), re.MULTILINE)
            assert found is not None
            with borrowed(int(found[1]), int(found[2])) as channel:
                _core.send_message(channel, m.encode(m.Hello(m.PROTOCOL, os.getpid(), "root", {}, 1 << 20, 8)))
            report = service.outcome(
                subprocess.CompletedProcess([], handoff.wait(harness.PATIENCE), handoff.stdout.read(), ""), 1
            )
            handoff.stdout.close()
            assert report["reason"] == (
                f"protocol: process {os.getpid()} of another user says that it is the new one; "
                "this process could not end it"
            )
            assert not harness.alive(int(found[1]))
            assert "Traceback" not in service.logged()


# -- the channel, towards the new process --------------------------------------------------------------------------


def told(tmp_path: Path, *packets: bytes, uid: int = 0) -> tuple[int | None, str]:
    """Start a server as if by a handoff, and send it packets as a user.

    Returns:
        its exit status, None when it was still there when the channel was closed; and its log.
    """
    mine, theirs = _core.channel_pair()
    log = tmp_path / "new.log"
    command = [sys.executable, str(harness.EXAMPLES / "counter.py"), "--listen", f"127.0.0.1:{harness.free_port()}"]
    with log.open("wb") as sink:
        speaker = os.fork()
        if speaker == 0:
            os.setgid(uid)
            os.setuid(uid)
            for packet in packets:
                _core.send_message(mine, packet)
            signal.pause()
        process = subprocess.Popen(
            command, stderr=sink, env={**os.environ, "HOTFD_CHANNEL": str(theirs)}, pass_fds=[theirs]
        )
        os.close(theirs)
        os.close(mine)
        try:
            return process.wait(harness.PATIENCE), log.read_text()
        finally:
            process.kill()
            process.wait()
            os.kill(speaker, signal.SIGKILL)
            os.waitpid(speaker, 0)


def setup(**fields: Any) -> bytes:
    """A Setup as the first process of a service could send it."""
    known = {
        "protocol": m.PROTOCOL,
        "handoff": "forged",
        "generation": 2,
        "pid": 1,
        "schema": {},
        "process_schema": False,
    }
    return m.encode(m.Setup(**{**known, "framings": {}, **fields}))


FORGED = {
    "another user's": ((setup(),), NOBODY, "of uid 65534 may not hand anything over"),
    "garbage": ((b"garbage",), 0, "does not begin as a hotfd message"),
    "no beginning": ((m.encode(m.Commit([0])),), 0, "Commit in phase starting"),
    "an order before its time": ((setup(), m.encode(m.Commit([0]))), 0, "Commit in phase"),
}


def test_a_process_that_is_lied_to_by_who_started_it_leaves_with_the_reason_and_serves_nobody(tmp_path: Path) -> None:
    for name, (packets, uid, reason) in FORGED.items():
        status, log = told(tmp_path, *packets, uid=uid)
        assert status not in {None, 0}, (name, status, log)
        assert "protocol" in log, (name, log)
        assert reason in log, (name, log)
        assert "Traceback" not in log, (name, log)
