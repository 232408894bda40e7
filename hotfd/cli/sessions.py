"""``hotfd sessions``: some of a server's sessions, and what those that cannot move now wait for."""

from __future__ import annotations

import click

from hotfd.cli.options import json_option, resolve, target_options
from hotfd.cli.output import print_json
from hotfd.control.client import Client
from hotfd.display.sessions import listing
from hotfd.display.workers import by_worker

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
def command(pid: int | None, socket: str | None, as_json: bool, limit: int) -> None:
    """Show some of a server's sessions; those that could not move now come first.

    For these it says why, and where in the program their handlers wait: file, function and line of each coroutine,
    the innermost last.
    """
    with Client.connect(resolve(pid, socket)) as client:
        answer = client.ask("sessions", limit=limit)
    if as_json:
        print_json(answer)
    else:
        click.echo("\n".join(by_worker(answer, listing)))
