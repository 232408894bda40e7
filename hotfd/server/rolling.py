"""Rolling: sessions are independent, and each moves at its own boundary."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from hotfd import log
from hotfd.errors import HandoffRefused
from hotfd.server.moving import BATCH, Moving

if TYPE_CHECKING:
    from hotfd.server.cutover import Cutover

PIPELINE: Final = 2 * BATCH
"""Sessions that may be offered and not committed: two offers, so that neither side waits for the
other, and few enough that a session's pause does not grow with the number of sessions."""

RELUCTANT_INTERVAL: Final = 0.05
"""Seconds between two looks at sessions that cannot move before they are given what they have received."""

NEVER: Final = float("inf")


async def move_rolling(cutover: Cutover, moving: Moving) -> None:
    """Move all sessions one by one.

    Args:
        cutover: the handoff; its new process is ready.
        moving: its book.

    Raises:
        HandoffRefused: the new process failed, does not answer, or can read no session at all.
    """
    cutover.pass_listeners(hold=False)
    loop = asyncio.get_running_loop()
    deadline = loop.time() + cutover.options.boundary_timeout
    pending = deque(cutover.engine.sessions.values())
    total = len(pending)
    while True:
        cutover.raise_failure()
        _check_answered(cutover, moving)
        moving.ask_again()
        while moving.outstanding < PIPELINE and (pending or moving.has_ready):
            for _ in range(min(len(pending), BATCH)):
                moving.want(pending.popleft())
            if batch := moving.batch():
                moving.offer(batch)
                await asyncio.sleep(0)  # the other clients' turn
                cutover.raise_failure()
        cutover.emit({"event": "progress", "moved": moving.tally.sessions["moved"], "total": total})
        _check_not_all_refused(moving)
        if not pending and not moving.outstanding:
            if not moving.waiting:
                return
            cutover.collector.end()  # only those are left that have not come to a boundary yet
            if loop.time() >= deadline:
                _leave_behind(cutover, moving)
                continue
        await _progress(cutover, moving, deadline)


def _check_not_all_refused(moving: Moving) -> None:
    """Everything so far was refused: it is the new version that is bad, and not a session."""
    refusal = moving.first_refusal
    if refusal is not None and not moving.committed and not moving.outstanding:
        raise HandoffRefused(refusal.code, refusal.detail)


async def _progress(cutover: Cutover, moving: Moving, deadline: float) -> None:
    """Wait until something happened, the boundary timeout is over, or an answer is overdue."""
    loop = asyncio.get_running_loop()
    answer_by = moving.answer_by or NEVER
    wake = min(answer_by, deadline if moving.late and loop.time() < deadline else NEVER)
    if moving.reluctant:
        wake = min(wake, loop.time() + RELUCTANT_INTERVAL)
    cutover.changed.clear()
    with suppress(TimeoutError):  # the caller looks what it was that is over
        async with asyncio.timeout_at(None if wake == NEVER else wake):
            await cutover.changed.wait()


def _check_answered(cutover: Cutover, moving: Moving) -> None:
    """A new process that owes an answer for too long hangs; what it has said already is read first."""
    now = asyncio.get_running_loop().time()
    if now < (moving.answer_by or NEVER):
        return
    cutover.catch_up()
    if now >= (moving.answer_by or NEVER):
        limit = cutover.options.answer_limit
        raise HandoffRefused("new-hung", f"the new process did not answer an offer within {limit:g} s")


def _leave_behind(cutover: Cutover, moving: Moving) -> None:
    """The boundary timeout is over: keep the laggards here, or close them."""
    policy = cutover.options.laggards
    for session, (code, detail) in moving.give_up_waiting():
        log.event(logging.WARNING, "laggard", session=session.id, code=code, reason=detail, policy=policy)
        if policy == "close":
            moving.tally.count("closed", len(session.connections), code)
            cutover.engine.end(session)
        else:
            moving.tally.count("kept", len(session.connections), code)
