"""Hands every session over at its frame boundaries, one delivery at a time.

What is handed over at once is a *unit*: a connection by itself, or the connections of a shared session, which
have one gate. The gate is closed nearly always. It opens for exactly one delivery: the frame, the end of input,
the awaited result or the merged item that comes next to any of them closes it again, through the hook that notes
in a real handoff that a session was touched. So all its handlers come to rest after each frame, also when the next
ones lie in the buffers, and there the unit may be moved::

    WORKING --parked, not due------------------------------------------> OPEN
       | ^                                                              |  ^
       | +--------------moved---------------+                           |  |
       +--parked, due----------------------> DUE --cannot be moved------|--+
       +--others of the session wait for too long-----------------------|--+
       |                                                                |  |
       +<------------------a frame is delivered-------------------------+  |
       |                                                  HELD <-somebody--+
       |                                                    |  else acts
       +<----a handler is not at rest, or new---next turn---+--> OPEN

A unit that is new, or has just arrived, is WORKING until its handlers have come to rest. One that ends, since its
connections have joined another session or are over, is forgotten.

One task moves one unit at a time; or all of them at once, when they share what a new process would begin without.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from hotfd.server.moving import UNWIND_LIMIT
from hotfd.testing.passage import AT_WORK, Boundary, Passage, Phase, Unit
from hotfd.testing.travel import HandoverFailed, Luggage, send_off

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from hotfd.server.connection import Connection
    from hotfd.server.engine import Engine
    from hotfd.server.kinds import Kinds
    from hotfd.server.session import Session
    from hotfd.testing.program import Programs

PATIENCE: Final = 0.25
"""Seconds that a due unit may take to become movable, where a handoff would wait for its boundary timeout; and for
which one handler of a session may keep the others waiting. What ends by itself ends much sooner; a test with a
handler that never gets there pays this once, or once for each frame of the others."""

REST_LIMIT: Final = 0.25
"""Seconds that connections may take to come to rest when the test is over."""


class Mover:
    """Hands over; an engine's ``mover``.

    Args:
        engine: whose sessions move.
        programs: the generations of the program.
        kinds: the states of shared sessions that a new process would know.
        choose: says of a boundary whether to hand over there.
        on_failure: called once, with what went wrong; nothing is handed over from then on.
    """

    def __init__(
        self,
        engine: Engine,
        programs: Programs,
        kinds: Kinds,
        choose: Callable[[Boundary], bool],
        on_failure: Callable[[HandoverFailed], None],
    ) -> None:
        self.passages: list[Passage] = []
        self.units: list[Unit] = []
        self.handoffs = 0
        self._engine = engine
        self._programs = programs
        self._kinds = kinds
        self._choose = choose
        self._on_failure = on_failure
        self._by_id: dict[str, Passage] = {}
        self._by_session: dict[Session, Unit] = {}
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        self._at_rest = asyncio.Event()
        self._at_rest.set()
        self._stopping = self._failed = False
        self._task = self._loop.create_task(self._drive(), name="hotfd-testing-mover")
        engine.mover = self
        engine.on_newcomer = self._newcomer
        engine.rooms.on_founded = self.appeared

    # -- what the engine tells -------------------------------------------------------------------------

    def _newcomer(self, connection: Connection[Any]) -> None:
        """A fresh connection: its first boundary, before any frame, is one too."""
        passage = Passage(len(self.passages) + 1, connection.peername)
        self.passages.append(passage)
        self._by_id[connection.id] = passage
        self.appeared(connection.session)

    def at_boundary(self, session: Session) -> None:
        """A gated session may be at its boundary, or is over."""
        self._tell()

    def left_boundary(self, session: Session) -> None:
        """A session that is being moved wants to end; it does when it has arrived."""

    def grown(self, session: Session) -> None:
        """A connection has joined a gated session: that comes to rest, or lets go, as before."""

    def appeared(self, session: Session) -> None:
        """A session is there that was not: a newcomer's, that of who has left a shared one, or a shared one."""
        name = f"connection {self._by_id[session.connections[0].id].number}"
        unit = Unit(session, name if session.key is None else f"session {session.key!r}")
        self.units.append(unit)
        self._by_session[session] = unit
        self._begin(unit)

    def start_handler(self, connection: Connection[Any]) -> None:
        """Is the engine's; a mover starts no handler."""

    def connection_ending(self, connection: Connection[Any]) -> None:
        """Is the engine's; a mover hears of it as :meth:`at_boundary`."""

    def connection_closed(self, connection: Connection[Any]) -> None:
        """Is the engine's."""

    def _tell(self) -> None:
        self._at_rest.clear()
        self._changed.set()

    # -- between two deliveries ------------------------------------------------------------------------

    async def _drive(self) -> None:
        try:
            while not self._stopping:
                await self._changed.wait()
                self._changed.clear()
                await self._turn()
                if all(unit.phase is Phase.OPEN for unit in self._by_session.values()):
                    self._at_rest.set()
        except Exception as error:  # noqa: BLE001 - a test must fail and not hang, whatever it is
            self._fail(HandoverFailed("internal", f"{type(error).__name__}: {error}"), error)

    async def _turn(self) -> None:
        for unit in list(self._by_session.values()):
            if unit.over:
                unit.wait_no_longer()
                del self._by_session[unit.session]
            elif unit.phase is Phase.WORKING:
                if unit.parked:
                    self._arrive(unit)
                elif len(unit.session.connections) > 1:
                    self._spare_the_others(unit)
        due = [unit for unit in self._by_session.values() if unit.phase is Phase.DUE]
        if due and self._programs.shared:
            await self._move(self._everybody())
            return
        for unit in due:
            if unit.phase is Phase.DUE and not unit.over:
                await self._move([unit])

    def _begin(self, unit: Unit) -> None:
        """Let handlers that have just started come to their boundary, and no further."""
        if self._stopping or self._failed:
            unit.phase = Phase.OPEN
            return
        unit.session.gate(True)
        unit.phase = Phase.WORKING
        self._tell()

    def _arrive(self, unit: Unit) -> None:
        """All handlers of a unit have come to a boundary."""
        unit.wait_no_longer()
        chosen = [self._choose(passage.arrive()) for passage in self._members(unit) if passage.at_work]
        if any(chosen):
            unit.phase = Phase.DUE
        else:
            self._open(unit)

    def _spare_the_others(self, unit: Unit) -> None:
        """One handler of a session may wait for what another one does, which needs its next frame for that."""
        if unit.late:
            unit.stayed[AT_WORK] += 1
            self._open(unit)
        else:
            self._wait_for(unit)

    def _members(self, unit: Unit) -> list[Passage]:
        return [self._by_id[connection.id] for connection in unit.session.connections]

    def _everybody(self) -> list[Unit]:
        """Ask all sessions to come along; those that are at work come to their boundary by themselves."""
        everybody = [unit for unit in self._by_session.values() if not unit.over]
        for unit in everybody:
            if unit.phase is Phase.OPEN:
                unit.session.gate(True)
                unit.phase = Phase.DUE
        return everybody

    def _open(self, unit: Unit) -> None:
        """Let one thing be delivered."""
        unit.wait_no_longer()
        unit.phase = Phase.OPEN
        if not (self._stopping or self._failed):
            for connection in unit.session.connections:
                connection._expect_touch(partial(self._touched, connection))
                connection._stream.before_io = None  # what arrives is not delivered yet
        unit.session.gate(False)

    def _touched(self, connection: Connection[Any]) -> None:
        """The handler is about to be given something, or somebody writes to its connection."""
        unit = self._by_session.get(connection.session)
        if unit is None or self._stopping or self._failed:
            return
        if not connection._parked:
            self._by_id[connection.id].at_work = True
        if unit.phase is not Phase.OPEN:
            return
        unit.session.gate(True)
        if connection._parked:
            unit.phase = Phase.HELD
            self._loop.call_soon(self._let_on, unit)
        else:
            unit.phase = Phase.WORKING
        self._tell()

    def _let_on(self, unit: Unit) -> None:
        if unit.phase is Phase.HELD and not unit.over:
            if unit.parked and not any(passage.at_work for passage in self._members(unit)):
                self._open(unit)
            else:  # somebody has joined, or what another task has done has woken a handler
                unit.phase = Phase.WORKING
        self._changed.set()

    # -- moving ----------------------------------------------------------------------------------------

    async def _move(self, units: list[Unit]) -> None:
        """Hand units over at once if they are at their boundary; else wait for them, or give up."""
        found = _obstacles(units)
        if not found:
            stopped = [unit.session.stop_helpers() for unit in units]
            if not all(stopped):
                return  # the last helper's end tells
            found = _obstacles(units)
        if not found:
            await self._hand_over(units)
            return
        waiting = [unit for unit in units if unit.phase is Phase.DUE]
        hopeless = any(code == "not-movable" for _, (code, _) in found)
        if hopeless or any(unit.late for unit in waiting):
            for unit, why in found:
                unit.stayed[why] += 1
            for unit in waiting:
                self._open(unit)
            return
        for unit in waiting:
            self._wait_for(unit)

    def _wait_for(self, unit: Unit) -> None:
        if unit.timer is None:
            unit.timer = self._loop.call_later(PATIENCE, self._overdue, unit)

    def _overdue(self, unit: Unit) -> None:
        unit.timer, unit.late = None, True
        self._tell()

    async def _hand_over(self, units: list[Unit]) -> None:
        for unit in units:
            unit.wait_no_longer()
            unit.session.fence()
        try:
            process = await self._programs.export()
            luggage = send_off([unit.session for unit in units], self._engine, self._kinds, process)
        except Exception as error:
            for unit in units:
                self._engine.resume(unit.session)
            if not isinstance(error, HandoverFailed):
                raise
            self._fail(error)
            return
        await self._unwind([connection for unit in units for connection in unit.session.connections])
        for unit in units:
            del self._by_session[unit.session]
            self._engine.release(unit.session)
        try:
            if self._programs.shared:
                await self._programs.succeed(process)
        except HandoverFailed as failure:
            self._fail(failure)
        finally:
            self._arrived(units, luggage)

    async def _unwind(self, connections: Sequence[Connection[Any]]) -> None:
        """Let the old handlers end, as a handoff does: those that take too long are cancelled."""
        tasks = [connection._task for connection in connections if connection._task is not None]
        for connection in connections:
            connection._hand_off()
        _, slow = await asyncio.wait(tasks, timeout=UNWIND_LIMIT)
        for task in slow:
            task.cancel()
        for connection in connections:
            os.close(connection._stream.detach())

    def _arrived(self, units: list[Unit], luggage: Luggage) -> None:
        """Serve again, with handlers that start anew and behind a gate that is closed still."""
        self.handoffs += 1
        # Shared ones come first: a connection that is on its way into one of them finds it there.
        sessions = sorted(luggage.unpack(self._engine), key=lambda session: not session.shared)
        by_id = {session.id: session for session in sessions}
        for unit in units:
            unit.session = by_id[unit.session.id]
            self._by_session[unit.session] = unit
            unit.handovers += 1
            for passage in self._members(unit):
                if passage.at_work:  # it has joined when all others stood at their boundary already
                    passage.arrive()
                passage.handovers += 1
        self._engine.adopt(sessions)
        for session in sessions:
            for connection in list(session.connections):  # one that joins is in another one then
                self._engine.start_handler(connection)
        for unit in units:
            self._begin(unit)

    # -- the ends --------------------------------------------------------------------------------------

    def _fail(self, failure: HandoverFailed, cause: BaseException | None = None) -> None:
        """Hand over no more, let everybody go on, and tell the test."""
        if self._failed:
            return
        failure.__cause__ = cause or failure.__cause__
        self._failed = True
        self._release()
        self._on_failure(failure)

    def _release(self) -> None:
        for unit in self._by_session.values():
            unit.wait_no_longer()
            unit.phase = Phase.OPEN
            unit.session.gate(False)
        self._at_rest.set()

    async def hand_over(self) -> None:
        """Hand over what stands at a boundary now, and wait until it is served again."""
        await self.rest()
        await asyncio.sleep(0)  # whom the test has just woken runs first
        for unit in self._by_session.values():
            if unit.phase is Phase.OPEN and unit.parked and not unit.over:
                unit.session.gate(True)
                unit.phase = Phase.DUE
        self._tell()
        await self.rest()

    async def rest(self) -> None:
        """Wait until no connection is on its way, for at most :data:`REST_LIMIT` and what a handover takes."""
        with suppress(TimeoutError):
            async with asyncio.timeout(REST_LIMIT + PATIENCE):
                await self._at_rest.wait()

    async def stop(self) -> None:
        """Hand over no more: let what is on its way arrive, and let everybody go on."""
        await self.rest()
        for unit in self._by_session.values():
            never = not any(passage.handovers for passage in self._members(unit))
            if unit.phase is Phase.WORKING and never and not unit.over:
                unit.stayed[unit.session.obstacle() or ("no-boundary", "its handler came to none")] += 1
        self._stopping = True
        self._changed.set()
        await self._task
        self._release()
        self._engine.mover = self._engine.on_newcomer = None
        self._engine.rooms.on_founded = lambda session: None


def _obstacles(units: list[Unit]) -> list[tuple[Unit, tuple[str, str]]]:
    """Return the units that cannot be moved now, each with the reason."""
    return [(unit, why) for unit in units if (why := unit.obstacle()) is not None]
