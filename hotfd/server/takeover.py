"""A handoff in the new process: from Hello to the day it serves alone.

One :class:`Takeover` is one handoff. Until its first commit nothing here reads, writes or closes what
belongs to the old process. What makes this process the owner of a session is a COMMIT, or the certain
death of the old process with an offer that was not revoked.
"""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import socket
from array import array
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from operator import attrgetter
from time import monotonic_ns
from typing import TYPE_CHECKING, Any, Final

import msgspec

from hotfd import _core, log
from hotfd._version import __version__
from hotfd.errors import ChannelError, ConfigError, HandoffRefused
from hotfd.faults import Point, reach
from hotfd.report import Counts, Pause, Report
from hotfd.server.collector import CollectorPause
from hotfd.server.custody import Custody
from hotfd.server.engine import cookie_of
from hotfd.server.link import Link
from hotfd.server.moving import PROCESS
from hotfd.server.releases import Arriving
from hotfd.server.snapshot import Readers, restore
from hotfd.transfer.channel import Arrival, Channel
from hotfd.transfer.history import History
from hotfd.transfer.process import ProcessWatch
from hotfd.transfer.touch import NEWCOMERS, Mark, TouchMap
from hotfd.wire import messages as m
from hotfd.wire.receiver import Phase, Receiver

if TYPE_CHECKING:
    from hotfd.server.connection import Connection
    from hotfd.server.engine import Engine
    from hotfd.server.session import Session

SETUP_LIMIT: Final = 10.0
"""Seconds for the Setup, which the old process has queued before this one was started."""

DEATH_LIMIT: Final = 1.0
"""Seconds between the end of the channel and the death that explains it."""

UNHOOKED: Final = 500
"""Connections that are unhooked in one turn of the loop: half a millisecond, which no client notices."""

HEALTH_INTERVAL: Final = 1.0
"""Seconds between health checks in probation."""

_fenced_ns: Final = attrgetter("fenced_ns")


