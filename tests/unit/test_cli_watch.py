"""``hotfd watch`` and ``hotfd sessions``, and how events and sessions are told."""

import asyncio
import json
import os
import subprocess
import sys

import pytest

from hotfd.cli.watch import follow
from hotfd.control import Client, ServerGone, find
from hotfd.display.events import KNOWN, Teller
from hotfd.display.sessions import listing
from hotfd.errors import HandoffRefused
from tests.unit.control_fakes import hear_control_c, hotfd, press_control_c, process, report, serving

COUNTS = {"pid": 7, "generation": 2, "state": "serving", "connections": 12, "sessions": 10, "newcomers": 0}

EVENTS = [
    {"event": "watching", **COUNTS, "time": 0},
    {"event": "started", "id": "h-1", "pid": 7, "time": 0},
    {"event": "phase", "phase": "spawn", "new_pid": None, "time": 0},
    {"event": "session", "session": "s-1", "fate": "kept", "code": "no-boundary", "detail": "it works", "time": 0},
    {"event": "outcome", "report": report("partial"), "time": 0},
]


def watch_that_tells(events, successor=None, error=None):
    async def watch(request, emit):
        for event in events:
            emit(event)
        if error is not None:
            raise error
        return {"successor": successor}

    return watch


def followed(pid):
    """Return the kinds of events, and who tells of himself, that a follower of a process sees."""
    return [(event["event"], event.get("pid")) for event in follow(Client.connect(find(pid)))]


@pytest.fixture
def directory(tmp_path, monkeypatch):
    monkeypatch.setenv("HOTFD_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.setenv("TZ", "UTC")
    return tmp_path / "run"


def test_watch_json_is_one_object_a_line_and_ends_with_the_server(directory):
    with serving(directory, {"watch": watch_that_tells(EVENTS)}):
        done = hotfd("watch", "--pid", os.getpid(), "--json", directory=directory)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert lines[:-1] == EVENTS
    assert lines[-1]["event"] == "ended"


def test_watch_is_a_line_for_each_event_with_its_time(directory):
    with serving(directory, {"watch": watch_that_tells(EVENTS)}):
        done = hotfd("watch", "--pid", os.getpid(), directory=directory)
    assert done.stdout.splitlines()[:-1] == [
        "00:00:00  watching process 7, generation 2: serving, 12 connections, 10 sessions",
        "00:00:00  handoff h-1 of process 7 begins",
        "00:00:00  handoff: spawn",
        "00:00:00  session s-1 stays: no-boundary: it works",
        "00:00:00  handoff partial: process 1 -> 2, generation 4; connections moved 12  kept 0  returned 0  closed 0",
    ]
    assert done.stdout.splitlines()[-1].endswith("the server has ended")


def test_watch_goes_on_with_the_process_that_replaces_the_server(directory):
    with process(directory, "watched", "stops") as new, process(directory, "watched", "replaced", new.pid) as old:
        events = followed(old.pid)
    beginning = [("watching", old.pid), ("phase", None), ("outcome", None)]
    assert events[:4] == [*beginning, ("replaced", new.pid)]
    assert events[4][1] == new.pid
    assert events[-1] == ("ended", None)


def test_when_the_old_process_dies_in_a_handoff_watch_goes_on_with_the_new_one(directory):
    with process(directory, "watched", "stops") as new, process(directory, "watched", "killed", new.pid) as old:
        events = followed(old.pid)
    assert events[:4] == [("watching", old.pid), ("phase", None), ("replaced", new.pid), ("watching", new.pid)]


def test_a_server_that_dies_after_a_failed_handoff_has_nobody_to_follow(directory):
    with (
        process(directory, "watched", "stops") as new,
        process(directory, "watched", "killed-later", new.pid) as old,
        pytest.raises(ServerGone),
    ):
        followed(old.pid)


def test_when_both_processes_die_it_is_the_server_that_is_gone(directory):
    with process(directory, "watched", "killed", 4_194_400) as old, pytest.raises(ServerGone):
        followed(old.pid)


def test_a_server_that_knows_no_watch_says_what_it_knows(directory):
    with serving(directory, {"status": watch_that_tells([])}):
        done = hotfd("watch", "--pid", os.getpid(), directory=directory)
    assert done.returncode == 1
    assert "unknown-instruction: this server knows the types status" in done.stderr


def test_control_c_ends_a_watch_with_0(directory):
    async def watch(request, emit):
        emit(EVENTS[0])
        await asyncio.Event().wait()

    command = [sys.executable, "-m", "hotfd.cli", "watch", "--pid", str(os.getpid())]
    with (
        serving(directory, {"watch": watch}),
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=hear_control_c) as watcher,
    ):
        assert b"watching" in watcher.stdout.readline()
        press_control_c(watcher)
        assert watcher.wait(60) == 0


