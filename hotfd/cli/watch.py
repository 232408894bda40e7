"""``hotfd watch``: what happens in a server, as it happens, over all its handoffs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import click

from hotfd.cli.options import json_option, resolve, target_options
from hotfd.cli.output import print_json
from hotfd.control.client import Client
from hotfd.control.errors import ServerGone, Unreachable
from hotfd.control.process import translate
from hotfd.control.target import find
from hotfd.display.events import Teller

FOREVER = 10 * 365 * 86_400.0
"""Seconds that a watch may be silent: a server in which nothing happens says nothing."""


@click.command("watch")
@target_options
@json_option
def command(pid: int | None, socket: str | None, as_json: bool) -> None:
    """Show what happens in a server until control-C, and follow it over handoffs.

    Handoffs, whoever asked for them, with their phases, their progress, the sessions that stay or are closed, and
    their outcome; and the counts of connections and sessions, at most once a second, when they change.
    """
    teller = Teller()
    try:
        for event in follow(Client.connect(resolve(pid, socket))):
            if as_json:
                print_json(event)
            else:
                for line in teller.lines(event):
                    click.echo(line)
    except KeyboardInterrupt:
        click.echo(err=True)  # control-C is how one stops watching; the shell's prompt gets its own line


def follow(client: Client) -> Iterator[dict[str, Any]]:
    """Yield the events of a server and then of its successors; owns the client.

    Raises:
        ServerGone: the server died, and nobody has taken over from it.
        Unreachable: its successor does not answer.
    """
    while True:
        watch = _Watch(client)
        try:
            yield from watch.events()
        finally:
            client.close()
        if watch.successor is None:
            yield {"event": "ended", "time": time.time()}
            return
        client = _connect(watch)
        yield {"event": "replaced", "pid": watch.successor, "time": time.time()}


def _connect(watch: _Watch) -> Client:
    assert watch.successor is not None
    try:
        return Client.connect(find(watch.successor))
    except Unreachable:
        if watch.died is not None:
            raise watch.died from None  # both have gone: what is to be told is that the server has
        raise


class _Watch:
    """The watch of one process.

    Attributes:
        successor: who serves after it, as this process sees it; None when nobody does.
        died: how it was found to be gone, when it did not say goodbye.
    """

    def __init__(self, client: Client) -> None:
        self.successor: int | None = None
        self.died: ServerGone | None = None
        self._client = client

    def events(self) -> Iterator[dict[str, Any]]:
        """Yield the events until the process is replaced or ends."""
        try:
            for message in self._client.request("watch", FOREVER):
                if "result" in message:
                    self.successor = self._seen_from_here(message["result"].get("successor"))
                else:
                    self._note(message)
                    yield message
        except ServerGone as gone:
            # It died in the middle of a handoff, perhaps: then the new process owns everything.
            if self.successor is None:
                raise
            self.died = gone

    def _note(self, event: dict[str, Any]) -> None:
        """Learn who the new process of a handoff is while the old one, whose word its pid is, still lives."""
        if event.get("event") == "phase":
            self.successor = self._seen_from_here(event.get("new_pid"))
        elif event.get("event") == "outcome":
            self.successor = None

    def _seen_from_here(self, pid: object) -> int | None:
        if not isinstance(pid, int):
            return None
        return translate(pid, self._client.process) if self._client.process else pid
