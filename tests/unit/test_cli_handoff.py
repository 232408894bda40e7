"""``hotfd handoff``: each exit status, what is printed where, and an old process that dies on the way."""

import asyncio
import io
import json
import os
import pty
import subprocess
import sys

import msgspec
import pytest

from hotfd.cli import follow
from hotfd.cli.progress import Progress
from hotfd.control import Client, at
from hotfd.display.handoff import summary
from hotfd.errors import HandoffRefused
from hotfd.report import Report
from tests.unit.control_fakes import hear_control_c, hotfd, press_control_c, process, report, serving, updates

EVENTS = (
    {"event": "started", "id": "h-1"},
    {"event": "phase", "phase": "spawn", "new_pid": None},
    {"event": "phase", "phase": "move", "new_pid": os.getpid()},
    *({"event": "progress", "moved": moved, "total": 1000} for moved in range(0, 1001, 10)),
    {"event": "something-newer", "with": ["fields"]},
)


def handoff(path, *arguments, **options):
    return hotfd("handoff", "--socket", path, *arguments, directory=os.path.dirname(path), **options)


@pytest.mark.parametrize(
    ("outcome", "exit_status"), [("completed", 0), ("refused", 1), ("rolled-back", 1), ("partial", 3)]
)
def test_the_exit_status_says_the_outcome(tmp_path, outcome, exit_status):
    with serving(tmp_path / "run", {"update": updates(report(outcome), EVENTS)}) as path:
        done = handoff(path)
    assert done.returncode == exit_status, done.stderr
    assert done.stdout.startswith(outcome)


@pytest.mark.parametrize("outcome", ["completed", "refused", "rolled-back", "partial"])
def test_json_is_one_object_on_stdout_exactly_as_the_server_sent_it(tmp_path, outcome):
    result = report(outcome, added_later={"kept": True})
    with serving(tmp_path / "run", {"update": updates(result, EVENTS)}) as path:
        done = handoff(path, "--json")
    assert done.stdout.count("\n") == 1
    assert json.loads(done.stdout) == result


def test_the_request_carries_the_contracts_defaults(tmp_path):
    update = updates(report())
    with serving(tmp_path / "run", {"update": update}) as path:
        handoff(path)
    assert update.requests == [
        {
            "type": "update",
            "dry_run": False,
            "deadline": 60.0,
            "boundary_timeout": 10.0,
            "laggards": "keep",
            "probation": 5.0,
            "force": False,
            "command": None,
            "cwd": None,
        }
    ]


def test_the_request_carries_every_option_and_the_command_with_its_directory(tmp_path):
    update = updates(report())
    options = [
        "--deadline",
        "9",
        "--boundary-timeout",
        "0",
        "--laggards",
        "close",
        "--probation",
        "0.5",
        "--force",
        "--dry-run=deep",
    ]
    command = ["python", "server.py", "--port", "7000", "--", "--json"]
    with serving(tmp_path / "run", {"update": update}) as path:
        done = handoff(path, *options, "--", *command, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert update.requests == [
        {
            "type": "update",
            "dry_run": "deep",
            "deadline": 9.0,
            "boundary_timeout": 0.0,
            "laggards": "close",
            "probation": 0.5,
            "force": True,
            "command": command,
            "cwd": str(tmp_path),
        }
    ]


@pytest.mark.parametrize(
    ("arguments", "dry_run"),
    [
        ((), False),
        (("--dry-run",), "plan"),
        (("--dry-run=plan",), "plan"),
        (("--dry-run", "--", "cmd"), "plan"),
    ],
)
def test_dry_run_needs_no_value(tmp_path, arguments, dry_run):
    update = updates(report(dry_run=bool(dry_run)))
    with serving(tmp_path / "run", {"update": update}) as path:
        done = handoff(path, *arguments)
    assert update.requests[0]["dry_run"] == dry_run
    assert ("nothing was changed" in done.stdout) == bool(dry_run)


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        ((), "--pid PID"),
        (("--pid", "1", "--socket", "x"), "--pid PID or with --socket"),
        (("4711",), "The server's pid follows --pid"),
        (("--pid", "4711", "python", "server.py"), "the command of the new process follows --"),
        (("--pid", "0"), "x>=1"),
        (("--pid", "x"), "not a valid integer"),
        (("--pid", "1", "--deadline", "0"), "more than 0"),
        (("--pid", "1", "--deadline", "nan"), "more than 0"),
        (("--pid", "1", "--probation", "inf"), "at most 86400"),
        (("--pid", "1", "--probation", "-1"), "0 or more"),
        (("--pid", "1", "--laggards", "drop"), "keep"),
        (("--pid", "1", "--dry-run=maybe"), "deep"),
        (("--pid", "1", "--"), "no command after --"),
        (("--pid", "1", "--jsno"), "--jsno"),
    ],
)
def test_wrong_usage_is_2_with_a_hint(tmp_path, arguments, hint):
    done = hotfd("handoff", *arguments, directory=tmp_path)
    assert done.returncode == 2
    assert hint in done.stderr
    assert done.stdout == ""


