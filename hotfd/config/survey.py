"""What the servers of a module have made of what is published, as operators want to know it. Without I/O.

A server is *current* when its last report is about what it should run: it knows the newest head, and has staged, or
runs, a release that this head puts in force for it. Else it is *behind*, unless it has *refused* that release, or has
not been heard of for so long that it counts as *gone*.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import msgspec

from hotfd.config.release import Head
from hotfd.config.store import EXPIRY, State

if TYPE_CHECKING:
    from collections.abc import Iterable

    from hotfd.config.store import Acknowledgement

Standing = Literal["current", "behind", "refused", "gone"]


class Server(msgspec.Struct, frozen=True):
    """The last report of a server, and what follows from it.

    Attributes:
        standing: how it stands to what is published.
        age: seconds since the report.
        others: see :class:`hotfd.config.store.Acknowledgement`.
    """

    server: str
    service: str
    zone: str
    host: str
    pid: int
    generation: int
    version: int
    state: State
    sequence: int
    running: int
    pinned: dict[int, int]
    faults: tuple[str, ...]
    standing: Standing
    age: float


class Survey(msgspec.Struct, frozen=True):
    """A module: what is in force, and how its servers stand to that.

    Attributes:
        head: the newest head; None when nothing was ever published.
        servers: all that have reported within a day.
        addresses: where configuration servers serve the module.
        living: how many servers are not gone.
        current: how many of them have what is in force.
        refused: how many of them have refused it.
        complete: whether all of them have it, and nobody has refused what was published last.
    """

    head: Head | None
    servers: list[Server]
    addresses: list[str]
    living: int
    current: int
    refused: int
    complete: bool


def survey(head: Head | None, reports: Iterable[Acknowledgement], addresses: Iterable[str], now: float) -> Survey:
    """Judge the servers of a module by their last reports.

    Args:
        head: the module's newest head; None when nothing was published.
        reports: the last report of each server.
        addresses: where configuration servers serve the module.
        now: seconds since the epoch.

    Returns:
        the survey, with the servers by zone, service, host and process.
    """
    servers = [_judged(head, report, now) for report in reports]
    servers.sort(key=lambda server: (server.zone, server.service, server.host, server.pid))
    count = dict.fromkeys(("current", "behind", "refused", "gone"), 0)
    for server in servers:
        count[server.standing] += 1
    living = len(servers) - count["gone"]
    halted = head is not None and head.change == "halted"
    complete = count["current"] == living and not halted
    return Survey(head, servers, sorted(addresses), living, count["current"], count["refused"], complete)


def _judged(head: Head | None, report: Acknowledgement, now: float) -> Server:
    age = max(0.0, now - report.time)  # clocks of hosts differ a little
    return Server(
        server=report.server,
        service=report.service,
        zone=report.zone,
        host=report.host,
        pid=report.pid,
        generation=report.generation,
        version=report.version,
        state=report.state,
        sequence=report.sequence,
        running=report.running,
        pinned=report.pinned,
        faults=report.faults,
        standing="gone" if age > EXPIRY or report.state == "ended" else _standing(head, report),
        age=age,
    )


def _standing(head: Head | None, report: Acknowledgement) -> Standing:
    if head is None:
        return "current"
    if report.sequence < head.sequence or report.version != wanted(head, report.zone):
        return "behind"
    return "refused" if report.state in {"refused", "quarantined"} else "current"


def wanted(head: Head, zone: str) -> int:
    """Return the version that a server of a zone reports on when it has what is in force for it.

    Of two releases, one for some and one for all, a server reports on that for some; 0 is the program's own values.
    """
    canary = head.canary
    if canary is not None and (canary.share > 0 or (zone and zone in canary.zones)):
        return canary.version
    return head.stable.version if head.stable is not None else 0
