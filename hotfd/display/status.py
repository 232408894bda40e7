"""The status of a server as lines."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from hotfd.display.handoff import told
from hotfd.display.text import describe, pairs, printable
from hotfd.display.workers import WORKERS, each_status
from hotfd.report import Laggard

LAGGARDS: Final = "laggards"
"""The field with the sessions that a handoff has left behind: one line each, at the end."""

FIRST = ("name", "pid", "generation", "state", "successor", "listeners", "connections", "sessions", "config")
"""Fields that are shown first, in this order; what else a server reports follows."""


def details(status: dict[str, Any]) -> list[str]:
    """Return a status as lines, one field each; of fields it does not know as well."""
    names = [name for name in FIRST if name in status] + [name for name in status if name not in FIRST]
    rows = [(printable(name), describe(status[name])) for name in names if _worth_showing(name, status)]
    return [*pairs(rows), *_laggards(status.get(LAGGARDS)), *each_status(status.get(WORKERS))]


def _laggards(found: object) -> list[str]:
    """Return the sessions that have stayed behind, one a line, as the report of the handoff shows them."""
    try:
        laggards = msgspec.convert(found or [], list[Laggard])
    except msgspec.ValidationError:  # of a server that tells of them in another way
        return []
    return [f"{LAGGARDS}: {printable(laggard.code)}  {told(laggard)}" for laggard in laggards]


def one_line(status: dict[str, Any]) -> str:
    """Return the fields that change as one line."""
    names = ("name", "pid", "generation", "state", "connections", "sessions")
    return "  ".join(f"{name} {describe(status[name])}" for name in names if name in status)


def _worth_showing(name: str, status: dict[str, Any]) -> bool:
    return name not in {LAGGARDS, WORKERS} and (name != "successor" or status[name] is not None)
