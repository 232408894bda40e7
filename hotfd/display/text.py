"""Values as words, and rows as aligned lines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

MAX_DEPTH: Final = 16
"""Tables and lists within each other that are shown: more than any answer has, and far below what recursion bears."""

DEEPER: Final = "..."
"""In place of what is nested deeper."""


def printable(value: object) -> str:
    """Return ``value`` as text that cannot drive a terminal: names in a status may come from clients."""
    try:
        text = str(value)
    except RecursionError:  # a server of another user may nest what it sends as it likes
        return DEEPER
    if text.isprintable():  # nearly all of thousands, and a console shows them on the server's own loop
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def describe(value: object, depth: int = 0) -> str:
    """Return a JSON value as words: numbers and names, ``key value`` pairs, lists with commas.

    Args:
        value: the value.
        depth: how deep it is in what is shown; below :data:`MAX_DEPTH` nothing is.
    """
    if depth > MAX_DEPTH:
        return DEEPER
    if value is None or value in ([], {}):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, dict):
        return "  ".join(f"{printable(key)} {_inner(item, depth + 1)}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(_inner(item, depth + 1) for item in value)
    return printable(value)


def _inner(value: object, depth: int) -> str:
    text = describe(value, depth)
    return f"({text})" if isinstance(value, dict) and len(value) > 1 else text


def pairs(rows: Iterable[tuple[str, str]]) -> list[str]:
    """Return ``name  value`` lines with the values in one column."""
    rows = list(rows)
    width = max((len(name) for name, _ in rows), default=0)
    return [f"{name:<{width}}  {value}".rstrip() for name, value in rows]


def objects(value: object) -> list[dict[str, Any]]:
    """Return the objects of a list that should hold nothing else; what a server sends may be anything."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def anything(value: object) -> list[str]:
    """Return an answer of which nothing is known as lines: fields, and a table for each list of objects."""
    if not isinstance(value, dict):
        return [describe(value)]
    lists = {name: item for name, item in value.items() if _is_rows(item)}
    lines = pairs((printable(name), describe(item)) for name, item in value.items() if name not in lists)
    for name, rows in lists.items():
        columns = list(dict.fromkeys(column for row in rows for column in row))
        heading = [printable(name)] if len(lists) > 1 or lines else []
        body = table([printable(column).upper() for column in columns], [[row.get(c) for c in columns] for row in rows])
        lines += [*([""] if lines else []), *heading, *body]
    return lines


def _is_rows(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(row, dict) for row in value)


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
