"""The parts of the supervisor that touch the system: starting, hearing, the pid file, /proc."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from hotfd import systemd
from hotfd.supervisor import proc
from hotfd.supervisor.inbox import Inbox
from hotfd.supervisor.launcher import Launcher
from hotfd.supervisor.pidfile import PidFile
from hotfd.supervisor.spawn import CannotStart, spawn
from tests.integration.harness import descriptors

# -- starting --------------------------------------------------------------------------------------


def output(tmp_path: Path, script: str, *sockets: socket.socket) -> str:
    """Start a shell script with sockets, wait for its end, and return what it wrote."""
    path = tmp_path / "out"
    before = descriptors()
    pid = spawn(
        ["sh", "-c", f"{{ {script}; }} >{path} 2>&1"],
        str(tmp_path),
        {"PATH": os.environ["PATH"], "WORD": "secret"},
        [sock.fileno() for sock in sockets],
    )
    assert os.waitpid(pid, 0)[1] == 0, path.read_text()
    assert descriptors() == before
    return path.read_text().strip()


def test_the_program_gets_its_directory_its_environment_and_a_group_of_its_own(tmp_path: Path) -> None:
    directory, word, pid, group = output(
        tmp_path, "pwd -P; echo $WORD; echo $$; ps -o pgid= -p $$ || cut -d' ' -f5 /proc/$$/stat"
    ).split()
    assert (directory, word) == (str(tmp_path.resolve()), "secret")
    assert pid == group


def test_sockets_have_the_numbers_from_3_on_and_the_variables_name_this_very_process(tmp_path: Path) -> None:
    with socket.socket() as one, socket.socket(socket.AF_UNIX) as two:
        said = output(tmp_path, "echo $LISTEN_FDS $LISTEN_PID $$; readlink /proc/$$/fd/3 /proc/$$/fd/4", one, two)
        count, listen_pid, pid, *links = said.split()
        assert (count, listen_pid) == ("2", pid)
        assert links == [os.readlink(f"/proc/self/fd/{sock.fileno()}") for sock in (one, two)]


def test_without_sockets_nothing_but_the_standard_streams_is_inherited(tmp_path: Path) -> None:
    with socket.socket() as mine:
        os.set_inheritable(mine.fileno(), False)
        said = output(tmp_path, "echo x$LISTEN_FDS$LISTEN_PID; ls /proc/self/fd").split()
        assert said[0] == "x"
        assert str(mine.fileno()) not in said[1:] or mine.fileno() < 4


def test_signals_are_as_a_program_expects_them(tmp_path: Path) -> None:
    lines = output(tmp_path, "exec cat /proc/self/status").splitlines()
    fields = dict(line.split(":\t") for line in lines if line.startswith("Sig"))
    assert int(fields["SigBlk"], 16) == 0
    assert not int(fields["SigIgn"], 16) >> (signal.SIGPIPE - 1) & 1


@pytest.mark.parametrize(
    ("command", "cwd", "status", "word"),
    [
        (["/nowhere/at/all"], "/", 127, "No such file"),
        (["no-such-command-anywhere"], "/", 127, "No such file"),
        (["/etc/passwd"], "/", 126, "denied"),
        (["true"], "/nowhere/at/all", 126, "directory /nowhere/at/all"),
    ],
)
def test_what_cannot_be_executed_is_told_and_leaves_nothing(
    command: list[str], cwd: str, status: int, word: str
) -> None:
    before = descriptors()
    with pytest.raises(CannotStart) as caught:
        spawn(command, cwd, {"PATH": os.environ["PATH"]}, [])
    assert caught.value.status == status
    assert word in caught.value.detail
    assert descriptors() == before
    with pytest.raises(ChildProcessError):  # reaped
        os.waitpid(-1, os.WNOHANG)


# -- hearing ---------------------------------------------------------------------------------------


async def test_a_message_is_heard_with_the_pid_of_its_sender() -> None:
    heard: list[tuple[int, dict[str, str]]] = []
    inbox = Inbox(lambda pid, said: heard.append((pid, said)))
    try:
        script = (
            "import os, socket\n"
            "s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\n"
            f"s.sendto(b'READY=1\\nSTATUS=' + str(os.getpid()).encode(), '\\0' + {inbox.address[1:]!r})"
        )
        subprocess.run([sys.executable, "-c", script], check=True)
        inbox.drain()
        ((pid, said),) = heard
        assert said == {"READY": "1", "STATUS": str(pid)}
    finally:
        inbox.close()
        inbox.close()


async def test_descriptors_and_garbage_are_dropped() -> None:
    heard: list[dict[str, str]] = []
    before = descriptors()
    inbox = Inbox(lambda pid, said: heard.append(said))
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.connect("\0" + inbox.address[1:])
            socket.send_fds(sock, [b"FDSTORE=1"], [0, 1, 2])
            sock.send(b"\xff\xfe")
            sock.send(b"x" * 100_000)
            open_before = descriptors()
            inbox.drain()
            assert descriptors() == open_before
        assert heard == [{"FDSTORE": "1"}, {}, {}]
    finally:
        inbox.close()
    assert descriptors() == before


# -- the pid file ----------------------------------------------------------------------------------


def test_the_pid_file_replaces_an_old_one_in_one_step_and_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "s.pid"
    path.write_text("1\n")
    before = path.stat().st_ino
    pidfile = PidFile(str(path))
    pidfile.write()
    assert path.read_text() == f"{os.getpid()}\n"
    assert path.stat().st_ino != before
    assert [entry.name for entry in tmp_path.iterdir()] == ["s.pid"]
    pidfile.remove()
    assert not path.exists()
    pidfile.remove()


def test_a_pid_file_that_somebody_else_has_written_meanwhile_stays(tmp_path: Path) -> None:
    path = tmp_path / "s.pid"
    pidfile = PidFile(str(path))
    pidfile.write()
    path.write_text("1\n")
    pidfile.remove()
    assert path.read_text() == "1\n"


def test_a_pid_file_that_was_never_written_removes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "s.pid"
    path.write_text(f"{os.getpid()}\n")
    PidFile(str(path)).remove()
    assert path.exists()


def test_a_pid_file_that_cannot_be_put_in_place_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "s.pid").mkdir()
    before = descriptors()
    with pytest.raises(OSError, match="directory"):
        PidFile(str(tmp_path / "s.pid")).write()
    assert [entry.name for entry in tmp_path.iterdir()] == ["s.pid"]
    assert descriptors() == before


# -- /proc -----------------------------------------------------------------------------------------


def test_descendants_are_found_at_any_depth_and_zombies_are_not() -> None:
    child = subprocess.Popen(["sh", "-c", "sleep 100 & echo $!; exec sleep 101"], stdout=subprocess.PIPE, text=True)
    dead = subprocess.Popen(["true"])
    assert child.stdout is not None
    grandchild = int(child.stdout.readline())
    os.waitid(os.P_PID, dead.pid, os.WEXITED | os.WNOWAIT)
    try:
        found = {process.pid: process for process in proc.descendants()}
        assert found[child.pid].parent == os.getpid()
        assert found[grandchild].parent == child.pid
        assert proc.descendant(grandchild) == found[grandchild]
        assert proc.descendant(child.pid) == found[child.pid]
        assert [proc.descendant(pid) for pid in (dead.pid, os.getpid(), 1, 1 << 22)] == [None] * 4
        assert dead.pid not in found
    finally:
        os.kill(grandchild, signal.SIGKILL)
        child.kill()
        child.communicate()
        dead.wait()


@contextmanager
def running(environment: dict[str, str], **options: Any) -> Iterator[int]:
    """Run a process with this environment; it runs its program, and not only ours before execve, when it has spoken."""
    environment = {"PATH": os.environ["PATH"], **environment}
    child = subprocess.Popen(["sh", "-c", "echo; read word"], env=environment, stdin=-1, stdout=-1, **options)
    assert child.stdout is not None
    child.stdout.readline()
    try:
        yield child.pid
    finally:
        child.communicate()


def test_the_worker_is_known_by_the_environment_and_else_by_the_process_group() -> None:
    with running({"HOTFD_WORKER": "3"}) as pid:
        assert proc.worker_of(proc.Descendant(pid, os.getpid(), 77), {77: 5}) == 3
    assert proc.worker_of(proc.Descendant(1 << 22, os.getpid(), 77), {77: 5}) == 5
    assert proc.worker_of(proc.Descendant(1 << 22, os.getpid(), 78), {77: 5}) is None


def test_a_process_of_a_handoff_is_known_by_its_open_channel() -> None:
    mine, theirs = socket.socketpair()
    with mine, theirs:
        number = theirs.fileno()
        for passed, expected in (((number,), True), ((), False)):
            with running({"HOTFD_CHANNEL": str(number)}, pass_fds=passed) as pid:
                assert proc.started_by_handoff(pid) is expected
    assert not proc.started_by_handoff(1 << 22)


def test_cpu_time_grows_while_a_process_computes_and_at_no_other_time() -> None:
    begin = proc.cpu_time(os.getpid())
    while proc.cpu_time(os.getpid()) == begin:
        sum(range(1000))
    with running({}) as pid:
        os.kill(pid, signal.SIGSTOP)
        before = proc.cpu_time(pid)
        assert proc.cpu_time(pid) == before
        os.kill(pid, signal.SIGCONT)
    assert proc.cpu_time(1 << 22) == 0


def test_a_signal_is_survived_by_who_handles_or_ignores_it() -> None:
    script = (
        "import signal; signal.signal(1, signal.SIG_IGN); signal.signal(10, print); print(flush=True); signal.pause()"
    )
    child = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    try:
        survived = [number for number in (1, 10, 12, 28) if proc.survives(child.pid, number)]
        assert survived == [1, 10]
    finally:
        child.kill()
        child.communicate()
    assert not proc.survives(1 << 22, 1)


def test_the_launcher_goes_on_with_what_a_handoff_has_brought(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = {
        1: (["python", "server.py"], "/a"),
        2: (["/bin/python", "server.py"], "/a"),  # the same, by its full name
        3: (["/bin/python", "server.py"], "/b"),
        4: (["/bin/python", "other.py"], "/b"),
    }
    monkeypatch.setattr(proc, "command_line", ran.get)
    monkeypatch.setattr("shutil.which", lambda name, path: "/bin/python")
    started: list[object] = []
    monkeypatch.setattr("hotfd.supervisor.launcher.spawn", lambda *arguments: started.append(arguments[:2]) or 1)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PWD", str(tmp_path))
    launcher = Launcher(("sh", "-c", "python server.py"), "@here")
    for pid in (1, 2, 99, 3, 4):
        launcher.learn(1, pid)
        launcher.start(1)
    launcher.start(2)
    asked = (["sh", "-c", "python server.py"], str(tmp_path))
    assert started == [
        asked,
        asked,
        asked,
        (["/bin/python", "server.py"], "/b"),
        (["/bin/python", "other.py"], "/b"),
        asked,
    ]


def test_the_servers_environment_has_the_supervisors_variables_and_not_its_managers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "LISTEN_FDS", "HOTFD_WORKER", "KEPT"):
        monkeypatch.setenv(name, "of the manager")
    seen: list[dict[str, str]] = []
    monkeypatch.setattr("hotfd.supervisor.launcher.spawn", lambda *arguments: seen.append(arguments[2]) or 1)
    Launcher(("true",), "@here").start(2)
    (environment,) = seen
    names = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "LISTEN_FDS", "HOTFD_SUPERVISOR", "HOTFD_WORKER", "KEPT")
    assert [environment.get(name) for name in names] == ["@here", None, None, str(os.getpid()), "2", "of the manager"]


def test_what_is_passed_on_need_not_be_a_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    read, write = os.pipe2(os.O_CLOEXEC)

    async def start() -> int:
        async with AsyncExitStack() as stack:
            launcher = Launcher(("sh", "-c", f"readlink /proc/self/fd/3 > {out}"), "@here")
            launcher.listen((), stack)
            return os.waitpid(launcher.start(1), 0)[1]

    monkeypatch.setattr(systemd, "listen_descriptors", lambda environment, pid: [read])
    with open(write, "wb"):
        assert asyncio.run(start()) == 0
    assert out.read_text().startswith("pipe:")
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(read)


def test_the_channel_of_a_handoff_is_for_the_first_server_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    script = f"echo x$HOTFD_CHANNEL >> {out}; test -z $HOTFD_CHANNEL || readlink /proc/self/fd/$HOTFD_CHANNEL >> {out}"
    before = descriptors()
    mine, its = socket.socketpair()
    name = os.readlink(f"/proc/self/fd/{its.fileno()}")
    monkeypatch.setenv("HOTFD_CHANNEL", str(its.detach()))
    launcher = Launcher(("sh", "-c", script), "@here")
    with mine:
        for _ in range(2):
            assert os.waitpid(launcher.start(1), 0)[1] == 0
    number, link, second = out.read_text().split()
    assert int(number[1:]) >= 3
    assert (link, second) == (name, "x")
    assert descriptors() == before


def test_a_server_that_cannot_be_started_for_want_of_descriptors_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(flags: int) -> tuple[int, int]:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(os, "pipe2", none)
    with pytest.raises(CannotStart, match="Too many open files"):
        spawn(["true"], "/", {}, [])


def test_want_of_descriptors_is_not_taken_for_the_end_of_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    import builtins

    real = builtins.open

    def none(path: object, *arguments: Any, **options: Any) -> Any:
        if str(path).startswith("/proc/"):
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return real(path, *arguments, **options)  # type: ignore[call-overload]

    assert proc.lives(os.getpid())
    monkeypatch.setattr(builtins, "open", none)
    for look in (proc.descendants, lambda: proc.descendant(1), lambda: proc.lives(os.getpid())):
        with pytest.raises(OSError, match="Too many open files"):
            look()


def test_a_pid_file_of_another_supervisor_that_lives_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s.pid"
    with named("hotfd-run") as pid:
        path.write_text(f"{pid}\n")
        with pytest.raises(FileExistsError, match=f"process {pid}"):
            PidFile(str(path)).write()
        assert path.read_text() == f"{pid}\n"
    with named("sleep") as pid:
        path.write_text(f"{pid}\n")
        PidFile(str(path)).write()
    assert path.read_text() == f"{os.getpid()}\n"


def test_half_a_pid_file_of_one_that_was_killed_with_this_pid_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / f"s.pid.{os.getpid()}").touch()
    PidFile(str(tmp_path / "s.pid")).write()
    assert [entry.name for entry in tmp_path.iterdir()] == ["s.pid"]


@contextmanager
def named(name: str) -> Iterator[int]:
    """Run a process of a given name; yield its pid."""
    script = f"import prctl; prctl.set_name({name!r}); print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process.pid
        process.kill()
