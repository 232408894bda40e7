"""What commands print: JSON for scripts, aligned lines for people."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import click
import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


def print_json(value: object) -> None:
    """Print ``value`` as one line of JSON on stdout."""
    click.echo(msgspec.json.encode(value))


def printable(value: object) -> str:
    """Return ``value`` as text that cannot drive a terminal: names in a status may come from clients."""
    text = str(value)
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def describe(value: object) -> str:
    """Return a JSON value as words: numbers and names, ``key value`` pairs, lists with commas."""
    if value is None or value in ([], {}):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, dict):
        return "  ".join(f"{printable(key)} {_inner(item)}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(_inner(item) for item in value)
    return printable(value)


def _inner(value: object) -> str:
    text = describe(value)
    return f"({text})" if isinstance(value, dict) and len(value) > 1 else text


def pairs(rows: Iterable[tuple[str, str]]) -> list[str]:
    """Return ``name  value`` lines with the values in one column."""
    rows = list(rows)
    width = max((len(name) for name, _ in rows), default=0)
    return [f"{name:<{width}}  {value}".rstrip() for name, value in rows]


def table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    """Return lines of aligned columns; columns of numbers are aligned to the right."""
    cells = [[describe(cell) for cell in row] for row in rows]
    numeric = [all(row[i].replace("-", "").isdecimal() or row[i] == "-" for row in cells) for i in range(len(header))]
    widths = [max(len(row[i]) for row in [list(header), *cells]) for i in range(len(header))]
    lines = []
    for row in [list(header), *cells]:
        parts = [
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(row, widths, numeric, strict=True)
        ]
        lines.append("  ".join(parts).rstrip())
    return lines


def screen_columns() -> int:
    """Return the width of the terminal in columns; 80 where there is none."""
    return shutil.get_terminal_size((80, 24)).columns


def screen_lines() -> int:
    """Return the height of the terminal in lines; 24 where there is none."""
    return shutil.get_terminal_size((80, 24)).lines
