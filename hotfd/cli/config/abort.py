"""``hotfd config abort``: take a canary back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from hotfd.cli.config.changing import Canary, change
from hotfd.cli.config.options import module_argument, operator, reason_option, store_option, with_store
from hotfd.cli.options import json_option
from hotfd.cli.output import print_json

if TYPE_CHECKING:
    from hotfd.config.release import Head
    from hotfd.config.rollout import Step


@click.command("abort")
@module_argument
@store_option()
@reason_option
@json_option
def command(module: str, store_url: str, reason: str, as_json: bool) -> None:
    """Take the canary of MODULE back: new sessions begin with what is in force for all.

    Sessions that have begun with it keep it until they end.
    """
    canary = Canary(module)

    async def decide(head: Head) -> Step:
        from hotfd.config.rollout import abort

        canary.still(head)
        return abort(head, by=operator(), reason=reason)

    head = with_store(store_url, lambda store: change(store, module, decide))
    stable = head.stable.version if head.stable is not None else None
    if as_json:
        print_json({"module": module, "version": canary.version, "stable": stable, "sequence": head.sequence})
    else:
        now = f"version {stable} is in force for all" if stable is not None else "nothing is in force"
        click.echo(f"{module}: version {canary.version} was taken back; {now}")
