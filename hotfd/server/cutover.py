"""A handoff in the old process, from the operator's wish to its final outcome.

One :class:`Cutover` is one handoff. It is a straight line of phases; everything that goes wrong in any of
them becomes a :exc:`HandoffRefused`, and one place, :meth:`Cutover._roll_back`, undoes what was done::

    preflight, spawn, ready, move, probation --> completed or partial
        |         |     |      |       |
        +---------+-----+------+-------+-------> refused (nothing was started) or rolled-back

Every wait for the other process has a deadline. Nothing is paused before the new process is ready.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, Literal

from hotfd import _core, log
from hotfd.errors import ChannelError, HandoffRefused
from hotfd.report import Counts, Pause, Report
from hotfd.server.collector import CollectorPause
from hotfd.server.escrow import Newcomer
from hotfd.server.moving import BATCH, Moving, Tally, process_state, reset
from hotfd.server.preflight import DESCRIPTOR_RESERVE, check_limit, check_supervision, descriptor_limit, predict
from hotfd.server.successor import Successor
from hotfd.transfer.touch import TouchMap
from hotfd.wire import messages as m
from hotfd.wire.sender import Phase, Sender

if TYPE_CHECKING:
    from hotfd.server.connection import Connection
    from hotfd.server.engine import Engine
    from hotfd.server.session import Session
    from hotfd.transfer.channel import Arrival

PIPELINE: Final = 2 * BATCH
"""Sessions that may be offered and not committed: two offers, so that neither side waits for the
other, and few enough that a session's pause does not grow with the number of sessions."""

ANSWER_LIMIT: Final = 10.0
"""Seconds that the new process may take to answer an offer, or to settle after its probation."""

RELUCTANT_INTERVAL: Final = 0.05
"""Seconds between two looks at sessions that cannot move before they are given what they have received."""

GATE_LIMIT: Final = 0.02
"""Seconds that all sessions are held at once while they come to rest together."""

GATE_BACKOFF: Final = (0.02, 0.5)
"""First and longest pause in seconds between two tries to close the gate; it doubles in between."""

DryRun = Literal["plan", "deep"]


@dataclass(slots=True, frozen=True)
class Options:
    """What an operator asks for.

    Attributes:
        deadline: seconds that the new process may take to become ready.
        boundary_timeout: seconds that sessions may take to reach a boundary.
        laggards: what happens to those that do not: ``keep`` them here, or ``close`` them.
        probation: seconds after the last commit in which the new process can still fail without loss.
        force: hand over although the service would lose its main process.
        command: program and arguments of the new process, or None for those of this one.
        cwd: its directory, or None for this one's.
        dry_run: ``plan`` starts nothing, ``deep`` starts the new process and ends it when it is ready.
    """

    deadline: float = 60.0
    boundary_timeout: float = 10.0
    laggards: Literal["keep", "close"] = "keep"
    probation: float = 5.0
    force: bool = False
    command: tuple[str, ...] | None = None
    cwd: str | None = None
    dry_run: DryRun | None = None


@dataclass(slots=True, frozen=True)
class Identity:
    """Who hands over.

    Attributes:
        generation: 1 for the first process of a service.
        together: all sessions share process-wide state and move in one offer.
        export_state: returns the process-wide state, or None.
    """

    generation: int
    together: bool = False
    export_state: Callable[[], Any | Awaitable[Any]] | None = None


