"""What has stayed behind in an older process, and how it still gets to the newest one.

Laggards stay with the old process until they end. They move all the same when there is a reason to:

* a later handoff has made another process the newest: everything is asked once more;
* a connection here wants to join a shared session that a newer process has, or would make;
* a connection there waits for a shared session that is here.

Then those sessions are handed over to the newest process, which serves already, on a channel of their own, by
the protocol of any handoff: offered, accepted, committed. Nothing is started for it and there is no probation, since
that process has proved itself. It is not ended when this fails: what is not committed stays here.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from hotfd import _core, log
from hotfd.errors import ChannelError, HandoffRefused
from hotfd.server.collector import CollectorPause
from hotfd.server.moving import Moving
from hotfd.server.options import ANSWER_LIMIT, Options
from hotfd.server.outcome import Journal
from hotfd.server.releases import send_releases
from hotfd.server.rewriting import rewrite
from hotfd.server.rolling import move_rolling
from hotfd.server.takeback import take_back
from hotfd.server.tasks import detached
from hotfd.transfer.channel import Channel
from hotfd.transfer.process import ProcessWatch
from hotfd.transfer.touch import TouchMap
from hotfd.wire import messages as m
from hotfd.wire.sender import Phase, Sender

if TYPE_CHECKING:
    from hotfd.config.snapshots import Snapshot
    from hotfd.server.engine import Engine
    from hotfd.server.link import Link
    from hotfd.server.session import Session
    from hotfd.server.snapshot import Writers
    from hotfd.transfer.channel import Arrival

ALL_TIMEOUT: Final = 5.0
"""Seconds for everything that stays behind to come to a boundary when there is a newer process: it had a
boundary timeout before, and did not."""

SOME_TIMEOUT: Final = 1.0
"""Seconds for sessions that somebody waits for, before they are asked again."""

RETRY: Final = (0.1, 2.0)
"""First and longest pause in seconds between two tries to move what somebody waits for; it doubles in between."""

REVOKE_LIMIT: Final = 1.0
"""Seconds for a revocation to be in the kernel, which takes it at once unless the newest process reads nothing."""


DEATH_LIMIT: Final = 1.0
"""Seconds between the end of the channel and the death that explains it."""


class Follow:
    """One handoff of some sessions to the newest process.

    Args:
        engine: whose sessions move.
        link: to the newest process.
        generation: of this process.
        sessions: which ones.
        boundary_timeout: seconds for them to come to a boundary.
    """

    def __init__(
        self, engine: Engine, link: Link, generation: int, sessions: Iterable[Session], boundary_timeout: float
    ) -> None:
        self.engine = engine
        self.sessions = list(sessions)
        self.options = Options(boundary_timeout=boundary_timeout)
        self.changed = asyncio.Event()
        self.collector = CollectorPause()
        self.journal = Journal(self.emit, generation, silent=True)
        self._link = link
        self._generation = generation
        self._machine = Sender()
        self._failure: HandoffRefused | None = None
        self._hello: m.Hello | None = None
        self._writers: Writers | None = None
        self._channel: Channel | None = None
        self._watch: ProcessWatch | None = None
        self._moving: Moving | None = None
        self._announced: dict[str, dict[str, Any]] = {}
        self._releases: set[Snapshot] = set()
        self._touch: TouchMap | None = None

    def emit(self, event: dict[str, Any]) -> None:
        """Progress of what stays behind is nobody's."""

    async def run(self) -> int:
        """Move what comes to a boundary in time.

        Returns:
            how many sessions have moved. What has not is served here as before.
        """
        try:
            await self._begin()
            moving = self._book()
            await move_rolling(self, moving)
            assert self._channel is not None
            self._channel.send(self._machine.finish(0.0))
            await self._until(lambda: self._machine.phase is Phase.SETTLED)
        except (HandoffRefused, OSError, ValueError, BufferError) as error:
            log.event(logging.INFO, "remainder-stays", newest=self._link.pid, reason=str(error))
            await self._undo()
            self._give_up(error)
        except Exception as error:  # noqa: BLE001 - whatever it is, the clients must not pay for it
            log.event(logging.ERROR, "remainder-error", exc_info=error, newest=self._link.pid)
            await self._undo()
        finally:
            self.engine.mover = None
            self.collector.end()
            moved = self._moving.tally.sessions["moved"] if self._moving is not None else 0
            self._close()
        if moved:
            log.event(logging.INFO, "remainder-moved", newest=self._link.pid, sessions=moved)
        return moved

    def _close(self) -> None:
        if self._moving is not None:
            self._moving.close()
        if self._channel is not None:
            self._channel.close()
        if self._watch is not None:
            self._watch.close()
        if self._touch is not None:
            self._touch.close()

    async def _begin(self) -> None:
        engine = self.engine
        mine, theirs = _core.channel_pair()
        self._channel = Channel(mine, self._on_message, self._on_broken, self._on_end)
        self._channel.peer = self._link.pid
        self._link.send(m.Handover(), [theirs], owned=[theirs])
        try:
            self._watch = ProcessWatch(self._link.pid, os.pidfd_open(self._link.pid), self._on_end)
        except ProcessLookupError:
            raise HandoffRefused("new-exited", "the newest process is gone") from None
        self._channel.start()
        spec = engine.framing.spec()
        self._announced = engine.rooms.kinds.schemas
        self._releases = {session.release for session in self.sessions if session.release is not None}
        self._channel.send(
            m.Setup(
                protocol=m.PROTOCOL,
                handoff=secrets.token_hex(6),
                generation=self._generation,
                pid=os.getpid(),
                schema=engine.codec.schema,
                process_schema=False,
                framings=dict.fromkeys({c.listener for s in self.sessions for c in s.connections}, spec),
                kinds=self._announced,
                remainder=True,
                releases=engine.slots is not None,
            )
        )
        if engine.slots is not None:
            send_releases(self._channel, engine.slots, self._releases)
        await self._until(lambda: self._machine.phase is Phase.MOVING)
        assert self._hello is not None
        if self._hello.unreadable is not None:
            # Where the newest code is the older one, somebody has asked for that; what comes later follows suit.
            self._writers, rewritten = rewrite(engine, self._announced, self._hello)
            self._channel.send(rewritten)

    def _book(self) -> Moving:
        assert self._channel is not None
        assert self._hello is not None
        spec = self.engine.framing.spec()
        moving = self._moving = Moving(
            self.engine,
            self._machine,
            self._channel,
            hold_commits=False,
            same_framing=all(theirs == spec for theirs in self._hello.framings.values()),
            answer_limit=self.options.answer_limit,
            on_change=self.changed.set,
            on_kept=lambda session, code, detail: self.engine.rooms.stranded(session, f"{code}: {detail}"),
            announced=self._announced,
            releases=self._releases,
            writers=self._writers,
        )
        self.engine.mover = moving
        return moving

    async def _until(self, condition: Callable[[], bool]) -> None:
        try:
            async with asyncio.timeout(ANSWER_LIMIT):
                while not condition():
                    self.raise_failure()
                    self.changed.clear()
                    await self.changed.wait()
        except TimeoutError:
            raise HandoffRefused("new-hung", f"the newest process did not answer within {ANSWER_LIMIT:g} s") from None

    # -- what moving asks of a driver (see rolling.Driver) ---------------------------------------------

    def pass_listeners(self, *, hold: bool) -> None:
        """There are none to pass: the newest process has them; it gets the touch map."""
        assert self._channel is not None
        self._touch, fd = TouchMap.create()
        self._channel.send(m.Listeners([], hold), [fd], owned=[fd])

    def raise_failure(self) -> None:
        """Raise what has gone wrong."""
        if self._failure is not None:
            raise self._failure

    def catch_up(self) -> None:
        """Read what has come already."""
        if self._channel is not None:
            self._channel.drain()

    # -- what the newest process says ------------------------------------------------------------------

    def _on_message(self, arrival: Arrival) -> None:
        try:
            ids = self._machine.receive(arrival.message)
            self._dispatch(arrival.message, ids)
        except ChannelError as error:
            self._fail("protocol", str(error))
        finally:
            arrival.close()
            self.changed.set()

    def _dispatch(self, message: m.Message, ids: list[int]) -> None:
        moving = self._moving
        match message:
            case m.Hello():
                self._hello = message
            case m.Failed(code=code, detail=detail):
                self._fail(code, detail)
            case m.Accept() if moving is not None and self._failure is None:
                moving.heard()
                moving.accepted(ids)
            case m.Refuse(refusals=refusals) if moving is not None and self._failure is None:
                moving.heard()
                moving.refused(refusal for refusal in refusals if refusal.id in ids)
            case m.Ended(cookies=cookies) if moving is not None:
                for cookie in cookies:
                    moving.escrow.drop(cookie)

    def _on_broken(self, error: ChannelError) -> None:
        self._fail("protocol", str(error))

    def _on_end(self) -> None:
        if self._watch is not None and self._watch.dead:
            self.catch_up()
        self._fail("new-exited", "the newest process has let go of the channel")

    def _fail(self, code: str, detail: str) -> None:
        if self._failure is None and self._machine.phase is not Phase.SETTLED:
            self._failure = HandoffRefused(code, detail)
        self.changed.set()

    # -- when it fails ---------------------------------------------------------------------------------

    async def _undo(self) -> None:
        """Go on here with everything that is not committed; with more, if the newest process is dead."""
        moving, watch = self._moving, self._watch
        if moving is None or watch is None:
            return
        moving.gate.reopen_all()
        task = moving.revoke_all() if not watch.dead else None
        if task is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(REVOKE_LIMIT):
                    await asyncio.shield(task)
        if moving.outstanding and not watch.dead:
            # It has been told nothing, and may own what was offered: only its death makes that certain.
            log.event(logging.WARNING, "remainder-fenced", newest=self._link.pid, sessions=moving.outstanding)
            await watch.wait()
        if moving.committed:
            await self._certain(watch)
        if watch.dead and self._machine.phase is not Phase.SETTLED:
            self.catch_up()
            take_back(self.engine, self._machine, moving, self._touch, "session")

    def _give_up(self, error: Exception) -> None:
        """Tell the newest process that nothing more comes, so that it does not wait for what may explain the silence."""
        if self._channel is None or (self._moving is not None and self._moving.committed):
            return
        code = error.code if isinstance(error, HandoffRefused) else "superseded"
        with suppress(BufferError, OSError, ChannelError):
            self._channel.send(m.Abort(code, str(error)[: m.MAX_TEXT]))

    async def _certain(self, watch: ProcessWatch) -> None:
        """Wait until the newest process has said that it owns what is committed, or is dead, or has parted from here.

        A process that is held up says so late. One that has died closes its channel before its pidfd tells.
        """
        assert self._channel is not None
        if self._machine.phase is Phase.MOVING and not self._machine.open_sessions():
            with suppress(BufferError):
                self._channel.send(self._machine.finish(0.0))
        while not watch.dead and self._machine.phase is not Phase.SETTLED and not self._channel.ended:
            self.changed.clear()
            await self.changed.wait()
        if not watch.dead and self._machine.phase is not Phase.SETTLED:
            with suppress(TimeoutError):
                async with asyncio.timeout(DEATH_LIMIT):
                    await watch.wait()


