"""A bad new version costs nothing: the old one serves on, and the operator reads why in one line."""

from __future__ import annotations

import os
import resource
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.integration import harness


@contextmanager
def talking(service: harness.Server) -> Iterator[None]:
    """Talk to the counter without a break; a lost or wrong reply fails the test at the end."""
    stop, problems, count = threading.Event(), [], [0]

    def talk() -> None:
        with service.connect() as sock, sock.makefile("rb") as reader:
            if reader.readline() != b"hello\n":
                problems.append("no greeting")
            while not stop.is_set() and not problems:
                count[0] += 1
                sock.sendall(b"x\n")
                if (reply := reader.readline()) != b"%d x\n" % count[0]:
                    problems.append(f"line {count[0]} answered {reply!r}")

    threads = [threading.Thread(target=talk)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join(harness.PATIENCE)
    assert not problems
    assert count[0] > 10


def refused(service: harness.Server, *options: str, command: tuple[str, ...] = ()) -> str:
    """Try a handoff that must fail; return its reason, and check that nothing has changed."""
    with talking(service):
        before = service.status()
        report = service.handoff(*options, expect=1, command=command)
        after = service.status()
    assert report["outcome"] in {"rolled-back", "refused"}
    assert report["connections"] == {"moved": 0, "kept": 0, "returned": 0, "closed": 0}
    assert "\n" not in report["reason"]
    assert (after["pid"], after["generation"], after["state"]) == (before["pid"], before["generation"], "serving")
    new = report["new_pid"]
    assert new is None or not harness.alive(new), "the new process is still there"
    return report["reason"]


def test_a_path_that_does_not_exist(tmp_path: Path) -> None:
    with harness.counter(tmp_path) as service:
        reason = refused(service, command=("/no/such/program",))
        assert reason == "not-found: /no/such/program does not exist; correct the command and try again"


def test_a_command_that_exits_at_once(tmp_path: Path) -> None:
    with harness.counter(tmp_path) as service:
        reason = refused(service, command=("/bin/sh", "-c", "exit 3"))
        assert reason == "new-exited: the new process exited with status 3 before it was ready"


def test_a_command_that_dies_of_a_signal(tmp_path: Path) -> None:
    with harness.counter(tmp_path) as service:
        reason = refused(service, command=("/bin/sh", "-c", "kill -SEGV $$"))
        assert reason == f"new-exited: the new process was killed by signal {signal.SIGSEGV:d} before it was ready"


def test_a_version_with_a_syntax_error(tmp_path: Path) -> None:
    broken = harness.script(tmp_path, "broken.py", "import hotfd\nthis is no python\n")
    with harness.counter(tmp_path) as service:
        reason = refused(service, command=(sys.executable, str(broken)))
        assert reason.startswith("new-exited: the new process exited with status 1")


def test_a_version_that_never_becomes_ready(tmp_path: Path) -> None:
    with harness.counter(tmp_path) as service:
        reason = refused(service, "--deadline", "0.5", command=("/bin/sleep", "600"))
        assert reason.startswith("new-hung: the new process did not become ready within 0.5 s")


VERSION = """
    import asyncio
    import sys
    from dataclasses import dataclass, field
    import hotfd

    @dataclass
    class Visitor:
        {fields}

    async def talk(conn):
        if not conn.resumed:
            await conn.send(b"hello")
        async for line in conn:
            conn.state.lines += 1
            await conn.send(b"%d %s" % (conn.state.lines, line))

    {extra}

    hotfd.run(talk, sys.argv[1], framing=hotfd.Lines(), state=Visitor, name="counter", {options})
"""


def version(tmp_path: Path, *, fields: str = "lines: int = 0", extra: str = "", options: str = "") -> tuple[str, ...]:
    path = harness.script(tmp_path, "version.py", VERSION.format(fields=fields, extra=extra, options=options))
    return sys.executable, str(path), "127.0.0.1:1"


def test_a_version_whose_on_start_hangs(tmp_path: Path) -> None:
    command = version(tmp_path, extra="async def start(): await asyncio.sleep(60)", options="on_start=start")
    with harness.counter(tmp_path) as service:
        assert refused(service, "--deadline", "1.5", command=command).startswith("new-hung:")


def test_a_version_whose_on_start_raises(tmp_path: Path) -> None:
    command = version(tmp_path, extra="def start(): raise KeyError('no database')", options="on_start=start")
    with harness.counter(tmp_path) as service:
        reason = refused(service, command=command)
        assert reason == "not-ready: its on_start raised KeyError; see its log"


def test_a_version_that_is_not_healthy(tmp_path: Path) -> None:
    command = version(tmp_path, extra="async def healthy(): return False", options="healthy=healthy")
    with harness.counter(tmp_path) as service:
        reason = refused(service, command=command)
        assert reason == "unhealthy: its health check says that it is not healthy"


def test_a_version_that_turns_unhealthy_in_its_probation_gives_untouched_sessions_back(tmp_path: Path) -> None:
    extra = "checks = []\n    def healthy():\n        checks.append(1)\n        return len(checks) < 2"
    command = version(tmp_path, extra=extra, options="healthy=healthy")
    with harness.counter(tmp_path) as service, service.connect() as sock, sock.makefile("rb") as reader:
        assert reader.readline() == b"hello\n"
        sock.sendall(b"a\n")
        assert reader.readline() == b"1 a\n"
        report = service.handoff("--probation", "30", expect=1, command=command)
        assert report["reason"].startswith("unhealthy:")
        assert report["connections"] == {"moved": 0, "kept": 0, "returned": 1, "closed": 0}
        sock.sendall(b"b\n")
        assert reader.readline() == b"2 b\n"


def test_a_version_with_too_small_a_descriptor_limit(tmp_path: Path) -> None:
    command = ("/bin/sh", "-c", 'ulimit -n 70; exec "$@"', "sh", *version(tmp_path))
    with harness.counter(tmp_path) as service:
        reason = refused(service, command=command)
        assert reason.startswith("descriptor-limit: the new process may open 70 descriptors and needs ")
        assert "LimitNOFILE=" in reason


def test_a_version_that_cannot_read_the_state(tmp_path: Path) -> None:
    with harness.counter(tmp_path) as service:
        reason = refused(service, command=version(tmp_path, fields="words: int = 0"))
        assert reason.startswith("state-version: ")
        assert "Visitor" in reason
        assert "lines" in reason or "words" in reason


def test_a_version_whose_upgrade_fails_for_every_session(tmp_path: Path) -> None:
    fields = "lines: int = 0\n        version = 2\n        @staticmethod\n        def upgrade(old, version): raise ValueError"
    with harness.counter(tmp_path) as service:
        reason = refused(service, command=version(tmp_path, fields=fields))
        assert reason.startswith("state-decode: Visitor")
        assert "ValueError" in reason


def test_a_version_that_listens_where_it_must_not(tmp_path: Path) -> None:
    with harness.counter(tmp_path) as service:
        command = version(tmp_path)
        taken = f"127.0.0.1:{service.port}"
        reason = refused(service, command=(*command[:2], taken.replace("127.0.0.1", "127.0.0.001")))
        assert reason.startswith(("cannot-listen:", "new-exited:"))


def test_a_program_that_is_no_server_of_hotfd_is_waited_for_until_the_deadline_only(tmp_path: Path) -> None:
    with harness.counter(tmp_path) as service:
        reason = refused(service, "--deadline", "0.5", command=(sys.executable, "-c", "import time; time.sleep(600)"))
        assert reason.startswith("new-hung:")


def test_a_version_that_is_stopped_while_sessions_move_is_ended_within_the_deadline(tmp_path: Path) -> None:
    # It stops itself as soon as the listeners have come: nothing is answered any more.
    extra = (
        "import os, signal\n"
        "    from hotfd.server.engine import Engine\n"
        "    Engine.start_accepting = lambda self: os.kill(os.getpid(), signal.SIGSTOP)\n"
    )
    impatient = harness.counter(tmp_path, impatient=True)
    with impatient as service, service.connect() as sock, sock.makefile("rb") as reader:
        assert reader.readline() == b"hello\n"
        report = service.handoff(expect=1, command=version(tmp_path, extra=extra))
        assert report["reason"].startswith("new-hung:")
        assert not harness.alive(report["new_pid"])
        sock.sendall(b"a\n")
        assert reader.readline() == b"1 a\n"


def test_the_whole_limit_is_checked_before_anything_is_started(tmp_path: Path) -> None:
    def low() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (120, 120))

    with harness.counter(tmp_path, preexec_fn=low) as service:
        clients = [service.connect() for _ in range(70)]
        try:
            for client in clients:
                assert client.recv(6) == b"hello\n"
            report = service.handoff(expect=1)
            assert report["outcome"] == "refused"
            assert report["new_pid"] is None
            assert report["reason"].startswith("descriptor-limit: this process may open 120 descriptors and needs")
            clients[0].sendall(b"a\n")
            assert clients[0].recv(4) == b"1 a\n"
        finally:
            for client in clients:
                client.close()


