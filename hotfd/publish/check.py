"""Values against what the servers that run have declared: a release that they would refuse is not published."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from hotfd.errors import ConfigError, Fault, ReleaseRefused

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from hotfd.config.release import Release


def check(release: Release, schemas: Mapping[str, bytes], note: Callable[[str], None]) -> Release:
    """Check a release's values, in every zone, against the schemas that servers have declared.

    While a new version of the servers is brought out, there are two schemas, and values may fit only one of them: those
    servers that they do not fit refuse the release by themselves. So it is refused here if no schema takes it.

    Args:
        release: the release.
        schemas: the JSON Schemas by id; without any, nothing is checked.
        note: told what could not be checked, and who will not take the release.

    Returns:
        the release, with the id of the schema that has taken it.

    Raises:
        ReleaseRefused: no schema takes it; with the faults against the one that it comes closest to.
    """
    if not schemas:
        return release
    found: dict[str, list[Fault]] = {}
    for id_, schema in sorted(schemas.items()):
        try:
            found[id_] = _faults(release, schema)
        except ConfigError as error:
            note(f"module {release.module!r}: the values are not checked against what servers declare: {error}")
    if not found:
        return release
    best = min(found, key=lambda id_: len(found[id_]))
    if found[best]:
        raise ReleaseRefused(release.module, found[best])
    if others := [id_ for id_, faults in found.items() if faults]:
        first = found[others[0]][0]
        note(
            f"module {release.module!r}: servers that declare schema {', '.join(others)} will refuse this and keep what they "
            f"have: {first.path or 'the whole'} should be {first.expected}"
        )
    return msgspec.structs.replace(release, schema=best)


def _faults(release: Release, schema: bytes) -> list[Fault]:
    from hotfd.config.jsonschema import check_against  # only who checks needs it; a server never does

    faults = check_against(schema, release.module, release.values)
    known = set(faults)
    for zone in sorted(release.zones):
        for fault in check_against(schema, release.module, release.values_in(zone)):
            if fault not in known:  # what is wrong everywhere is said once
                faults.append(fault._replace(path=f"{fault.path} in zone {zone}" if fault.path else f"zone {zone}"))
    return faults
