"""``hotfd status``: what a server is doing, once or again and again."""

from __future__ import annotations

import sys
import time
from typing import Any

import click

from hotfd.cli.options import json_option, resolve, target_options
from hotfd.cli.output import print_json, screen_columns, screen_lines
from hotfd.control.client import Client
from hotfd.control.errors import RequestFailed, ServerGone, Unreachable
from hotfd.control.process import translate
from hotfd.control.target import find
from hotfd.display.status import details, one_line

INTERVAL = 1.0
"""Seconds between two looks of ``--watch``."""

STATUS_TIMEOUT = 5.0
"""Seconds in which a status must be there; it needs no more than one turn of the server's event loop."""

FOLLOW_TIMEOUT = 1.0
"""Seconds that a successor has to answer while the old process is still being watched."""


@click.command("status")
@target_options
@json_option
@click.option("--watch", is_flag=True, help="Look again each second, and follow the server over handoffs.")
def command(pid: int | None, socket: str | None, as_json: bool, watch: bool) -> None:
    """Show what a server is doing.

    With --watch, a terminal is redrawn; anything else gets lines (with --json one object a line).
    """
    with Watched(Client.connect(resolve(pid, socket))) as watched:
        if not watch:
            status = watched.look()
            if as_json:
                print_json(status)
            else:
                click.echo("\n".join(details(status)))
            return
        try:
            _watch(watched, as_json)
        except KeyboardInterrupt:
            click.echo(err=True)  # control-C is how one stops watching; the shell's prompt gets its own line


def _watch(watched: Watched, as_json: bool) -> None:
    redraw = not as_json and sys.stdout.isatty()
    due = time.monotonic()
    while True:
        status = watched.look()
        if as_json:
            print_json(status)
        elif redraw:
            lines = [line[: screen_columns() - 1] for line in details(status)[: screen_lines() - 1]]
            # Home, then each line with the rest of its row erased, then the rest of the screen.
            click.echo("\x1b[H" + "".join(f"{line}\x1b[K\n" for line in lines) + "\x1b[J", nl=False)
        else:
            click.echo(one_line(status))
        sys.stdout.flush()
        due = max(due + INTERVAL, time.monotonic())
        time.sleep(due - time.monotonic())
        watched.follow(status)


class Watched:
    """The server that is being watched: the newest generation that answers. Owns its client.

    Args:
        client: a connection to the first one.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._successor: int | None = None  # as this process sees it, learned while the old one lived

    def __enter__(self) -> Watched:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def look(self) -> dict[str, Any]:
        """Return the status of the server, or of its successor when it has gone.

        Raises:
            ServerGone: it has gone, and has no successor.
        """
        try:
            status = self._client.ask("status", timeout=STATUS_TIMEOUT)
        except ServerGone:
            if self._successor is None:
                raise
            successor, self._successor = self._successor, None
            self._switch(Client.connect(find(successor)))
            status = self._client.ask("status", timeout=STATUS_TIMEOUT)
        inner = status.get("successor")
        if isinstance(inner, int):
            process = self._client.process
            self._successor = translate(inner, process) if process else inner
        return status

    def follow(self, status: dict[str, Any]) -> None:
        """Go on with the successor of ``status`` once it serves; the old process may live for long."""
        if self._successor is None or not isinstance(status.get("successor"), int):
            return
        try:
            client = Client.connect(find(self._successor), FOLLOW_TIMEOUT)
        except Unreachable:
            return  # not yet
        try:
            serves = client.ask("status", timeout=FOLLOW_TIMEOUT).get("state") == "serving"
        except (RequestFailed, ServerGone):
            serves = False
        if serves:
            self._switch(client)
            self._successor = None
        else:
            client.close()

    def _switch(self, client: Client) -> None:
        self._client.close()
        self._client = client