def test_no_such_process_and_no_server_are_2_and_told_apart(tmp_path):
    nobody = hotfd("handoff", "--pid", 4_194_400, directory=tmp_path)
    other = hotfd("handoff", "--pid", os.getpid(), directory=tmp_path)
    assert nobody.returncode == other.returncode == 2
    assert "there is no process 4194400" in nobody.stderr
    assert "is not a hotfd server: no control socket" in other.stderr
    assert nobody.stdout == other.stdout == ""


def test_json_is_an_object_even_when_no_server_was_reached(tmp_path):
    done = hotfd("handoff", "--pid", 4_194_400, "--json", "--dry-run", directory=tmp_path)
    said = msgspec.json.decode(done.stdout, type=Report)
    assert (done.returncode, said.outcome, said.old_pid, said.dry_run) == (2, "refused", 4_194_400, True)
    assert said.reason.startswith("no-such-process: ")


def test_a_server_that_answers_with_an_error_refuses(tmp_path):
    busy = updates(HandoffRefused("handoff-in-progress", "h-0 is in probation"))
    with serving(tmp_path / "run", {"update": busy}) as path:
        done, as_json = handoff(path), handoff(path, "--json")
    assert done.returncode == as_json.returncode == 1
    assert "refused\n  handoff-in-progress: h-0 is in probation\n  what to do: " in done.stdout
    said = msgspec.json.decode(as_json.stdout, type=Report)
    assert (said.outcome, said.old_pid, said.generation) == ("refused", os.getpid(), 3)
    assert said.reason == "handoff-in-progress: h-0 is in probation"


