"""What a supervisor says of several workers, as lines: each worker's part is shown as a server's own would be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from hotfd.display.text import describe, objects, printable

WORKERS: Final = "workers"
"""The field in which a supervisor's answer has those of its workers."""

_SHOWN: Final = ("pid", "generation", "state", "connections", "sessions", "restarts", "elders", "error")
"""Fields of a worker's status that are shown in its line; ``hotfd status`` of its pid shows the others."""


def by_worker(answer: dict[str, Any], show: Callable[[dict[str, Any]], list[str]]) -> list[str]:
    """Return an answer as lines.

    Args:
        answer: a server's own, or a supervisor's with one for each worker.
        show: returns a server's answer as lines.
    """
    if not isinstance(answer.get(WORKERS), list):
        return show(answer)
    lines = []
    for worker in objects(answer[WORKERS]):
        lines.append(f"worker {printable(worker.get('worker'))}, process {printable(worker.get('pid') or '-')}")
        result, error = worker.get("result"), worker.get("error")
        if isinstance(result, dict):
            lines += [f"  {line}".rstrip() for line in show(result)]
        else:
            error = error if isinstance(error, dict) else {}
            lines.append(f"  {printable(error.get('code'))}: {printable(error.get('message'))}")
    return lines


def each_status(workers: object) -> list[str]:
    """Return the ``workers`` of a supervisor's status, one a line."""
    return [
        f"worker {describe(worker.get('worker'))}: "
        + "  ".join(f"{name} {describe(worker[name])}" for name in _SHOWN if worker.get(name) not in (None, [], ""))
        for worker in objects(workers)
    ]
