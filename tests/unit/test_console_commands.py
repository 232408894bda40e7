"""What may be typed on a console, and how answers are shown."""

from __future__ import annotations

import pytest

from hotfd.console.commands import Command, Misunderstood, help_lines, read, show
from hotfd.display.text import anything
from tests.unit.control_fakes import report

INSTRUCTIONS = ("history", "result", "rollback", "sessions", "status", "update", "watch", "novel")


@pytest.mark.parametrize(
    ("line", "name", "fields"),
    [
        ("status", "status", {}),
        ("  STATUS  ", "status", {}),
        ("st", "status", {}),
        ("up --dry-run", "update", {"dry_run": "plan"}),
        ("update --dry-run=deep --probation 1", "update", {"dry_run": "deep", "probation": 1}),
        ("update --dry-run --force", "update", {"dry_run": "plan", "force": True}),
        ("handoff --boundary-timeout=0.5", "update", {"boundary_timeout": 0.5}),
        (
            "update --laggards close -- python 'my app.py' --port 1",
            "update",
            {"laggards": "close", "command": ["python", "my app.py", "--port", "1"]},
        ),
        ("rollback --to 3", "rollback", {"to": 3}),
        ("sessions --limit 5", "sessions", {"limit": 5}),
        ("sessions --session 42", "sessions", {"session": "42"}),
        ("novel --id 123456", "novel", {"id": "123456"}),
        ("novel --id=12e456", "novel", {"id": "12e456"}),
        ("novel --some-thing x", "novel", {"some_thing": "x"}),
        ("quit", "quit", {}),
        ("exit", "quit", {}),
    ],
)
def test_a_command_is_read(line: str, name: str, fields: dict[str, object]) -> None:
    assert read(line, INSTRUCTIONS) == Command(name, fields)


def test_nothing_is_no_command() -> None:
    assert read("  ", INSTRUCTIONS) is None


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("frobnicate", "type help, or one of "),
        ("s", "sessions or status"),
        ("config", "no instruction 'config'"),
        ("update now", "update [OPTION]"),
        ("update --", "no command after --"),
        ("update 'a", "quotation mark"),
        ("update --type rollback", "no option --type"),
        ("update --type=status", "no option --type"),
        ("help frobnicate", "no command"),
    ],
)
def test_what_is_not_understood_is_answered_with_what_would_be(line: str, says: str) -> None:
    with pytest.raises(Misunderstood) as misunderstood:
        read(line, INSTRUCTIONS)
    assert says in str(misunderstood.value)


def test_help_lists_what_this_server_has_and_nothing_else() -> None:
    text = "\n".join(help_lines(None, INSTRUCTIONS))
    assert all(f"\n{name}" in f"\n{text}" for name in INSTRUCTIONS)
    assert "config" not in text


def test_help_about_one_command_names_its_options() -> None:
    assert read("help up", INSTRUCTIONS) == Command("help", topic="update")
    assert any("--probation" in line for line in help_lines("update", INSTRUCTIONS))
    assert help_lines("novel", INSTRUCTIONS) == ["novel [--name value]..."]


def test_a_report_is_shown_as_the_command_line_shows_it() -> None:
    assert show("update", report("refused", reason="descriptor-limit: too few"))[0] == "refused"
    assert show("status", {"pid": 1})[0] == "pid  1"
    assert show("sessions", {"sessions": []}) == ["no sessions"]


def test_an_answer_of_which_nothing_is_known_is_fields_and_tables() -> None:
    assert anything({"a": 1, "rows": [{"x": 1, "y": None}, {"x": 22, "z": "\x1b"}]}) == [
        "a  1",
        "",
        "rows",
        " X  Y  Z",
        " 1  -  -",
        "22  -  \\x1b",
    ]
    assert anything([1, 2]) == ["1, 2"]
