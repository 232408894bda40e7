"""The status of a server as lines."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from hotfd.display.config import in_brief, modules_of
from hotfd.display.handoff import told
from hotfd.display.text import describe, objects, pairs, printable
from hotfd.display.workers import WORKERS, each_status
from hotfd.report import Laggard

LAGGARDS: Final = "laggards"
"""The field with the sessions that a handoff has left behind: one line each, at the end."""

CONFIG: Final = "config"
"""The field with the releases of configuration: a line for each module, at the end."""

FIRST = ("name", "pid", "generation", "state", "successor", "listeners", "connections", "sessions", "config")
"""Fields that are shown first, in this order; what else a server reports follows."""


def details(status: dict[str, Any]) -> list[str]:
    """Return a status as lines, one field each; of fields it does not know as well."""
    names = [name for name in FIRST if name in status] + [name for name in status if name not in FIRST]
    rows = [(printable(name), describe(status[name])) for name in names if _worth_showing(name, status)]
    return [*pairs(rows), *_config(status), *_laggards(status.get(LAGGARDS)), *each_status(status.get(WORKERS))]


def _config(status: dict[str, Any]) -> list[str]:
    """Return the releases of a server, or of each worker of a supervisor, one module a line."""
    workers = status.get(WORKERS)
    if not isinstance(workers, list) or len(workers) <= 1:
        modules = modules_of(status.get(CONFIG)) or {}
        return [f"{CONFIG}: {in_brief(name, module)}" for name, module in modules.items()]
    return [
        f"{CONFIG} of worker {describe(worker.get('worker'))}: {in_brief(name, module)}"
        for worker in objects(workers)
        for name, module in (modules_of(worker.get(CONFIG)) or {}).items()
    ]


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
    if name == CONFIG and modules_of(status[name]) is not None:
        return False
    return name not in {LAGGARDS, WORKERS} and (name != "successor" or status[name] is not None)
