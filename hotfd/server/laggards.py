"""A sample of the sessions that a handoff left behind, with what their handlers wait for."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from hotfd.report import Laggard
from hotfd.server.awaits import awaited_by

if TYPE_CHECKING:
    from collections.abc import Iterable

    from hotfd.server.engine import Engine
    from hotfd.server.session import Session

SAMPLE: Final = 10
"""Sessions of one reason code that are described: what keeps a thousand of them is the same few lines."""


class Sample:
    """Describes some sessions of each reason code, as they are when they are told of."""

    def __init__(self) -> None:
        self.laggards: list[Laggard] = []
        self._per_code: Counter[str] = Counter()

    def add(self, session: Session, code: str, detail: str) -> None:
        """Tell of a session that does not move; of further ones than ``SAMPLE`` per code nothing is kept."""
        self._per_code[code] += 1
        if self._per_code[code] <= SAMPLE:
            self.laggards.append(Laggard(session.id, code, detail, _awaits(session)))


def still_there(laggards: Iterable[Laggard], engine: Engine) -> list[Laggard]:
    """Return those of a sample that are served here still, with what they wait for now."""
    return [
        Laggard(laggard.session, laggard.code, laggard.detail, _awaits(session))
        for laggard in laggards
        if (session := engine.sessions.get(laggard.session)) is not None
    ]


def _awaits(session: Session) -> list[str]:
    """Return where the handler that keeps a session from its boundary waits; nothing when it stands there."""
    for connection in session.connections:
        if connection._task is not None and connection._obstacle() is not None:
            return awaited_by(connection._task)
    return []