class Takeover:
    """One handoff, as the new process lives it.

    Args:
        fd: the inherited end of the channel; owned from here on.
        engine: what is to serve.
        specs: the addresses that this version listens on.
        healthy: the health check: false or an exception is unhealthy; or None.
        import_state: takes the process-wide state over, or None.
    """

    def __init__(
        self,
        fd: int,
        engine: Engine,
        specs: list[str],
        *,
        healthy: Callable[[], Any] | None,
        import_state: Callable[[Any], Any] | None,
    ) -> None:
        self._engine = engine
        self._specs = specs
        self._healthy = healthy
        self._import_state = import_state
        self._machine = Receiver()
        self._fd = fd
        self._channel = Channel(fd, self._on_message, self._on_broken, self._on_end)
        self._old: ProcessWatch | None = None
        self._setup: m.Setup | None = None
        self.history: History | None = None
        """What ran before this process, once Setup has come."""
        self._custody: Custody | None = None
        self._releases = Arriving(engine)
        self._touch: TouchMap | None = None
        self._newcomers = 0
        self._collector = CollectorPause()
        self._hold = False  # nothing is accepted before the first commit
        self._one_unit = False  # all sessions move together
        self._link: Link | None = None
        self._taken: list[Connection[Any]] = []  # of a remainder: what has come by this handoff
        self._given_up = False  # something has gone wrong inside, and the old process is being told
        self._cut_short = False  # the old process died while there may have been more to come
        self._sessions = 0
        self._pauses_ms = array("d")  # of every connection, for as long as the process lives
        self._tasks: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Ends when this process owns what it serves; raises HandoffRefused when it has to leave."""
        self.on_old_exit: Callable[[int], None] = lambda pid: None
        """Called with the old process's pid when it is certainly dead."""
        self.on_accepting: Callable[[], None] = lambda: None
        """Called when this process begins to accept, and the old one has stopped everything beside its sessions."""
        self._remainder = False

    @classmethod
    def of_remainder(cls, fd: int, engine: Engine, pid: int) -> Takeover:
        """Make the handoff of sessions that had stayed behind to a process that serves already.

        Args:
            fd: the channel; owned from here on.
            engine: what serves.
            pid: the older process, whose word alone counts on the channel.
        """
        takeover = cls(fd, engine, list(engine.listeners), healthy=None, import_state=None)
        takeover._remainder = True
        takeover._channel.peer = pid
        return takeover

    def report(self) -> Report:
        """Say how the handoff went, for a client that lost the old process's answer."""
        failure = self.done.exception() if self.done.done() and not self.done.cancelled() else None
        p50, p99, longest = percentiles(self._pauses_ms)
        reason = str(failure) if failure is not None else None
        if self._cut_short:
            reason = (
                "old-exited: the old process died before it had offered everything; what it had not is lost with it"
            )
        return Report(
            outcome="rolled-back" if failure is not None else "partial" if self._cut_short else "completed",
            id=self.handoff or "",
            old_pid=self.old_pid or 0,
            reason=reason,
            new_pid=os.getpid(),
            generation=self.generation,
            connections=Counts(moved=len(self._pauses_ms)),
            sessions=Counts(moved=self._sessions),
            pause_ms=Pause(p50, p99, longest),
        )

    # -- starting ------------------------------------------------------------------------------------

    @property
    def generation(self) -> int:
        """This process's generation."""
        return self._setup.generation if self._setup is not None else 1

    @property
    def settled(self) -> bool:
        """Whether this process owns what it serves."""
        return self.done.done() and self.done.exception() is None

    @property
    def phase(self) -> str:
        """How far the handoff is."""
        return self._machine.phase.value

    @property
    def handoff(self) -> str | None:
        """The handoff's id."""
        return self._setup.handoff if self._setup is not None else None

    @property
    def back_to(self) -> int | None:
        """The generation that this process runs again, when an operator went back."""
        return self._setup.back_to if self._setup is not None else None

    @property
    def old_pid(self) -> int | None:
        """The old process's pid."""
        return self._setup.pid if self._setup is not None else None

    async def hello(self) -> None:
        """Learn who hands over, and say who this is.

        Raises:
            HandoffRefused: nobody hands over, or in a protocol that this version does not speak.
        """
        reach(Point.NEW_BEGIN)
        setup, codec = await self._hear(), self._engine.codec
        told: dict[str, Any] = {}
        if setup.process_schema and self._import_state is None:
            unreadable: str | None = "the old process hands process-wide state over; give the server an import_state"
        elif unreadable := codec.unreadable(setup.schema) or self._engine.rooms.kinds.unreadable(setup.kinds):
            # The old process may write for this one, if it is told how.
            told = {"schema": codec.schema, "kinds": self._engine.rooms.kinds.known(setup.kinds)}
        if unreadable is None:
            read = Readers.of(self._engine, setup.schema, setup.kinds, self._releases.luggage)
            self._custody = Custody(read, self._import_state, self._engine.bus)
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        spec = self._engine.framing.spec()
        if self.done.done():
            return  # the old process has died meanwhile
        reach(Point.NEW_HELLO)
        self._say_hello(
            m.Hello(
                protocol=m.PROTOCOL,
                pid=os.getpid(),
                version=__version__,
                framings=dict.fromkeys(self._specs, spec),
                descriptor_limit=min(limit, (1 << 31) - 1) if limit != resource.RLIM_INFINITY else (1 << 31) - 1,
                descriptors_open=len(os.listdir("/proc/self/fd")),
                unreadable=unreadable[: m.MAX_TEXT] if unreadable is not None else None,
                unreadable_releases=self._releases.unreadable,
                **told,
            )
        )
        self._machine.hello()

    async def _hear(self) -> m.Setup:
        """Learn who hands over, and what runs there of the configuration.

        Raises:
            HandoffRefused: nobody hands over, or what has come cannot be read.
        """
        self._channel.start()
        try:
            async with asyncio.timeout(SETUP_LIMIT):
                while not self._begun and not self._channel.ended and not self.done.done():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            pass
        if not self._begun or self._setup is None:
            raise HandoffRefused("no-channel", "nobody hands over on the inherited channel")
        try:
            await self._releases.unpack()
        except ConfigError as error:
            raise await self.fail("protocol", str(error)) from error
        if self.done.done():  # the old process has died meanwhile
            self._releases.clear()
        return self._setup

    @property
    def _begun(self) -> bool:
        """Whether everything has come that this process must know before it says Hello."""
        return self._setup is not None and self._releases.begun

    def _say_hello(self, hello: m.Hello) -> None:
        """Say Hello, with as much as a packet holds: the reasons about releases are for a dry run alone."""
        brief = msgspec.structs.replace(hello, unreadable_releases={})
        for message in (hello, brief):
            with suppress(ValueError):
                self._channel.send(message)
                return
        problem = "the types of its state do not fit the handoff channel; declare fewer or simpler ones"
        self._channel.send(msgspec.structs.replace(brief, unreadable=problem, schema=None, kinds={}))

    async def ready(self) -> None:
        """Say that this process is initialised, if it is healthy.

        Raises:
            HandoffRefused: it is not; the old process knows why.
        """
        try:
            known = self._setup.framings if self._setup is not None else {}
            self._engine.bind(spec for spec in self._specs if spec not in known)
        except (OSError, ValueError) as error:
            raise await self.fail("cannot-listen", str(error)) from error
        try:
            self._engine.poller.open()  # now that nothing is lost by it, if it cannot be had
        except OSError as error:
            raise await self.fail("descriptor-limit", str(error)) from error
        problem = await self._unhealthy()
        if problem is not None:
            raise await self.fail("unhealthy", problem)
        if not self.done.done() and self._machine.phase is Phase.PREPARING:
            reach(Point.NEW_READY)
            self._channel.send(self._machine.ready())
            reach(Point.NEW_PREPARED)

    async def fail(self, code: str, detail: str) -> HandoffRefused:
        """Tell the old process why this one gives up.

        Returns:
            the same as an exception for the caller to raise.
        """
        self._channel.send(m.Failed(code[: m.MAX_TEXT], detail[: m.MAX_TEXT]))
        try:
            async with asyncio.timeout(1.0):
                await self._channel.flushed()
        except TimeoutError:
            pass
        return HandoffRefused(code, detail)

    async def _unhealthy(self) -> str | None:
        """Run the health check: None, or what is wrong."""
        if self._healthy is None:
            return None
        try:
            answer = self._healthy()
            if isinstance(answer, Awaitable):
                answer = await answer
        except Exception as error:  # noqa: BLE001 - any fault of the check is the verdict
            log.event(logging.ERROR, "health-check-failed", exc_info=error)
            return f"its health check raised {type(error).__name__}; see its log"
        return None if answer is None or answer else "its health check says that it is not healthy"

    # -- what the old process says ---------------------------------------------------------------------

    def _on_message(self, arrival: Arrival) -> None:
        try:
            if self._setup is None:
                self._identify(arrival)
            if isinstance(arrival.message, m.LinkMessage):
                self._heard_neighbour(arrival)
                return
            ids = self._machine.receive(arrival.message)
            self._dispatch(arrival, ids)
        except (ChannelError, OSError, ValueError) as error:
            self._leave(HandoffRefused("protocol", f"the old process broke the handoff protocol: {error}"))
        except Exception as error:  # noqa: BLE001 - what was taken by half would be served by nobody
            self._failed_inside(error)
        finally:
            arrival.close()
            self._changed.set()

    def _failed_inside(self, error: Exception) -> None:
        """Something went wrong that nobody has thought of: the old process serves on, as long as it can."""
        log.event(logging.ERROR, "takeover-error", exc_info=error)
        detail = f"{type(error).__name__}; see the new process's log"
        if self._given_up:  # not even that can be said
            self._leave(HandoffRefused("internal", detail))
        elif not self.done.done():
            self._given_up = True
            self._start(self._fail_and_leave("internal", detail))

    def _heard_neighbour(self, arrival: Arrival) -> None:
        setup, links = self._setup, self._engine.links
        if self._link is None and setup is not None and isinstance(arrival.message, m.Linked):
            self._link = Link(self._channel, pid=setup.pid, generation=max(setup.generation - 1, 0), newer=False)
            links.connect(self._link)
        elif self._link is None or not links.received(self._link, arrival):
            raise ChannelError(f"{type(arrival.message).__name__} is for nobody here")

    def _unlink(self) -> None:
        """The old process has gone for good, and everything that it said has been heard."""
        if self._link is not None:
            self._engine.links.disconnect(self._link)
        self._channel.close()

    def _identify(self, arrival: Arrival) -> None:
        """The sender of Setup is the old process; its death is known from its pidfd.

        Raises:
            ChannelError: it is another user's.
        """
        if not isinstance(arrival.message, m.Setup):
            return  # the machine refuses it
        if arrival.uid not in {0, os.getuid(), os.geteuid()}:
            raise ChannelError(f"process {arrival.pid} of uid {arrival.uid} may not hand anything over to this one")
        reach(Point.NEW_SETUP)
        self._channel.peer = arrival.pid
        pidfd, arrival.pidfd = arrival.pidfd, -1
        if pidfd < 0:  # a kernel before 6.5
            try:
                pidfd = os.pidfd_open(arrival.pid)
            except ProcessLookupError:  # dead already
                asyncio.get_running_loop().call_soon(self._orphaned)
                return
        _core.set_pass_pidfd(self._fd, False)
        self._old = ProcessWatch(arrival.pid, pidfd, self._orphaned)

    def _dispatch(self, arrival: Arrival, ids: list[int]) -> None:
        match arrival.message:
            case m.Setup() as setup:
                self._begin(setup, arrival)
            case m.Releases():
                self._releases.take(arrival, first=self._machine.phase is Phase.STARTING)
            case m.Rewritten() as message:
                self._read_rewritten(message)
            case m.Listeners() as message:
                self._take_listeners(message, arrival)
            case m.Kinds(kinds=kinds):
                assert self._setup is not None
                self._setup.kinds.update(kinds)
            case m.OfferPart() as part:
                self._take_part(part, arrival, ids)
            case m.Commit():
                self._own(ids)
            case m.Revoke():
                reach(Point.NEW_REVOKE)
                if self._custody is not None:
                    self._custody.drop(ids)
            case m.Finish(probation=probation):
                self._collector.end()
                self._start(self._prove(probation))
            case m.Abort(code=code, detail=detail):
                self._leave(HandoffRefused(code, detail))

    def _begin(self, setup: m.Setup, arrival: Arrival) -> None:
        self.history = History.unsealed(arrival.descriptors[0]) if arrival.descriptors else None
        self._setup = setup
        if setup.releases:
            self._releases.expect()
            self.done.add_done_callback(lambda done: self._releases.clear())

    def _read_rewritten(self, message: m.Rewritten) -> None:
        """The old process writes states as this code reads them."""
        engine = self._engine
        problem = engine.codec.unreadable(message.schema) or engine.rooms.kinds.unreadable(message.kinds)
        if problem is not None:
            self._start(self._fail_and_leave("state-downgrade", problem))
            return
        read = Readers.of(engine, message.schema, message.kinds, self._releases.luggage)
        self._custody = Custody(read, self._import_state, engine.bus)

    def _take_listeners(self, message: m.Listeners, arrival: Arrival) -> None:
        """Take the touch map and the listening sockets, which are matched by cookie."""
        reach(Point.NEW_LISTENERS)
        descriptors = arrival.descriptors
        if arrival.truncated or len(descriptors) != len(message.entries) + 1:
            self._start(self._fail_and_leave("descriptor-limit", "the listening sockets did not arrive"))
            return
        if not self._remainder and (missing := self._releases.missing()) is not None:
            self._start(self._fail_and_leave("config-unavailable", missing))
            return
        try:
            self._touch = TouchMap.open(descriptors[0])
        except (OSError, ValueError) as error:
            raise ChannelError(f"the touch map cannot be mapped: {error}") from error
        by_cookie = dict(zip(_core.cookies(descriptors[1:]), descriptors[1:], strict=True))
        for entry in message.entries:
            fd = by_cookie.pop(entry.cookie, None)
            if fd is None:
                raise ChannelError("a listener and its socket do not belong together")
            sock = socket.socket(fileno=fd)
            descriptors.remove(fd)
            sock.setblocking(False)
            if entry.spec in self._specs:
                self._engine.inherit(entry.spec, sock, lent=entry.lent)
            elif not self._engine.inherit_carried(entry.spec, sock):
                log.event(logging.INFO, "listener-dropped", listener=entry.spec)
                sock.close()
        if self._remainder:
            return
        reach(Point.NEW_LISTENED)
        self._hold = self._one_unit = message.hold
        self._collector.begin()
        self._engine.on_newcomer = self._newcomer
        self._engine.on_ended = self._ended
        if not self._hold:
            self._engine.start_accepting()
            self.on_accepting()

    def _take_part(self, part: m.OfferPart, arrival: Arrival, complete: list[int]) -> None:
        """Take one part into custody, and answer for what is complete with it."""
        if self._custody is None:
            raise ChannelError("an offer of what this process cannot read")
        good, refusals = self._custody.add(part, arrival, complete)
        reach(Point.NEW_DECODED)
        for message in (*self._machine.refuse(refusals), *self._machine.accept(good)):
            self._channel.send(message)
        reach(Point.NEW_ANSWERED)

    # -- owning --------------------------------------------------------------------------------------

    def _own(self, ids: list[int]) -> None:
        """These sessions are this process's: adopt them."""
        reach(Point.NEW_COMMIT)
        sessions: list[Session] = []
        fenced: list[int] = []
        engine, touches = self._engine, self._touch if self._watched() else None
        for id, bundle, states in self._custody.take(ids) if self._custody is not None else ():
            if bundle.record.id == PROCESS:
                continue
            touch = Mark(touches, id) if touches is not None else None
            session = restore(bundle, states, engine.framing, engine, touch)
            if self._one_unit and touches is not None and touch is not None and len(session.connections) == 1:
                session.connections[0]._expect_rest(partial(touches.rest, id), touch)
            sessions.append(session)
            reach(Point.NEW_RESTORED)
            fenced.extend(map(_fenced_ns, bundle.connections))
        self._sessions += len(sessions)
        if self._remainder:
            self._taken += [connection for session in sessions for connection in session.connections]
        engine.adopt(sessions)
        now = monotonic_ns()
        self._pauses_ms.extend([(now - since) / 1e6 for since in fenced])
        reach(Point.NEW_ADOPTED)
        if self._hold:
            self._hold = False
            self._engine.start_accepting()
            self.on_accepting()

    def _watched(self) -> bool:
        """Whether the old process lives, and would take untouched sessions back."""
        return self._old is not None and not self._old.dead

    def _newcomer(self, connection: Connection[Any]) -> Callable[[], None] | None:
        """Give the old process a copy of a connection before it is read."""
        assert self._touch is not None
        slot = NEWCOMERS + self._newcomers
        self._newcomers += 1
        try:
            reach(Point.NEW_NEWCOMER)
            message = m.Newcomer(cookie_of(connection), slot, connection.listener)
            copy = os.dup(connection._stream.fileno())
            self._channel.send(message, [copy], owned=[copy])
        except (BufferError, OSError):
            return None
        except Exception as error:  # noqa: BLE001 - the client is served all the same
            log.event(logging.ERROR, "takeover-error", exc_info=error)
            return None
        return Mark(self._touch, slot)

    def _ended(self, cookie: int) -> None:
        reach(Point.NEW_ENDED)
        try:
            self._channel.send(m.Ended([cookie]))
        except BufferError:
            log.event(logging.WARNING, "old-process-does-not-read")

    async def _prove(self, probation: float) -> None:
        """Be healthy until the probation is over, then settle."""
        reach(Point.NEW_FINISH)
        end = asyncio.get_running_loop().time() + probation
        while True:
            problem = await self._unhealthy()
            if problem is not None:
                await self._fail_and_leave("unhealthy", problem)
                return
            left = end - asyncio.get_running_loop().time()
            if left <= 0:
                break
            await asyncio.sleep(min(left, HEALTH_INTERVAL))
        if self._machine.phase is Phase.PROBATION:
            reach(Point.NEW_SETTLE)
            self._channel.send(self._machine.settle(*percentiles(self._pauses_ms)))
            # Until the kernel has the message, the old process may still take untouched sessions back.
            if await self._channel.flushed() and not self.done.done():
                reach(Point.NEW_SETTLED)
                self._unhook()
                self._settled()

    def _unhook(self) -> None:
        """Nobody keeps copies any more: nothing has to be noted or told."""
        if self._remainder:  # what has come by another handoff is noted in that one's map
            concerned, self._taken = self._taken, []
        else:
            self._engine.on_newcomer = self._engine.on_ended = None
            concerned = [connection for session in self._engine.sessions.values() for connection in session.connections]
        touch, self._touch = self._touch, None
        self._unhook_some(concerned, touch)

    def _unhook_some(self, concerned: list[Connection[Any]], touch: TouchMap | None) -> None:
        """Unhook some connections in this turn of the loop, and the others in the next ones."""
        for connection in concerned[-UNHOOKED:]:
            connection._unhook()
        del concerned[-UNHOOKED:]
        if concerned:
            asyncio.get_running_loop().call_soon(self._unhook_some, concerned, touch)
        elif touch is not None:
            touch.close()

    def _settled(self) -> None:
        log.event(
            logging.INFO, "took-over", id=self.handoff, generation=self.generation, connections=len(self._pauses_ms)
        )
        self._collector.end()
        self._machine.forget()
        if not self.done.done():
            self.done.set_result(None)
        if self._channel.ended:
            self._unlink()

    # -- the ends ------------------------------------------------------------------------------------

    def _orphaned(self) -> None:
        """The old process is certainly dead: read what it said to the end, and own what it offered."""
        if self._old is not None:
            self._old.close()
        try:
            reach(Point.NEW_ORPHANED)
            if self._setup is not None:
                self.on_old_exit(self._setup.pid)
            self._channel.drain()
        except Exception as error:  # noqa: BLE001 - nobody else will serve what was offered
            log.event(logging.ERROR, "takeover-error", exc_info=error)
        try:
            if not self.done.done():
                self._inherit()
        except Exception as error:  # noqa: BLE001 - then this process cannot; its end tells the clients so
            log.event(logging.ERROR, "takeover-error", exc_info=error)
            self._leave(HandoffRefused("internal", f"{type(error).__name__}; see the log"))
        self._unlink()

    def _inherit(self) -> None:
        reach(Point.NEW_INHERIT)
        self._unhook()
        self._cut_short = self._machine.phase is not Phase.PROBATION  # Finish says that this is all
        ids = self._machine.orphaned()
        log.event(logging.WARNING, "old-process-died", id=self.handoff, inherited_sessions=len(ids))
        self._own(ids)
        self._drop_held()
        self._settled()

    def leave(self) -> None:
        """This process is told to stop before it owns what it serves: the old one goes on."""
        self._leave(HandoffRefused("stopped", "the new process was told to stop before the handoff was settled"))

    def _leave(self, why: HandoffRefused) -> None:
        """Serve nothing of the old process's any more, and let go of it without a trace."""
        if self.done.done():
            return
        reach(Point.NEW_LEAVE)
        if self._remainder:
            self._unhook()  # this process serves on, with what it owns already
        else:
            self._engine.abandon()
        self._drop_held()
        self.done.set_exception(why)

    async def _fail_and_leave(self, code: str, detail: str) -> None:
        self._leave(await self.fail(code, detail))

    def _on_broken(self, error: ChannelError) -> None:
        if self.settled:
            self._unlink()
        self._leave(HandoffRefused("protocol", str(error)))
        self._changed.set()

    def _on_end(self) -> None:
        self._changed.set()
        if not self.done.done():
            self._start(self._after_the_end())
        elif self.settled:
            self._unlink()

    async def _after_the_end(self) -> None:
        """The channel has ended before its time: either the old process dies now, or it wants no more of this one."""
        try:
            async with asyncio.timeout(DEATH_LIMIT):
                if self._old is not None:
                    await self._old.wait()
                    return
        except TimeoutError:
            pass
        self._leave(HandoffRefused("no-channel", "the old process has closed the handoff channel"))

    def _start(self, coroutine: Any) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._over)

    def _over(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if isinstance(error, Exception):
            self._failed_inside(error)

    def _drop_held(self) -> None:
        if self._custody is not None:
            self._custody.close()

    def close(self) -> None:
        """Close everything of the handoff that is still open. Idempotent."""
        self._collector.end()
        for task in self._tasks:
            task.cancel()
        self._drop_held()
        self._unlink()
        if self._old is not None:
            self._old.close()
        if self._touch is not None:
            self._touch.close()


def percentiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the median, the 99th percentile and the greatest of values; zeros of none."""
    if not values:
        return 0.0, 0.0, 0.0
    ordered = sorted(values)
    last = len(ordered) - 1
    median, high, greatest = (round(ordered[round(last * share)], 3) for share in (0.5, 0.99, 1.0))
    return median, high, greatest
