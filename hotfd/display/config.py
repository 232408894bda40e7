"""Releases of configuration as lines: what is in force, who has it, how it came, and what is different."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from hotfd.display.text import describe, pairs, printable, table

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from hotfd.config.release import Event, Head, Release
    from hotfd.config.survey import Server, Survey

_SERVERS: Final = (
    "zone",
    "service",
    "process",
    "generation",
    "has it",
    "release",
    "state",
    "running",
    "pinned",
    "sequence",
    "reported",
)

_HISTORY: Final = ("sequence", "time", "change", "version", "by", "revision", "note")

_CHANGED: Final = {
    "published": "published",
    "canary": "published for some",
    "promoted": "canary promoted",
    "aborted": "canary aborted",
    "halted": "canary halted",
    "rolled-back": "rolled back",
}
"""What is said of each change of a head."""

_REVISION: Final = 12
"""Letters of a revision in a table: enough to tell a repository's commits apart."""

_UNITS: Final = ((86_400, "d"), (3_600, "h"), (60, "min"))


# -- what a store says -----------------------------------------------------------------------------


def surveyed(modules: Mapping[str, Survey], *, everybody: bool = False) -> list[str]:
    """Return what is in force of each module and how its servers stand to that, as lines.

    Args:
        modules: by name.
        everybody: whether servers that are gone are shown too.
    """
    lines: list[str] = []
    for name, survey in modules.items():
        lines += [*([""] if lines else []), printable(name), *_head(survey)]
        shown = [server for server in survey.servers if everybody or server.standing != "gone"]
        if shown:
            rows = [_server(server, survey.head) for server in shown]
            lines += [f"  {line}" for line in table([column.upper() for column in _SERVERS], rows)]
        for server in shown:
            if server.standing == "refused":
                who = f"{printable(server.service)} at {printable(server.host)}:{server.pid}"
                lines.append(f"  version {server.version} is {server.state} by {who}")
                lines += [f"    {printable(fault)}" for fault in server.faults]
        lines.append(f"  {_summary(survey)}")
        hidden = len(survey.servers) - len(shown)
        if hidden:
            lines.append(f"  {hidden} that have gone are not shown; --all shows them")
    return lines or ["nothing is published"]


def _head(survey: Survey) -> list[str]:
    head = survey.head
    if head is None:
        return ["  nothing is published"]
    stable = f"version {head.stable.version}" if head.stable is not None else "nothing yet"
    rows = [("for all", stable)]
    if head.canary is not None:
        rows.append(("canary", f"version {head.canary.version} {for_whom(head.canary.zones, head.canary.share)}"))
    reason = f": {printable(head.reason)}" if head.reason else ""
    what = _CHANGED.get(head.change, head.change)
    rows.append(("changed", f"{moment(head.time)}, {what} by {printable(head.by)}{reason}"))
    rows.append(("sequence", str(head.sequence)))
    if survey.addresses:
        rows.append(("served by", describe(survey.addresses)))
    return [f"  {line}" for line in pairs(rows)]


def for_whom(zones: Sequence[str], share: float) -> str:
    """Return whom a canary is for, in words."""
    some = [f"zone{'s' if len(zones) > 1 else ''} {', '.join(map(printable, zones))}"] if zones else []
    if share:
        some.append(f"{percent(share)} of the new sessions{' elsewhere' if zones else ''}")
    return "for " + (" and ".join(some) or "nobody")


def percent(share: float) -> str:
    """Return a share of 0 to 1 as text: 0.05 is ``5 %``."""
    return f"{100 * share:.6g} %"


def _server(server: Server, head: Head | None) -> tuple[Any, ...]:
    behind = head is not None and server.sequence < head.sequence
    return (
        server.zone or None,
        server.service,
        f"{server.host}:{server.pid}",
        server.generation,
        {"current": "yes", "behind": "not yet"}.get(server.standing, server.standing),
        server.version,
        server.state,
        server.running,
        held(server.pinned),
        f"{server.sequence} (behind)" if behind else server.sequence,
        f"{age(server.age)} ago",
    )


def _summary(survey: Survey) -> str:
    if not survey.servers:
        return "no server has reported"
    behind = survey.living - survey.current - survey.refused
    parts = [f"{survey.current} of {survey.living} servers have it"]
    parts += [f"{survey.refused} refused it"] if survey.refused else []
    parts += [f"{behind} not yet"] if behind else []
    if survey.head is not None and survey.head.change == "halted":
        parts.append("the canary before it was halted, since a server refused it")
    return "; ".join(parts)


def recorded(events: Iterable[Event]) -> list[str]:
    """Return a module's history as lines."""
    rows = [
        (
            event.sequence,
            moment(event.time),
            _CHANGED.get(event.change, event.change),
            event.version,
            event.by,
            event.revision[:_REVISION] or None,
            event.reason or event.note or None,
        )
        for event in events
    ]
    return table([column.upper() for column in _HISTORY], rows) if rows else ["nothing is published"]


def release_head(release: Release, zone: str | None) -> list[str]:
    """Return what is known of a release beside its values, as lines."""
    rows = [
        ("module", printable(release.module)),
        ("version", str(release.version)),
        ("revision", printable(release.revision) or "-"),
        ("author", printable(release.author) or "-"),
        ("time", moment(release.time)),
    ]
    rows += [("note", printable(release.note))] if release.note else []
    rows += [("restores", f"version {release.restores}")] if release.restores else []
    rows += [("zone", printable(zone))] if zone is not None else []
    return pairs(rows)


