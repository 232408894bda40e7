"""Hands every connection over at its frame boundaries, one frame at a time.

A connection's gate is closed nearly always. It opens for exactly one delivery: the frame, the end of input,
the awaited result or the merged item that comes next closes it again, through the hook that notes in
a real handoff that a session was touched. So the handler comes to rest after each frame, also when the next
ones lie in the buffer, and there it may be moved::

    WORKING --parked, not due--------------------------------------> OPEN
       |                                                            |  ^
       +--parked, due--> DUE --moved--> RESUMING --parked-----------|--+
       |                  +----------cannot be moved, and why-------|--+
       +<------------------a frame is delivered---------------------+  |
                                                      HELD <-somebody--+
                                                        |    else wrote
                                                        +--next turn--> OPEN

One task moves one unit at a time. A unit is one session, or all of them when they share what a new process
would begin without.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from hotfd.server.moving import UNWIND_LIMIT
from hotfd.state import decode_any
from hotfd.testing.passage import Boundary, Passage, Phase
from hotfd.testing.program import settle
from hotfd.testing.travel import HandoverFailed, Luggage, send_off, write_process_state

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from hotfd.server.connection import Connection
    from hotfd.server.engine import Engine
    from hotfd.server.session import Session
    from hotfd.testing.program import Programs

PATIENCE: Final = 0.25
"""Seconds that a due connection may take to become movable, where a handoff would wait for its boundary timeout.
What ends by itself ends much sooner; a test with a handler that never gets there pays this once."""

REST_LIMIT: Final = 0.25
"""Seconds that connections may take to come to rest when the test is over."""


class Mover:
    """Hands over; an engine's ``mover``.

    Args:
        engine: whose sessions move.
        programs: the generations of the program.
        choose: says of a boundary whether to hand over there.
        on_failure: called once, with what went wrong; nothing is handed over from then on.
    """

    def __init__(
        self,
        engine: Engine,
        programs: Programs,
        choose: Callable[[Boundary], bool],
        on_failure: Callable[[HandoverFailed], None],
    ) -> None:
        self.passages: list[Passage] = []
        self.handoffs = 0
        self._engine = engine
        self._programs = programs
        self._choose = choose
        self._on_failure = on_failure
        self._by_session: dict[Session, Passage] = {}
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        self._at_rest = asyncio.Event()
        self._at_rest.set()
        self._stopping = self._failed = False
        self._task = self._loop.create_task(self._drive(), name="hotfd-testing-mover")
        engine.mover = self
        engine.on_newcomer = self._newcomer

    # -- what the engine tells -------------------------------------------------------------------------

    def _newcomer(self, connection: Connection[Any]) -> None:
        """A fresh connection: its first boundary, before any frame, is one too."""
        session = connection.session
        passage = Passage(len(self.passages) + 1, session, [connection.peername])
        self.passages.append(passage)
        self._by_session[session] = passage
        if not (self._stopping or self._failed):
            session.gate(True)
            self._at_rest.clear()

    def at_boundary(self, session: Session) -> None:
        """A gated session may be at its boundary, or is over."""
        self._tell()

    def left_boundary(self, session: Session) -> None:
        """A session that is being moved wants to end; it does when it has arrived."""

    def appeared(self, session: Session) -> None:
        """A connection has left a shared session."""

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
                if all(passage.phase is Phase.OPEN for passage in self._by_session.values()):
                    self._at_rest.set()
        except Exception as error:  # noqa: BLE001 - a test must fail and not hang, whatever it is
            self._fail(HandoverFailed("internal", f"{type(error).__name__}: {error}"), error)

    async def _turn(self) -> None:
        for session, passage in list(self._by_session.items()):
            if passage.over:
                passage.wait_no_longer()
                del self._by_session[session]
            elif passage.parked and passage.phase is Phase.RESUMING:
                self._open(passage)
            elif passage.parked and passage.phase is Phase.WORKING:
                self._arrive(passage)
        due = [passage for passage in self._by_session.values() if passage.phase is Phase.DUE]
        if not due:
            return
        for unit in [self._everybody()] if self._programs.shared else [[passage] for passage in due]:
            await self._move(unit)

    def _arrive(self, passage: Passage) -> None:
        """A handler has come to a boundary."""
        boundary = Boundary(passage.number, passage.boundaries, passage.handovers)
        passage.boundaries += 1
        if self._choose(boundary):
            passage.phase = Phase.DUE
        else:
            self._open(passage)

    def _everybody(self) -> list[Passage]:
        """Ask all sessions to come along; those that are at work come to their boundary by themselves."""
        everybody = list(self._by_session.values())
        for passage in everybody:
            if passage.phase is Phase.OPEN:
                passage.session.gate(True)
                passage.phase = Phase.DUE
        return everybody

    def _open(self, passage: Passage) -> None:
        """Let one thing be delivered."""
        passage.wait_no_longer()
        passage.phase = Phase.OPEN
        if not (self._stopping or self._failed):
            for connection in passage.session.connections:
                connection._expect_touch(partial(self._touched, passage, connection))
                connection._stream.before_io = None  # what arrives is not delivered yet
        passage.session.gate(False)

    def _touched(self, passage: Passage, connection: Connection[Any]) -> None:
        """The handler is about to be given something, or somebody writes to its connection."""
        if passage.phase is not Phase.OPEN or self._stopping or self._failed:
            return
        passage.session.gate(True)
        self._at_rest.clear()
        if connection._parked:
            passage.phase = Phase.HELD
            self._loop.call_soon(self._let_on, passage)
        else:
            passage.phase = Phase.WORKING

    def _let_on(self, passage: Passage) -> None:
        if passage.phase is Phase.HELD and not passage.over:
            self._open(passage)
        self._changed.set()

    # -- moving ----------------------------------------------------------------------------------------

    async def _move(self, unit: list[Passage]) -> None:
        """Hand a unit over if it is at its boundary; else wait for it, or give up."""
        found = [(passage, obstacle) for passage in unit if (obstacle := _obstacle(passage)) is not None]
        if not found:
            stopped = [passage.session.stop_helpers() for passage in unit]
            if not all(stopped):
                return  # the last helper's end tells
            found = [(passage, obstacle) for passage in unit if (obstacle := _obstacle(passage)) is not None]
        if not found:
            await self._hand_over(unit)
            return
        waiting = [passage for passage in unit if passage.phase is Phase.DUE]
        hopeless = any(code == "not-movable" for _, (code, _) in found)
        if hopeless or any(passage.late for passage in waiting):
            for passage, why in found:
                passage.stayed[why] += 1
            for passage in waiting:
                self._open(passage)
            return
        for passage in waiting:
            if passage.timer is None:
                passage.timer = self._loop.call_later(PATIENCE, self._overdue, passage)

    def _overdue(self, passage: Passage) -> None:
        passage.timer, passage.late = None, True
        self._tell()

    async def _hand_over(self, unit: list[Passage]) -> None:
        for passage in unit:
            passage.wait_no_longer()
            passage.session.fence()
        try:
            process = await self._export()
            luggage = send_off([passage.session for passage in unit], self._engine, process)
        except Exception as error:
            for passage in unit:
                self._engine.resume(passage.session)
            if not isinstance(error, HandoverFailed):
                raise
            self._fail(error)
            return
        await self._unwind([connection for passage in unit for connection in passage.session.connections])
        for passage in unit:
            del self._by_session[passage.session]
            self._engine.release(passage.session)
        try:
            if self._programs.shared:
                await self._be_the_next(process)
        finally:
            self._arrived(unit, luggage)

    async def _export(self) -> bytes | None:
        export = self._programs.current.export_state
        if export is None:
            return None
        try:
            value = await settle(export())
        except Exception as error:
            raise HandoverFailed("export-state", f"export_state raised {type(error).__name__}: {error}") from error
        return write_process_state(value)

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

    async def _be_the_next(self, process: bytes | None) -> None:
        """Begin as a new process does, and take over what all connections share."""
        try:
            await self._programs.renew()
        except Exception as error:  # noqa: BLE001 - a program's own fault is the test's result
            self._fail(HandoverFailed("not-ready", f"its start raised {type(error).__name__}: {error}"), error)
            return
        take = self._programs.current.import_state
        if take is not None and process is not None:
            try:
                await settle(take(decode_any(process)))
            except Exception as error:  # noqa: BLE001 - likewise
                self._fail(
                    HandoverFailed("state-decode", f"import_state raised {type(error).__name__}: {error}"),
                    error,
                )

    def _arrived(self, unit: list[Passage], luggage: Luggage) -> None:
        """Serve again, with handlers that start anew and behind a gate that is closed still."""
        self.handoffs += 1
        by_id = {session.id: session for session in luggage.unpack(self._engine)}
        for passage in unit:
            session = passage.session = by_id[passage.session.id]
            self._by_session[session] = passage
            passage.handovers += 1
            passage.phase = Phase.RESUMING
            self._engine.adopt([session])
            if not self._failed:
                session.gate(True)
            for connection in session.connections:
                if connection._task is None:
                    self._engine.start_handler(connection)

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
        for passage in self._by_session.values():
            passage.wait_no_longer()
            passage.phase = Phase.OPEN
            passage.session.gate(False)
        self._at_rest.set()

    async def hand_over(self) -> None:
        """Hand over what stands at a boundary now, and wait until it is served again."""
        await self.rest()
        await asyncio.sleep(0)  # whom the test has just woken runs first
        for passage in self._by_session.values():
            if passage.phase is Phase.OPEN and passage.parked:
                passage.session.gate(True)
                passage.phase = Phase.DUE
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
        for passage in self._by_session.values():
            if passage.phase is Phase.WORKING and not passage.handovers and not passage.over:
                passage.stayed[passage.session.obstacle() or ("no-boundary", "its handler came to none")] += 1
        self._stopping = True
        self._changed.set()
        await self._task
        self._release()
        self._engine.mover = self._engine.on_newcomer = None


def _obstacle(passage: Passage) -> tuple[str, str] | None:
    """Say why a session cannot be moved now."""
    if passage.phase is not Phase.DUE:
        return "no-boundary", "its handler works on a frame"
    return passage.session.obstacle()
