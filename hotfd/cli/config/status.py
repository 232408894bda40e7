"""``hotfd config status``: what is in force of each module, and which servers have it."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any, Final

import click
from click.core import ParameterSource

from hotfd.cli.config.options import checked_modules, complete_module, store_option, with_store
from hotfd.cli.group import FAILED, usage_error
from hotfd.cli.options import json_option, resolve, seconds, target_options
from hotfd.cli.output import print_json
from hotfd.control.client import Client
from hotfd.display.config import served, surveyed
from hotfd.display.workers import WORKERS, by_worker

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hotfd.config.store import Store
    from hotfd.config.survey import Survey

LOOK_AGAIN: Final = 0.5
"""Seconds between two looks of ``--wait``: a release is with a server within an interval of some seconds."""


@click.command("status")
@store_option(required=False)
@target_options
@click.option(
    "--module",
    "modules",
    multiple=True,
    metavar="MODULE",
    callback=checked_modules,
    shell_complete=complete_module,
    help="Show this module only; may be given again.",
)
@click.option("--all", "everybody", is_flag=True, help="Show servers too that have gone.")
@json_option
@click.option("--metrics", "as_metrics", is_flag=True, help="Print OpenMetrics text for monitoring.")
@click.option("--check", is_flag=True, help="Exit with 1 when not all living servers have what is in force.")
@click.option(
    "--wait",
    type=float,
    default=0.0,
    callback=seconds(),
    metavar="SECONDS",
    help="Wait so long until all living servers have it; implies --check.",
)
@click.pass_context
def command(
    ctx: click.Context,
    store_url: str | None,
    pid: int | None,
    socket: str | None,
    modules: tuple[str, ...],
    everybody: bool,
    as_json: bool,
    as_metrics: bool,
    check: bool,
    wait: float,
) -> None:
    """Show what is in force of each module, and what every server has made of it.

    With --pid or --socket, the same from one server: what it runs, has staged, and what its sessions hold.

    Exit status: with --check and --wait, 1 when a living server does not have what is in force, or has refused what
    was published last.
    """
    if as_json and as_metrics:
        usage_error("Choose --json or --metrics.")
    if pid is not None or socket is not None:
        told = ctx.get_parameter_source("store_url") is ParameterSource.COMMANDLINE
        if told or modules or everybody or check or wait:
            usage_error("One server is shown as it is: --pid and --socket go with --json and --metrics alone.")
        _one_server(pid, socket, as_json=as_json, as_metrics=as_metrics)
        return
    if store_url is None:
        usage_error("Name the store with --store URL (or HOTFD_CONFIG_STORE), or one server with --pid or --socket.")
    found = with_store(store_url, lambda store: _waited(store, modules, wait))
    complete = all(_complete(survey, named=bool(modules)) for survey in found.values())
    if as_json:
        print_json({"time": time.time(), "complete": complete, "modules": found})
    elif as_metrics:
        from hotfd.display.metrics import of_survey

        click.echo(of_survey(found), nl=False)
    else:
        click.echo("\n".join(surveyed(found, everybody=everybody)))
    if (check or wait) and not complete:
        sys.exit(FAILED)


def _one_server(pid: int | None, socket: str | None, *, as_json: bool, as_metrics: bool) -> None:
    with Client.connect(resolve(pid, socket)) as client:
        answer = client.ask("config")
    if as_json:
        print_json(answer)
    elif as_metrics:
        if WORKERS in answer:
            usage_error("A supervisor has several workers; ask each for its metrics (hotfd ps lists them).")
        from hotfd.display.metrics import of_server

        click.echo(of_server(answer), nl=False)
    else:
        click.echo("\n".join(by_worker(answer, served)))


async def _waited(store: Store, modules: Sequence[str], wait: float) -> dict[str, Survey]:
    """Look at the modules until all is well, something was refused, or the time is over."""
    import asyncio

    deadline = time.monotonic() + wait
    while True:
        found = await look(store, modules)
        left = deadline - time.monotonic()
        if left <= 0 or all(_complete(one, named=bool(modules)) or _decided(one) for one in found.values()):
            return found
        await asyncio.sleep(min(LOOK_AGAIN, left))


def _complete(survey: Survey, *, named: bool) -> bool:
    """Return whether all is well with a module; of one that was named something must be there: it may be a slip."""
    return survey.complete and (survey.head is not None or not named)


def _decided(survey: Survey) -> bool:
    """Return whether waiting changes nothing any more: a server does not take again what it has refused."""
    return bool(survey.refused) or (survey.head is not None and survey.head.change == "halted")


async def look(store: Store, modules: Sequence[str]) -> dict[str, Survey]:
    """Return what a store knows of these modules, or of all that have a release, by name."""
    import asyncio

    from hotfd.config.survey import survey

    heads = await store.heads(modules or None)
    names = list(dict.fromkeys(modules)) or sorted(heads)

    async def one(name: str) -> Any:
        reports, addresses = await asyncio.gather(store.acknowledgements(name), store.addresses(name))
        return survey(heads.get(name), reports, addresses, time.time())

    return dict(zip(names, await asyncio.gather(*map(one, names)), strict=True))