def test_sessions_are_asked_for_with_a_limit(directory):
    async def sessions(request, emit):
        return {"asked": request, "sessions": []}

    with serving(directory, {"sessions": sessions}):
        done = hotfd("sessions", "--pid", os.getpid(), "--json", "--limit", "7", directory=directory)
        wrong = hotfd("sessions", "--pid", os.getpid(), "--limit", "0", directory=directory)
    assert json.loads(done.stdout)["asked"] == {"type": "sessions", "limit": 7}
    assert wrong.returncode == 2


# -- lines ---------------------------------------------------------------------------------------------


def test_progress_is_told_in_steps_and_anew_for_each_phase():
    teller = Teller(stamp=False)
    told = []
    for moved in range(1001):
        told += teller.lines({"event": "progress", "moved": moved, "total": 1000})
    assert len(told) == 11
    assert told[-1] == "handoff: 1000 of 1000 sessions moved (100 %)"
    teller.lines({"event": "phase", "phase": "move", "new_pid": None})
    assert teller.lines({"event": "progress", "moved": 1, "total": 1000})


def test_an_outcome_says_what_to_do():
    event = {"event": "outcome", "report": report("refused", reason="same-code: x", new_pid=None) | {"reason": None}}
    assert len(Teller(stamp=False).lines(event)) == 1
    event["report"]["reason"] = "descriptor-limit: too few"
    lines = Teller(stamp=False).lines(event)
    assert lines[1] == "descriptor-limit: too few"
    assert lines[2].startswith("what to do: ")


@pytest.mark.parametrize("kind", sorted(KNOWN))
def test_an_event_with_no_fields_is_told_without_an_error(kind):
    assert isinstance(Teller().lines({"event": kind}), list)


def test_an_event_of_a_later_version_is_told_by_its_fields():
    assert Teller(stamp=False).lines({"event": "new-thing", "count": 3, "time": 1}) == ["event new-thing  count 3"]


def test_what_comes_from_clients_cannot_drive_the_terminal():
    event = {"event": "session", "session": "\x1b[2J", "fate": "kept", "code": "c", "detail": "\x07"}
    assert "\x1b" not in "".join(Teller().lines(event))
    session = {"id": "\x1b[2J", "key": "\x1b", "connections": 1, "members": [], "obstacle": None}
    assert "\x1b" not in "".join(listing({"sessions": [session]}))


def test_json_and_error_messages_cannot_drive_the_terminal_either(directory):
    nasty = "\x1b[2J\x9b2J\u202e"

    async def sessions(request, emit):
        if request["limit"] == 1:
            raise HandoffRefused("nasty", nasty)
        return {"sessions": [{"id": "s-1", "key": nasty}]}

    with serving(directory, {"sessions": sessions}):
        as_json = hotfd("sessions", "--pid", os.getpid(), "--json", directory=directory)
        refused = hotfd("sessions", "--pid", os.getpid(), "--limit", "1", directory=directory)
    assert as_json.stdout.isascii()
    assert "\x1b" not in as_json.stdout
    assert json.loads(as_json.stdout)["sessions"][0]["key"] == nasty
    assert refused.returncode == 1
    assert r"\x1b[2J\x9b2J\u202e" in refused.stderr


def test_sessions_that_cannot_move_are_explained_below_the_table():
    busy = {
        "id": "s-1",
        "key": "match-42",
        "connections": 2,
        "members": [{"id": "c-1", "peername": "127.0.0.1:5", "listener": "x", "awaits": ["a.py:play:3", "b.py:w:9"]}],
        "obstacle": {"code": "no-boundary", "detail": "its handler works on a frame"},
    }
    still = {"id": "s-2", "key": None, "connections": 1, "members": [{"peername": "127.0.0.1:6"}], "obstacle": None}
    assert listing({"total": 5, "busy": 1, "sessions": [busy, still]}) == [
        "SESSION  KEY       CONNECTIONS  PEER         BOUNDARY",
        "s-1      match-42            2  127.0.0.1:5  no-boundary",
        "s-2      -                   1  127.0.0.1:6  yes",
        "2 of 5 sessions; 1 at no boundary",
        "",
        "s-1: no-boundary: its handler works on a frame",
        "  c-1 from 127.0.0.1:5 awaits",
        "    a.py:play:3",
        "    b.py:w:9",
    ]


def test_no_sessions_are_told_as_such():
    assert listing({"total": 0, "busy": 0, "sessions": []}) == ["no sessions"]
