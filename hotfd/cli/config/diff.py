"""``hotfd config diff``: what is different between two releases."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click
import msgspec

from hotfd.cli.config.changing import head_of
from hotfd.cli.config.looking import release_of, version_before
from hotfd.cli.config.options import module_argument, store_option, with_store, zone_option
from hotfd.cli.options import json_option
from hotfd.cli.output import print_json
from hotfd.display.config import differing
from hotfd.errors import ConfigError

if TYPE_CHECKING:
    from hotfd.config.release import Head, Release
    from hotfd.config.store import Store

DIFFERENT = 1
"""Exit status with ``--exit-code`` when there is a difference, as git has it."""


@click.command("diff")
@module_argument
@click.argument("old", type=click.IntRange(min=1), required=False, metavar="[A")
@click.argument("new", type=click.IntRange(min=1), required=False, metavar="[B]]")
@store_option()
@zone_option
@json_option
@click.option("--exit-code", is_flag=True, help="Exit with 1 when there is a difference.")
def command(
    module: str,
    old: int | None,
    new: int | None,
    store_url: str,
    zone: str | None,
    as_json: bool,
    exit_code: bool,
) -> None:
    """Show by key what is different in version B of MODULE, compared with version A.

    Without B, that is the canary if one is going on, else what is in force for all. Without A, it is what was in force
    before that. With --zone, the values are compared as they hold there.
    """
    one, other = with_store(store_url, lambda store: _both(store, module, old, new))
    from hotfd.publish.differences import between

    found = {name: [msgspec.to_builtins(row) for row in rows] for name, rows in between(one, other, zone).items()}
    if as_json:
        values = found.pop("", [])
        fields = {"module": module, "from": one.version, "to": other.version, "zone": zone, "changes": values}
        print_json(fields | {"zones": found})
        different = bool(values or found)
    else:
        different = bool(found)
        click.echo(f"{module}: version {one.version} -> {other.version}" + (f" in zone {zone}" if zone else ""))
        click.echo("\n".join(differing(found)))
    if exit_code and different:
        sys.exit(DIFFERENT)


async def _both(store: Store, module: str, old: int | None, new: int | None) -> tuple[Release, Release]:
    head = await head_of(store, module)
    if new is None:
        new = _newest(head)
    if old is None:
        old = await _before(store, head, new)
    return await release_of(store, head, old), await release_of(store, head, new)


def _newest(head: Head) -> int:
    track = head.canary or head.stable
    return track.version if track is not None else head.last


async def _before(store: Store, head: Head, version: int) -> int:
    if head.canary is not None and head.stable is not None and version == head.canary.version:
        return head.stable.version
    before = await version_before(store, head.module)
    if before is None:
        raise ConfigError(
            f"module {head.module!r} had nothing in force before; choose two versions, of 1 to {head.last}"
        )
    return before
