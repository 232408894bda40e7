"""Together: the sessions share process-wide state, and everything moves in one offer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from contextlib import suppress
from typing import TYPE_CHECKING

from hotfd.errors import HandoffRefused
from hotfd.faults import Point, reach
from hotfd.server.gate import GATE_BACKOFF, GATE_LIMIT
from hotfd.server.moving import Moving, process_state

if TYPE_CHECKING:
    from hotfd.server.cutover import Cutover
    from hotfd.server.session import Session


async def move_together(cutover: Cutover, moving: Moving) -> None:
    """Move all sessions and the process-wide state at one moment.

    Args:
        cutover: the handoff; its new process is ready.
        moving: its book, which holds commits back.

    Raises:
        HandoffRefused: the gate did not close, something cannot travel, or the new process failed.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + cutover.options.boundary_timeout
    sessions, process = await _at_rest(cutover, moving, deadline)
    try:
        cutover.pass_listeners(hold=True)
    except BaseException:
        moving.gate.reopen_each(sessions)  # they are in nobody's book: neither waiting, nor offered
        raise
    while not await _offer_all(cutover, moving, sessions, process):
        # Somebody's own timeout woke him while the new process read the offer: everybody goes on, and comes
        # to rest again. The new process holds its listeners until the first commit.
        await _take_all_back(cutover, moving)
        _check_time(cutover, deadline)
        sessions, process = await _at_rest(cutover, moving, deadline)
    moving.commit_all()
    cutover.emit({"event": "progress", "moved": len(sessions), "total": len(sessions)})


async def _offer_all(cutover: Cutover, moving: Moving, sessions: list[Session], process: bytes) -> bool:
    """Offer everything and unwind it; False when it is not any more as it was offered."""
    moving.offer(sessions, process)
    if moving.tally.sessions["kept"]:
        code = next(iter(moving.tally.reasons))
        raise HandoffRefused(code, "a session's state cannot travel, and all must move together; the log names it")
    late = HandoffRefused("new-hung", "the new process did not take the sessions over in time")
    deadline = asyncio.get_running_loop().time() + cutover.options.deadline
    await cutover.until(lambda: moving.first_refusal is not None or moving.all_accepted, deadline, late)
    if moving.first_refusal is not None:
        raise HandoffRefused(moving.first_refusal.code, moving.first_refusal.detail)
    reach(Point.OLD_ALL_ACCEPTED)
    if not moving.unwind_all():
        return False
    await cutover.until(lambda: moving.all_unwound, deadline, late)
    cutover.raise_failure()
    return True


async def _take_all_back(cutover: Cutover, moving: Moving) -> None:
    await cutover.thaw()
    task = moving.revoke_all()
    if task is not None:
        try:
            async with asyncio.timeout(cutover.options.answer_limit):
                await asyncio.shield(task)
        except TimeoutError:
            raise HandoffRefused("new-hung", "the new process reads nothing any more") from None
    cutover.raise_failure()
    if moving.outstanding:  # the revocation was not heard
        raise HandoffRefused("new-hung", "the handoff channel has ended")
    cutover.engine.start_accepting()
    await asyncio.sleep(GATE_BACKOFF[0])


async def _at_rest(cutover: Cutover, moving: Moving, deadline: float) -> tuple[list[Session], bytes]:
    """Bring everything to rest, and export the process-wide state of that moment.

    Returns:
        all sessions, each at its boundary, and the exported state.
    """
    while True:
        sessions = await _close_the_gate(cutover, moving, deadline)
        try:
            reach(Point.OLD_GATED)
            await cutover.freeze()
            process = await _exported(cutover)
            # An export that waits gives timeouts and sweepers time to end a session, or to wake its handler.
            left = [session for session in sessions if session.connections]
            if moving.gate.all_at_rest(left):
                reach(Point.OLD_EXPORTED)
                return left, process
        except BaseException:
            await cutover.thaw()
            moving.gate.reopen_each(sessions)
            raise
        await cutover.thaw()
        moving.gate.reopen_each(sessions)
        _check_time(cutover, deadline)


def _check_time(cutover: Cutover, deadline: float) -> None:
    """Handlers with short timeouts of their own and a slow freeze, export or import could go on like this for ever.

    Raises:
        HandoffRefused: the boundary timeout is over.
    """
    if asyncio.get_running_loop().time() >= deadline:
        limit = cutover.options.boundary_timeout
        raise HandoffRefused(
            "no-boundary",
            f"within {limit:g} s the sessions never stayed at rest for as long as everything took to be written and "
            "read: timeouts of handlers woke them; make these longer, or on_freeze, export_state and import_state quicker",
        )


async def _exported(cutover: Cutover) -> bytes:
    """Call ``export_state``; everybody is held while it works, so it has a deadline."""
    export = cutover.identity.export_state
    value = export() if export is not None else None
    if isinstance(value, Awaitable):
        try:
            async with asyncio.timeout(cutover.options.deadline):
                value = await value
        except TimeoutError:
            raise HandoffRefused(
                "export-hung", f"export_state did not return within {cutover.options.deadline:g} s"
            ) from None
    return process_state(value)


async def _close_the_gate(cutover: Cutover, moving: Moving, deadline: float) -> list[Session]:
    """Bring all sessions to their boundaries at once, holding them for no longer than ``GATE_LIMIT``.

    Raises:
        HandoffRefused: some did not come within the boundary timeout.
    """
    engine, loop = cutover.engine, asyncio.get_running_loop()
    backoff = GATE_BACKOFF[0]
    while True:
        engine.stop_accepting()
        for session in list(engine.sessions.values()):
            moving.gate.want(session, together=True)
        with suppress(TimeoutError):
            async with asyncio.timeout(GATE_LIMIT):
                while moving.gate.late:
                    cutover.raise_failure()
                    cutover.changed.clear()
                    await cutover.changed.wait()
        if not moving.gate.late and (sessions := moving.gate.take_all_ready()) is not None:
            return sessions
        busy = moving.gate.give_up_waiting()
        moving.gate.reopen_all()
        engine.start_accepting()
        if loop.time() >= deadline:
            for session, (code, detail) in busy:
                moving.tally.sample.add(session, code, detail)
            what = ", ".join(f"{session.id} ({code})" for session, (code, _) in busy[:3]) or "never all at once"
            raise HandoffRefused(
                "no-boundary",
                f"the sessions did not come to rest together within {cutover.options.boundary_timeout:g} s: {what}; "
                "raise --boundary-timeout or hand over when it is quieter",
            )
        await asyncio.sleep(backoff)
        backoff = min(backoff * 2, GATE_BACKOFF[1])
