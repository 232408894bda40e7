"""What an operator sees: exit statuses, dry runs, laggards, logs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from tests.integration import harness


def complaint(*arguments: str, **options: object) -> str:
    """Run a handoff that is a mistake of the operator's; return what standard error says."""
    done = harness.hotfd("handoff", *arguments, **options)
    assert done.returncode == 2, (done.returncode, done.stdout, done.stderr)
    return done.stderr


def other_python() -> str:
    """Return an interpreter that any user may run, of the version that the packages were installed for."""
    for path in (sys.executable, "/usr/bin/python3"):
        ask = [path, "-c", "import sys; print(*sys.version_info[:2])"]
        try:
            done = subprocess.run(ask, user=65534, extra_groups=[], capture_output=True, text=True)
        except OSError:
            continue
        if done.stdout.split() == [str(number) for number in sys.version_info[:2]]:
            return path
    pytest.skip(f"uid 65534 may run no Python {sys.version_info.major}.{sys.version_info.minor} here")


def other_user() -> dict[str, Any]:
    """Return how to run the command line as uid 65534."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(harness.ROOT), *sys.path[1:]])}
    return {"user": 65534, "extra_groups": [], "python": other_python(), "env": environment, "cwd": "/"}


def test_a_process_that_is_no_server_of_ours() -> None:
    assert f"process {os.getpid()}" in complaint("--pid", str(os.getpid()))


def test_a_process_that_is_dead() -> None:
    child = subprocess.Popen(["/bin/true"])
    child.wait()
    assert "no process" in complaint("--pid", str(child.pid))


def test_no_process_at_all() -> None:
    assert "--pid" in complaint()


def test_a_server_of_another_user(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can run a command as another user")
    with harness.counter(tmp_path) as service:
        text = complaint("--pid", str(service.pid), **other_user())
        assert "uid 0" in text
        assert "root" in text


def test_root_hands_over_the_server_of_another_user(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can run a server as another user")
    who = other_user()
    port = harness.free_port()
    command = [who.pop("python"), str(harness.EXAMPLES / "counter.py"), "--listen", f"127.0.0.1:{port}"]
    with tempfile.TemporaryDirectory() as directory:
        os.chown(directory, 65534, 65534)
        who["env"]["HOTFD_RUNTIME_DIR"] = directory
        with harness.server(tmp_path, command, port, **who) as service:
            assert service.handoff("--probation", "0.1")["outcome"] == "completed"


def test_a_second_handoff_during_one_is_refused_with_the_reason(tmp_path: Path) -> None:
    with harness.counter(tmp_path) as service:
        go = tmp_path / "go"
        script = f"until [ -e {go} ]; do sleep 0.05; done; exit 1"
        slow = ["handoff", "--pid", str(service.pid), "--", "/bin/sh", "-c", script]
        first = subprocess.Popen([*harness.HOTFD, *slow], stderr=subprocess.PIPE, text=True)
        try:
            assert first.stderr is not None
            assert "spawn" in first.stderr.readline()
            report = service.handoff(expect=1)
            assert report["outcome"] == "refused"
            assert report["reason"].startswith("handoff-in-progress:")
        finally:
            go.touch()
            assert first.wait(harness.PATIENCE) == 1
            first.stderr.close()
        assert service.handoff("--probation", "0.1")["outcome"] == "completed"


def test_a_handoff_during_the_probation_of_another_is_refused_by_both_processes(tmp_path: Path) -> None:
    with harness.counter(tmp_path) as service:
        first = subprocess.Popen(
            [*harness.HOTFD, "handoff", "--pid", str(service.pid), "--json", "--probation", "60"],
            stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert first.stderr is not None
        while "probation" not in (line := first.stderr.readline()):
            assert line
        new = int(line.rpartition("process ")[2].strip(" )\n"))
        for pid in (service.pid, new):
            done = harness.hotfd("handoff", "--pid", str(pid), "--json")
            assert done.returncode == 1
            assert json.loads(done.stdout)["reason"].startswith("handoff-in-progress:")
        os.kill(service.pid, signal.SIGKILL)  # that ends the probation
        out, _ = first.communicate(timeout=harness.PATIENCE)
        assert service.outcome(subprocess.CompletedProcess([], first.returncode, out, ""), 0)["new_pid"] == new


SLOW = """
    import asyncio, sys
    from dataclasses import dataclass
    import hotfd

    @dataclass
    class Work:
        done: int = 0

    async def talk(conn):
        async for line in conn:
            if line == b"pin":
                conn.movable = False, "it holds a hardware lock"
            elif line == b"task":
                conn.keep = asyncio.create_task(asyncio.sleep(3600), name="sweeper") if False else None
                tasks.append(asyncio.create_task(asyncio.sleep(3600), name="sweeper"))
            elif line == b"work":
                await asyncio.sleep(3600)
            conn.state.done += 1
            await conn.send(b"%d %d" % (conn.state.done, __import__("os").getpid()))

    tasks = []
    hotfd.run(talk, f"127.0.0.1:{sys.argv[1]}", state=Work, name="slow")
