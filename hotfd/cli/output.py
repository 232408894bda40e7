"""What commands print: JSON for scripts, aligned lines for people."""

from __future__ import annotations

import json
import shutil

import click
import msgspec

from hotfd.display.text import describe, pairs, printable, table

__all__ = ["describe", "pairs", "print_json", "printable", "screen_columns", "screen_lines", "table"]


def print_json(value: object) -> None:
    """Print ``value`` as one line of JSON on stdout.

    In ASCII: it may hold what clients have chosen, such as keys of sessions, which must not drive a terminal.
    """
    plain = json.loads(msgspec.json.encode(value))
    click.echo(json.dumps(plain, separators=(",", ":")))


def screen_columns() -> int:
    """Return the width of the terminal in columns; 80 where there is none."""
    return shutil.get_terminal_size((80, 24)).columns


def screen_lines() -> int:
    """Return the height of the terminal in lines; 24 where there is none."""
    return shutil.get_terminal_size((80, 24)).lines