def test_a_server_that_is_systemds_main_process_without_a_notify_socket_refuses(tmp_path: Path) -> None:
    # exec keeps the pid, so the variable names this very process, as systemd sets it.
    port = harness.free_port()
    line = f"SYSTEMD_EXEC_PID=$$ exec {sys.executable} {harness.EXAMPLES / 'counter.py'} --listen 127.0.0.1:{port}"
    with harness.server(tmp_path, ["/bin/sh", "-c", line], port) as service:
        report = service.handoff(expect=1)
        assert report["outcome"] == "refused"
        assert report["reason"].startswith("unsupervised:")
        assert "Type=notify" in report["reason"]
        assert service.handoff("--force", "--probation", "0.1")["outcome"] == "completed"


def test_a_wrapper_is_not_the_server(tmp_path: Path) -> None:
    with harness.counter(tmp_path) as service, service.connect() as sock, sock.makefile("rb") as reader:
        assert reader.readline() == b"hello\n"
        inner = " ".join(
            [sys.executable, str(harness.EXAMPLES / "counter.py"), "--listen", f"127.0.0.1:{service.port}"]
        )
        report = service.handoff("--probation", "0.2", command=("/bin/sh", "-c", f"{inner}; true"))
        assert os.path.basename(os.readlink(f"/proc/{report['new_pid']}/exe")).startswith("python")
        sock.sendall(b"a\n")
        assert reader.readline() == b"1 a\n"


def test_ending_the_new_process_ends_the_wrapper_and_the_server(tmp_path: Path) -> None:
    inner = " ".join(version(tmp_path, extra="def healthy(): return False", options="healthy=healthy"))
    with harness.counter(tmp_path) as service:
        report = service.handoff(expect=1, command=("/bin/sh", "-c", f"{inner}; true"))
        assert report["reason"].startswith("unhealthy:")
        assert harness.processes_with_environment("HOTFD_RUNTIME_DIR", os.environ["HOTFD_RUNTIME_DIR"]) == [service.pid]
