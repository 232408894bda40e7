"""Which sessions a handoff has asked to come to a boundary, and which stand there.

A session that is asked is *gated*: none of its handlers is given anything new, so each comes to rest at its next
boundary. A connection by itself is held only by its own handler, so it may be gated for long. The members of a
shared session hold one another up: such a session is gated for ``GATE_LIMIT`` seconds at most; when it has not
come to rest by then it goes on, and is asked again after a pause that doubles each time::

    pending --want--> WAITING --at rest--> READY --batch--> (offered)
                        |  ^
            GATE_LIMIT  |  |  back-off
                        v  |
                      RESTING
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from hotfd.server.engine import Engine
    from hotfd.server.session import Session

GATE_LIMIT: Final = 0.02
"""Seconds for which sessions that hold one another up are gated: a pause that no player notices."""

GATE_BACKOFF: Final = (0.02, 0.5)
"""First and longest pause in seconds between two tries; it doubles in between."""

Obstacle = tuple[str, str]
"""A reason code, and what it is about, for people."""


class Gate:
    """The sessions of one handoff on their way to a boundary.

    Args:
        engine: whose sessions they are.
        same_framing: both processes divide bytes into frames alike; else a session is ready only while it has
            no undelivered bytes.
        on_change: called when something has happened that the driver may wait for.
    """

    def __init__(self, engine: Engine, *, same_framing: bool, on_change: Callable[[], None]) -> None:
        self.pending: deque[Session] = deque()
        """Sessions that have not been asked yet."""
        self._engine = engine
        self._same_framing = same_framing
        self._on_change = on_change
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[Session, None] = {}
        self._ready: OrderedDict[Session, None] = OrderedDict()
        self._reluctant: list[Session] = []  # with undelivered bytes, which the new framing would misread
        self._resting: dict[Session, asyncio.TimerHandle] = {}  # open again; asked again later
        self._limits: dict[Session, asyncio.TimerHandle] = {}  # for how long a shared one is gated yet
        self._unlimited: set[Session] = set()  # gated as long as all are
        self._backoff: dict[Session, float] = {}

    @property
    def waiting(self) -> int:
        """How many sessions have been asked and are not offered."""
        return len(self._waiting) + len(self._ready) + len(self._reluctant) + len(self._resting)

    @property
    def has_ready(self) -> bool:
        """Whether a session that was waited for has come to its boundary."""
        return bool(self._ready)

    @property
    def late(self) -> bool:
        """Whether a session has been asked and has not come: a laggard, once the time is over."""
        return bool(self._waiting or self._reluctant or self._resting)

    @property
    def reluctant(self) -> bool:
        """Whether a session must first be given what it has received, of which no event tells."""
        return bool(self._reluctant)

    # -- asking --------------------------------------------------------------------------------------

    def want(self, session: Session, *, together: bool = False) -> None:
        """Ask a session to come to a boundary: its gate closes, and :attr:`has_ready` will tell.

        Args:
            session: the session; one that is over, offered or asked already is left alone.
            together: its gate is only closed as long as all others' are, so it needs no limit of its own.
        """
        session = self._now(session)
        if self._ask(session, together=together):
            self._ready[session] = None
            self._on_change()

    def _ask(self, session: Session, *, together: bool = False) -> bool:
        """Ask a session; True when it stands at its boundary already, as most do, and is nowhere in the book."""
        if not session.connections or session.fenced or session in self._waiting or session in self._ready:
            return False
        if not self._same_framing and self._misreadable(session):
            self._reluctant.append(session)
            return False
        session.gate(True)
        if not session.restless and session.stop_helpers():
            return True
        self._waiting[session] = None
        if together:
            self._unlimited.add(session)
        self.at_boundary(session)
        self.grown(session)
        return False

    def grown(self, session: Session) -> None:
        """A gated session is one of several connections, or may be now: they do not hold one another up for long."""
        limited = session in self._limits or session in self._unlimited
        if session in self._waiting and len(session.connections) > 1 and not limited:
            self._limits[session] = self._loop.call_later(GATE_LIMIT, self._too_busy, session)

    def _too_busy(self, session: Session) -> None:
        """A shared session has not come to rest in time: it goes on, and is asked again later."""
        self._answered(session)
        pause = self._backoff.pop(session, GATE_BACKOFF[0])
        session = self.reopen(session)
        self._backoff[session] = min(2 * pause, GATE_BACKOFF[1])
        self._resting[session] = self._loop.call_later(pause, self._rested, session)

    def _rested(self, session: Session) -> None:
        del self._resting[session]
        self.want(session)
        self._on_change()

    def _now(self, session: Session) -> Session:
        """Return a session as it is now: one that was renewed meanwhile is another object, with the same id."""
        return self._engine.sessions.get(session.id, session)

    def ask_again(self) -> None:
        """Ask the reluctant sessions once more."""
        sessions, self._reluctant = self._reluctant, []
        for session in sessions:
            self.want(session)

    def _misreadable(self, session: Session) -> bool:
        return any(connection._stream.has_undelivered for connection in session.connections)

    def at_boundary(self, session: Session) -> None:
        """A gated session may be at a boundary, or over (see :class:`hotfd.server.keeper.Mover`)."""
        if session not in self._waiting:
            return
        if not session.connections:
            self._answered(session)
            self._on_change()
        elif not session.restless and session.stop_helpers():  # where there is none to stop, nothing has changed
            self._answered(session)
            self._ready[session] = None
            self._on_change()

    def _answered(self, session: Session) -> None:
        del self._waiting[session]
        self._unlimited.discard(session)
        if (limit := self._limits.pop(session, None)) is not None:
            limit.cancel()

    # -- taking --------------------------------------------------------------------------------------

    def batch(self, size: int) -> list[Session]:
        """Take sessions that stand at a boundary now, of so many connections together, or a larger one alone."""
        chosen: list[Session] = []
        room = size
        while self._ready and (not chosen or room >= len(next(iter(self._ready)).connections)):
            session, _ = self._ready.popitem(last=False)
            if not session.connections:
                continue
            if session.obstacle() is not None:
                self.want(session)  # it has left the boundary since; it will come back to one
                continue
            if not self._same_framing and self._misreadable(session):
                self._reluctant.append(self.reopen(session))
                continue
            room -= len(session.connections)
            self._backoff.pop(session, None)
            chosen.append(session)
        return chosen

    def fill(self, size: int) -> list[Session]:
        """Take a batch as :meth:`batch` does, and fill it with sessions that were not asked yet; these are asked.

        Args:
            size: connections together; and sessions that are asked, at most.
        """
        chosen = dict.fromkeys(self.batch(size))  # one that has joined and left a session since may be pending twice
        room = size - sum(len(session.connections) for session in chosen)
        now = self._engine.sessions.get  # what _now asks
        for _ in range(min(len(self.pending), size)):
            if room <= 0:
                break
            session = self.pending.popleft()
            session = now(session.id, session)
            if session in chosen or not self._ask(session):
                continue
            count = len(session.connections)
            if count > room and chosen:
                self._ready[session] = None  # first in the next batch
                break
            self._backoff.pop(session, None)
            chosen[session] = None
            room -= count
        return list(chosen)

    def postpone(self, sessions: list[Session]) -> None:
        """Let sessions go on that were taken and are not offered; they are the next to be asked."""
        self.pending.extendleft([self.reopen(session) for session in reversed(sessions)])

    def spare(self) -> None:
        """Let go on who was asked, is not taken, and need not start again for that; they are the next to be asked."""
        asked = [session for session in (*self._ready, *self._waiting) if not session.disturbed]
        for session in asked:
            if session in self._waiting:
                self._answered(session)
            else:
                del self._ready[session]
        self.postpone(asked)

    def take_all_ready(self) -> list[Session] | None:
        """Take all sessions, if every one of them still stands at its boundary; else None."""
        sessions = [session for session in self._ready if session.connections]
        if self._waiting or not self.all_at_rest(sessions):
            return None
        self._ready.clear()
        return sessions

    def all_at_rest(self, sessions: list[Session]) -> bool:
        """Whether these are all sessions that there are, and each stands at its boundary still.

        Who leaves a shared session meanwhile is in one that nobody has asked.
        """
        asked = set(sessions)
        return all(session in asked and session.obstacle() is None for session in self._engine.sessions.values())

    # -- giving up -----------------------------------------------------------------------------------

    def give_up_waiting(self) -> list[tuple[Session, Obstacle]]:
        """Open the gates of all sessions that have come to no boundary.

        Returns:
            each as it is now, with its reason code and what it is about.
        """
        found = [
            (session, ("framing", "it has undelivered bytes, which cannot be read in the new framing"))
            for session in map(self._now, self._reluctant)
            if session.connections
        ]
        asked, resting = list(self._waiting), list(self._resting)
        self._forget()
        for session in asked:
            if session.connections:
                obstacle = session.obstacle() or ("no-boundary", "its helpers do not end")
                found.append((self.reopen(session), obstacle))
        for session in map(self._now, resting):
            if session.connections:
                never = "no-boundary", "its handlers were never at rest all at once"
                found.append((session, session.obstacle() or never))
        return found

    def _forget(self) -> None:
        for timer in (*self._resting.values(), *self._limits.values()):
            timer.cancel()
        for collection in (
            self._waiting,
            self._reluctant,
            self._resting,
            self._limits,
            self._unlimited,
            self._backoff,
        ):
            collection.clear()

    def reopen_each(self, sessions: Iterable[Session]) -> None:
        """Let sessions that were taken and not offered go on."""
        for session in sessions:
            if session.connections:
                self.reopen(session)

    def reopen_all(self) -> None:
        """Let every session go on that is gated and not offered."""
        self.pending.clear()
        self.give_up_waiting()
        ready = list(self._ready)
        self._ready.clear()
        self.reopen_each(ready)

    def reopen(self, session: Session) -> Session:
        """Let a session that was gated, and not offered, go on; return it as it is now.

        One whose helpers were stopped is served by fresh handlers: now, or at its next boundary.
        """
        if session.disturbed:
            return self._engine.renew_soon(session)
        session.gate(False)
        return session

    def close(self) -> None:
        """Forget everything; nothing is open any more."""
        self._forget()
        self.pending.clear()
        self._ready.clear()
