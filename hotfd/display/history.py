"""The history of a service as lines."""

from __future__ import annotations

import shlex
from typing import Any

from hotfd.display.config import moment
from hotfd.display.text import objects, printable, table

COLUMNS = ("generation", "pid", "started", "came by", "hotfd", "python", "state", "go back")


def listing(answer: dict[str, Any]) -> list[str]:
    """Return the answer of the ``history`` instruction as lines: a table, then each command, and what stands in the way."""
    generations = objects(answer.get("generations"))
    lines = table([column.upper() for column in COLUMNS], [_row(generation) for generation in generations])
    for generation in generations:
        lines += ["", *_explained(generation)]
    return [*lines, "", _where_to(answer, generations)]


def _row(generation: dict[str, Any]) -> tuple[Any, ...]:
    return (
        generation.get("generation"),
        generation.get("pid"),
        _time(generation.get("started")),
        _came_by(generation),
        generation.get("hotfd"),
        generation.get("python"),
        generation.get("state_version"),
        "runs now" if generation.get("current") else "yes" if generation.get("rollback") else "no",
    )


def _time(started: object) -> str:
    return moment(started) if isinstance(started, int | float) else "-"


def _came_by(generation: dict[str, Any]) -> str:
    how = printable(generation.get("how"))
    return f"{how} to {printable(generation.get('runs'))}" if how == "rollback" else how


def _explained(generation: dict[str, Any]) -> list[str]:
    command = generation.get("command")
    words = [printable(word) for word in command] if isinstance(command, list) else []
    lines = [f"{printable(generation.get('generation'))}: {shlex.join(words)}"]
    cwd, directory = generation.get("cwd"), generation.get("directory")
    was = f", which was {printable(directory or 'gone')}" if directory != cwd else ""
    lines.append(f"   in {printable(cwd)}{was}")
    if not generation.get("current") and generation.get("reason"):
        lines.append(f"   {printable(generation['reason'])}")
    return lines


def _where_to(answer: dict[str, Any], generations: list[dict[str, Any]]) -> str:
    target = answer.get("rollback_to")
    if target is None:
        return f"hotfd rollback: {printable(answer.get('reason'))}"
    possible = any(row.get("rollback") for row in generations if row.get("generation") == target)
    return f"hotfd rollback goes back to generation {printable(target)}" + ("" if possible else ", which is refused")