@pytest.mark.parametrize("result", [{"outcome": "great", "id": "1", "old_pid": 1}, {}, [], None, "completed"])
def test_a_report_that_cannot_be_read_is_no_success(tmp_path, result):
    with serving(tmp_path / "run", {"update": updates(result)}) as path:
        done = handoff(path, "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout)["reason"].startswith("incompatible: ")


def test_a_pipe_gets_plain_lines_and_few_of_them(tmp_path):
    with serving(tmp_path / "run", {"update": updates(report(), EVENTS)}) as path:
        done = handoff(path)
    lines = done.stderr.splitlines()
    assert "\x1b" not in done.stderr
    assert "\r" not in done.stderr
    assert lines[:2] == ["hotfd: spawn", f"hotfd: move (new process {os.getpid()})"]
    assert lines[2:] == [f"hotfd: move {percent * 10}/1000 ({percent} %)" for percent in range(0, 101, 10)]


def test_a_terminal_gets_a_bar_while_sessions_move(tmp_path):
    ours, theirs = pty.openpty()
    with serving(tmp_path / "run", {"update": updates(report(), EVENTS)}) as path:
        done = handoff(path, "--json", capture_output=False, stdout=subprocess.PIPE, stderr=theirs)
    os.close(theirs)
    screen = b""
    try:
        while data := os.read(ours, 65536):
            screen += data
    except OSError:
        pass  # EIO: the other end is closed, which is how a terminal ends
    os.close(ours)
    assert screen.startswith(b"hotfd: spawn\r\nhotfd: move (new process ")
    assert b"hotfd: move  [###############---------------]  500/1000   50%" in screen
    assert screen.endswith(b"  1000/1000  100%\x1b[?25h\r\n"), "the cursor is shown again"
    assert json.loads(done.stdout)["outcome"] == "completed"


def test_whoever_closes_stderr_does_not_change_the_outcome(tmp_path):
    reader, writer = os.pipe()
    os.close(reader)
    with serving(tmp_path / "run", {"update": updates(report(), EVENTS)}) as path:
        done = handoff(path, "--json", capture_output=False, stdout=subprocess.PIPE, stderr=writer)
    os.close(writer)
    assert (done.returncode, json.loads(done.stdout)["outcome"]) == (0, "completed")


@pytest.mark.parametrize("pending", [0, 3])
@pytest.mark.parametrize(("outcome", "exit_status"), [("completed", 0), ("rolled-back", 1), ("partial", 3)])
def test_when_the_old_process_dies_the_new_one_says_how_it_ended(tmp_path, outcome, exit_status, pending):
    run = tmp_path / "run"
    with (
        process(run, "knows_the_result", outcome, pending) as new,
        process(run, "dies_during", "move", new.pid) as old,
    ):
        done = hotfd("handoff", "--pid", old.pid, "--json", directory=tmp_path)
    said = json.loads(done.stdout)
    assert (done.returncode, said["outcome"], said["new_pid"]) == (exit_status, outcome, new.pid)
    assert "ended the connection before it answered" in done.stderr
    assert f"asking the new process {new.pid}" in done.stderr


@pytest.mark.parametrize(("stage", "known"), [("at-once", "no handoff had begun"), ("started", "no new process")])
def test_when_the_old_process_dies_before_a_new_one_is_there_what_is_known_is_said(tmp_path, stage, known):
    with process(tmp_path / "run", "dies_during", stage) as old:
        done = hotfd("handoff", "--pid", old.pid, "--json", directory=tmp_path)
    said = json.loads(done.stdout)
    assert (done.returncode, said["outcome"], said["old_pid"], said["new_pid"]) == (
        1,
        "refused",
        old.pid,
        None,
    )
    assert said["reason"].startswith("old-exited: ")
    assert known in said["reason"]


def test_when_both_processes_have_died_what_is_known_is_said(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, dead.pid, os.WEXITED | os.WNOWAIT)  # its pid stays taken, so nobody else can get it
    with process(tmp_path / "run", "dies_during", "move", dead.pid) as old:
        done = hotfd("handoff", "--pid", old.pid, "--json", directory=tmp_path)
    dead.wait()
    said = json.loads(done.stdout)
    assert (done.returncode, said["outcome"], said["id"], said["new_pid"]) == (1, "refused", "h-1", dead.pid)
    assert said["reason"].startswith("both-exited: ")


def test_a_new_process_that_had_ended_when_it_was_reported_is_not_waited_for(tmp_path):
    with process(tmp_path / "run", "dies_during", "move", 4_194_400) as old:
        done = hotfd("handoff", "--pid", old.pid, "--json", directory=tmp_path)
    said = json.loads(done.stdout)
    assert (done.returncode, said["new_pid"]) == (1, 4_194_400)
    assert said["reason"].startswith("both-exited: ")
    assert follow.Successor(4_194_400).ended_within(0)


def test_a_new_process_that_never_says_how_it_ended_is_asked_until_the_deadline(tmp_path):
    run = tmp_path / "run"
    with process(run, "serves") as new, process(run, "dies_during", "move", new.pid) as old:
        unknown = hotfd("handoff", "--pid", old.pid, "--json", directory=tmp_path)
    with (
        process(run, "knows_the_result", "completed", 1_000_000) as new,
        process(run, "dies_during", "move", new.pid) as old,
    ):
        pending = hotfd("handoff", "--pid", old.pid, "--json", "--deadline", "0.3", directory=tmp_path)
    for done, why in ((unknown, "unknown-instruction"), (pending, "did not say how handoff h-1 ended")):
        reason = json.loads(done.stdout)["reason"]
        assert done.returncode == 1
        assert reason.startswith("result-unknown: ")
        assert why in reason


def test_a_server_that_falls_silent_is_waited_for_no_longer_than_its_own_limits_and_some_grace(tmp_path, monkeypatch):
    async def hangs(request, emit):
        await go_on.wait()

    go_on = asyncio.Event()
    monkeypatch.setattr(follow, "GRACE", 0.0)
    notes = []

    class Quiet:
        def note(self, text):
            notes.append(text)

        def clear(self):
            pass

    fields = {"deadline": 0.05, "boundary_timeout": 0.0, "probation": 0.0, "dry_run": False}
    with (
        serving(tmp_path / "run", {"update": hangs}) as path,
        Client.connect(at(path)) as client,
        follow.Handoff(client, fields, Quiet()) as followed,
    ):
        said = followed.run()
    assert said["reason"].startswith("result-unknown: ")
    assert "did not answer in time" in notes[0]


def test_control_c_leaves_the_handoff_running_and_says_where(tmp_path):
    with process(tmp_path / "run", "update_hangs") as old:
        command = [
            sys.executable,
            "-m",
            "hotfd.cli",
            "handoff",
            "--socket",
            tmp_path / "run" / f"{old.pid}.sock",
        ]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        with subprocess.Popen(command, preexec_fn=hear_control_c, **pipes) as cli:
            assert cli.stderr.readline() == "hotfd: spawn\n"
            press_control_c(cli)
            out, err = cli.communicate()
    assert (cli.returncode, out) == (130, "")
    assert f"handoff h-1 goes on in process {old.pid}" in err


def test_the_summary_says_what_a_person_wants_to_know():
    counts = {"moved": 990, "kept": 8, "returned": 0, "closed": 2}
    text = summary(
        msgspec.convert(report("partial", connections=counts, reasons={"no-boundary": 8, "gone": 2, "x": 0}), Report)
    )
    assert text == [
        "partial",
        "  process      1 -> 2  generation 4",
        "  connections  moved 990  kept 8  returned 0  closed 2",
        "  sessions     moved 12  kept 0  returned 0  closed 0",
        "  pause        p50 1.2 ms  p99 2.5 ms  max 4.0 ms",
        "  elapsed      1.50 s",
        "  phases       spawn 400 ms  move 20 ms",
        "  id           h-1",
        "  no-boundary: 8 sessions; busy until the boundary timeout; raise --boundary-timeout, or --laggards close",
        "  gone: 2 sessions; see the log of the server",
    ]


def test_progress_of_nothing_is_not_shown():
    stream = io.StringIO()
    progress = Progress(stream)
    progress.phase("move", None)
    progress.moved(0, 0)
    progress.moved(1, 3)
    assert stream.getvalue() == "hotfd: move\nhotfd: move 1/3 (33 %)\n"


def test_nothing_that_a_server_sends_can_drive_the_terminal():
    text = summary(Report(outcome="refused", id="\x1b[2J", old_pid=1, reason="state-encode: \x1b]0;owned\x07 field\n"))
    assert not any(ord(char) < 32 or ord(char) == 127 for line in text for char in line)
