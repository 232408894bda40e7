"""``hotfd config follow``: publishes again and again, so that no lost hook costs more than an interval."""

from __future__ import annotations

import click

from hotfd.cli.config.options import operator, run, store_option
from hotfd.cli.config.publishing import repository_options
from hotfd.cli.options import seconds


@click.command("follow")
@click.argument("repository", metavar="REPO")
@click.option(
    "--interval",
    type=float,
    default=30.0,
    show_default=True,
    metavar="S",
    callback=seconds(positive=True),
    help="Seconds between two looks.",
)
@click.option("--rev", metavar="REV", help="A branch, say: instead of what is the newest of all.")
@repository_options
@store_option()
def command(
    repository: str,
    interval: float,
    rev: str | None,
    path: str,
    modules: tuple[str, ...],
    allow_scripts: bool,
    rewritten: bool,
    store_url: str,
) -> None:
    """Publish what is committed in REPO at every interval, until SIGTERM.

    What fails is logged, and tried again with the next look.
    """
    from hotfd import log
    from hotfd.publish.follow import follow
    from hotfd.publish.session import Order

    log.configure()
    order = Order(repository, path, rev, modules, None, allow_scripts, rewritten, operator())
    run(follow(order, store_url, interval))