""".replace(
    '                conn.keep = asyncio.create_task(asyncio.sleep(3600), name="sweeper") if False else None\n', ""
)


def test_laggards_stay_and_are_named_by_reason(tmp_path: Path) -> None:
    with harness.program(tmp_path, SLOW) as service:
        clients = {name: service.connect() for name in ("pin", "task", "work", "idle")}
        try:
            for name, client in clients.items():
                client.sendall(name.encode() + b"\n")
                if name != "work":
                    assert client.recv(100).startswith(b"1 ")
            plan = service.handoff("--dry-run", expect=3)
            assert plan["dry_run"] is True
            assert plan["new_pid"] is None
            assert plan["reasons"] == {"not-movable": 1, "handler-tasks": 1}
            report = service.handoff("--boundary-timeout", "0.2", "--probation", "0.1", expect=3)
            assert report["outcome"] == "partial"
            assert report["connections"] == {"moved": 1, "kept": 3, "returned": 0, "closed": 0}
            assert report["reasons"] == {"not-movable": 1, "handler-tasks": 1, "no-boundary": 1}
            old, new = report["old_pid"], report["new_pid"]
            for name, pid in (("pin", old), ("task", old), ("idle", new)):
                clients[name].sendall(b"again\n")
                assert clients[name].recv(100) == b"2 %d\n" % pid
            assert harness.alive(old)
        finally:
            for client in clients.values():
                client.close()
        # The handler at work never sees the end of its client; the service's stop ends it.


def test_an_old_process_ends_with_its_last_laggard(tmp_path: Path) -> None:
    with harness.program(tmp_path, SLOW) as service, service.connect() as client:
        client.sendall(b"pin\n")
        assert client.recv(100).startswith(b"1 ")
        report = service.handoff("--boundary-timeout", "0.2", "--probation", "0.1", expect=3)
        assert harness.alive(report["old_pid"])
        client.close()
        harness.wait_gone(report["old_pid"])
        assert service.process.wait(harness.PATIENCE) == 0


def test_laggards_are_closed_when_the_operator_says_so(tmp_path: Path) -> None:
    with harness.program(tmp_path, SLOW) as service, service.connect() as client:
        client.sendall(b"pin\n")
        assert client.recv(100).startswith(b"1 ")
        report = service.handoff("--boundary-timeout", "0.2", "--probation", "0.1", "--laggards", "close", expect=3)
        assert report["connections"] == {"moved": 0, "kept": 0, "returned": 0, "closed": 1}
        assert report["reasons"] == {"not-movable": 1}
        assert client.recv(100) == b""
        client.close()
        harness.wait_gone(report["old_pid"])


def test_a_deep_dry_run_starts_the_new_version_and_changes_nothing(tmp_path: Path) -> None:
    with harness.counter(tmp_path) as service, service.connect() as client:
        assert client.recv(6) == b"hello\n"
        report = service.handoff("--dry-run=deep")
        assert report["dry_run"] is True
        assert report["connections"]["moved"] == 1
        assert not harness.alive(report["new_pid"])
        assert service.status()["generation"] == 1
        broken = service.handoff("--dry-run=deep", expect=1, command=["/bin/false"])
        assert broken["reason"].startswith("new-exited:")


def test_logs_are_structured_and_hold_neither_state_nor_payload(tmp_path: Path) -> None:
    source = """
        import sys
        from dataclasses import dataclass
        import hotfd

        @dataclass
        class Vault:
            password: str = "s3cret-initial"
            _key: bytes = b"s3cret-key"

        async def talk(conn):
            async for line in conn:
                conn.state.password = line.decode()
                if line.endswith(b"raise"):
                    raise RuntimeError("a fault of the handler")
                if line.endswith(b"unfit"):
                    conn.state.password = open("/dev/null")
                await conn.send(b"ok")

        hotfd.run(talk, f"127.0.0.1:{sys.argv[1]}", state=Vault, log_style="json",
                  framing=hotfd.Lines(max_size=100))
    """
    with harness.program(tmp_path, source) as service:
        clients = [service.connect() for _ in range(4)]
        words = [b"s3cret-word", b"s3cret-unfit", b"s3cret-raise", b"s3cret" * 100]
        try:
            for client, word in zip(clients, words, strict=True):
                client.sendall(word + b"\n")
                client.recv(10)
            report = service.handoff("--probation", "0.1", "--boundary-timeout", "0.2", expect=3)
            assert report["reasons"] == {"state-encode": 1}
            assert service.handoff("--probation", "0.1", expect=0)["connections"]["moved"] == 1
        finally:
            for client in clients:
                client.close()
        harness.wait_gone(report["old_pid"])
        text = service.logged()
    assert "s3cret" not in text
    events = [json.loads(line) for line in text.splitlines()]
    done = [event for event in events if event["event"] == "handoff"]
    assert [event["outcome"] for event in done] == ["partial", "completed"]
    assert done[0]["reasons"] == "state-encode:1"
    assert done[0]["connections_moved"] == 1
    kept = next(event for event in events if event["event"] == "session-kept")
    assert (kept["code"], "Vault.password" in kept["reason"]) == ("state-encode", True)
    assert {event["event"] for event in events} >= {"handler-failed", "connection-ended", "took-over"}


def test_the_cli_gets_the_outcome_from_the_new_process_when_the_old_one_is_killed_in_probation(tmp_path: Path) -> None:
    with harness.counter(tmp_path) as service, service.connect() as client:
        assert client.recv(6) == b"hello\n"
        cli = subprocess.Popen(
            [*harness.HOTFD, "handoff", "--pid", str(service.pid), "--json", "--probation", "60"],
            stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert cli.stderr is not None
        while "probation" not in (line := cli.stderr.readline()):
            assert line
        os.kill(service.pid, signal.SIGKILL)
        out, _ = cli.communicate(timeout=harness.PATIENCE)
        report = service.outcome(subprocess.CompletedProcess([], cli.returncode, out, ""), 0)
        assert report["connections"]["moved"] == 1
        client.sendall(b"x\n")
        assert client.recv(10) == b"1 x\n"
        assert service.status()["state"] == "serving"