def assignments(leaves: Iterable[tuple[str, Any]]) -> list[str]:
    """Return keys with their values, one a line."""
    return [f"{printable(key)} = {value(item)}" for key, item in leaves]


def value(item: object) -> str:
    """Return a value as JSON in one line, in ASCII: it may come from anybody who can commit."""
    return json.dumps(item)


def differing(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """Return differences as lines: ``+`` was added, ``-`` was removed, ``~`` has another value.

    Args:
        found: by zone, those of the values for all under the empty name; each with ``key``, ``kind``, ``old``, ``new``.
    """
    lines = []
    for zone, rows in found.items():
        if zone:
            lines.append(f"in zone {printable(zone)}")
        indent = "  " if zone else ""
        lines += [f"{indent}{_difference(row)}" for row in rows]
    return lines or ["no difference"]


def _difference(row: Mapping[str, Any]) -> str:
    key, old, new = printable(row["key"]), value(row["old"]), value(row["new"])
    if row["kind"] == "added":
        return f"+ {key} = {new}"
    if row["kind"] == "removed":
        return f"- {key} = {old}"
    return f"~ {key} = {old} -> {new}"


# -- what a server says ----------------------------------------------------------------------------


def modules_of(status: object) -> dict[str, dict[str, Any]] | None:
    """Return the modules in a server's status by name; None when it tells of its configuration in another way."""
    if isinstance(status, dict) and status and all(isinstance(module, dict) for module in status.values()):
        return status
    return None


def served(answer: Mapping[str, Any]) -> list[str]:
    """Return the answer of the ``config`` instruction as lines, a paragraph for each module."""
    modules = modules_of(answer.get("modules"))
    if modules is None:
        return ["this server declares no configuration"]
    lines: list[str] = []
    for name, module in modules.items():
        rows = [(field, text) for field, text in _fields(module) if text not in {"", "-"}]
        lines += [*([""] if lines else []), printable(name)]
        lines += [f"  {line}" for line in pairs(rows)]
        lines += [f"  {line}" for line in _refused(module.get("refused"))]
    return lines


def _fields(module: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield what is known of a module of a server, by names for people; what is not known here as it came."""
    rest = dict(module)
    since = rest.pop("since", None)
    running = _version(rest.pop("running", None))
    yield "running", f"{running}  since {moment(since)}" if isinstance(since, int | float) else running
    for field in ("staged", "canary", "previous", "pinned", "refused", "quarantined", "zone", "sequence", "source"):
        yield field, _field(field, rest.pop(field, None))
    yield "contact", _field("contact", rest.pop("contact", None))
    heard = rest.pop("age", None)
    away = "; it is away" if rest.pop("away", False) else ""
    yield "heard", f"{age(heard)} ago{away}" if isinstance(heard, int | float) else away.removeprefix("; ")
    yield "cold", "from its cache: the source has not answered yet" if rest.pop("cold", False) else ""
    for field, item in rest.items():
        yield printable(field), describe(item)


def _field(name: str, item: object) -> str:
    if name == "pinned" and isinstance(item, dict):
        return held(item)
    if name in {"canary", "refused"}:
        share = item.get("share") if isinstance(item, dict) else None
        whom = f"  {for_whom((), share)}" if isinstance(share, float) and share < 1 else ""
        return f"{_version(item)}{whom}"
    return describe(item)


def _refused(refused: object) -> list[str]:
    faults = refused.get("faults") if isinstance(refused, dict) else None
    return [f"  {printable(fault)}" for fault in faults] if isinstance(faults, list) else []


def in_brief(name: str, module: Mapping[str, Any]) -> str:
    """Return a module of a server's status as one line."""
    parts = [f"running {_version(module.get('running'))}"]
    parts += [f"{field} {_version(module[field])}" for field in ("staged", "canary") if module.get(field)]
    if isinstance(pinned := module.get("pinned"), dict) and pinned:
        parts.append(f"pinned {held(pinned)}")
    if refused := module.get("refused"):
        parts.append(f"refused {_version(refused)}")
    if module.get("quarantined"):
        parts.append(f"quarantined {describe(module['quarantined'])}")
    if module.get("cold"):
        parts.append("cold: from its cache")
    return f"{printable(name)}  {'  '.join(parts)}"


def _version(item: object) -> str:
    return describe(item.get("version") if isinstance(item, dict) else item)


# -- words -----------------------------------------------------------------------------------------


def held(pinned: Mapping[Any, Any]) -> str:
    """Return how many sessions hold each version: ``11: 3, 12: 40``."""
    return ", ".join(f"{printable(version)}: {describe(count)}" for version, count in pinned.items()) or "-"


def releases(versions: object) -> str:
    """Return the releases that a session runs with: ``arena 12, shop 3``."""
    if not isinstance(versions, dict):
        return describe(versions)
    return ", ".join(f"{printable(module)} {describe(version)}" for module, version in versions.items()) or "-"


def moment(seconds: float) -> str:
    """Return a time, in seconds since the epoch, as it is here."""
    try:
        return datetime.fromtimestamp(seconds, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    except (OverflowError, OSError, ValueError):  # whoever publishes can write any number
        return "-"


def age(seconds: float) -> str:
    """Return a length of time in its largest unit: ``12 s``, ``3 min``, ``2 h``, ``4 d``."""
    for length, unit in _UNITS:
        if seconds >= 2 * length:
            return f"{int(seconds / length)} {unit}"
    return f"{seconds:.0f} s"