class Cutover:
    """One handoff.

    Args:
        engine: whose sessions and listeners move.
        identity: who hands over.
        options: what is asked for.
        emit: called with progress events, plain dictionaries.
    """

    def __init__(
        self, engine: Engine, identity: Identity, options: Options, emit: Callable[[dict[str, Any]], None]
    ) -> None:
        self.id = secrets.token_hex(6)
        self._engine = engine
        self._identity = identity
        self._options = options
        self._emit = emit
        self._machine = Sender()
        self._changed = asyncio.Event()
        self._failure: HandoffRefused | None = None
        self._successor: Successor | None = None
        self._moving: Moving | None = None
        self._touch: TouchMap | None = None
        self._collector = CollectorPause()
        self._framing_differs = False
        self._hello: m.Hello | None = None
        self._pause = Pause()
        self._began = monotonic()
        self._phase = "preflight"
        self._phase_began = self._began
        self._phases: dict[str, float] = {}

    # -- the straight line ---------------------------------------------------------------------------

    @property
    def phase(self) -> str:
        """The phase that the handoff is in."""
        return self._phase

    @property
    def new_pid(self) -> int | None:
        """The new process's pid, once there is one."""
        return self._successor.pid if self._successor is not None else None

    def cancel(self) -> None:
        """Give the handoff up if nothing has moved yet; it is then rolled back."""
        if self._phase in {"preflight", "spawn", "ready"}:
            self._fail(HandoffRefused("stopping", "the server was told to stop"))

    async def run(self) -> Report:
        """Carry the handoff out.

        Returns:
            the outcome. After ``completed`` and ``partial`` the listeners are closed here, and the engine
            serves what was kept; after ``refused`` and ``rolled-back`` it serves as before.
        """
        self._emit({"event": "started", "id": self.id, "pid": os.getpid()})
        try:
            if not self._options.force:
                check_supervision()
            check_limit(self._engine)
            if self._options.dry_run != "plan":
                await self._start()
            if self._options.dry_run is not None:
                return await self._predicted()
            await (self._move_together() if self._identity.together else self._move_rolling())
            await self._prove()
            return self._completed()
        except HandoffRefused as refusal:
            if self._machine.phase is Phase.SETTLED:
                return self._completed()  # whatever has happened since: the new process owns everything
            return await self._roll_back(refusal)
        except Exception as error:  # noqa: BLE001 - whatever it is, the clients must not pay for it
            log.event(logging.ERROR, "handoff-error", exc_info=error, id=self.id)
            return await self._roll_back(HandoffRefused("internal", f"{type(error).__name__}; see the log"))
        except asyncio.CancelledError:
            if self._successor is not None and self._machine.phase is not Phase.SETTLED:
                self._successor.kill()  # this process ends; the new one must not take that for a bequest
            raise
        finally:
            self._engine.mover = None
            self._collector.end()
            if self._moving is not None:
                self._moving.close()
            if self._successor is not None:
                self._successor.close()
            if self._touch is not None:
                self._touch.close()

    def _enter(self, phase: str) -> None:
        now = monotonic()
        self._phases[self._phase] = round((now - self._phase_began) * 1000, 3)
        self._phase, self._phase_began = phase, now
        self._emit({"event": "phase", "phase": phase, "new_pid": self.new_pid})
        log.event(logging.INFO, "handoff-phase", id=self.id, phase=phase, new_pid=self.new_pid)

    async def _until(self, condition: Callable[[], bool], deadline: float, late: HandoffRefused) -> None:
        """Wait until a condition holds.

        Raises:
            HandoffRefused: the new process failed, or ``late`` when the deadline has passed.
        """
        try:
            async with asyncio.timeout_at(deadline):
                while not condition():
                    if self._failure is not None:
                        raise self._failure
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            self._catch_up()
            if not condition():
                raise late from None

    def _catch_up(self) -> None:
        """Read what has come already: a process that was itself held up finds the deadline over, and the answer."""
        if self._successor is not None:
            self._successor.channel.drain()

    # -- preflight and start -------------------------------------------------------------------------

    async def _start(self) -> None:
        """Spawn the new process and wait until it is ready; nobody notices any of it."""
        self._enter("spawn")
        options = self._options
        deadline = asyncio.get_running_loop().time() + options.deadline
        successor = self._successor = Successor(self._on_message, self._fail)
        setup = m.Setup(
            protocol=m.PROTOCOL,
            handoff=self.id,
            generation=self._identity.generation + 1,
            pid=os.getpid(),
            schema=self._engine.codec.schema,
            process_schema=self._identity.together,
            framings={spec: self._engine.framing.spec() for spec in self._engine.listeners},
        )
        try:
            successor.channel.send(setup)
        except ValueError as error:
            raise HandoffRefused("too-large", f"the state's types do not fit the handoff channel: {error}") from error
        successor.start(options.command, options.cwd)
        late = HandoffRefused(
            "new-hung",
            f"the new process did not become ready within {options.deadline:g} s; see its log, or raise --deadline",
        )
        await self._until(lambda: self._hello is not None, deadline, late)
        self._check_hello()
        self._enter("ready")
        await self._until(lambda: self._machine.phase is Phase.MOVING, deadline, late)

    def _check_hello(self) -> None:
        hello = self._hello
        assert hello is not None
        if hello.protocol != m.PROTOCOL:
            raise HandoffRefused(
                "protocol",
                f"the new process speaks handoff protocol {hello.protocol} (hotfd {hello.version}), this one "
                f"{m.PROTOCOL}; use the same major version of hotfd on both sides",
            )
        if hello.unreadable is not None:
            raise HandoffRefused("state-version", hello.unreadable)
        needed = hello.descriptors_open + self._engine.connections + len(self._engine.listeners)
        if needed + DESCRIPTOR_RESERVE > hello.descriptor_limit:
            raise descriptor_limit(needed + DESCRIPTOR_RESERVE, hello.descriptor_limit, "the new process")
        mine = self._engine.framing.spec()
        self._framing_differs = any(spec != mine for spec in hello.framings.values())

    async def _predicted(self) -> Report:
        prediction = predict(self._engine, together=self._identity.together)
        new_pid = self.new_pid
        if self._successor is not None:
            await self._successor.end(at_once=False, code="dry-run", detail="the dry run is over")
        report = self._report("partial" if prediction.sessions["kept"] else "completed", None)
        return self._filled(report, prediction, new_pid)

    # -- moving --------------------------------------------------------------------------------------

    def _begin_moving(self) -> Moving:
        self._enter("move")
        assert self._successor is not None
        moving = self._moving = Moving(
            self._engine,
            self._machine,
            self._successor.channel,
            hold_commits=self._identity.together,
            same_framing=not self._framing_differs,
            on_change=self._changed.set,
        )
        self._engine.mover = self
        self._collector.begin()
        return moving

    def _pass_listeners(self, *, hold: bool) -> None:
        """Give the new process the listening sockets; from here on it accepts, and not this one."""
        assert self._successor is not None
        self._touch, fd = TouchMap.create()
        listeners = list(self._engine.listeners.values())
        sockets = [listener.sock.fileno() for listener in listeners]
        entries = [
            m.ListenerEntry(listener.spec, cookie)
            for listener, cookie in zip(listeners, _core.cookies(sockets), strict=True)
        ]
        self._engine.stop_accepting()
        self._successor.channel.send(m.Listeners(entries, hold), [fd, *sockets], owned=[fd])

    async def _move_rolling(self) -> None:
        """Move sessions one by one, each at its own boundary."""
        moving = self._begin_moving()
        self._pass_listeners(hold=False)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._options.boundary_timeout
        pending = deque(self._engine.sessions.values())
        total = len(pending)
        while True:
            self._raise_failure()
            while moving.outstanding < PIPELINE and (pending or moving.has_ready):
                for _ in range(min(len(pending), BATCH)):
                    moving.want(pending.popleft())
                if batch := moving.batch():
                    moving.offer(batch)
                    await asyncio.sleep(0)  # the other clients' turn
                    self._raise_failure()
            self._emit({"event": "progress", "moved": moving.tally.sessions["moved"], "total": total})
            if not pending and not moving.waiting and not moving.outstanding:
                break
            if self._nothing_can_be_read(moving):
                raise HandoffRefused(moving.first_refusal.code, moving.first_refusal.detail)  # type: ignore[union-attr]
            if loop.time() >= deadline and not pending and moving.late:
                self._leave_behind(moving)
                continue
            if not pending:
                self._collector.end()  # only laggards are left
            moving.ask_again()
            await self._progress(moving, deadline)
        if self._nothing_can_be_read(moving):
            raise HandoffRefused(moving.first_refusal.code, moving.first_refusal.detail)  # type: ignore[union-attr]

    async def _progress(self, moving: Moving, deadline: float) -> None:
        """Wait until something happened, the boundary timeout is over, or an answer is overdue."""
        loop = asyncio.get_running_loop()
        oldest = moving.oldest_offer
        answer_by = oldest + ANSWER_LIMIT if oldest is not None else float("inf")
        wake = min(answer_by, deadline if moving.late else float("inf"))
        if moving.reluctant:
            wake = min(wake, loop.time() + RELUCTANT_INTERVAL)
        self._changed.clear()
        try:
            async with asyncio.timeout_at(None if wake == float("inf") else wake):
                await self._changed.wait()
        except TimeoutError:
            self._catch_up()
            if loop.time() >= answer_by and moving.oldest_offer == oldest:
                raise HandoffRefused(
                    "new-hung", f"the new process did not answer an offer within {ANSWER_LIMIT:g} s"
                ) from None

    def _nothing_can_be_read(self, moving: Moving) -> bool:
        """Everything so far was refused: it is the new version that is bad, not a session."""
        return moving.first_refusal is not None and not moving.committed and not moving.outstanding

    def _leave_behind(self, moving: Moving) -> None:
        """The boundary timeout is over: keep the laggards here, or close them."""
        for session, (code, detail) in moving.give_up_waiting():
            if self._options.laggards == "close":
                count = len(session.connections)
                for connection in list(session.connections):
                    connection.close()
                    if connection._task is not None:
                        connection._task.cancel()
                moving.tally.count("closed", count, code)
            else:
                moving.tally.count("kept", len(session.connections), code)
                moving.kept[session.id] = (code, detail)
            log.event(
                logging.WARNING, "laggard", session=session.id, code=code, reason=detail, policy=self._options.laggards
            )

    async def _move_together(self) -> None:
        """Move everything in one offer: sessions that share process-wide state."""
        moving = self._begin_moving()
        sessions = await self._close_the_gate(moving)
        try:
            process = None
            if self._identity.export_state is not None:
                value = self._identity.export_state()
                process = process_state(await value if isinstance(value, Awaitable) else value)
        except BaseException:
            for session in sessions:
                moving.reopen(session)
            raise
        self._pass_listeners(hold=True)
        moving.offer(sessions, process if process is not None else process_state(None))
        if moving.tally.sessions["kept"]:
            raise HandoffRefused("state-encode", "a session's state cannot travel, and all must move together")
        loop = asyncio.get_running_loop()
        late = HandoffRefused("new-hung", "the new process did not take the sessions over in time")
        await self._until(
            lambda: moving.first_refusal is not None or moving.all_unwound,
            loop.time() + max(ANSWER_LIMIT, self._options.deadline),
            late,
        )
        if moving.first_refusal is not None:
            raise HandoffRefused(moving.first_refusal.code, moving.first_refusal.detail)
        self._raise_failure()
        total = len(sessions)
        moving.commit_all()
        self._emit({"event": "progress", "moved": total, "total": total})

    async def _close_the_gate(self, moving: Moving) -> list[Session]:
        """Bring all sessions to their boundaries at once, holding them for no longer than ``GATE_LIMIT``.

        Raises:
            HandoffRefused: some did not come within the boundary timeout.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._options.boundary_timeout
        backoff = GATE_BACKOFF[0]
        while True:
            self._engine.stop_accepting()
            for session in list(self._engine.sessions.values()):
                moving.want(session)
            with suppress(TimeoutError):
                async with asyncio.timeout(GATE_LIMIT):
                    while moving.gating:
                        self._raise_failure()
                        self._changed.clear()
                        await self._changed.wait()
            if not moving.gating and (sessions := moving.take_all_ready()) is not None:
                return sessions
            busy = moving.give_up_waiting()
            moving.reopen_all()
            self._engine.start_accepting()
            if loop.time() >= deadline:
                what = ", ".join(f"{session.id} ({code})" for session, (code, _) in busy[:3]) or "never all at once"
                raise HandoffRefused(
                    "no-boundary",
                    f"the sessions did not come to rest together within {self._options.boundary_timeout:g} s: {what}; "
                    "raise --boundary-timeout or hand over when it is quieter",
                )
            await asyncio.sleep(backoff)
            backoff = min(backoff * 2, GATE_BACKOFF[1])

    # -- what sessions tell (the mover's half of Keeper) --------------------------------------------

    def at_boundary(self, session: Session) -> None:
        """A gated session may be at its boundary."""
        if self._moving is not None:
            self._moving.at_boundary(session)

    def left_boundary(self, session: Session) -> None:
        """An offered session wants to end here."""
        if self._moving is not None:
            self._moving.left_boundary(session)

    def start_handler(self, connection: Connection[Any]) -> None:
        """Is the engine's; a mover starts no handler."""

    def connection_ending(self, connection: Connection[Any]) -> None:
        """Is the engine's; a mover hears of it as :meth:`at_boundary`."""

    def connection_closed(self, connection: Connection[Any]) -> None:
        """Is the engine's."""

    # -- what the new process says ---------------------------------------------------------------------

    def _on_message(self, arrival: Arrival) -> None:
        """Take one message; closes what came with it unless it is kept."""
        try:
            ids = self._machine.receive(arrival.message)
            self._dispatch(arrival, ids)
        except ChannelError as error:
            self._fail(HandoffRefused("protocol", f"the new process broke the handoff protocol: {error}"))
        finally:
            arrival.close()
            self._changed.set()

    def _dispatch(self, arrival: Arrival, ids: list[int]) -> None:
        moving, message = self._moving, arrival.message
        match message:
            case m.Hello():
                self._hello = message
            case m.Failed(code=code, detail=detail):
                self._fail(HandoffRefused(code, detail))
            case m.Settled():
                self._pause = Pause(message.pause_p50, message.pause_p99, message.pause_max)
            case m.Accept() if moving is not None and self._failure is None:
                moving.accepted(ids)
            case m.Refuse() if moving is not None and self._failure is None:
                concerned = set(ids)
                moving.refused(refusal for refusal in message.refusals if refusal.id in concerned)
            case m.Ended(cookies=cookies) if moving is not None:
                for cookie in cookies:
                    moving.escrow.drop(cookie)
            case m.Newcomer() if moving is not None and len(arrival.descriptors) == 1:
                newcomer = Newcomer(arrival.descriptors.pop(), message.slot, message.listener)
                moving.escrow.hold_newcomer(message.cookie, newcomer)

    def _fail(self, failure: HandoffRefused) -> None:
        """Note the first thing that went wrong; whoever waits will raise it."""
        if self._failure is None and self._machine.phase is not Phase.SETTLED:
            self._failure = failure
        self._changed.set()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    # -- the ends ------------------------------------------------------------------------------------

    async def _prove(self) -> None:
        """Let the new process prove itself while the escrow is kept."""
        self._enter("probation")
        assert self._successor is not None
        self._successor.channel.send(self._machine.finish(self._options.probation))
        late = HandoffRefused("new-hung", "the new process did not settle after its probation")
        deadline = asyncio.get_running_loop().time() + self._options.probation + ANSWER_LIMIT
        await self._until(lambda: self._machine.phase is Phase.SETTLED, deadline, late)

    def _completed(self) -> Report:
        assert self._moving is not None
        self._engine.close_listeners(unlink=False)
        tally = self._moving.tally
        outcome: Literal["partial", "completed"] = (
            "partial" if tally.sessions["kept"] or tally.sessions["closed"] else "completed"
        )
        report = self._filled(self._report(outcome, None), tally, self.new_pid)
        self._log(report)
        return report

    async def _roll_back(self, refusal: HandoffRefused) -> Report:
        """Undo everything: the old process serves on, and the operator gets the reason."""
        started, new_pid = self._successor is not None, self.new_pid
        if started:
            await self._end_successor(refusal)
        if self._moving is not None:
            self._take_back(self._moving)
        if not self._engine.stopping:
            self._engine.start_accepting()
        report = self._report("rolled-back" if started else "refused", f"{refusal.code}: {refusal.detail}")
        if self._moving is not None:
            tally = self._moving.tally
            for counter in (tally.sessions, tally.connections):
                counter["moved"] = counter["kept"] = 0  # nothing moves, and what stays is no exception
            self._filled(report, tally, new_pid)
        report.new_pid = new_pid
        self._log(report)
        return report

    async def _end_successor(self, refusal: HandoffRefused) -> None:
        """End the new process. What is open goes on at once if the revocation can be queued."""
        assert self._successor is not None
        committed = self._moving is not None and self._moving.committed > 0
        task = self._moving.revoke_all() if self._moving is not None and not self._successor.dead else None
        if task is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(GATE_LIMIT):
                    await asyncio.shield(task)
        await self._successor.end(at_once=committed or task is not None, code=refusal.code, detail=refusal.detail)
        if task is not None:
            await task  # certain death has emptied the channel, so this ends

    def _take_back(self, moving: Moving) -> None:
        """Serve again what nobody else serves, and end what cannot be served."""
        moving.reopen_all()
        touch = self._touch
        assert self._successor is not None
        if not self._successor.dead:
            log.event(logging.CRITICAL, "take-back-impossible", id=self.id, pid=self.new_pid)
            return
        lost_one = self._identity.together and touch is not None and self._anything_touched(moving, touch)
        result = self._machine.take_back(lambda id: lost_one or touch is None or touch.touched(id))
        moving.resume_uncommitted()
        read = self._engine.codec.reader(self._engine.codec.schema)
        for id in result.restore:
            moving.restore_committed(id, read)
        for id in result.lost:
            moving.close_committed(id)
        for newcomer in moving.escrow.take_newcomers():
            self._take_newcomer(moving, newcomer, lost=lost_one or touch is None or touch.touched(newcomer.slot))

    def _anything_touched(self, moving: Moving, touch: TouchMap) -> bool:
        return any(touch.touched(id) for id in self._machine.sessions) or any(
            touch.touched(newcomer.slot) for newcomer in moving.escrow.newcomers
        )

    def _take_newcomer(self, moving: Moving, newcomer: Newcomer, *, lost: bool) -> None:
        """A connection that the new process had accepted: fresh, unless it was touched."""
        if lost:
            reset(newcomer.fd)
            moving.tally.count("closed", 1, "lost-in-new-process")
            return
        self._engine.welcome_descriptor(newcomer.listener, newcomer.fd)
        moving.tally.count("returned", 1)

    # -- the report ------------------------------------------------------------------------------------

    def _report(self, outcome: Literal["completed", "partial", "rolled-back", "refused"], reason: str | None) -> Report:
        now = monotonic()
        self._phases[self._phase] = round((now - self._phase_began) * 1000, 3)
        return Report(
            outcome=outcome,
            id=self.id,
            old_pid=os.getpid(),
            reason=reason,
            generation=self._identity.generation + (outcome in {"completed", "partial"}),
            pause_ms=self._pause,
            elapsed_ms=round((now - self._began) * 1000, 3),
            phases_ms=self._phases,
            dry_run=self._options.dry_run is not None,
        )

    def _filled(self, report: Report, tally: Tally, new_pid: int | None) -> Report:
        report.new_pid = new_pid
        report.sessions = Counts(**{fate: tally.sessions[fate] for fate in ("moved", "kept", "returned", "closed")})
        report.connections = Counts(**{f: tally.connections[f] for f in ("moved", "kept", "returned", "closed")})
        report.reasons = dict(tally.reasons)
        return report

    def _log(self, report: Report) -> None:
        level = logging.INFO if report.exit_status == 0 else logging.WARNING
        log.event(
            level,
            "handoff",
            id=self.id,
            outcome=report.outcome,
            reason=report.reason or "-",
            new_pid=report.new_pid,
            **{
                f"connections_{name}": getattr(report.connections, name)
                for name in ("moved", "kept", "returned", "closed")
            },
            reasons=",".join(f"{code}:{count}" for code, count in sorted(report.reasons.items())) or "-",
            pause_max_ms=report.pause_ms.max,
            elapsed_ms=report.elapsed_ms,
        )
