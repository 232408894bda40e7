"""From a pid to the server's socket: who is found, and who is not taken for the server."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hotfd.control import Client, RuntimeDirectory, Unreachable, at, find, visible
from hotfd.control.process import Process, start_time, translate
from tests.unit.control_fakes import (
    NOBODY,
    as_user,
    greeting,
    needs_root,
    open_descriptors,
    process,
    public_directory,
    serving,
    status,
)


@pytest.fixture(autouse=True)
def _no_descriptor_is_left():
    before = open_descriptors()
    yield
    assert open_descriptors() == before


@pytest.fixture
def run(tmp_path, monkeypatch):
    """The runtime directory of the server; this process's own environment names another one."""
    monkeypatch.setenv("HOTFD_RUNTIME_DIR", str(tmp_path / "elsewhere"))
    return tmp_path / "run"


def refused(call, *arguments):
    with pytest.raises(Unreachable) as caught:
        call(*arguments)
    return caught.value.code, caught.value.detail


def test_a_server_is_found_where_its_own_environment_says(run):
    with process(run, "serves") as server, Client.connect(find(server.pid)) as client:
        assert client.pid == client.greeting["pid"] == server.pid
        assert client.greeting["start_time"] == start_time(server.pid)
        assert client.ask("status")["name"] == "echo"


def test_a_server_is_found_by_its_socket(run):
    with process(run, "serves") as server, Client.connect(at(str(run / f"{server.pid}.sock"))) as client:
        assert client.pid == server.pid


def test_a_server_that_set_its_environment_itself_is_found_where_ours_says(tmp_path, monkeypatch):
    monkeypatch.setenv("HOTFD_RUNTIME_DIR", str(tmp_path / "run"))
    with serving(tmp_path / "run", {"status": status}), Client.connect(find(os.getpid())) as client:
        assert client.pid == os.getpid()


def test_every_server_of_this_user_is_visible(run):
    with process(run, "serves") as one, process(run, "serves") as other:
        pids = [target.process.pid for target in visible()]
    assert {one.pid, other.pid} <= set(pids)
    assert os.getpid() not in pids


def test_no_such_process(run):
    code, detail = refused(find, 4_194_400)
    assert code == "no-such-process"
    assert "there is no process 4194400" in detail


def test_a_process_that_has_exited_and_is_not_reaped_is_no_process(run):
    child = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    code, detail = refused(find, child.pid)
    child.wait()
    assert (code, "has exited" in detail) == ("no-such-process", True)


def test_a_process_that_is_no_server(run):
    code, detail = refused(find, os.getppid())
    assert code == "not-a-server"
    assert "is not a hotfd server" in detail
    assert "/tmp/hotfd-" in detail, "it must say where it looked"


def test_a_directory_that_others_may_enter_is_not_used_and_is_named(run):
    with process(run, "serves") as server:
        run.chmod(0o755)
        code, detail = refused(find, server.pid)
    assert code == "not-a-server"
    assert f"{run} has mode 0755" in detail


@pytest.mark.skipif(os.geteuid() != 0, reason=needs_root)
def test_a_directory_of_a_third_user_is_not_used(run):
    with process(run, "serves") as server:
        os.chown(run, NOBODY, NOBODY)
        code, detail = refused(find, server.pid)
    assert code == "not-a-server"
    assert f"owned by uid {NOBODY}" in detail


@pytest.mark.skipif(os.geteuid() != 0, reason=needs_root)
@pytest.mark.parametrize("own", [False, True], ids=["somebody else's server", "his own server"])
def test_another_user_controls_only_his_own_servers(own):
    program = """
os.environ["HOTFD_RUNTIME_DIR"] = sys.argv[2]
try:
    with control.Client.connect(control.find(int(sys.argv[1]))) as client:
        print("connected")
except control.Unreachable as exc:
    print(exc.code, exc.detail)
"""
    with public_directory() as public:
        run = public / "run"
        run.mkdir(mode=0o700)
        if own:
            os.chown(run, NOBODY, NOBODY)
        with process(run, "serves", uid=NOBODY if own else 0) as server:
            said = as_user(NOBODY, program, server.pid, run)
    expected = "connected" if own else f"not-permitted process {server.pid} belongs to uid 0; run as that user or root"
    assert said.strip() == expected


def test_a_socket_that_another_process_has_made_under_the_pid_is_not_talked_to(run):
    with process(run, "serves") as server, RuntimeDirectory.open(str(run)) as directory:
        os.unlink(run / f"{server.pid}.sock")
        with directory.listen(f"{server.pid}.sock") as trap:
            code, detail = refused(Client.connect, find(server.pid))
            trapped, _ = trap.accept()
            with trapped:
                assert trapped.recv(1) == b"", "nothing may be sent to it"
    assert code == "impostor"
    assert f"process {os.getpid()} listens" in detail


@pytest.mark.parametrize("field", ["start_time", "pid"])
def test_a_process_that_got_the_pid_of_the_one_that_was_meant_is_not_taken_for_it(tmp_path, monkeypatch, field):
    monkeypatch.setenv("HOTFD_RUNTIME_DIR", str(tmp_path / "run"))
    with serving(tmp_path / "run", {}, lambda: greeting() | {field: 1}):
        code, _ = refused(Client.connect, find(os.getpid()))
    assert code == "impostor"


