"""``hotfd rollback`` and ``hotfd history``: what is asked of the server, and what is printed."""

import json
import os

import pytest

from hotfd.app.request import options_of
from hotfd.display.history import listing
from hotfd.errors import HandoffRefused
from tests.unit.control_fakes import hotfd, report, serving, updates

GENERATION = {
    "generation": 1,
    "pid": 4711,
    "started": 1772442847.0,
    "how": "start",
    "runs": 1,
    "command": ["/usr/bin/python3", "server.py", "--name", "my chat"],
    "cwd": "/srv/current",
    "directory": "/srv/releases/1",
    "hotfd": "1.0.0",
    "python": "3.12.3",
    "state_version": 1,
    "current": False,
    "rollback": True,
    "reason": None,
}
NOW = {
    **GENERATION,
    "generation": 2,
    "pid": 4802,
    "how": "rollback",
    "current": True,
    "rollback": False,
    "reason": "it is what runs",
    "directory": "/srv/current",
}
HISTORY = {"generations": [GENERATION, NOW], "rollback_to": 1, "reason": None}


def asked(tmp_path, *arguments):
    """Run ``hotfd rollback`` with a server that takes it; return the request and the command."""
    update = updates(report(), ({"event": "started", "id": "h-1"},))
    with serving(tmp_path / "run", {"rollback": update}) as path:
        done = hotfd("rollback", "--socket", path, *arguments, directory=os.path.dirname(path))
    assert done.returncode == 0, done.stderr
    return update.requests[0], done


def test_a_rollback_is_asked_for_like_a_handoff_without_a_command(tmp_path):
    request, done = asked(tmp_path)
    assert request == {
        "type": "rollback",
        "dry_run": False,
        "to": None,
        "deadline": 60.0,
        "boundary_timeout": 10.0,
        "laggards": "keep",
        "probation": 5.0,
        "force": False,
    }
    assert done.stdout.startswith("completed")
    options = options_of(request)
    assert (options.rollback, options.to, options.command, options.cwd) == (True, None, None, None)


def test_a_rollback_takes_the_options_of_a_handoff_and_a_generation(tmp_path):
    request, _ = asked(tmp_path, "--to", "3", "--force", "--probation", "0", "--laggards", "close", "--dry-run=deep")
    assert request["to"] == 3
    assert (request["force"], request["probation"], request["laggards"], request["dry_run"]) == (
        True,
        0,
        "close",
        "deep",
    )
    assert options_of(request).to == 3


@pytest.mark.parametrize(
    "arguments", [("--to", "0"), ("--to", "v1"), ("--", "python", "server.py"), ("--allow-downgrade",)]
)
def test_what_makes_no_sense_for_a_rollback_is_wrong_usage(tmp_path, arguments):
    done = hotfd("rollback", "--socket", str(tmp_path / "no.sock"), *arguments, directory=str(tmp_path))
    assert done.returncode == 2
    assert "Usage" in done.stderr


@pytest.mark.parametrize(
    "request_", [{"to": 0}, {"to": "1"}, {"command": ["python"]}, {"cwd": "/"}, {"allow_downgrade": True}]
)
def test_a_server_refuses_a_rollback_that_makes_no_sense(request_):
    with pytest.raises(HandoffRefused, match="the rollback instruction cannot be read") as caught:
        options_of({"type": "rollback", **request_})
    assert caught.value.code == "malformed"


def test_a_handoff_to_older_code_is_asked_for_in_so_many_words(tmp_path):
    update = updates(report())
    with serving(tmp_path / "run", {"update": update}) as path:
        for arguments in ((), ("--allow-downgrade",)):
            hotfd("handoff", "--socket", path, *arguments, directory=os.path.dirname(path))
    assert ["allow_downgrade" in request for request in update.requests] == [False, True]
    assert [options_of(request).allow_downgrade for request in update.requests] == [False, True]
    assert not any(options_of(request).rollback for request in update.requests)


@pytest.mark.parametrize(("named", "seen"), [("current", "current"), ("other", "release"), ("", "release")])
def test_a_new_command_is_run_in_the_directory_by_the_name_that_the_shell_has_for_it(
    tmp_path, monkeypatch, named, seen
):
    release, other = tmp_path / "release", tmp_path / "other"
    release.mkdir()
    other.mkdir()
    (tmp_path / "current").symlink_to(release)
    update = updates(report())
    with serving(tmp_path / "run", {"update": update}) as path:
        monkeypatch.setenv("PWD", str(tmp_path / named) if named else "")
        hotfd("handoff", "--socket", path, "--", "true", directory=os.path.dirname(path), cwd=release)
    assert update.requests[0]["cwd"] == str(tmp_path / seen)


def test_history_shows_each_generation_and_where_going_back_leads():
    lines = listing(HISTORY)
    assert lines[0].split() == ["GENERATION", "PID", "STARTED", "CAME", "BY", "HOTFD", "PYTHON", "STATE", "GO", "BACK"]
    assert lines[1].split()[0:2] == ["1", "4711"]
    assert lines[1].endswith("yes")
    assert "rollback to 1" in lines[2]
    assert lines[2].endswith("runs now")
    assert lines[4:6] == [
        "1: /usr/bin/python3 server.py --name 'my chat'",
        "   in /srv/current, which was /srv/releases/1",
    ]
    assert lines[8] == "   in /srv/current"
    assert lines[-1] == "hotfd rollback goes back to generation 1"
    assert "it is what runs" not in "\n".join(lines)


def test_history_says_why_one_cannot_go_back():
    changed = {**GENERATION, "rollback": False, "reason": "same-code: /srv/a.py has changed since generation 1 ran"}
    lines = listing({**HISTORY, "generations": [changed, NOW]})
    assert lines[1].endswith("no")
    assert "   same-code: /srv/a.py has changed since generation 1 ran" in lines
    assert lines[-1] == "hotfd rollback goes back to generation 1, which is refused"
    lines = listing(
        {"generations": [NOW], "rollback_to": None, "reason": "nothing-to-roll-back-to: nothing ran before"}
    )
    assert lines[-1] == "hotfd rollback: nothing-to-roll-back-to: nothing ran before"


def test_history_of_a_server_that_says_less_or_odd_things_is_shown_all_the_same():
    lines = listing({"generations": [{"generation": 1, "command": ["\x1b[2J"], "started": None}]})
    assert "\x1b" not in "\n".join(lines)
    assert listing({})


def test_history_as_json_is_what_the_server_said(tmp_path):
    async def tell(request, emit):
        return HISTORY

    with serving(tmp_path / "run", {"history": tell}) as path:
        done = hotfd("history", "--socket", path, "--json", directory=os.path.dirname(path))
        shown = hotfd("history", "--socket", path, directory=os.path.dirname(path))
    assert json.loads(done.stdout) == HISTORY
    assert shown.stdout.splitlines()[-1] == "hotfd rollback goes back to generation 1"
