"""``hotfd status`` and ``hotfd ps``."""

import json
import os
import pty
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from hotfd.cli.output import describe, pairs, table
from hotfd.cli.status import Watched, details, one_line
from hotfd.control import Client, ServerGone, find
from hotfd.errors import HandoffRefused
from tests.unit.control_fakes import (
    STATUS,
    hear_control_c,
    hotfd,
    open_descriptors,
    press_control_c,
    process,
    serving,
    status,
)


def test_status_shows_the_fields_in_order_and_those_it_does_not_know(tmp_path):
    with serving(tmp_path / "run", {"status": status}):
        done = hotfd("status", "--pid", os.getpid(), directory=tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "name         echo",
        f"pid          {os.getpid()}",
        "generation   3",
        "state        serving",
        "listeners    127.0.0.1:7000",
        "connections  12",
        "sessions     10",
        "config       release r7  pinned 4",
        "bus          lag 0.25",
    ]


def test_status_json_is_what_the_server_said(tmp_path):
    with serving(tmp_path / "run", {"status": status}):
        done = hotfd("status", "--pid", os.getpid(), "--json", directory=tmp_path / "run")
    assert done.stdout.count("\n") == 1
    assert json.loads(done.stdout) == STATUS | {"pid": os.getpid()}


def test_status_of_what_is_no_server_is_2(tmp_path):
    done = hotfd("status", "--pid", os.getpid(), "--json", directory=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "is not a hotfd server" in done.stderr


def test_a_status_that_the_server_refuses_is_1(tmp_path):
    async def fails(request, emit):
        raise HandoffRefused("shutting-down", "it is stopping")

    with serving(tmp_path / "run", {"status": fails}):
        done = hotfd("status", "--pid", os.getpid(), directory=tmp_path / "run")
    assert (done.returncode, done.stderr) == (1, "Error: shutting-down: it is stopping\n")


@contextmanager
def watching(directory, pid, *options, **streams):
    environment = os.environ | {"HOTFD_RUNTIME_DIR": str(directory)}
    command = [sys.executable, "-m", "hotfd.cli", "status", "--watch", "--pid", str(pid), *options]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "preexec_fn": hear_control_c} | streams
    with subprocess.Popen(command, text=True, env=environment, **streams) as cli:
        yield cli


def test_watching_into_a_pipe_gives_a_line_each_time_until_control_c(tmp_path):
    with process(tmp_path / "run", "serves") as server, watching(tmp_path / "run", server.pid) as cli:
        lines = [cli.stdout.readline() for _ in range(2)]
        press_control_c(cli)
        assert cli.wait() == 0
    assert lines == [f"name echo  pid {server.pid}  generation 3  state serving  connections 12  sessions 10\n"] * 2


def test_watching_as_json_gives_an_object_a_line(tmp_path):
    with (
        process(tmp_path / "run", "serves") as server,
        watching(tmp_path / "run", server.pid, "--json") as cli,
    ):
        assert json.loads(cli.stdout.readline()) == STATUS | {"pid": server.pid}
        press_control_c(cli)


def test_watching_goes_on_with_the_successor_while_the_old_process_lives(tmp_path):
    run = tmp_path / "run"
    with (
        process(run, "serves", "serving", "new") as new,
        process(run, "hands_over", new.pid) as old,
        watching(run, old.pid, "--json") as cli,
    ):
        pids = [json.loads(cli.stdout.readline())["pid"] for _ in range(2)]
        assert old.poll() is None, "it ends when it is asked again"
        press_control_c(cli)
    assert pids == [old.pid, new.pid]


def test_watching_on_a_terminal_redraws_it(tmp_path):
    ours, theirs = pty.openpty()
    with (
        process(tmp_path / "run", "serves") as server,
        watching(tmp_path / "run", server.pid, stdout=theirs) as cli,
    ):
        os.close(theirs)
        screen = b""
        while screen.count(b"\x1b[J") < 2:
            screen += os.read(ours, 65536)
        press_control_c(cli)
    os.close(ours)
    first, second, _ = screen.split(b"\x1b[J", 2)
    assert first == second
    assert first.startswith(b"\x1b[Hname         echo\x1b[K")