def test_a_server_of_another_protocol_version_is_incompatible(tmp_path, monkeypatch):
    monkeypatch.setenv("HOTFD_RUNTIME_DIR", str(tmp_path / "run"))
    with serving(tmp_path / "run", {}, lambda: {"hotfd": 2}):
        assert refused(Client.connect, find(os.getpid()))[0] == "incompatible"


def test_a_stopped_server_is_unresponsive_within_the_timeout(run):
    with process(run, "serves") as server:
        server.send_signal(signal.SIGSTOP)
        code, detail = refused(Client.connect, find(server.pid), 0.05)
    assert code == "unresponsive"
    assert "within 0.05 s" in detail


def test_a_server_whose_queue_is_full_is_unresponsive_within_the_timeout(tmp_path, monkeypatch):
    monkeypatch.setenv("HOTFD_RUNTIME_DIR", str(tmp_path / "run"))
    name = f"{os.getpid()}.sock"
    with RuntimeDirectory.open(str(tmp_path / "run")) as directory, directory.listen(name) as listener:
        listener.listen(0)
        with directory.connect(name, 1.0):
            assert refused(Client.connect, find(os.getpid()), 0.05)[0] == "unresponsive"


def test_a_socket_at_which_nobody_listens_is_no_server(tmp_path, monkeypatch):
    monkeypatch.setenv("HOTFD_RUNTIME_DIR", str(tmp_path / "run"))
    name = f"{os.getpid()}.sock"
    with RuntimeDirectory.open(str(tmp_path / "run")) as directory:
        directory.listen(name).close()
        code, detail = refused(Client.connect, find(os.getpid()))
    assert code == "not-a-server"
    assert "left over" in detail


def test_a_server_that_dies_after_it_was_found_is_no_server(run):
    with process(run, "serves") as server:
        target = find(server.pid)
        server.kill()
        server.wait()
        assert refused(Client.connect, target)[0] == "not-a-server"


@pytest.mark.parametrize("name", ["none.sock", "file", "none/1.sock"])
def test_a_path_that_is_no_socket(tmp_path, name):
    (tmp_path / "file").touch()
    assert refused(at, str(tmp_path / name))[0] == "not-a-server"


@pytest.mark.skipif(os.geteuid() != 0, reason=needs_root)
def test_a_path_at_which_another_user_listens_is_refused_to_all_but_root():
    program = """
try:
    control.Client.connect(control.at(sys.argv[1]))
except control.Unreachable as exc:
    print(exc.code, exc.detail)
"""
    with public_directory() as public:
        run = public / "run"
        run.mkdir(mode=0o700)
        os.chown(run, NOBODY, NOBODY)
        with process(run, "serves", uid=NOBODY) as server:
            path = run / f"{server.pid}.sock"
            Client.connect(at(str(path))).close()
            run.chmod(0o755)
            path.chmod(0o666)
            said = as_user(NOBODY + 1, program, path)
    assert said.startswith(f"not-permitted uid {NOBODY} listens"), said


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="needs root and unshare")
def test_a_server_in_a_container_is_found_by_its_outer_pid_under_its_inner_name(run):
    """Its own pid and mount namespaces, and a /tmp of its own that holds the runtime directory."""
    program = 'mount -t tmpfs none /mnt && mkdir -m 700 /mnt/run && HOTFD_RUNTIME_DIR=/mnt/run exec "$@"'
    wrap = [
        "unshare",
        "--pid",
        "--mount",
        "--fork",
        "--kill-child",
        "--mount-proc",
        "sh",
        "-c",
        program,
        "sh",
    ]
    with process(run, "serves", wrap=wrap) as outer:
        (pid,) = Path(f"/proc/{outer.pid}/task/{outer.pid}/children").read_text().split()
        found = find(int(pid))
        assert found.name == "1.sock"
        with Client.connect(found) as client:
            assert client.pid == int(pid)
            assert client.greeting["pid"] == 1
            assert translate(1, client.process) == int(pid)
            assert translate(77, client.process) is None
        assert not os.path.exists("/mnt/run")


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="needs root and unshare")
def test_a_process_in_a_user_namespace_is_known_by_its_inner_uid():
    command = ["unshare", "--user", "--map-root-user", "sh", "-c", "echo up; read line"]
    user = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, **user) as child:
        assert child.stdout.readline() == b"up\n"
        seen = Process.read(child.pid)
        child.communicate(b"\n")
    assert (seen.pid, seen.uid, seen.inner_uid) == (child.pid, NOBODY, 0)
    assert f"/tmp/hotfd-{NOBODY}" in seen.runtime_directories()
    assert "/tmp/hotfd-0" in seen.runtime_directories()


def test_a_name_with_parentheses_and_spaces_does_not_shift_the_start_time():
    rename = "import ctypes; ctypes.CDLL(None).prctl(15, b') R 1 (x', 0, 0, 0); print('up', flush=True); input()"
    before = start_time()
    with subprocess.Popen([sys.executable, "-c", rename], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout.readline() == b"up\n"
        started = start_time(child.pid)
        child.communicate(b"\n")
    assert before <= started < before + 100 * 3600 * 24


def test_a_pid_of_this_namespace_is_its_own_translation():
    me = Process.read(os.getpid())
    assert translate(os.getpid(), me) == os.getpid()
    assert translate(4_194_400, me) is None
