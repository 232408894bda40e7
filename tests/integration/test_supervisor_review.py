"""``hotfd run`` where two things go wrong at once: it is stopped, out of descriptors, started by a handoff, or not alone."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

from tests.integration import harness
from tests.integration.supervised import ECHO, Talker, in_background, manager, supervised


def test_a_successor_that_died_before_the_supervisor_heard_of_it_is_a_crash_and_not_the_end(tmp_path: Path) -> None:
    with supervised(tmp_path) as service:
        with service.connect() as client:
            first = client.served_by()
        os.kill(service.pid, signal.SIGSTOP)  # it hears and reaps nothing meanwhile
        new = service.handoff("--probation", "0", pid=first)["new_pid"]
        harness.wait_gone(first)
        os.kill(new, signal.SIGKILL)
        os.kill(service.pid, signal.SIGCONT)
        service.says("crashed worker=1 status=137")
        service.serves()
        with service.connect() as client:
            assert client.served_by() not in {first, new}


def test_a_crash_is_noticed_also_when_the_supervisor_has_no_descriptor_left(tmp_path: Path) -> None:
    with supervised(tmp_path) as service:
        (first,) = service.servers()
        soft, hard = resource.prlimit(service.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(service.pid, resource.RLIMIT_NOFILE, (3, hard))
        os.kill(first, signal.SIGKILL)
        service.says("processes-unseen")
        assert "started worker=1" not in service.logged().partition("processes-unseen")[2]
        resource.prlimit(service.pid, resource.RLIMIT_NOFILE, (soft, hard))
        service.says("crashed worker=1 status=137")
        service.serves()


def test_a_worker_that_has_ended_does_not_keep_the_others_from_being_replaced(tmp_path: Path) -> None:
    port = harness.free_port()
    shared = ["--workers", "2", "--listen", f"127.0.0.1:{port}"]
    with supervised(tmp_path, *shared, port=port) as service:
        service.serves()
        first, second = service.servers()
        os.kill(first, signal.SIGTERM)  # it ends by itself, with status 0
        service.says("ended worker=1 status=0")
        report = service.handoff()
        assert [(worker["worker"], worker["old_pid"]) for worker in report["workers"]] == [(2, second)]
        status = service.status()
        assert (status["state"], status["generation"]) == ("serving", 2)
        assert [worker["state"] for worker in status["workers"]] == ["ended", "serving"]


def test_a_pid_file_belongs_to_one_supervisor(tmp_path: Path) -> None:
    pidfile = tmp_path / "echo.pid"
    pidfile.write_text(f"{os.getpid()}\n")  # left over: that pid is another program's by now
    with supervised(tmp_path, "--pidfile", str(pidfile)) as service:
        harness.becomes(pidfile.read_text, f"{service.pid}\n")
        done = harness.hotfd("run", "--pidfile", str(pidfile), "--", "sleep", "60")
        assert done.returncode == 1
        assert f"{pidfile}: it is the pid file of process {service.pid}" in done.stderr
        assert pidfile.read_text() == f"{service.pid}\n"


def test_a_handoff_puts_a_supervisor_above_a_server_and_a_crash_does_not_bring_the_handoff_back(tmp_path: Path) -> None:
    port = harness.free_port()
    server = [sys.executable, str(harness.script(tmp_path, "program.py", ECHO)), f"127.0.0.1:{port}"]
    with harness.server(tmp_path, server, port) as service:
        with Talker(service.address) as client:
            run = [*harness.HOTFD, "run", "--", *server]
            done = harness.hotfd("handoff", "--pid", str(service.pid), "--probation", "0.1", "--", *run)
            assert done.returncode == 0, done.stderr
            new = client.served_by()
            above = parent(new)
            service.pids.append(above)
            harness.becomes(lambda: f"[{above}] serves worker=1 pid={new}" in service.logged(), True)
            client.socket.sendall(b"die\n")
            assert client.read() == b""
        harness.becomes(lambda: service.logged().count(f"[{above}] serves worker=1"), 2)
        with Talker(service.address) as client:
            assert parent(client.served_by()) == above


def parent(pid: int) -> int:
    """Return a process's parent."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_a_manager_hears_signs_of_life_while_a_hung_old_process_is_replaced(tmp_path: Path) -> None:
    with manager(tmp_path) as system:
        env = {**os.environ, "NOTIFY_SOCKET": str(system.path), "WATCHDOG_USEC": "600000"}
        with supervised(tmp_path, "--hung-after", "1", env=env) as service, service.connect() as client:
            first = client.served_by()
            with in_background(service, "--probation", "30") as handoff:
                service.says("phase=probation")
                os.kill(first, signal.SIGSTOP)
                before = system.lines().count("WATCHDOG=1")
                harness.wait_gone(first)  # until the supervisor ends it, after two seconds and more
                assert system.lines().count("WATCHDOG=1") >= before + 3
                assert handoff()["outcome"] == "completed"


def test_a_supervisor_below_a_supervisor_hands_over_and_is_survived_by_its_server(tmp_path: Path) -> None:
    port = harness.free_port()
    server = [sys.executable, str(harness.script(tmp_path, "program.py", ECHO)), f"127.0.0.1:{port}"]
    inner = [*harness.HOTFD, "run", "--", *server]
    with supervised(tmp_path, command=inner, port=port) as service, service.connect() as client:
        service.serves()
        first = client.served_by()
        assert service.handoff()["old_pid"] == first
        new = client.served_by()
        os.kill(service.servers()[0], signal.SIGKILL)
        harness.becomes(service.servers, [new])
        assert client.served_by() == new
        service.process.terminate()
        assert service.ends() == 0


def test_it_waits_for_a_process_that_was_missed_when_it_looked_who_is_left(tmp_path: Path) -> None:
    blind = "from hotfd.supervisor import proc; proc.descendants = list; from hotfd.cli.group import main; main()"
    note = tmp_path / "pid"
    command = ["sh", "-c", f"sleep 0.7 & echo $! >{note}; exit 3"]
    done = subprocess.run(
        [sys.executable, "-c", blind, "run", "--", *command], capture_output=True, timeout=harness.PATIENCE
    )
    assert done.returncode == 3, done.stderr
    assert not harness.alive(int(note.read_text())), "it was left behind"


def test_what_is_no_address_is_a_mistake_of_usage() -> None:
    done = harness.hotfd("run", "--listen", "nonsense", "--", "true")
    assert done.returncode == 2
    assert "'nonsense' is no listen address" in done.stderr