class Remainder:
    """Sees to it that what has stayed behind gets to the newest process when there is a reason to.

    Args:
        engine: whose sessions have stayed behind.
        generation: of this process.
    """

    def __init__(self, engine: Engine, generation: int) -> None:
        self._engine = engine
        self._generation = generation
        self._due: set[str] = set()
        self._all = False
        self._active = False
        self._held = False
        self._task: asyncio.Task[None] | None = None
        engine.rooms.on_must_move = self.want
        engine.rooms.on_wanted = self.want

    def start(self) -> None:
        """The handoff is over, and some sessions have stayed: move those that somebody waits for."""
        self._active = True
        self._go()

    def want(self, session: Session) -> None:
        """Somebody waits for a session to be in the newest process."""
        self._due.add(session.id)
        self._go()

    def want_all(self) -> None:
        """There is another newest process: everything is asked once more."""
        self._all = True
        self._go()

    def hold(self, held: bool) -> None:
        """While the newest process is being replaced, and takes nothing, wait for what becomes of that."""
        self._held = held
        self._go()

    def forget(self) -> None:
        """No other process serves: nobody waits for what is here to be elsewhere."""
        self._due.clear()

    @property
    def busy(self) -> bool:
        """Whether a handover is on its way."""
        return self._task is not None

    async def decided(self) -> None:
        """Wait until none is on its way."""
        if self._task is not None:
            await asyncio.wait([self._task])

    def _go(self) -> None:
        if self._active and not self._held and self._task is None and (self._all or self._due):
            self._task = detached(self._run(), "hotfd-remainder")

    async def _run(self) -> None:
        pause = RETRY[0]
        try:
            while not self._held and (link := self._engine.links.newer) is not None and (sessions := self._chosen()):
                everything, self._all = self._all, False
                timeout = ALL_TIMEOUT if everything else SOME_TIMEOUT
                await Follow(self._engine, link, self._generation, sessions, timeout).run()
                if not self._all and self._chosen():
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, RETRY[1])
        finally:
            self._task = None

    def _chosen(self) -> list[Session]:
        sessions = self._engine.sessions
        self._due &= sessions.keys()
        return list(sessions.values()) if self._all else [sessions[id] for id in self._due]

    def close(self) -> None:
        """Stop; what is on its way is decided by the newest process."""
        self._active = False
        if self._task is not None:
            self._task.cancel()
