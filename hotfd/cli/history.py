"""``hotfd history``: the generations of a service, and which of them one can go back to."""

from __future__ import annotations

import click

from hotfd.cli.options import json_option, resolve, target_options
from hotfd.cli.output import print_json
from hotfd.control.client import Client
from hotfd.display.history import listing
from hotfd.display.workers import by_worker

HISTORY_TIMEOUT = 30.0
"""Seconds for the answer: the server looks at the files of each generation, which may be on a slow disk."""


@click.command("history")
@target_options
@json_option
def command(pid: int | None, socket: str | None, as_json: bool) -> None:
    """Show what a server ran before, oldest first, and what hotfd rollback can go back to."""
    with Client.connect(resolve(pid, socket)) as client:
        answer = client.ask("history", timeout=HISTORY_TIMEOUT)
    if as_json:
        print_json(answer)
    else:
        click.echo("\n".join(by_worker(answer, listing)))
