"""``hotfd config history``: who has published what of a module, and when."""

from __future__ import annotations

import click

from hotfd.cli.config.options import module_argument, store_option, with_store
from hotfd.cli.group import Failure
from hotfd.cli.options import json_option
from hotfd.cli.output import print_json
from hotfd.display.config import recorded

LIMIT = 20
"""Changes that are shown unless more are asked for: a screen full."""

MAX_LIMIT = 1000
"""Changes that are shown at most, so that a store is asked for a bounded part of its history."""


@click.command("history")
@module_argument
@store_option()
@click.option(
    "--limit",
    type=click.IntRange(1, MAX_LIMIT),
    default=LIMIT,
    show_default=True,
    metavar="N",
    help="Show at most so many changes, the newest.",
)
@json_option
def command(module: str, store_url: str, limit: int, as_json: bool) -> None:
    """Show the changes of MODULE, newest first: who, when, which revision, and why."""
    events = with_store(store_url, lambda store: store.history(module, limit=limit))
    if as_json:
        print_json({"module": module, "events": events})
    elif events:
        click.echo("\n".join(recorded(events)))
    else:
        raise Failure(f"nothing was ever published of module {module!r}")
