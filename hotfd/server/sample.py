"""A sample of the sessions of a server, for an operator: which there are, and what those that cannot move wait for."""

from __future__ import annotations

import asyncio
from collections import deque
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from hotfd.server.awaits import awaited_by

if TYPE_CHECKING:
    from hotfd.server.engine import Engine
    from hotfd.server.session import Session

SLICE: Final = 512
"""Connections that are looked at in one turn of the loop: well below a millisecond, so that nobody waits for it."""

DESCRIBED: Final = 64
"""What it costs to describe a connection, with the places where its handler waits, in connections looked at."""

MEMBERS: Final = 8
"""Connections of one session that are told of: enough to know it by, of one that may have thousands."""


async def sample(engine: Engine, limit: int, wanted: str | None = None) -> dict[str, Any]:
    """Describe some of the sessions; those that stand at no boundary first, since they are what one looks for.

    Args:
        engine: whose sessions.
        limit: how many at most.
        wanted: the id or key of the session that is asked for, or the id of one of its connections; None for any.

    Returns:
        ``total`` and ``busy`` (how many there were, and how many of them stood at no boundary, when they were
        looked at) and ``sessions``, each as :func:`describe` returns it. No state, no payload.
    """
    busy: list[dict[str, Any]] = []
    still: deque[Session] = deque()
    total = found = 0
    pace = _Pace()
    for session in list(engine.sessions.values()):
        total += 1
        await pace.after(1 + len(session.connections))
        if not session.connections or (wanted is not None and not _named(session, wanted)):
            continue
        if session.obstacle() is None:
            if len(still) < limit:
                still.append(session)
            continue
        found += 1
        if len(busy) < limit:
            # Described at once: what its handlers wait for is another thing a turn later.
            busy.append(describe(session))
            await pace.after(_cost(session))
    described = busy
    while still and len(described) < limit:
        if (session := still.popleft()).connections:
            described.append(describe(session))
            await pace.after(_cost(session))
    return {"total": total, "busy": found, "sessions": described}


def _named(session: Session, name: str) -> bool:
    """Whether a session, or one of its connections, has this id or key."""
    return name in {session.id, session.key} or any(connection.id == name for connection in session.connections)


class _Pace:
    """Lets the others have their turn after each :data:`SLICE` of work."""

    def __init__(self) -> None:
        self._done = 0

    async def after(self, work: int) -> None:
        self._done += work
        if self._done >= SLICE:
            self._done = 0
            await asyncio.sleep(0)


def _cost(session: Session) -> int:
    """Return what it took to describe a session, in connections looked at."""
    return len(session.connections) + DESCRIBED * min(len(session.connections), MEMBERS)


def describe(session: Session) -> dict[str, Any]:
    """Describe one session.

    Returns:
        ``id``, ``key`` (None when it is not shared), ``connections`` (how many), ``members`` (some of them, each with
        its ``id``, ``peername``, ``listener`` and ``awaits``: see :func:`hotfd.server.awaits.awaited_by`, empty where
        its handler stands at the boundary), ``obstacle`` (the reason code and what it is about, or None) and
        ``config`` (the version of each module that it holds).
    """
    obstacle = session.obstacle()
    members = [
        {
            "id": connection.id,
            "peername": _address(connection.peername),
            "listener": connection.listener,
            "awaits": awaited_by(connection._task) if connection._task and connection._obstacle() else [],
        }
        for connection in _telling_first(session, busy=obstacle is not None)
    ]
    return {
        "id": session.id,
        "key": session.key,
        "connections": len(session.connections),
        "members": members,
        "config": session.release.versions if session.release is not None else {},
        "obstacle": None if obstacle is None else {"code": obstacle[0], "detail": obstacle[1]},
    }


def _telling_first(session: Session, *, busy: bool) -> list[Any]:
    """Return some of the connections of a session, those that keep it from moving first."""
    members = list(session.connections)
    if not busy or len(members) <= MEMBERS:
        return members[:MEMBERS]
    telling = list(islice((member for member in members if member._obstacle() is not None), MEMBERS))
    others = (member for member in members if member not in telling)
    return [*telling, *islice(others, MEMBERS - len(telling))]


def _address(peername: Any) -> str:
    """Return a peer's address in words."""
    if isinstance(peername, tuple) and len(peername) >= 2:
        host, port = peername[0], peername[1]
        return f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}"
    if isinstance(peername, bytes):
        return peername.decode(errors="replace")
    return str(peername) if peername else "-"
