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
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Literal

from hotfd import _core, log
from hotfd.errors import ChannelError, HandoffRefused
from hotfd.faults import Point, reach
from hotfd.report import Pause, Report
from hotfd.server.collector import CollectorPause, collect_later
from hotfd.server.launch import Launch, choose
from hotfd.server.link import Link
from hotfd.server.moving import Moving
from hotfd.server.outcome import Journal, Tally
from hotfd.server.preflight import DESCRIPTOR_RESERVE, check_limit, descriptor_limit, predict
from hotfd.server.releases import send_releases
from hotfd.server.rewriting import rewrite
from hotfd.server.rolling import move_rolling
from hotfd.server.successor import Successor
from hotfd.server.supervision import check_supervision
from hotfd.server.takeback import Unit, take_back
from hotfd.server.together import move_together
from hotfd.transfer.touch import TouchMap
from hotfd.wire import messages as m
from hotfd.wire.sender import Phase, Sender

if TYPE_CHECKING:
    from hotfd.config.snapshots import Snapshot
    from hotfd.report import Outcome
    from hotfd.server.engine import Engine
    from hotfd.server.options import Identity, Options
    from hotfd.server.session import Session
    from hotfd.server.snapshot import Writers
    from hotfd.transfer.channel import Arrival

REVOKE_LIMIT: Final = 0.02
"""Seconds that a roll-back waits for its revocations to be queued, before it kills a process that reads nothing."""