def test_a_watched_server_that_ends_without_a_successor_is_1(tmp_path):
    with process(tmp_path / "run", "serves") as server, watching(tmp_path / "run", server.pid) as cli:
        cli.stdout.readline()
        server.kill()
        _, err = cli.communicate()
    assert cli.returncode == 1
    assert "ended the connection" in err


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setenv("HOTFD_RUNTIME_DIR", str(tmp_path / "run"))
    before = open_descriptors()
    yield tmp_path / "run"
    assert open_descriptors() == before


def test_a_watch_goes_on_with_the_successor_as_soon_as_that_serves(run):
    with process(run, "serves", "serving", "new") as new, process(run, "hands_over", new.pid) as old:
        with Watched(Client.connect(find(old.pid))) as watched:
            first = watched.look()
            watched.follow(first)
            second = watched.look()
        assert old.poll() is None, "the old process is still there, and not asked again"
    assert (first["name"], second["name"], second["pid"]) == ("old", "new", new.pid)


def test_a_watch_stays_with_the_old_process_until_the_successor_serves_or_it_ends(run):
    with process(run, "serves", "probation", "new") as new, process(run, "hands_over", new.pid) as old:
        with Watched(Client.connect(find(old.pid))) as watched:
            first = watched.look()
            watched.follow(first)
            second = watched.look()  # at which the old process ends
        assert old.wait() == 0
    assert (first["name"], second["name"], second["pid"]) == ("old", "new", new.pid)


def test_a_watch_whose_successor_is_no_server_ends_with_the_old_process(run):
    with process(run, "hands_over", 4_194_400) as old, Watched(Client.connect(find(old.pid))) as watched:
        watched.follow(watched.look())
        with pytest.raises(ServerGone):
            watched.look()


def test_ps_lists_every_server_and_keeps_going_past_one_that_hangs(tmp_path):
    run = tmp_path / "run"
    with (
        process(run, "serves") as one,
        process(run, "silent") as hung,
        process(tmp_path / "other", "serves") as other,
        ThreadPoolExecutor() as both,
    ):  # each waits as long for the one that hangs
        done, json_done = both.map(lambda options: hotfd("ps", *options, directory=run), ((), ("--json",)))
    as_json = json.loads(json_done.stdout)
    rows = {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines()}
    assert rows["PID"] == ["NAME", "GENERATION", "STATE", "CONNECTIONS", "SESSIONS"]
    assert rows[str(one.pid)] == rows[str(other.pid)] == ["echo", "3", "serving", "12", "10"]
    assert rows[str(hung.pid)] == ["-", "-", "no", "answer", "-", "-"]
    assert f"process {hung.pid} did not answer in time" in done.stderr
    by_pid = {server["pid"]: server for server in as_json["servers"]}
    assert by_pid[one.pid] == STATUS | {"pid": one.pid}
    assert by_pid[hung.pid]["state"] == "no answer"
    assert done.returncode == 0


def test_ps_removes_what_a_killed_server_has_left_and_says_so(tmp_path):
    with process(tmp_path / "run", "serves") as live, process(tmp_path / "run", "serves") as dead:
        dead.kill()
        dead.wait()
        done = hotfd("ps", "--json", directory=tmp_path / "run")
        assert os.listdir(tmp_path / "run") == [f"{live.pid}.sock"]
    assert f"removed {tmp_path / 'run' / f'{dead.pid}.sock'}" in done.stderr
    assert dead.pid not in [server["pid"] for server in json.loads(done.stdout)["servers"]]


def test_a_status_without_expected_fields_is_shown_as_it_is():
    assert details({}) == []
    assert one_line({"pid": 1}) == "pid 1"
    assert details({"state": "\x1b[2J", "x\n": [1, {"a": 1, "b": None}]}) == [
        "state  \\x1b[2J",
        "x\\n    1, (a 1  b -)",
    ]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        ([], "-"),
        ({}, "-"),
        (True, "yes"),
        (False, "no"),
        (0, "0"),
        (1.5, "1.5"),
        (0.1 + 0.2, "0.3"),
        (["a", "b"], "a, b"),
        ({"a": 1, "b": [1, 2]}, "a 1  b 1, 2"),
        ("\x9b1m", "\\x9b1m"),
    ],
)
def test_json_values_are_described_in_words(value, text):
    assert describe(value) == text


def test_columns_are_aligned_numbers_to_the_right():
    assert table(["PID", "NAME"], [[7, "long name"], [1234, None]]) == [
        " PID  NAME",
        "   7  long name",
        "1234  -",
    ]
    assert table(["PID"], []) == ["PID"]
    assert pairs([]) == []
