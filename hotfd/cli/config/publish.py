"""``hotfd config publish``: what is committed becomes releases."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from hotfd.cli.config.options import operator, store_option, with_store
from hotfd.cli.config.publishing import canary_of, note, report, repository_options
from hotfd.cli.group import FAILED
from hotfd.cli.options import json_option

if TYPE_CHECKING:
    from hotfd.config.store import Store
    from hotfd.publish.publisher import Publisher


@click.command("publish")
@click.argument("repository", metavar="REPO")
@click.option("--rev", metavar="REV", help="Up to this revision, instead of the newest one.")
@click.option(
    "--canary",
    multiple=True,
    metavar="zone=NAME|N%",
    help="At first only for a zone, or for a share of new sessions; can be repeated. Then promote or abort it.",
)
@repository_options
@store_option()
@json_option
def command(
    repository: str,
    rev: str | None,
    canary: tuple[str, ...],
    path: str,
    modules: tuple[str, ...],
    allow_scripts: bool,
    rewritten: bool,
    store_url: str,
    as_json: bool,
) -> None:
    """Publish what is committed in REPO, a git or Subversion repository, and not published yet.

    Each module gets a release for each revision that has touched it since its last one, in order; at first, one for
    the newest. Calling it again does nothing.
    """
    from hotfd.errors import ConfigError
    from hotfd.publish.session import Order, opened, publisher

    order = Order(repository, path, rev, modules, canary_of(canary), allow_scripts, rewritten, operator())
    source = opened(order)
    publishing: list[Publisher] = []

    async def work(store: Store) -> None:
        publishing.append(publisher(order, source, store, note))
        await publishing[0].publish(order.rev)

    failure: ConfigError | None = None
    try:
        with_store(store_url, work, create=True)
    except ConfigError as error:
        failure = error
    report(publishing[0].published if publishing else [], failure, as_json=as_json, verb="published")
    finish(failure)


def finish(failure: Exception | None) -> None:
    """End the command: a refusal is printed already, any other error is for the group to print."""
    from hotfd.publish.faults import RevisionRefused

    if isinstance(failure, RevisionRefused):
        sys.exit(FAILED)
    if failure is not None:
        raise failure