EARLIEST: Final = 0.5
"""Share of the probation after which the new process may say that it is over. It counts from later on, by the same
clock of the kernel; but a loop may look at its clock once in a turn, and a turn can take long."""


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
        self.journal = Journal(emit, identity.generation, dry_run=options.dry_run is not None)
        self.engine = engine
        self.identity = identity
        self.options = options
        self.emit = emit
        self._machine = Sender()
        self.changed = asyncio.Event()
        self._failure: HandoffRefused | None = None
        self._successor: Successor | None = None
        self._moving: Moving | None = None
        self._touch: TouchMap | None = None
        self.collector = CollectorPause()
        self._framing_differs = False
        self._writers: Writers | None = None
        self._hello: m.Hello | None = None
        self._link: Link | None = None
        self._announced: dict[str, dict[str, Any]] = {}
        self._releases: set[Snapshot] = set()
        self._in_force: dict[str, tuple[int, int, int]] = {}
        self._pause = Pause()
        self._settles_from = 0.0  # by the loop's clock: whoever has proved itself earlier has proved nothing

    # -- the straight line ---------------------------------------------------------------------------

    @property
    def id(self) -> str:
        """The handoff's id."""
        return self.journal.id

    @property
    def phase(self) -> str:
        """The phase that the handoff is in."""
        return self.journal.phase

    @property
    def link(self) -> Link | None:
        """The link to the new process, once sessions may move."""
        return self._link

    @property
    def sessions(self) -> list[Session]:
        """The sessions that are to move."""
        return list(self.engine.sessions.values())

    @property
    def new_pid(self) -> int | None:
        """The new process's pid, once there is one."""
        return self._successor.pid if self._successor is not None else None

    @property
    def newcomers(self) -> int:
        """How many connections the new process has accepted that come to this one if it fails."""
        return len(self._moving.escrow.newcomers) if self._moving is not None else 0

    def cancel(self) -> None:
        """Give the handoff up if nothing has moved yet; it is then rolled back."""
        if self.phase in {"preflight", "spawn", "ready"}:
            self._fail(HandoffRefused("stopping", "the server was told to stop"))

    async def run(self) -> Report:
        """Carry the handoff out.

        Returns:
            the outcome. After ``completed`` and ``partial`` the listeners are closed here, and the engine
            serves what was kept; after ``refused`` and ``rolled-back`` it serves as before.
        """
        self.journal.started()
        try:
            if not self.options.force:
                check_supervision()
            check_limit(self.engine)
            launch = await choose(self.options, self.identity.history)
            if self.options.dry_run != "plan":
                await self._start(launch)
            if self.options.dry_run is not None:
                return await self._predicted()
            await self._move()
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
            # This process ends. A new one that accepts already owns everything by that; one that does not
            # must not take it for a bequest.
            if self._successor is not None and self._touch is None:
                self._successor.kill()
            raise
        finally:
            self._tidy()

    def _tidy(self) -> None:
        """Let go of what only a handoff needs. The outcome is what it is, whatever goes wrong here."""
        self.engine.mover = None
        try:
            self.collector.end()
            if self._moving is not None:
                self._moving.close()
                if self._moving.committed:
                    collect_later()
            if self._touch is not None:
                self._touch.close()
            if self._machine.phase is Phase.SETTLED:
                self._machine.forget()
            else:
                self.close()
        except Exception as error:  # noqa: BLE001 - as above
            log.event(logging.ERROR, "handoff-error", exc_info=error, id=self.id)

    def close(self) -> None:
        """Part from the new process. After a completed handoff that is due when nothing has stayed behind. Idempotent."""
        self._unlink()
        if self._successor is not None:
            self._successor.close()

    def _enter(self, phase: str) -> None:
        self.journal.enter(phase, self.new_pid)

    async def until(self, condition: Callable[[], bool], deadline: float, late: HandoffRefused) -> None:
        """Wait until a condition holds.

        Raises:
            HandoffRefused: the new process failed, or ``late`` when the deadline has passed.
        """
        try:
            async with asyncio.timeout_at(deadline):
                while not condition():
                    if self._failure is not None:
                        raise self._failure
                    self.changed.clear()
                    await self.changed.wait()
        except TimeoutError:
            self.catch_up()
            if not condition():
                raise late from None

    def catch_up(self) -> None:
        """Read what has come already: a process that was itself held up finds the deadline over, and the answer."""
        if self._successor is not None:
            self._successor.channel.drain()

    # -- preflight and start -------------------------------------------------------------------------

    async def _start(self, launch: Launch) -> None:
        """Spawn the new process and wait until it is ready; nobody notices any of it."""
        self.journal.begin("spawn")
        options = self.options
        deadline = asyncio.get_running_loop().time() + options.deadline
        successor = self._successor = Successor(self._on_message, self._fail)
        setup = m.Setup(
            protocol=m.PROTOCOL,
            handoff=self.id,
            generation=self.identity.generation + 1,
            pid=os.getpid(),
            schema=self.engine.codec.schema,
            process_schema=self.identity.together,
            framings={spec: self.engine.framing.spec() for spec in self.engine.listeners},
            kinds=self.engine.rooms.kinds.schemas,
            back_to=launch.back_to,
            releases=self.engine.slots is not None,
        )
        self._announced = setup.kinds
        try:
            history = [self.identity.history.seal()] if self.identity.history is not None else []
            successor.channel.send(setup, history, owned=history)
            if self.engine.slots is not None:
                self._releases, self._in_force = set(self.engine.held_releases()), self.engine.slots.in_force
                send_releases(successor.channel, self.engine.slots, self._releases)
        except ValueError as error:
            raise HandoffRefused("too-large", f"the state's types do not fit the handoff channel: {error}") from error
        except OSError as error:
            raise _no_room(error) from error
        successor.start(launch)
        self.journal.tell(self.new_pid)  # whoever waits for the outcome asks that one, should this process die
        late = HandoffRefused(
            "new-hung",
            f"the new process did not become ready within {options.deadline:g} s; see its log, or raise --deadline",
        )
        await self.until(lambda: self._hello is not None, deadline, late)
        reach(Point.OLD_HELLO)
        self._check_hello()
        self._enter("ready")
        await self.until(lambda: self._machine.phase is Phase.MOVING, deadline, late)
        reach(Point.OLD_READY)

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
            self._write_for_older_code(hello)
        needed = hello.descriptors_open + self.engine.connections + len(self.engine.listeners)
        if needed + DESCRIPTOR_RESERVE > hello.descriptor_limit:
            raise descriptor_limit(needed + DESCRIPTOR_RESERVE, hello.descriptor_limit, "the new process")
        mine = self.engine.framing.spec()
        self._framing_differs = any(spec != mine for spec in hello.framings.values())

    def _write_for_older_code(self, hello: m.Hello) -> None:
        """Write states as the new process reads them, if it is older and that is asked for."""
        assert self._successor is not None
        if not self.options.allow_downgrade and not self.options.rollback:
            raise HandoffRefused("state-version", str(hello.unreadable))
        self._writers, rewritten = rewrite(self.engine, self._announced, hello)
        try:
            self._successor.channel.send(rewritten)
        except ValueError as error:
            raise HandoffRefused("too-large", f"the state's types do not fit the handoff channel: {error}") from error
        log.event(logging.INFO, "writing-for-older-code", id=self.id, new_pid=self.new_pid)

    async def _predicted(self) -> Report:
        prediction = predict(
            self.engine,
            together=self.identity.together,
            writers=self._writers,
            unreadable=self._hello.unreadable_releases if self._hello is not None else None,
        )
        new_pid = self.new_pid
        if self._successor is not None:
            await self._successor.end(at_once=False, code="dry-run", detail="the dry run is over")
        if self.identity.together and prediction.sessions["kept"]:
            code = prediction.sample.laggards[0].code
            reason = f"{code}: a session's state cannot travel or it may not move, and all must move together"
            return self._undone("rolled-back", prediction, new_pid, reason)
        return self.journal.close(_outcome(prediction), prediction, new_pid=new_pid, reason=None)

    # -- moving --------------------------------------------------------------------------------------

    async def _move(self) -> None:
        if self.identity.together:
            await move_together(self, self._begin_moving())
        else:
            await self.freeze()  # before any session is asked: from then on each that appears is counted
            await move_rolling(self, self._begin_moving())

    async def freeze(self) -> None:
        """Bring the program to rest; from here on everything may be given away.

        Raises:
            HandoffRefused: it does not come to rest.
        """
        if self.identity.freezer is not None:
            await self.identity.freezer.freeze(self.options.deadline)
            reach(Point.OLD_FROZEN)
            self.raise_failure()

    async def thaw(self) -> None:
        """Let the program go on, if it was brought to rest."""
        if self.identity.freezer is not None:
            await self.identity.freezer.thaw()

    def _begin_moving(self) -> Moving:
        self._enter("move")
        assert self._successor is not None
        moving = self._moving = Moving(
            self.engine,
            self._machine,
            self._successor.channel,
            hold_commits=self.identity.together,
            same_framing=not self._framing_differs,
            answer_limit=self.options.answer_limit,
            on_change=self.changed.set,
            on_error=self._failed_inside,
            announced=self._announced,
            releases=self._releases,
            writers=self._writers,
            on_kept=lambda session, code, detail: self.journal.session(session.id, "kept", code, detail),
        )
        self._releases = set()  # the book holds them from here on, as long as something may be taken back
        self.engine.mover = self
        self.collector.begin()
        assert self._successor.pid is not None
        self._link = Link(
            self._successor.channel, pid=self._successor.pid, generation=self.identity.generation + 1, newer=True
        )
        self.engine.links.connect(self._link)
        return moving

    def pass_listeners(self, *, hold: bool) -> None:
        """Give the new process the listening sockets; from here on it accepts, and not this one."""
        assert self._successor is not None
        self._send_newer_releases()
        try:
            reach(Point.OLD_TOUCH_MAP)
            self._touch, fd = TouchMap.create()
        except OSError as error:
            raise _no_room(error) from error
        named = [*self.engine.listeners.items(), *self.engine.carried.items()]
        sockets = [listener.sock.fileno() for _, listener in named]
        entries = [
            m.ListenerEntry(name, cookie, listener.lent)
            for (name, listener), cookie in zip(named, _core.cookies(sockets), strict=True)
        ]
        self.engine.stop_accepting()
        reach(Point.OLD_LISTENERS)
        self._successor.channel.send(m.Listeners(entries, hold), [fd, *sockets], owned=[fd])
        reach(Point.OLD_LISTENED)

    # -- what sessions tell (Mover) --------------------------------------------------------------------

    def at_boundary(self, session: Session) -> None:
        """A gated session may be at its boundary."""
        if self._moving is not None:
            self._moving.at_boundary(session)

    def grown(self, session: Session) -> None:
        """A connection has joined a gated session."""
        if self._moving is not None:
            self._moving.grown(session)

    def appeared(self, session: Session) -> None:
        """A connection has left a shared session."""
        if self._moving is not None:
            self._moving.appeared(session)

    def left_boundary(self, session: Session) -> None:
        """An offered session wants to end here."""
        if self._moving is not None:
            self._moving.left_boundary(session)

    # -- what the new process says ---------------------------------------------------------------------

    def _on_message(self, arrival: Arrival) -> None:
        """Take one message; closes what came with it unless it is kept."""
        try:
            if isinstance(arrival.message, m.LinkMessage):
                self._heard_neighbour(arrival)
                return
            if isinstance(arrival.message, m.Settled) and asyncio.get_running_loop().time() < self._settles_from:
                raise ChannelError("Settled before its probation was over")
            ids = self._machine.receive(arrival.message)
            self._dispatch(arrival, ids)
        except ChannelError as error:
            self._fail(HandoffRefused("protocol", f"the new process broke the handoff protocol: {error}"))
        except Exception as error:  # noqa: BLE001 - raised into the loop, it would leave everybody waiting
            self._failed_inside(error)
        finally:
            arrival.close()
            self.changed.set()

    def _heard_neighbour(self, arrival: Arrival) -> None:
        if isinstance(arrival.message, m.Replaced) and self._machine.phase is not Phase.SETTLED:
            raise ChannelError("Replaced before it has settled itself")
        if self._link is None or not self.engine.links.received(self._link, arrival):
            raise ChannelError(f"{type(arrival.message).__name__} is for nobody here")

    def _dispatch(self, arrival: Arrival, ids: list[int]) -> None:
        moving, message = self._moving, arrival.message
        match message:
            case m.Hello():
                self._hello = message
            case m.Failed(code=code, detail=detail):
                self._fail(HandoffRefused(code, detail))
            case m.Settled():
                reach(Point.OLD_SETTLED)
                self._pause = Pause(message.pause_p50, message.pause_p99, message.pause_max)
                self.engine.rooms.directory.replaced()
            case m.Accept() if moving is not None and self._failure is None:
                moving.heard()
                moving.accepted(ids)
            case m.Refuse() if moving is not None and self._failure is None:
                concerned = set(ids)
                moving.heard()
                moving.refused(refusal for refusal in message.refusals if refusal.id in concerned)
            case m.Ended(cookies=cookies) if moving is not None:
                for cookie in cookies:
                    moving.escrow.drop(cookie)
            case m.Newcomer() if self._machine.phase is Phase.SETTLED:
                pass  # it stood behind Settled in the new process's queue: no copies are kept any more
            case m.Newcomer() if moving is not None and not arrival.truncated:
                reach(Point.OLD_NEWCOMER)
                moving.keep_newcomer(message, arrival.descriptors)

    def _fail(self, failure: HandoffRefused) -> None:
        """Note the first thing that went wrong; whoever waits will raise it."""
        if self._machine.phase is Phase.SETTLED:
            self.close()  # what has stayed behind has no newer process any more
        elif self._failure is None:
            self._failure = failure
        self.changed.set()

    def _failed_inside(self, error: Exception) -> None:
        """Something went wrong that nobody has thought of; the clients must not pay for it."""
        log.event(logging.ERROR, "handoff-error", exc_info=error, id=self.id)
        self._fail(HandoffRefused("internal", f"{type(error).__name__}; see the log"))

    def _unlink(self) -> None:
        if self._link is not None:
            self.engine.links.disconnect(self._link)

    def _send_newer_releases(self) -> None:
        """What was staged here while the new process started runs there too, whatever its own source says by now."""
        slots = self.engine.slots
        if slots is None or self._in_force == slots.in_force:
            return
        assert self._successor is not None
        send_releases(self._successor.channel, slots, ())

    def raise_failure(self) -> None:
        """Raise what has gone wrong with the new process, if anything has."""
        if self._failure is not None:
            raise self._failure

    # -- the ends ------------------------------------------------------------------------------------

    async def _prove(self) -> None:
        """Let the new process prove itself while the escrow is kept."""
        assert self._successor is not None
        reach(Point.OLD_FINISH)
        self._settles_from = asyncio.get_running_loop().time() + EARLIEST * self.options.probation
        self._successor.channel.send(self._machine.finish(self.options.probation))
        reach(Point.OLD_PROBATION)
        self._enter("probation")  # who reads that may rely on it: the new process has been offered everything
        late = HandoffRefused("new-hung", "the new process did not settle after its probation")
        deadline = asyncio.get_running_loop().time() + self.options.probation + self.options.answer_limit
        await self.until(lambda: self._machine.phase is Phase.SETTLED, deadline, late)

    def _completed(self) -> Report:
        assert self._moving is not None
        reach(Point.OLD_COMPLETED)
        self.engine.close_listeners(unlink=False)
        tally = self._moving.tally
        return self.journal.close(_outcome(tally), tally, new_pid=self.new_pid, reason=None, pause=self._pause)

    async def _roll_back(self, refusal: HandoffRefused) -> Report:
        """Undo everything: the old process serves on, and the operator gets the reason."""
        self.catch_up()
        if self._machine.phase is Phase.SETTLED:
            return self._completed()
        new_pid = self.new_pid  # None as long as nothing was started
        tally = self._moving.tally if self._moving is not None else Tally()
        committed = self._moving is not None and self._moving.committed > 0
        try:
            if self.identity.together and not committed:
                await self.thaw()  # the new process has begun nothing; handlers go on in a program that is awake
            if self._successor is not None:
                try:
                    reach(Point.OLD_ROLL_BACK)
                    await self._end_successor(refusal)
                except Exception as error:  # noqa: BLE001 - dead it must be, or nothing can be taken back
                    log.event(logging.ERROR, "handoff-error", exc_info=error, id=self.id)
                    await self._successor.end(at_once=True, code=refusal.code, detail=refusal.detail)
            await self.thaw()
            if self._moving is not None:
                self._take_back(self._moving)
        finally:
            if not self.engine.stopping:
                self.engine.mend_listeners()
                self.engine.start_accepting()
        reason = f"{refusal.code}: {refusal.detail}"
        return self._undone("refused" if new_pid is None else "rolled-back", tally, new_pid, reason)

    def _undone(self, outcome: Outcome, tally: Tally, new_pid: int | None, reason: str) -> Report:
        for counter in (tally.sessions, tally.connections):
            counter["moved"] = counter["kept"] = 0  # nothing has moved, and what stays is no exception
        return self.journal.close(outcome, tally, new_pid=new_pid, reason=reason)

    async def _end_successor(self, refusal: HandoffRefused) -> None:
        """End the new process. What is open goes on at once if the revocation can be queued."""
        assert self._successor is not None
        committed = self._moving is not None and self._moving.committed > 0
        task = self._moving.revoke_all() if self._moving is not None and not self._successor.dead else None
        if task is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(REVOKE_LIMIT):
                    await asyncio.shield(task)
        at_once = committed or task is not None
        dead = await self._successor.end(at_once=at_once, code=refusal.code, detail=refusal.detail)
        if task is not None and dead:
            await task  # the channel is closed, so this ends

    def _take_back(self, moving: Moving) -> None:
        moving.gate.reopen_all()
        if self._successor is not None and not self._successor.dead:
            log.event(logging.CRITICAL, "take-back-impossible", id=self.id, pid=self.new_pid)
            return
        unit: Unit = self.options.on_loss if self.identity.together else "session"
        try:
            take_back(self.engine, self._machine, moving, self._touch, unit)
        except Exception as error:  # noqa: BLE001 - in doubt, a client is told that its connection is over
            log.event(logging.ERROR, "handoff-error", exc_info=error, id=self.id)
            moving.resume_uncommitted()
            moving.close_held()
        self._unlink()  # only now: whoever waits to join a session finds it, if it has come back


def _no_room(error: OSError) -> HandoffRefused:
    detail = f"no descriptor or memory to hand over with ({error.strerror}); raise LimitNOFILE"
    return HandoffRefused("descriptor-limit", detail)


def _outcome(tally: Tally) -> Literal["completed", "partial"]:
    return "partial" if tally.sessions["kept"] or tally.sessions["closed"] else "completed"
