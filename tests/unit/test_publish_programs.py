"""Other programs are given what they need, and neither more time nor more room than they may have."""

import os

import pytest

from hotfd.errors import ConfigError
from hotfd.publish import programs
from hotfd.publish.programs import Deadline, TooLate, environment, find, run

LIMIT = 60.0


@pytest.fixture(autouse=True)
def nothing_left_open():
    before = len(os.listdir("/proc/self/fd"))
    yield
    assert len(os.listdir("/proc/self/fd")) == before


def shell(text, deadline=None, **options):
    options = {"limit": LIMIT, "env": environment()} | options
    return run([find("sh", "this test"), "-c", text], deadline or Deadline(), **options)


def test_a_program_is_given_its_input_and_its_output_is_returned():
    data = os.urandom(1 << 20)
    assert shell("cat", data=data) == (0, data)


def test_a_program_that_does_not_want_its_input_is_not_waited_for():
    assert shell("exec 0<&-; echo done", data=b"x" * (1 << 22)) == (0, b"done\n")


def test_a_status_that_is_an_answer_is_returned_and_any_other_is_an_error():
    assert shell("exit 3", statuses=(0, 3)) == (3, b"")
    with pytest.raises(ConfigError, match="ended so"):
        shell("echo ended so >&2; exit 3", statuses=(0,))
    with pytest.raises(ConfigError, match="status -9"):
        shell("kill -9 $$")


def test_a_program_that_cannot_be_started_is_an_error():
    with pytest.raises(ConfigError, match="cannot be started"):
        run(["/no/such/program"], Deadline(), limit=LIMIT, env={})
    with pytest.raises(ConfigError, match="needs the program no-such-program"):
        find("no-such-program", "this")


@pytest.mark.parametrize("text", ["sleep 300", "exec >&- 2>&-; sleep 300", "sleep 300 & exit 0", "yes >&2"])
def test_a_program_that_takes_too_long_is_ended_with_what_it_has_started(tmp_path, text):
    fifo = tmp_path / "alive"
    os.mkfifo(fifo)
    alive = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    try:
        with pytest.raises(TooLate):
            shell(f"exec 3<>{fifo}; echo started >&3; {text}", Deadline(1.0))
        # The end of the file, and not "nothing yet": nobody has the other end open any more.
        os.set_blocking(alive, True)
        assert os.read(alive, 100) in {b"started\n", b""}
        assert os.read(alive, 100) == b""
    finally:
        os.close(alive)


def test_a_program_that_says_too_much_is_ended(monkeypatch):
    monkeypatch.setattr(programs, "MAX_OUTPUT", 1000)
    with pytest.raises(ConfigError, match="more than 1000 bytes"):
        shell("yes")


def test_a_deadline_that_is_over_leaves_nothing():
    assert Deadline(-1).left(5) == 0
    assert Deadline().left(5) == 5
    assert Deadline(100).left(5) == 5


def test_little_of_the_environment_is_passed_on(monkeypatch):
    monkeypatch.setenv("GIT_DIR", "/somewhere")
    monkeypatch.setenv("HOME", "/home/ann")
    env = environment({"A": "b"})
    assert (env["HOME"], env["A"], env["LC_ALL"]) == ("/home/ann", "b", "C.UTF-8")
    assert "GIT_DIR" not in env


def test_of_a_complaint_that_line_is_shown_that_says_what_is_wrong():
    error = ConfigError(
        "svn info: svn: warning: cannot set LC_CTYPE locale\nsvn: E170013: Unable to connect\nsvn: E1: x"
    )
    assert programs.essence(error, "svn: E") == "svn: E170013: Unable to connect"
    assert programs.essence(error, "fatal: ") == "svn info: svn: warning: cannot set LC_CTYPE locale"
