"""The state of configuration as metrics, for monitoring that scrapes text.

Source: OpenMetrics 1.0, https://github.com/prometheus/OpenMetrics/blob/main/specification/OpenMetrics.md. Prometheus
reads it as well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeGuard

from hotfd.display.config import modules_of
from hotfd.display.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from hotfd.config.survey import Survey

PREFIX: Final = "hotfd_config_"

HELP: Final = {
    "sequence": "Number of the newest change of the module.",
    "version": "Version that is in force for all.",
    "canary_version": "Version that is in force for some; no sample when there is none.",
    "changed_timestamp_seconds": "When the newest change was made.",
    "complete": "1 when every living server has what is in force, and nobody refused what was published last.",
    "servers": "Servers by how they stand to what is in force.",
    "distributors": "Configuration servers that serve the module.",
    "acknowledged": "1 when the server has what is in force.",
    "refused": "1 when the server has refused it.",
    "running_version": "Version that the server's new sessions begin with.",
    "staged_version": "Version that the server's next session begins with; no sample when nothing is staged.",
    "known_sequence": "Newest change of the module that the server knows.",
    "pinned_sessions": "Sessions of the server that run with the version.",
    "report_age_seconds": "Time since the server has reported.",
    "contact_age_seconds": "Time since the server's source has given a sign of life.",
    "cold": "1 while the server lives from its cache, since its source has not answered.",
}
"""Every metric, in the order in which they are written. All are gauges."""

LARGEST: Final = 2.0**63
"""Above every number that a server tells of itself."""

Sample = tuple[str, dict[str, object], float]
"""A metric's name, its labels, and its value."""


def of_survey(modules: Mapping[str, Survey]) -> str:
    """Return what a store says of modules and their servers as metrics."""
    return exposition(sample for name, survey in modules.items() for sample in _surveyed(name, survey))


def of_server(answer: Mapping[str, Any]) -> str:
    """Return the answer of a server's ``config`` instruction as metrics."""
    modules = modules_of(answer.get("modules")) or {}
    return exposition(sample for name, module in modules.items() for sample in _served(name, module))


def exposition(samples: Iterable[Sample]) -> str:
    """Return samples in the text format, those of each metric together, as it demands."""
    families: dict[str, list[str]] = {name: [] for name in HELP}
    for name, labels, value in samples:
        text = ",".join(f'{label}="{_escaped(item)}"' for label, item in labels.items())
        families[name].append(f"{PREFIX}{name}{{{text}}} {value:.17g}")
    lines = []
    for name, found in families.items():
        if found:
            lines += [f"# HELP {PREFIX}{name} {HELP[name]}", f"# TYPE {PREFIX}{name} gauge", *found]
    return "\n".join([*lines, "# EOF", ""])


def _surveyed(module: str, survey: Survey) -> Iterator[Sample]:
    of: dict[str, object] = {"module": module}
    if (head := survey.head) is not None:
        yield "sequence", of, head.sequence
        if head.stable is not None:
            yield "version", of, head.stable.version
        if head.canary is not None:
            yield "canary_version", of, head.canary.version
        yield "changed_timestamp_seconds", of, head.time
    yield "complete", of, survey.complete
    for standing in ("current", "behind", "refused", "gone"):
        count = sum(server.standing == standing for server in survey.servers)
        yield "servers", {**of, "standing": standing}, count
    yield "distributors", of, len(survey.addresses)
    for server in survey.servers:
        if server.standing == "gone":
            continue
        # Its id as well: a container's process has the number of the one before, which counts as living for a while.
        process = {"service": server.service, "zone": server.zone, "host": server.host, "pid": server.pid}
        who = {**of, **process, "server": server.server}
        yield "acknowledged", who, server.standing == "current"
        yield "refused", who, server.standing == "refused"
        yield "running_version", who, server.running
        yield "known_sequence", who, server.sequence
        yield "report_age_seconds", who, server.age
        for version, count in server.pinned.items():
            yield "pinned_sessions", {**who, "version": version}, count


def _served(module: str, status: Mapping[str, Any]) -> Iterator[Sample]:
    of: dict[str, object] = {"module": module, "zone": status.get("zone") or ""}
    numbers = {
        "running_version": _version(status.get("running")),
        "staged_version": _version(status.get("staged")),
        "known_sequence": status.get("sequence"),
        "contact_age_seconds": status.get("age"),
        "cold": status.get("cold"),
        "refused": bool(status.get("refused")),
    }
    for name, value in numbers.items():
        if _is_number(value):
            yield name, of, value
    pinned = status.get("pinned")
    for version, count in pinned.items() if isinstance(pinned, dict) else ():
        if _is_number(count):
            yield "pinned_sessions", {**of, "version": version}, count


def _version(item: object) -> object:
    return item.get("version") if isinstance(item, dict) else item


def _is_number(item: object) -> TypeGuard[float]:
    """Return whether an item of a server's answer is a number that can be written; others are left out."""
    return isinstance(item, int | float) and abs(item) < LARGEST


def _escaped(item: object) -> str:
    """Return a label's value with what the format reserves escaped, and with nothing in it that drives a terminal."""
    return printable(item).replace("\\", "\\\\").replace('"', '\\"')
