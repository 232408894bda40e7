"""The runtime directory: where it is, and what is refused."""

import os
import signal
import socket

import pytest

from hotfd.control import RuntimeDirectory, Unreachable
from hotfd.control.runtime import default_path
from hotfd.control.sweep import known_directories, sweep
from tests.unit.control_fakes import NOBODY, needs_root, open_descriptors


@pytest.fixture(autouse=True)
def _no_descriptor_is_left():
    before = open_descriptors()
    yield
    assert open_descriptors() == before


@pytest.fixture
def environment(monkeypatch):
    monkeypatch.delenv("HOTFD_RUNTIME_DIR", raising=False)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    return monkeypatch


def stale(path):
    """Leave a socket at which nobody listens."""
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))


def test_the_directory_is_the_first_that_the_environment_names(environment):
    environment.setattr(os, "geteuid", lambda: 1000)
    assert default_path() == "/tmp/hotfd-1000"
    environment.setattr(os, "geteuid", lambda: 0)
    assert default_path() == "/run/hotfd"
    environment.setenv("XDG_RUNTIME_DIR", "/run/user/1000")
    assert default_path() == "/run/user/1000/hotfd"
    environment.setenv("HOTFD_RUNTIME_DIR", "/srv/control")
    assert default_path() == "/srv/control"


def test_a_missing_directory_is_made_for_its_owner_alone(environment, tmp_path):
    environment.setenv("HOTFD_RUNTIME_DIR", str(tmp_path / "run"))
    with RuntimeDirectory.open() as directory:
        assert directory.path == str(tmp_path / "run")
        assert os.stat(directory.path).st_mode & 0o777 == 0o700
        assert not os.get_inheritable(directory.descriptor)
    directory.close()  # twice is allowed
    assert directory.descriptor == -1


@pytest.mark.parametrize("mode", [0o755, 0o710, 0o701, 0o770])
def test_a_directory_that_others_may_enter_is_refused(tmp_path, mode):
    (tmp_path / "run").mkdir()
    (tmp_path / "run").chmod(mode)
    with pytest.raises(Unreachable, match="chmod 700") as caught:
        RuntimeDirectory.open(str(tmp_path / "run"))
    assert caught.value.code == "unsafe-directory"


@pytest.mark.skipif(os.geteuid() != 0, reason=needs_root)
def test_a_directory_that_somebody_else_has_made_is_refused(tmp_path):
    (tmp_path / "run").mkdir(mode=0o700)
    os.chown(tmp_path / "run", NOBODY, NOBODY)
    with pytest.raises(Unreachable, match=f"owned by uid {NOBODY}, not by uid 0"):
        RuntimeDirectory.open(str(tmp_path / "run"))


def test_a_link_to_a_good_directory_is_refused(tmp_path):
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "run").symlink_to(tmp_path / "real")
    with pytest.raises(Unreachable, match="symbolic link"):
        RuntimeDirectory.open(str(tmp_path / "run"))


def test_a_file_and_a_directory_without_parent_and_a_relative_path_are_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(Unreachable, match="no directory"):
        RuntimeDirectory.open(str(tmp_path / "file"))
    with pytest.raises(Unreachable, match="make its parent"):
        RuntimeDirectory.open(str(tmp_path / "none" / "run"))
    with pytest.raises(Unreachable, match="relative"):
        RuntimeDirectory.open("run")


def test_a_path_longer_than_an_address_is_served(tmp_path):
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    deep.mkdir(parents=True)
    with RuntimeDirectory.open(str(deep / "run")) as directory, directory.listen("1.sock") as listener:
        directory.connect("1.sock", 1.0).close()
        listener.accept()[0].close()


def test_a_directory_that_is_swapped_after_the_check_is_not_followed(tmp_path):
    with RuntimeDirectory.open(str(tmp_path / "run")) as directory:
        (tmp_path / "run").rename(tmp_path / "moved")
        (tmp_path / "run").mkdir()
        directory.listen("1.sock").close()
    assert os.listdir(tmp_path / "run") == []
    assert os.listdir(tmp_path / "moved") == ["1.sock"]


def test_connecting_to_a_full_queue_gives_up_in_time(tmp_path):
    with RuntimeDirectory.open(str(tmp_path / "run")) as directory, directory.listen("1.sock") as listener:
        listener.listen(0)
        with directory.connect("1.sock", 1.0), pytest.raises(BlockingIOError):
            directory.connect("1.sock", 0.01)


def test_a_signal_that_interrupts_the_wait_is_not_taken_for_a_connection(tmp_path):
    interrupted = []
    previous = signal.signal(signal.SIGALRM, lambda *_: interrupted.append(True))
    try:
        with (
            RuntimeDirectory.open(str(tmp_path / "run")) as directory,
            directory.listen("1.sock") as listener,
        ):
            listener.listen(0)
            with directory.connect("1.sock", 1.0), pytest.raises(BlockingIOError):
                signal.setitimer(signal.ITIMER_REAL, 0.01)
                directory.connect("1.sock", 0.1)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    assert interrupted


def test_only_sockets_are_named_and_removed(tmp_path):
    with RuntimeDirectory.open(str(tmp_path / "run")) as directory:
        for name in ("12.sock", "7.sock"):
            stale(tmp_path / "run" / name)
        for name in ("0.sock", "x.sock", "9.sock.old", "12345678901.sock"):
            (tmp_path / "run" / name).touch()
        assert directory.pids() == [7, 12]
        assert directory.identity("x.sock") is None
        identity = directory.identity("7.sock")
        assert not directory.remove("12.sock", identity), "another socket than was meant"
        assert directory.remove("7.sock", identity)
        assert not directory.remove("7.sock", identity)


def test_a_sweep_removes_only_what_is_certainly_dead(tmp_path):
    dead_pid = 4_100_000_000  # larger than any pid (PID_MAX_LIMIT is 2^22)
    with (
        RuntimeDirectory.open(str(tmp_path / "run")) as directory,
        directory.listen("4194400.sock"),  # a live one, as of another pid namespace
    ):
        stale(tmp_path / "run" / f"{dead_pid}.sock")
        stale(tmp_path / "run" / f"{os.getpid()}.sock")  # not listening yet, but its process lives
        (tmp_path / "run" / "4194401.sock").touch()
        removed = sweep([(str(tmp_path / "run"), os.geteuid()), (str(tmp_path / "none"), 0)])
    assert removed == [str(tmp_path / "run" / f"{dead_pid}.sock")]


def test_a_sweep_leaves_directories_alone_that_are_not_as_they_should_be(tmp_path):
    (tmp_path / "run").mkdir(mode=0o700)
    stale(tmp_path / "run" / "4194400.sock")
    assert sweep([(str(tmp_path / "run"), os.geteuid() + 1)]) == []
    (tmp_path / "run").chmod(0o755)
    assert sweep([(str(tmp_path / "run"), os.geteuid())]) == []
    assert os.listdir(tmp_path / "run") == ["4194400.sock"]


def test_only_root_tidies_up_for_others(environment):
    environment.setattr(os, "geteuid", lambda: 1000)
    assert set(known_directories().values()) == {1000}
    environment.setattr(os, "geteuid", lambda: 0)
    environment.setattr(
        "glob.glob", lambda pattern: {"/tmp/hotfd-*": ["/tmp/hotfd-33", "/tmp/hotfd-x"]}.get(pattern, [])
    )
    assert known_directories() == {
        "/run/hotfd": 0,
        "/run/user/0/hotfd": 0,
        "/tmp/hotfd-0": 0,
        "/tmp/hotfd-33": 33,
    }
