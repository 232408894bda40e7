"""``hotfd run``: handoffs, crashes, signals and ends under a stable parent."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration import harness
from tests.integration.supervised import ECHO, Talker, in_background, seen, states_below, supervised, watching

V2 = ECHO.replace('b"%d %s"', 'b"%d version two %s"')

SLOW = ECHO.replace("import os, ", "import asyncio, os, ").replace(
    "async for line in conn:",
    "async for line in conn:\n            if line == b'work':\n                await asyncio.sleep(60)",
)
"""A server that works on the word ``work`` for a minute, and is at no boundary until then."""

LITTER = ECHO.replace("import os, ", "import subprocess, threading, os, ").replace(
    "if __name__",
    """def litter():
        subprocess.run(["sh", "-c", "sleep 0.05 & sleep 0.02 &"])
        timer = threading.Timer(0.05, litter)
        timer.daemon = True
        timer.start()

    litter()

    if __name__""",
)
"""A server that makes orphans all the time, whose ends nobody but pid 1 can reap."""


def ends_with(*arguments: str, command: list[str]) -> int:
    """Run a command under ``hotfd run``, and return the exit status."""
    return harness.hotfd("run", *arguments, "--", *command).returncode


# -- exit statuses ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "status"),
    [
        (["sh", "-c", "exit 0"], 0),
        (["sh", "-c", "exit 3"], 3),
        (["sh", "-c", "kill -9 $$"], 137),
        (["sh", "-c", "kill -TERM $$"], 143),
        (["/nowhere/to/be/found"], 127),
        (["/"], 126),
    ],
)
def test_the_exit_status_is_the_servers(command: list[str], status: int) -> None:
    assert ends_with(command=command) == status


def test_there_must_be_a_command_and_several_workers_need_sockets() -> None:
    done = harness.hotfd("run")
    assert (done.returncode, "after --" in done.stderr) == (2, True)
    done = harness.hotfd("run", "--workers", "2", "--", "true")
    assert (done.returncode, "--listen" in done.stderr) == (2, True)


def test_an_address_that_is_taken_is_told_at_once(tmp_path: Path) -> None:
    with supervised(tmp_path) as service:
        done = harness.hotfd("run", "--listen", f"127.0.0.1:{service.address[1]}", "--", "true")
        assert done.returncode == 1
        assert "cannot listen" in done.stderr


# -- handoffs --------------------------------------------------------------------------------------


def test_a_handoff_by_the_supervisors_pid_keeps_client_supervisor_and_pid_file(tmp_path: Path) -> None:
    pidfile = tmp_path / "echo.pid"
    with supervised(tmp_path, "--pidfile", str(pidfile)) as service, service.connect() as client:
        first = client.served_by()
        harness.becomes(pidfile.exists, True)  # written when every worker serves, which this client needs not wait for
        assert pidfile.read_text() == f"{service.pid}\n"
        for generation in (2, 3, 4):
            report = service.handoff()
            assert (report["outcome"], report["generation"]) == ("completed", generation)
            assert report["connections"]["moved"] == 1
            assert client.served_by() == report["new_pid"] != first
            assert service.servers() == [report["new_pid"]]
        assert pidfile.read_text() == f"{service.pid}\n"
        harness.becomes(lambda: [pid for pid, _ in service.descendants()], [report["new_pid"]])  # no zombie either
    assert service.process.returncode == 0
    assert not pidfile.exists()


def test_a_handoff_that_the_server_itself_is_asked_for_is_noticed(tmp_path: Path) -> None:
    with supervised(tmp_path) as service, service.connect() as client:
        report = service.handoff(pid=client.served_by())
        assert client.served_by() == report["new_pid"]
        assert service.servers() == [report["new_pid"]]
        assert service.handoff()["old_pid"] == report["new_pid"]


def test_sigusr2_hands_over_with_and_without_a_supervisor(tmp_path: Path) -> None:
    source = ECHO.replace("listen=sys.argv[1]", "listen='127.0.0.1:' + sys.argv[1]")
    direct = harness.program(tmp_path, source, name="direct.py")
    with supervised(tmp_path) as service, direct as alone, service.connect() as one, Talker(alone.address) as other:
        first = one.served_by()
        alone.status()  # it serves, and handles signals
        for pid in (service.pid, alone.pid):  # both at once: the probation takes its five seconds
            os.kill(pid, signal.SIGUSR2)
        service.says("handoff outcome=completed")
        assert one.served_by() not in {first, service.pid}
        harness.becomes(lambda: "outcome=completed" in alone.logged(), True)
        new = other.served_by()
        assert new != alone.pid
        alone.pids.append(new)


def test_a_handoff_to_another_command_goes_through_and_a_crash_does_not_undo_it(tmp_path: Path) -> None:
    second = harness.script(tmp_path, "second.py", V2)
    with supervised(tmp_path) as service:
        with service.connect() as client:
            service.handoff("--", sys.executable, str(second), f"127.0.0.1:{service.address[1]}")
            assert b"version two" in client.say("hear")
            os.kill(client.served_by(), signal.SIGKILL)
        service.says("crashed")
        service.serves()
        with service.connect() as client:
            assert b"version two" in client.say("hear")


def test_a_rollback_goes_through_the_supervisor_too(tmp_path: Path) -> None:
    second = harness.script(tmp_path, "second.py", V2)
    with supervised(tmp_path) as service, service.connect() as client:
        service.handoff("--", sys.executable, str(second), f"127.0.0.1:{service.address[1]}")
        assert b"version two" in client.say("hear")
        done = harness.hotfd("rollback", "--pid", str(service.pid), "--probation", "0.1")
        assert done.returncode == 0, done.stdout + done.stderr
        assert b"version two" not in client.say("hear")
        assert harness.hotfd("history", "--pid", str(service.pid)).stdout.count("runs now") == 1
        client.socket.sendall(b"die\n")
        service.says("crashed")
        service.serves()
        with service.connect() as again:
            assert b"version two" not in again.say("hear")


def test_a_bad_version_is_refused_and_the_old_one_serves(tmp_path: Path) -> None:
    with supervised(tmp_path) as service, service.connect() as client:
        first = client.served_by()
        report = service.handoff("--", sys.executable, "-c", "raise SystemExit(7)", expect=1)
        assert (report["outcome"], report["reason"].partition(":")[0]) == ("rolled-back", "new-exited")
        assert client.served_by() == first
        assert service.status()["state"] == "serving"
        assert service.handoff()["outcome"] == "completed"


def test_a_server_below_a_shell_is_handed_over_and_outlives_the_shell(tmp_path: Path) -> None:
    port = harness.free_port()
    program = harness.script(tmp_path, "program.py", ECHO)
    command = ["sh", "-c", f"{sys.executable} {program} 127.0.0.1:{port}; true"]
    with supervised(tmp_path, command=command, port=port) as service, service.connect() as client:
        report = service.handoff()
        assert client.served_by() == report["new_pid"]
        harness.becomes(lambda: [pid for pid, _ in service.descendants()], [report["new_pid"]])
        assert service.handoff()["outcome"] == "completed"
        service.process.terminate()
        assert service.ends() == 0


def test_the_supervisor_keeps_no_descriptor_of_a_handoff(tmp_path: Path) -> None:
    with supervised(tmp_path) as service:
        service.handoff()
        service.status()
        before = harness.descriptors_of(service.pid)
        for _ in range(3):
            service.handoff()
        harness.becomes(lambda: harness.descriptors_of(service.pid), before)


# -- crashes ---------------------------------------------------------------------------------------


def test_a_server_that_crashed_is_started_again(tmp_path: Path) -> None:
    with supervised(tmp_path) as service:
        with service.connect() as client:
            first = client.served_by()
            client.socket.sendall(b"die\n")
            assert client.read() == b""
        service.says("crashed worker=1 status=137")
        service.serves()
        with service.connect() as client:
            assert client.served_by() != first
        assert service.status()["restarts"] == 1


def test_a_server_that_crashes_again_and_again_ends_the_service_with_its_status(tmp_path: Path) -> None:
    source = ECHO.replace('await conn.send(b"hello', "os._exit(9)  #")
    with supervised(tmp_path, "--restarts", "2", "--listen", "127.0.0.1:0", source=source) as service:
        for crashes in (1, 2, 3):
            harness.becomes(lambda: service.logged().count("serves worker=1"), crashes)
            with pytest.raises((OSError, AssertionError)), service.connect() as client:
                assert client.greeting
        assert service.ends() == 9


def test_what_cannot_start_is_not_tried_again(tmp_path: Path) -> None:
    with supervised(tmp_path, command=["sh", "-c", "exit 5"], wait=False) as service:
        assert service.ends() == 5
        assert service.logged().count("started worker=1") == 1


def test_clients_wait_for_the_restart_in_the_queue_of_the_supervisors_socket(tmp_path: Path) -> None:
    port = harness.free_port()
    with supervised(tmp_path, "--listen", f"127.0.0.1:{port}", port=port) as service:
        with service.connect() as client:
            client.socket.sendall(b"die\n")
            assert client.read() == b""
        with service.connect() as client:  # at once: nobody refuses, and the next server greets
            assert client.greeting.startswith(b"hello")


def test_an_old_process_killed_in_its_probation_is_replaced_by_its_successor_and_by_nobody_else(tmp_path: Path) -> None:
    with supervised(tmp_path) as service, service.connect() as client:
        first = client.served_by()
        with in_background(service, "--probation", "30") as handoff:
            service.says("phase=probation")
            os.kill(first, signal.SIGKILL)
            report = handoff()
        assert report["outcome"] == "completed"
        assert client.served_by() == report["new_pid"]
        assert service.servers() == [report["new_pid"]]
        assert service.logged().count("started worker=1") == 1
        assert service.handoff()["generation"] == 3


def test_when_both_die_in_a_handoff_a_new_server_is_started(tmp_path: Path) -> None:
    with supervised(tmp_path) as service:
        with service.connect() as client, in_background(service, "--probation", "30") as handoff:
            first = client.served_by()
            service.says("phase=probation")
            (new,) = {pid for pid, _ in service.descendants()} - {first}
            for pid in (first, new):
                os.kill(pid, signal.SIGSTOP)
            for pid in (new, first):
                os.kill(pid, signal.SIGKILL)
            report = handoff(expect=1)
        assert report["reason"].startswith(("both-exited", "old-exited"))
        service.serves()
        with service.connect() as client:
            assert client.served_by() not in {first, new}


def test_an_old_process_that_hangs_after_its_successor_took_over_is_ended(tmp_path: Path) -> None:
    with supervised(tmp_path, "--hung-after", "1") as service, service.connect() as client:
        first = client.served_by()
        with in_background(service, "--probation", "1") as handoff:
            service.says("phase=probation")
            os.kill(first, signal.SIGSTOP)
            report = handoff()
        assert report["outcome"] == "completed"
        assert "killed" in service.logged()
        assert client.served_by() == report["new_pid"] != first
        assert not harness.alive(first)
        assert service.servers() == [report["new_pid"]]


def test_an_old_process_that_hangs_while_it_hands_over_is_ended_and_the_new_one_inherits(tmp_path: Path) -> None:
    hung_soon = supervised(tmp_path, "--hung-after", "1", source=SLOW)
    with hung_soon as service, service.connect() as client, service.connect() as busy:
        first = client.served_by()
        busy.socket.sendall(b"work\n")
        with in_background(service, "--boundary-timeout", "60", "--deadline", "60") as handoff:
            service.says("phase=move")
            harness.becomes(lambda: client.served_by() != first, True)
            os.kill(first, signal.SIGSTOP)
            report = handoff(expect=3)  # the busy session had not been offered, and is lost with the old process
        assert report["reason"].startswith("old-exited:")
        assert client.served_by() == report["new_pid"]
        assert service.servers() == [report["new_pid"]]


def test_an_old_process_that_computes_for_long_in_a_handoff_is_let_alone(tmp_path: Path) -> None:
    source = ECHO.replace("import os, ", "import time, os, ").replace(
        'name="echo")',
        'name="echo", cutover="together", export_state=export, import_state=lambda state: None)',
    )
    source = source.replace(
        "    if __name__",
        """    def export():
        end = time.thread_time() + 3.5
        while time.thread_time() < end:
            pass
        return 1

    if __name__""",
    )
    with supervised(tmp_path, "--hung-after", "1", source=source) as service, service.connect() as client:
        report = service.handoff()
        assert report["outcome"] == "completed"
        assert "killed" not in service.logged()
        assert client.served_by() == report["new_pid"]


def test_a_server_that_hangs_before_it_begins_a_handoff_holds_up_nobody(tmp_path: Path) -> None:
    with supervised(tmp_path) as service, service.connect() as client:
        (first,) = service.servers()
        os.kill(first, signal.SIGSTOP)
        report = service.handoff(expect=1)
        assert report["reason"].startswith("unresponsive:")
        os.kill(first, signal.SIGCONT)
        assert service.handoff()["outcome"] == "completed"
        assert client.served_by() != first


# -- signals and ends ------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_order_to_stop_is_passed_on_and_everything_ends_in_order(tmp_path: Path, number: int) -> None:
    with supervised(tmp_path) as service, service.connect() as client:
        service.handoff()
        os.kill(service.pid, number)
        assert client.read() == b""
        assert service.ends() == 0
        assert "killed" not in service.logged()


def test_the_order_to_stop_ends_old_generations_too(tmp_path: Path) -> None:
    with supervised(tmp_path, source=SLOW) as service, service.connect() as busy:
        first = busy.served_by()
        busy.socket.sendall(b"work\n")
        report = service.handoff("--boundary-timeout", "0.2", expect=3)
        assert report["sessions"]["kept"] == 1
        assert service.status()["workers"][0]["elders"] == [first]
        service.process.terminate()
        assert service.ends() == 0
        assert not harness.alive(first)
        assert busy.read() == b""


def test_the_second_order_to_stop_kills(tmp_path: Path) -> None:
    command = ["sh", "-c", "trap '' TERM; echo up; while :; do sleep 1; done"]
    with supervised(tmp_path, command=command, wait=False) as service:
        service.says("up\n")
        service.process.terminate()
        service.says("stopping signal=SIGTERM")
        service.process.terminate()
        assert service.ends() == 137


def test_what_does_not_end_in_time_is_killed(tmp_path: Path) -> None:
    command = ["sh", "-c", "trap '' TERM; echo up; while :; do sleep 1; done"]
    with supervised(tmp_path, "--stop-timeout", "0.3", command=command, wait=False) as service:
        service.says("up\n")
        service.process.terminate()
        assert service.ends() == 137


def test_the_order_to_stop_during_a_handoff_ends_both_processes(tmp_path: Path) -> None:
    with (
        supervised(tmp_path) as service,
        service.connect() as client,
        in_background(service, "--probation", "1.5") as done,
    ):
        service.says("phase=probation")
        service.process.terminate()
        done(expect=None)
        assert service.ends() == 0
        assert client.read() == b""


def test_a_signal_that_the_server_handles_reaches_it_and_one_that_would_kill_it_does_not(tmp_path: Path) -> None:
    source = ECHO.replace(
        "    if __name__",
        "    signal.signal(signal.SIGUSR1, lambda *_: print('usr1 heard', flush=True))\n\n    if __name__",
    )
    with supervised(tmp_path, source=source) as service, service.connect() as client:
        first = client.served_by()
        os.kill(service.pid, signal.SIGUSR1)
        service.says("usr1 heard")
        os.kill(service.pid, signal.SIGHUP)
        service.says("signal-not-passed-on signal=SIGHUP")
        assert client.served_by() == first


def test_helpers_that_a_server_leaves_behind_end_with_the_service(tmp_path: Path) -> None:
    source = ECHO.replace("    if __name__", "    import subprocess\n\n    if __name__").replace(
        'name="echo")', 'name="echo", on_start=lambda: subprocess.Popen(["sleep", "1000"]))'
    )
    with supervised(tmp_path, source=source) as service:
        (helper,) = {pid for pid, _ in service.descendants()} - set(service.servers())
        service.process.terminate()
        assert service.ends() == 0
        assert not harness.alive(helper)


def test_a_supervisor_that_is_killed_leaves_the_server_and_its_clients_in_peace(tmp_path: Path) -> None:
    with supervised(tmp_path) as service, service.connect() as client:
        first = client.served_by()
        service.process.kill()
        service.ends()
        assert client.served_by() == first
        report = service.handoff(pid=first)  # nobody watches it now, so its end is fine
        assert client.served_by() == report["new_pid"]
        os.kill(report["new_pid"], signal.SIGTERM)
        assert client.read() == b""
        harness.wait_gone(report["new_pid"])
        assert harness.hotfd("ps").returncode == 0  # tidies up after the supervisor


# -- being asked -----------------------------------------------------------------------------------


def test_ps_and_status_show_supervisor_and_server(tmp_path: Path) -> None:
    with supervised(tmp_path, "--name", "chat") as service, service.connect():
        status = service.status()
        assert {name: status[name] for name in ("pid", "name", "role", "state", "generation", "connections")} == {
            "pid": service.pid, "name": "chat", "role": "supervisor", "state": "serving", "generation": 1, "connections": 1,
        }  # fmt: skip
        assert status["listeners"] == [f"127.0.0.1:{service.address[1]}"]
        shown = harness.hotfd("ps").stdout
        rows = {row.split()[0]: row for row in shown.splitlines()[1:]}
        assert "chat (supervisor)" in rows[str(service.pid)]
        assert "(supervisor)" not in rows[str(service.servers()[0])]


def test_other_instructions_go_to_the_server_and_unknown_ones_are_refused_by_it(tmp_path: Path) -> None:
    from hotfd.control import Client, RequestFailed, find

    with supervised(tmp_path) as service, service.connect(), Client.connect(find(service.pid)) as client:
        assert client.ask("sessions")["pid"] == service.servers()[0]
        with pytest.raises(RequestFailed) as refused:
            client.ask("nonsense")
        assert refused.value.code == "unknown-instruction"


def test_a_watch_of_the_supervisor_goes_on_over_handoff_and_crash(tmp_path: Path) -> None:
    with supervised(tmp_path) as service, watching(service) as events:
        assert next(events)["event"] == "watching"
        report = service.handoff()
        assert seen(events, "outcome")["report"]["id"] == report["id"]
        assert seen(events, "replaced")["pid"] == report["new_pid"]
        os.kill(report["new_pid"], signal.SIGKILL)
        assert seen(events, "replaced")["pid"] not in {report["old_pid"], report["new_pid"]}


# -- pid 1 -----------------------------------------------------------------------------------------


def namespace() -> list[str]:
    """Return what starts a command as pid 1 of a pid namespace; skip where that is not permitted."""
    ways = [
        ["unshare", "--pid", "--fork", "--mount-proc"],
        ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc"],
    ]
    if shutil.which("unshare") is None:
        pytest.skip("there is no unshare(1)")
    for way in ways:
        if subprocess.run([*way, "true"], capture_output=True).returncode == 0:
            return [*way, "--kill-child"]
    pytest.skip(
        "pid namespaces may not be made here: "
        + subprocess.run([*ways[1], "true"], capture_output=True, text=True).stderr
    )


def test_as_pid_1_of_a_namespace_it_hands_over_reaps_and_ends_in_order(tmp_path: Path) -> None:
    with supervised(tmp_path, source=LITTER, prefix=namespace(), start_new_session=True) as outer:
        ((inner, _),) = [(pid, state) for pid, state in outer.descendants() if is_first(pid)]
        with outer.connect() as client:
            assert client.greeting.startswith(b"hello")
            inside = [*harness.HOTFD, "handoff", "--pid", "1", "--json", "--probation", "0.1"]
            users = ["--user", "--preserve-credentials"] if "--user" in outer.process.args else []
            enter = ["nsenter", "--target", str(inner), "--pid", "--mount", *users]
            for generation in (2, 3):
                if generation == 2 and shutil.which("nsenter") is not None:
                    done = subprocess.run([*enter, *inside], capture_output=True, text=True)
                else:
                    done = harness.hotfd("handoff", "--pid", str(inner), "--json", "--probation", "0.1")
                assert done.returncode == 0, done.stderr + outer.logged()
                assert f'"generation":{generation}' in done.stdout
            assert client.say("still").endswith(b"still")
            harness.becomes(lambda: [s for s in states_below(inner) if s == "Z"], [])
            os.kill(inner, signal.SIGTERM)
            assert client.read() == b""
        assert outer.ends() == 0
        assert "killed" not in outer.logged()


def test_as_pid_1_its_exit_status_is_the_servers(tmp_path: Path) -> None:
    done = subprocess.run(
        [*namespace(), *harness.HOTFD, "run", "--", "sh", "-c", "exit 3"], capture_output=True, start_new_session=True
    )
    assert done.returncode == 3


def is_first(pid: int) -> bool:
    """Return whether a process is pid 1 where it lives."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(line.split()[-1] for line in lines if line.startswith("NSpid")) == "1"
