"""Command line, signal and console ask for the same handoff when nobody says anything else."""

from __future__ import annotations

import click
import pytest

from hotfd.app.request import options_of
from hotfd.cli import main
from hotfd.console import commands
from hotfd.server.options import Options


def defaults_of(name: str) -> dict[str, object]:
    """Return what a command asks for when it is given no options."""
    command = main.get_command(click.Context(main), name)  # type: ignore[attr-defined]  # main is a group
    given = {parameter.name: parameter.get_default(click.Context(command)) for parameter in command.params}
    own = {
        "pid",
        "socket",
        "as_json",
        "help",
        "all_at_once",
        "allow_downgrade",
    }  # of the command, or sent when set only
    return {key: value for key, value in given.items() if key not in own}


def test_a_signal_asks_for_what_the_command_line_asks_for() -> None:
    by_signal = options_of({"type": "update"})
    by_command = options_of({"type": "update", **defaults_of("handoff"), "dry_run": False})
    assert by_signal == by_command == Options()


@pytest.mark.parametrize(("command", "instruction"), [("handoff", "update"), ("rollback", "rollback")])
def test_the_console_takes_and_explains_each_option_of_the_command_line(command: str, instruction: str) -> None:
    explained = "\n".join(commands.help_lines(instruction, ["update", "rollback"]))
    values = {"laggards": "close", "on_loss": "stale", "dry_run": "deep"}
    for name in [*defaults_of(command), *(["allow_downgrade"] if command == "handoff" else [])]:
        option = name.replace("_", "-")
        assert f"--{option}" in explained
        typed = f"--{option}" if name in {"force", "allow_downgrade"} else f"--{option}={values.get(name, 7)}"
        request = commands.read(f"{instruction} {typed}", ["update", "rollback"])
        assert request is not None
        asked = options_of({"type": instruction, **request.fields})
        assert getattr(asked, name) == values.get(name, True if "=" not in typed else 7)
