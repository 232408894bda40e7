"""``hotfd config validate``: what would be published, without publishing it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from hotfd.cli.config.options import operator, run, store_option, with_store
from hotfd.cli.config.publish import finish
from hotfd.cli.config.publishing import note, report, repository_options
from hotfd.cli.options import json_option

if TYPE_CHECKING:
    from hotfd.config.store import Store
    from hotfd.publish.publisher import Publisher


@click.command("validate")
@click.argument("where", metavar="REPO_OR_DIR")
@click.option("--rev", metavar="REV", help="Up to this revision of the repository, instead of the files as they are.")
@repository_options
@store_option(required=False)
@json_option
def command(
    where: str,
    rev: str | None,
    path: str,
    modules: tuple[str, ...],
    allow_scripts: bool,
    rewritten: bool,
    store_url: str | None,
    as_json: bool,
) -> None:
    """Check what publish would publish; change nothing.

    Of a directory with files, a working tree too, the files are checked as they are; with --rev, and of a bare
    repository, what is committed. Without --store, what depends on the values in force is not checked.
    """
    from hotfd.errors import ConfigError
    from hotfd.publish.rehearsal import Rehearsal
    from hotfd.publish.session import Order, opened, opened_files, publisher

    order = Order(where, path, rev, modules, None, allow_scripts, rewritten, operator())
    source = (opened_files(order) if rev is None else None) or opened(order)
    publishing: list[Publisher] = []

    async def work(store: Store | None) -> None:
        if store is not None:
            # A store that cannot be read is an error of this command, and not of what is checked.
            await store.heads()
        publishing.append(publisher(order, source, Rehearsal(store), note, blind=store is None))
        await publishing[0].publish(order.rev)

    failure: ConfigError | None = None
    try:
        if store_url is not None:
            with_store(store_url, work)
        else:
            note("without --store, what depends on the values in force and on what servers declare is not checked")
            run(work(None))
    except ConfigError as error:
        failure = error
    report(publishing[0].published if publishing else [], failure, as_json=as_json, verb="valid")
    finish(failure)
