"""``hotfd rollback``: go back to what ran before, by a handoff."""

from __future__ import annotations

from typing import Any

import click

from hotfd.cli.carry import carry_out, handoff_options
from hotfd.cli.options import json_option, target_options


@click.command("rollback")
@target_options
@json_option
@click.option(
    "--to",
    type=click.IntRange(min=1),
    metavar="GENERATION",
    help="Go back to this generation, and not to what ran before the one that runs (hotfd history lists them).",
)
@handoff_options
@click.option("--force", is_flag=True, help="Go back although files have changed, or the service may not survive it.")
def command(pid: int | None, socket: str | None, as_json: bool, dry_run: str | None, **fields: Any) -> None:
    """Replace a running server with what ran before it, while its clients stay connected.

    A handoff whose new process is a former generation again: its command, its directory and its environment. It is
    refused when the files of that generation have changed since. Sessions whose state the older version cannot hold
    stay with the old process.

    Going back twice goes back two versions, and not forth again: use --to for that.

    Exit status: as of hotfd handoff.
    """
    carry_out("rollback", pid, socket, as_json=as_json, dry_run=dry_run, **fields)
