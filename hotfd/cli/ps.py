"""``hotfd ps``: every hotfd server that this user may control."""

from __future__ import annotations

from typing import Any

import click

from hotfd.cli.options import json_option
from hotfd.cli.output import print_json, table
from hotfd.control.client import Client
from hotfd.control.sweep import known_directories, sweep
from hotfd.control.target import Target, visible
from hotfd.errors import ControlError

ANSWER_TIMEOUT = 2.0
"""Seconds that each server has to answer; one that hangs must not hide the others for long."""

COLUMNS = ("pid", "name", "generation", "state", "connections", "sessions")


@click.command("ps")
@json_option
def command(as_json: bool) -> None:
    """List every hotfd server that you may control; root sees everybody's.

    Sockets that dead servers have left behind are removed.
    """
    for path in sweep(known_directories().items()):
        click.echo(f"hotfd: removed {path}, left behind by a process that has ended", err=True)
    servers = [_look(target) for target in visible()]
    if as_json:
        print_json({"servers": servers})
    elif servers:
        rows = [[_marked(server).get(column) for column in COLUMNS] for server in servers]
        click.echo("\n".join(table([column.upper() for column in COLUMNS], rows)))
        for server in servers:
            if "error" in server:
                click.echo(f"hotfd: {server['error']}", err=True)
    else:
        click.echo("hotfd: no servers; hotfd servers of other users are not shown", err=True)


def _marked(status: dict[str, Any]) -> dict[str, Any]:
    """Return a status with the name marked if it is a supervisor's, whose counts are those of its servers again."""
    role = status.get("role")
    return status | {"name": f"{status.get('name')} ({role})"} if role is not None else status


def _look(target: Target) -> dict[str, Any]:
    """Return a server's status; of one that does not answer its pid and why."""
    assert target.process is not None
    pid = target.process.pid
    try:
        with Client.connect(target, ANSWER_TIMEOUT) as client:
            # The id of a server in a container is another one inside; here the outer one is of use.
            return client.ask("status", timeout=ANSWER_TIMEOUT) | {"pid": pid}
    except ControlError as exc:
        return {"pid": pid, "name": None, "state": "no answer", "error": str(exc)}
