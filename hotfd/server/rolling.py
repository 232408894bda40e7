"""Rolling: sessions are independent, and each moves at its own boundary."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Protocol

from hotfd import log
from hotfd.errors import HandoffRefused
from hotfd.server.moving import BATCH, CONFIG, Moving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from hotfd.server.collector import CollectorPause
    from hotfd.server.engine import Engine
    from hotfd.server.options import Options
    from hotfd.server.outcome import Journal
    from hotfd.server.session import Session

PIPELINE: Final = 2
"""Offers that may be made and not committed: two, so that neither side waits for the other, and few enough that a
session's pause does not grow with the number of sessions."""

LONG_TURN: Final = 64
"""Times as many offers at most while the loop's turns are long. When all clients ask at once, a turn serves thousands of
them, an answer takes some turns, and whoever is offered waits for these: for two offers as for sixty."""

LOOKS: Final = 8
"""Times as many sessions that are asked in a turn as are offered, where most are at no boundary: to ask costs a tenth."""

RELUCTANT_INTERVAL: Final = 0.05
"""Seconds between two looks at sessions that cannot move before they are given what they have received."""

NEVER: Final = float("inf")


class Driver(Protocol):
    """Who has sessions moved: a handoff, or what moves what had stayed behind."""

    @property
    def engine(self) -> Engine:
        """Whose sessions they are."""

    @property
    def options(self) -> Options:
        """What is asked for."""

    @property
    def journal(self) -> Journal:
        """What is told of them."""

    @property
    def collector(self) -> CollectorPause:
        """Rests while many of them move."""

    @property
    def changed(self) -> asyncio.Event:
        """Set whenever something has happened."""

    @property
    def sessions(self) -> Iterable[Session]:
        """Which sessions are to move."""

    def pass_listeners(self, *, hold: bool) -> None:
        """Give the new process what it needs before any session."""

    def raise_failure(self) -> None:
        """Raise what has gone wrong with the new process, if anything has."""

    def catch_up(self) -> None:
        """Read what the new process has said already."""


async def move_rolling(cutover: Driver, moving: Moving) -> None:
    """Move sessions one by one.

    Args:
        cutover: whose sessions move; the new process is ready.
        moving: its book.

    Raises:
        HandoffRefused: the new process failed, does not answer, or can read no session at all.
    """
    cutover.pass_listeners(hold=False)
    loop = asyncio.get_running_loop()
    deadline = loop.time() + cutover.options.boundary_timeout
    gate = moving.gate
    gate.pending.extend(cutover.sessions)
    total = len(gate.pending)
    pace = _Pace(loop.time)
    while True:
        cutover.raise_failure()
        _check_answered(cutover, moving)
        gate.ask_again()
        while moving.outstanding < pace.limit and not moving.burdened and (gate.pending or gate.has_ready):
            _offer_some(moving, pace)
            await pace.turn()  # the other clients'
            cutover.raise_failure()
        idle = not gate.pending and not moving.outstanding
        cutover.journal.progress(moving.tally.sessions["moved"], total, last=idle)
        _check_not_all_refused(moving)
        if idle:
            if not gate.waiting:
                return
            cutover.collector.end()  # only those are left that have not come to a boundary yet
            if loop.time() >= deadline:
                _leave_behind(cutover, moving)
                continue
        await _progress(cutover, moving, deadline)


class _Pace:
    """How much is offered in one turn of the loop: as much as takes no longer than what others do in a turn.

    Attributes:
        offers: how many offers are made in a turn.
        size: connections that are asked for an offer: ``BATCH``, or where states are large, about as many as an offer
            holds. To ask more would make them wait for nothing.

    Args:
        time: the loop's clock.
    """

    def __init__(self, time: Callable[[], float]) -> None:
        self.offers = 1
        self.size = BATCH
        self._time = time
        self._began = 0.0
        self._made = 0

    @property
    def limit(self) -> int:
        """Sessions that may be offered and not committed."""
        return PIPELINE * BATCH * self.offers

    def begin(self) -> None:
        """Offers are about to be made."""
        self._began, self._made = self._time(), 0

    def made(self, sessions: int, *, full: bool) -> None:
        """One was made, of so many sessions; ``full`` when their states are large, and it holds no more."""
        self._made += 1
        self.size = max(1, sessions) if full else min(2 * self.size, BATCH)

    @property
    def done(self) -> bool:
        """Whether as many were made as are to be in a turn."""
        return self._made >= self.offers

    async def turn(self) -> None:
        """Let the others have their turn, and see how long it is beside what an offer takes."""
        left = self._time()
        await asyncio.sleep(0)
        own, others = left - self._began, self._time() - left
        if self._made and own > 0.0:
            self.offers = min(max(1, int(others * self._made / own)), LONG_TURN)


def _offer_some(moving: Moving, pace: _Pace) -> None:
    """Make the offers of one turn of the loop."""
    gate = moving.gate
    pace.begin()
    for _ in range(LOOKS * pace.offers):
        if batch := gate.fill(pace.size):
            left = moving.offer(batch)
            pace.made(len(batch) - left, full=moving.burdened)
            if moving.burdened:
                gate.spare()  # or they would wait for all of it
        if pace.done or not (gate.pending or gate.has_ready) or moving.outstanding >= pace.limit or moving.burdened:
            return


def _check_not_all_refused(moving: Moving) -> None:
    """Everything so far was refused: it is the new version that is bad, and not a session.

    But for sessions that hold a release which it cannot read: it has one with which all others begin, or it would not
    have become ready.
    """
    refusal = moving.first_refusal
    if refusal is None or refusal.code == CONFIG:
        return
    if not moving.committed and not moving.outstanding:
        raise HandoffRefused(refusal.code, refusal.detail)


async def _progress(cutover: Driver, moving: Moving, deadline: float) -> None:
    """Wait until something happened, the boundary timeout is over, or an answer is overdue."""
    loop = asyncio.get_running_loop()
    answer_by = moving.answer_by or NEVER
    wake = min(answer_by, deadline if moving.gate.late and loop.time() < deadline else NEVER)
    if moving.gate.reluctant:
        wake = min(wake, loop.time() + RELUCTANT_INTERVAL)
    cutover.changed.clear()
    with suppress(TimeoutError):  # the caller looks what it was that is over
        async with asyncio.timeout_at(None if wake == NEVER else wake):
            await cutover.changed.wait()


def _check_answered(cutover: Driver, moving: Moving) -> None:
    """A new process that owes an answer for too long hangs; what it has said already is read first."""
    now = asyncio.get_running_loop().time()
    if now < (moving.answer_by or NEVER):
        return
    cutover.catch_up()
    if now >= (moving.answer_by or NEVER):
        limit = cutover.options.answer_limit
        raise HandoffRefused("new-hung", f"the new process did not answer an offer within {limit:g} s")


def _leave_behind(cutover: Driver, moving: Moving) -> None:
    """The boundary timeout is over: keep the laggards here, or close them."""
    policy = cutover.options.laggards
    for session, (code, detail) in moving.gate.give_up_waiting():
        level = logging.DEBUG if cutover.journal.silent else logging.WARNING
        log.event(level, "laggard", session=session.id, code=code, reason=detail, policy=policy)
        moving.tally.sample.add(session, code, detail)
        if policy == "close":
            moving.tally.count("closed", len(session.connections), code)
            cutover.journal.session(session.id, "closed", code, detail)
            cutover.engine.end(session)
        else:
            moving.tally.count("kept", len(session.connections), code)
            cutover.journal.session(session.id, "kept", code, detail)
