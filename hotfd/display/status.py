"""The status of a server as lines."""

from __future__ import annotations

from typing import Any

from hotfd.display.text import describe, pairs, printable

FIRST = ("name", "pid", "generation", "state", "successor", "listeners", "connections", "sessions", "config")
"""Fields that are shown first, in this order; what else a server reports follows."""


def details(status: dict[str, Any]) -> list[str]:
    """Return a status as lines, one field each; of fields it does not know as well."""
    names = [name for name in FIRST if name in status] + [name for name in status if name not in FIRST]
    rows = [(printable(name), describe(status[name])) for name in names if _worth_showing(name, status)]
    return pairs(rows)


def one_line(status: dict[str, Any]) -> str:
    """Return the fields that change as one line."""
    names = ("name", "pid", "generation", "state", "connections", "sessions")
    return "  ".join(f"{name} {describe(status[name])}" for name in names if name in status)


def _worth_showing(name: str, status: dict[str, Any]) -> bool:
    return name != "successor" or status[name] is not None
