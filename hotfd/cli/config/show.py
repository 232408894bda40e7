"""``hotfd config show``: the values of a release."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
import msgspec

from hotfd.cli.config.changing import head_of
from hotfd.cli.config.looking import release_of
from hotfd.cli.config.options import module_argument, store_option, with_store, zone_option
from hotfd.cli.options import json_option
from hotfd.cli.output import print_json
from hotfd.display.config import assignments, release_head
from hotfd.errors import ConfigError

if TYPE_CHECKING:
    from hotfd.config.release import Release
    from hotfd.config.store import Store


@click.command("show")
@module_argument
@store_option()
@click.option(
    "--version", type=click.IntRange(min=1), metavar="N", help="Show this version, and not what is in force for all."
)
@zone_option
@json_option
def command(module: str, store_url: str, version: int | None, zone: str | None, as_json: bool) -> None:
    """Show the values of MODULE, one key a line, and where they come from.

    Without --zone, what zones have of their own is shown after the values for all.
    """
    release = with_store(store_url, lambda store: _found(store, module, version))
    values = release.values if zone is None else release.values_in(zone)
    if as_json:
        fields = msgspec.structs.asdict(release) | {"values": values, "zone": zone}
        if zone is not None:
            del fields["zones"]
        print_json(fields)
        return
    from hotfd.publish.differences import leaves

    lines = [*release_head(release, zone), "", *assignments(leaves(values))]
    for name, overlay in sorted(release.zones.items()) if zone is None else ():
        lines += ["", f"in zone {name}", *(f"  {line}" for line in assignments(leaves(overlay)))]
    click.echo("\n".join(lines))


async def _found(store: Store, module: str, version: int | None) -> Release:
    head = await head_of(store, module)
    if version is None:
        if head.stable is None:
            raise ConfigError(f"module {module!r} has nothing in force for all yet; choose one with --version")
        version = head.stable.version
    return await release_of(store, head, version)
