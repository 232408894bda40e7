"""A sample of sessions as lines."""

from __future__ import annotations

from typing import Any

from hotfd.display.config import releases
from hotfd.display.text import objects, printable, table

COLUMNS = ("session", "key", "connections", "peer", "boundary")

CONFIG = "config"
"""The column with the releases that sessions run with; there is none where no session has any."""


def listing(answer: dict[str, Any]) -> list[str]:
    """Return the answer of the ``sessions`` instruction as lines: a table, and below it what the busy ones await."""
    sessions = objects(answer.get("sessions"))
    total = answer.get("total")
    if not sessions:
        return [f"no such session among {total}"] if isinstance(total, int) and total > 0 else ["no sessions"]
    columns, rows = [*COLUMNS], [[*_row(session)] for session in sessions]
    if any(session.get(CONFIG) for session in sessions):
        columns.append(CONFIG)
        rows = [[*row, releases(session.get(CONFIG))] for row, session in zip(rows, sessions, strict=True)]
    lines = table([column.upper() for column in columns], rows)
    if isinstance(total, int) and total > len(sessions):
        lines.append(f"{len(sessions)} of {total} sessions; {printable(answer.get('busy', 0))} at no boundary")
    for session in sessions:
        if isinstance(session.get("obstacle"), dict):
            lines += _explained(session)
    return lines


def _row(session: dict[str, Any]) -> tuple[Any, ...]:
    members = objects(session.get("members")) or [{}]
    obstacle = session.get("obstacle")
    return (
        session.get("id"),
        session.get("key"),
        session.get("connections"),
        members[0].get("peername"),
        obstacle.get("code") if isinstance(obstacle, dict) else "yes",
    )


def _explained(session: dict[str, Any]) -> list[str]:
    """Say why a session cannot move now, and where its handlers stand."""
    obstacle = session["obstacle"]
    head = f"{printable(session.get('id'))}: {printable(obstacle.get('code'))}: {printable(obstacle.get('detail'))}"
    lines = ["", head]
    for member in objects(session.get("members")):
        if isinstance(awaits := member.get("awaits"), list):
            lines.append(f"  {printable(member.get('id'))} from {printable(member.get('peername'))} awaits")
            lines += [f"    {printable(place)}" for place in awaits]
    return lines
