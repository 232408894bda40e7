"""``hotfd sessions``: some of a server's sessions, and what those that cannot move now wait for."""

from __future__ import annotations

from typing import Any

import click

from hotfd.cli.group import Failure
from hotfd.cli.options import json_option, resolve, target_options
from hotfd.cli.output import print_json
from hotfd.control.client import Client
from hotfd.display.sessions import listing
from hotfd.display.workers import WORKERS, by_worker

LIMIT = 100
"""Sessions that are shown unless more are asked for: some screens full."""

MAX_LIMIT = 10_000
"""Sessions that a server tells of at most."""


@click.command("sessions")
@target_options
@json_option
@click.option(
    "--limit",
    type=click.IntRange(1, MAX_LIMIT),
    default=LIMIT,
    show_default=True,
    metavar="N",
    help="Show at most so many sessions.",
)
@click.option("--session", "wanted", metavar="ID", help="Show the session with this id or key, or of this connection.")
def command(pid: int | None, socket: str | None, as_json: bool, limit: int, wanted: str | None) -> None:
    """Show some of a server's sessions; those that could not move now come first.

    For these it says why, and where in the program their handlers wait: file, function and line of each coroutine,
    the innermost last. Of servers with a configuration it says which releases each session runs with.

    Exit status: with --session, 1 when there is no such session.
    """
    fields: dict[str, Any] = {"limit": limit}
    if wanted is not None:
        fields["session"] = wanted  # only when it is asked for: a server of an earlier release knows no such field
    with Client.connect(resolve(pid, socket)) as client:
        answer = client.ask("sessions", **fields)
    if wanted is not None and not _any(answer):
        raise Failure(f"there is no session {wanted!r}, and no connection of that id")
    if as_json:
        print_json(answer)
    else:
        click.echo("\n".join(by_worker(answer, listing)))


def _any(answer: dict[str, Any]) -> bool:
    """Return whether an answer, a server's own or a supervisor's with one for each worker, has any session."""
    each = [worker.get("result") or {} for worker in answer.get(WORKERS) or []]
    return any(one.get("sessions") for one in (answer, *each))
