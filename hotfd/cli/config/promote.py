"""``hotfd config promote``: put a canary in force for all."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from hotfd.cli.config.changing import Canary, change
from hotfd.cli.config.options import module_argument, operator, store_option, with_store
from hotfd.cli.options import json_option
from hotfd.cli.output import print_json

if TYPE_CHECKING:
    from hotfd.config.release import Head
    from hotfd.config.rollout import Step


@click.command("promote")
@module_argument
@store_option()
@json_option
def command(module: str, store_url: str, as_json: bool) -> None:
    """Put the canary of MODULE in force for all."""
    canary = Canary(module)

    async def decide(head: Head) -> Step:
        from hotfd.config.rollout import promote

        canary.still(head)
        return promote(head, by=operator())

    head = with_store(store_url, lambda store: change(store, module, decide))
    if as_json:
        print_json({"module": module, "version": canary.version, "sequence": head.sequence})
    else:
        click.echo(f"{module}: version {canary.version} is in force for all")
