"""What is known before anything is started: limits, and what would move."""

from __future__ import annotations

import os
import resource
from typing import TYPE_CHECKING, Final

from hotfd.errors import HandoffRefused, StateError, StateTooNew
from hotfd.server.outcome import Tally

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hotfd.server.engine import Engine
    from hotfd.server.session import Session
    from hotfd.server.snapshot import Writers

DESCRIPTOR_RESERVE: Final = 64
"""Descriptors a server needs beside its connections: loop, channel, memfds, log files, libraries."""


def check_limit(engine: Engine) -> None:
    """Refuse what cannot fit: the new process inherits this one's limit and needs as many descriptors.

    Raises:
        HandoffRefused: the limit is too low.
    """
    needed = engine.connections + len(engine.listeners) + DESCRIPTOR_RESERVE
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if limit != resource.RLIM_INFINITY and needed > limit:
        raise descriptor_limit(needed, limit, "this process")


def open_descriptors() -> int:
    """Return how many descriptors this process has open; quickly, also where there are tens of thousands.

    The kernel counts them itself from Linux 6.2 on, and tells the number as the directory's size: proc_pid_fd(5).
    """
    counted = os.stat("/proc/self/fd").st_size
    return counted or len(os.listdir("/proc/self/fd")) - 1  # without the one that lists them


def descriptor_limit(needed: int, limit: int, who: str) -> HandoffRefused:
    """Return the refusal for a process that may open too few descriptors."""
    return HandoffRefused(
        "descriptor-limit",
        f"{who} may open {limit} descriptors and needs {needed}; raise LimitNOFILE= or ulimit -n "
        "(hotfd doctor tells how), and restart or hand over again",
    )


def predict(
    engine: Engine, *, together: bool, writers: Writers | None = None, unreadable: Mapping[int, str] | None = None
) -> Tally:
    """Say what a handoff would do with each session now.

    A session whose handler works on a frame counts as moved: it comes to its boundary. One that would not
    come back exactly as it went is counted by reason as well.

    Args:
        engine: whose sessions they are.
        together: whether one that stays keeps all.
        writers: what writes states for older code, where that is known; None for code that reads them as they are.
        unreadable: by serial, why the new code cannot read a snapshot of the configuration, where that is known.
    """
    tally = Tally()
    for session in engine.sessions.values():
        code, detail = _verdict(engine, session, writers) or _verdict_of_release(session, unreadable) or (None, "")
        stays = code is not None and code != "state-roundtrip"
        tally.count("kept" if stays else "moved", len(session.connections), code)
        if stays and code is not None:
            tally.sample.add(session, code, detail)
    if together and tally.sessions["kept"]:
        count = sum(tally.connections.values())
        tally.sessions.update({"kept": tally.sessions.pop("moved", 0)})
        tally.connections.clear()
        tally.connections["kept"] = count
    return tally


def _verdict(engine: Engine, session: Session, writers: Writers | None) -> tuple[str, str] | None:
    """Return the reason code of a session that stays or would not come back exactly, and what that is about."""
    obstacle = session.obstacle()
    if obstacle is not None and obstacle[0] not in {"no-boundary", "ending"}:
        return obstacle
    states = [(engine.codec, connection.state) for connection in session.connections]
    if session.shared:
        states.append((engine.rooms.kinds.codec(session.kind), session.state))
    difference = None
    for codec, state in states:
        try:
            codec.encode(state)
        except StateError as error:
            return "state-encode", str(error)
        difference = difference or codec.roundtrips(state)
    stays = _verdict_of_older_code(session, writers) if writers is not None else None
    return stays or (("state-roundtrip", difference) if difference is not None else None)


def _verdict_of_release(session: Session, unreadable: Mapping[int, str] | None) -> tuple[str, str] | None:
    reason = unreadable.get(session.release.serial) if unreadable and session.release is not None else None
    return ("config-unreadable", reason) if reason is not None else None


def _verdict_of_older_code(session: Session, writers: Writers) -> tuple[str, str] | None:
    try:
        for connection in session.connections:
            writers.connection(connection.state)
        if session.shared:
            writers.shared(session.kind, session.state)
    except StateTooNew as error:
        return "state-downgrade", str(error)
    except StateError as error:
        return "state-encode", str(error)
    return None
