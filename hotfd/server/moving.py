"""The sessions of a handoff on their way: which wait, which are offered, which unwind, which are gone.

:class:`Moving` is the old process's book of one handoff's sessions. It fences, offers, commits, revokes
and restores; :mod:`hotfd.server.cutover` decides when. Who owns a session's descriptors:

* its streams, from the beginning until COMMIT is about to be queued, also while it is offered;
* the escrow from then on;
* its new streams, when it is restored from the escrow or from an offer whose handlers had unwound.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final

import msgspec

from hotfd import _core, log
from hotfd.errors import ChannelError, HandoffRefused, StateError, StateTooNew
from hotfd.faults import Point, reach
from hotfd.server.escrow import Escrow, Newcomer, newcomer_of
from hotfd.server.gate import Gate
from hotfd.server.outcome import Tally
from hotfd.server.releases import send_releases
from hotfd.server.snapshot import Readers, Writers, capture, decode_states, know_cookies, restore, rewritten
from hotfd.server.tasks import detached
from hotfd.server.witness import Witness
from hotfd.state import encode_any
from hotfd.transfer.offer import Bundle, pack
from hotfd.wire import messages as m
from hotfd.wire.records import SessionRecord
from hotfd.wire.sender import OPEN, Sender

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from hotfd.config.slots import Slots
    from hotfd.config.snapshots import Snapshot
    from hotfd.server.connection import Connection
    from hotfd.server.engine import Engine
    from hotfd.server.session import Session
    from hotfd.transfer.channel import Channel

BATCH: Final = 32
"""Connections that are fenced and offered at a time: each of them waits for all others, and those that are not offered
wait for the loop, about a millisecond on either side. A packet takes eight times as many; twice as many cost eight percent
less time each, and double the pause."""

OFFER_BYTES: Final = 1 << 20
"""Bytes of records after which an offer is made, of however few connections: they are written, copied and read while all
that are in it wait. A megabyte takes as long as a hundred connections with small states."""

ANSWER_GRACE: Final = 0.25
"""Seconds that any offer may wait for its answer, also when an earlier one that was taken back got none."""

UNWIND_LIMIT: Final = 1.0
"""Seconds that the ``finally`` blocks of a moved session's handlers may take before they are cancelled."""

CONFIG: Final = "config-unreadable"
"""The code of a refusal that is about what a session holds of the configuration, and not about the new version."""

PROCESS: Final = ""
"""The id of the pseudo-session that carries the process-wide state; no connection belongs to it."""


class Item:
    """One session that is offered.

    Args:
        wire_id: its id in the offer.
        session: the session; None for the process-wide state.
        bundle: what was written down of it, for a take-back.
        offered_at: when, by the loop's clock.

    Attributes:
        connections: its connections.
        accepted: whether the new process can serve it.
        unwinding: how many of its handlers have been told to unwind and have not ended.
        unwound: whether all have.
    """

    __slots__ = (
        "accepted",
        "bundle",
        "connections",
        "offered_at",
        "session",
        "unwinding",
        "unwound",
        "wire_id",
        "written_down",
    )

    def __init__(self, wire_id: int, session: Session | None, bundle: Bundle, offered_at: float) -> None:
        self.wire_id = wire_id
        self.session = session
        self.bundle = bundle
        self.offered_at = offered_at
        self.accepted = self.unwound = False
        self.unwinding = 0
        self.connections: Sequence[Connection[Any]] = session.connections if session is not None else ()
        self.written_down = _what_changes(session) if session is not None else None

    @property
    def outdated(self) -> bool:
        """Whether what was written down is no longer so.

        An item has come into a merged queue, or a timeout of the handler's own has woken it and it works, or has
        begun to join a session; or a timer was set or cancelled, or a connection is to be closed.
        """
        session = self.session
        return session is not None and (_what_changes(session) != self.written_down or session.obstacle() is not None)


def _what_changes(session: Session) -> list[Any]:
    """Return what a session is written down with and can change while it is fenced; two of these are to be compared."""
    found: list[Any] = [session.release]
    if session._timers is not None:
        found.append(session._timers.changes)
    for connection in session.connections:
        if _loose_ends(connection) != NO_LOOSE_ENDS:  # else there is nothing, as of most
            timers = connection._timers
            found += (
                connection,
                len(connection._undelivered_items()),
                connection._joining,
                connection._act_later,
                timers and timers.changes,
            )
    return found


_loose_ends: Final = attrgetter("_merge", "_items", "_joining", "_act_later", "_timers")
"""Returns what a connection may have beside its state and its buffers; one call, since every one that moves is asked twice."""

NO_LOOSE_ENDS: Final = (None,) * 5


def _raise(error: Exception) -> None:
    raise error


class Moving:
    """The book of one handoff.

    Args:
        engine: whose sessions move.
        machine: the protocol's state.
        channel: to the new process.
        hold_commits: commit nothing before :meth:`commit_all` (everything moves together).
        same_framing: both processes divide bytes into frames alike; else a session moves only while it has
            no undelivered bytes.
        answer_limit: seconds that the new process may take to answer an offer.
        on_change: called when something has happened that the driver may wait for.
        on_error: called with what nobody expects, where no caller is left to whom it could be raised.
        announced: the kinds of shared states that the new process knows of.
        releases: what the new process has been sent of the configuration.
        writers: what writes states for older code; None writes them as they are.
        on_kept: called with a session that goes on here, its reason code and what that is about.
    """

    def __init__(
        self,
        engine: Engine,
        machine: Sender,
        channel: Channel,
        *,
        hold_commits: bool,
        same_framing: bool,
        answer_limit: float,
        on_change: Callable[[], None],
        on_error: Callable[[Exception], None] = _raise,
        announced: Iterable[str] = (),
        releases: Iterable[Snapshot] = (),
        writers: Writers | None = None,
        on_kept: Callable[[Session, str, str], None] = lambda session, code, detail: None,
    ) -> None:
        self.engine = engine
        self.gate = Gate(engine, same_framing=same_framing, on_change=on_change)
        self.escrow = Escrow(engine.bus.forget)
        self.witness = Witness()
        self.tally = Tally()
        self.first_refusal: m.Refusal | None = None
        self.committed = 0
        self._machine = machine
        self._channel = channel
        self._hold_commits = hold_commits
        self._answer_limit = answer_limit
        self._on_change = on_change
        self._on_error = on_error
        self._on_kept = on_kept
        self._announced = set(announced)
        self._releases = set(releases)  # held for a take-back too: their sessions are not here any more by then
        self._own_writers = Writers.of(engine)
        self._writers = writers
        self._originals: dict[int, Bundle] = {}  # of what is written for older code: what it was before
        self._loop = asyncio.get_running_loop()
        self._items: dict[int, Item] = {}
        self._by_session: dict[Session, Item] = {}
        self._unwinding: deque[tuple[float, Item]] = deque()  # those that take longer than a turn; when it is too long
        self._unwind_timer: asyncio.TimerHandle | None = None
        self._asked_at: float | None = None
        self._large: int | None = None  # the last session of the last offer that was full by its bytes
        self._revoking: dict[int, Item] = {}  # revoked; they go on when the kernel has the message
        self._background: set[asyncio.Task[None]] = set()

    # -- how far it is -------------------------------------------------------------------------------

    @property
    def outstanding(self) -> int:
        """How many sessions are offered, or accepted and not committed, or on their way back."""
        return len(self._items) + len(self._revoking)

    @property
    def burdened(self) -> bool:
        """Whether a large offer is on its way: what is offered before it has arrived waits for all of it."""
        item = self._items.get(self._large) if self._large is not None else None
        return item is not None and not item.accepted

    @property
    def answer_by(self) -> float | None:
        """When the new process must have answered, by the loop's clock; None when it owes no answer.

        Counted from the first offer since it was heard last, and not from each offer: handlers with
        timeouts of their own take offers back and make them anew, and must not hide a process that hangs.
        """
        owed = [item.offered_at for item in self._items.values() if not item.unwinding and not item.unwound]
        owed += [item.offered_at for item in self._revoking.values()]
        if not owed or self._asked_at is None:
            return None
        return max(self._asked_at + self._answer_limit, min(owed) + ANSWER_GRACE)

    def heard(self) -> None:
        """The new process has answered something, be it late: it does not hang."""
        self._asked_at = self._loop.time() if self.outstanding else None

    # -- what sessions tell (Mover) --------------------------------------------------------------------

    def at_boundary(self, session: Session) -> None:
        """A gated session may be at its boundary, or over."""
        self.gate.at_boundary(session)

    def grown(self, session: Session) -> None:
        """A connection has joined a gated session."""
        self.gate.grown(session)

    def appeared(self, session: Session) -> None:
        """A connection has left a shared session: it moves by itself."""
        self.gate.pending.append(session)
        self._on_change()

    # -- offering ------------------------------------------------------------------------------------

    def offer(self, sessions: list[Session], process: bytes | None = None) -> int:
        """Fence sessions at their boundary, write them down, and offer them.

        A session whose state cannot travel goes on here and is counted as kept.

        Returns:
            how many of the last ones are left for another offer, since this one is large enough without them; they go
            on, and are the next to be asked.

        Raises:
            HandoffRefused: no descriptor is left for the offer, or the new process reads nothing; what was
                offered is still the caller's to take back.
        """
        bundles, left = self._write_down(sessions, process)
        self.gate.postpone(left)  # before anything can fail: they are in nobody's book
        if not bundles:
            return len(left)
        offer, first = self._machine.offer(len(bundles))
        now = self._loop.time()
        if self._asked_at is None:
            self._asked_at = now
        for wire_id, (session, bundle) in enumerate(bundles, first):
            item = Item(wire_id, session, self._originals.pop(wire_id, bundle), now)
            self._items[wire_id] = item
            if session is not None:
                self._by_session[session] = item
        try:
            reach(Point.OLD_OFFER)
            self._announce({bundle.record.kind for _, bundle in bundles})
            if self.engine.slots is not None:
                held = (session.release for session, _ in bundles if session is not None)
                self._send_releases(self.engine.slots, {release for release in held if release is not None})
            for part in pack(offer, first, [bundle for _, bundle in bundles], process):
                reach(Point.OLD_PART)
                self._channel.send(part.message, [part.memfd, *part.descriptors], owned=[part.memfd])
            reach(Point.OLD_OFFERED)
            # While the new process reads the offer: nobody waits for this.
            self.witness.note(*(bundle for _, bundle in bundles))
        except OSError as error:
            raise HandoffRefused(
                "descriptor-limit", f"no descriptor or memory for an offer ({error.strerror}); raise LimitNOFILE"
            ) from error
        except BufferError as error:
            raise HandoffRefused("new-hung", str(error)) from error
        return len(left)

    def _announce(self, kinds: set[str]) -> None:
        """Tell the new process of kinds of shared state that came up after it was told which there are."""
        late = kinds - self._announced
        schemas = self.engine.rooms.kinds.schemas
        found = {name: schemas[name] for name in late if name in schemas}
        self._announced |= late
        if found:
            self._channel.send(m.Kinds(found))

    def _send_releases(self, slots: Slots, held: set[Snapshot]) -> None:
        """Send what the sessions of an offer hold of the configuration and the new process does not know."""
        late = held - self._releases
        if late:
            self._releases |= late
            send_releases(self._channel, slots, late)

    def _write_down(
        self, sessions: list[Session], process: bytes | None
    ) -> tuple[list[tuple[Session | None, Bundle]], list[Session]]:
        """Fence and capture as many as make an offer; whatever is not among them goes on here, also when this raises.

        Returns:
            what was captured; and the sessions that are left, which were not fenced.
        """
        bundles: list[tuple[Session | None, Bundle]] = []
        room = OFFER_BYTES
        first = self._machine.next_session
        if process is not None:
            bundles.append((None, Bundle(SessionRecord(first, PROCESS, 0), [], [])))
        left = deque(sessions)
        try:
            know_cookies(sessions)
            with self.engine.poller.gathered():
                while left and (room > 0 or self._hold_commits):  # what moves together is one offer, however large
                    session = left[0]
                    session.fence()
                    reach(Point.OLD_FENCED)
                    try:
                        bundle = self._captured(session, first + len(bundles))
                        bundles.append((session, bundle))
                        room -= bundle.size
                        left.popleft()
                    except StateError as error:
                        left.popleft()
                        code = "state-downgrade" if isinstance(error, StateTooNew) else "state-encode"
                        self._keep(session, code, str(error))
                        self._serve_again(session)
        except BaseException:
            for session in [*(session for session, _ in bundles if session is not None), *left]:
                self._serve_again(session)
            raise
        if room <= 0 and not self._hold_commits:
            self._large = bundles[-1][1].record.session
        return bundles, list(left)

    def _captured(self, session: Session, wire_id: int) -> Bundle:
        """Write a session down; where that is for older code, in this process's own words as well, for a take-back."""
        if self._writers is None:
            return capture(session, wire_id, self._own_writers)
        bundle = capture(session, wire_id, self._writers)
        self._originals[wire_id] = rewritten(bundle, session, self._own_writers)
        return bundle

    def _keep(self, session: Session, code: str, detail: str) -> None:
        self.tally.count("kept", len(session.connections), code)
        self.tally.sample.add(session, code, detail)
        log.event(logging.WARNING, "session-kept", session=session.id, code=code, reason=detail)
        self._on_kept(session, code, detail)

    # -- answers -------------------------------------------------------------------------------------

    def accepted(self, ids: Iterable[int]) -> None:
        """The new process can serve these: unwind their handlers, then commit.

        A session that is not any more as it was written down is taken back, and offered anew.
        """
        reach(Point.OLD_ACCEPTED)
        items = [self._items[id] for id in ids]
        for item in items:
            item.accepted = True
        if not self._hold_commits:
            self._unwind_unchanged(items)
        self._on_change()

    def _on_the_loop(self, step: Callable[[list[Item]], None], items: list[Item]) -> None:
        """Do something where nobody's task runs, so that handlers can be unwound on the spot: now, if that is so here.

        A turn of the loop is long while thousands of clients ask at once.
        """
        if asyncio.current_task() is None:
            self._guarded(step, items)
        else:
            self._loop.call_soon(self._guarded, step, items)

    def _unwind_unchanged(self, items: list[Item]) -> None:
        """Unwind what was accepted and is still as it was written down; take the rest back, and offer it anew."""
        unchanged = []
        for item in items:
            if item.outdated:
                self._revoke([item], then_want=True)
            else:
                unchanged.append(item)
        self._unwind(unchanged)

    @property
    def all_accepted(self) -> bool:
        """Whether the new process can serve everything that is offered."""
        return all(item.accepted for item in self._items.values())

    def unwind_all(self) -> bool:
        """Unwind everything; False, and nothing is done, when a session is not any more as it was written down."""
        items = list(self._items.values())
        if any(item.outdated for item in items):
            return False
        self._unwind(items)
        return True

    def _unwind(self, items: list[Item]) -> None:
        """Have the handlers of accepted sessions end.

        All connections are given up before the first handler unwinds: whatever that one does to others, they have moved.
        """
        for item in items:
            item.unwinding = 1  # until it is settled
            for connection in item.connections:
                connection._give_up()
        self._on_the_loop(self._unwind_now, items)

    def _unwind_now(self, items: list[Item]) -> None:
        """Unwind the handlers of what was given up, and is not taken back since. Most have ended when this returns."""
        live = [item for item in items if item.wire_id in self._items]
        for item in live:
            for connection in item.connections:
                connection._unwind_now()
        self._settle(live)

    def _guarded(self, step: Callable[..., None], *arguments: Any) -> None:
        """Do what the event loop calls, which nobody is above."""
        try:
            step(*arguments)
        except Exception as error:  # noqa: BLE001 - as said
            self._on_error(error)

    def _settle(self, items: list[Item]) -> None:
        """Of those that were told to unwind, commit who has; the others have some time yet."""
        ended, by = [], self._loop.time() + UNWIND_LIMIT
        for item in items:
            item.unwinding = 0
            for connection in item.connections:
                task = connection._task
                if task is not None and not task.done():
                    item.unwinding += 1
                    task.add_done_callback(partial(self._guarded, self._handler_unwound, item))
            if item.unwinding:
                self._unwinding.append((by, item))
            else:
                ended.append(item)
        self._watch_unwinding()
        self._unwound(ended)

    def _handler_unwound(self, item: Item, task: asyncio.Task[None]) -> None:
        item.unwinding -= 1
        if not item.unwinding:
            self._unwound([item])

    def _watch_unwinding(self) -> None:
        """Have one timer for the first of those that are unwinding; the others follow in order."""
        while self._unwinding and self._has_unwound(self._unwinding[0][1]):
            self._unwinding.popleft()
        if self._unwinding and self._unwind_timer is None:
            self._unwind_timer = self._loop.call_at(self._unwinding[0][0], self._guarded, self._unwind_overdue)

    def _has_unwound(self, item: Item) -> bool:
        return item.unwound or item.wire_id not in self._items

    def _unwind_overdue(self) -> None:
        """Somebody's ``finally`` takes too long: cancel it. It can harm nothing, writing raises."""
        self._unwind_timer = None
        late, now = [], self._loop.time()
        while self._unwinding and self._unwinding[0][0] <= now:
            _, item = self._unwinding.popleft()
            if not self._has_unwound(item):
                late.append(item)
        self._watch_unwinding()
        for item in late:
            assert item.session is not None
            log.event(logging.WARNING, "handler-slow-to-unwind", session=item.session.id)
            for connection in item.session.connections:
                if connection._task is not None:
                    connection._task.cancel()
        self._unwound(late)

    def _unwound(self, items: list[Item]) -> None:
        """The handlers of these sessions have ended, or have been given up: commit them."""
        ended = [item for item in items if not item.unwound and item.wire_id in self._items]
        for item in ended:
            item.unwound = True
            reach(Point.OLD_UNWOUND)
        if ended:
            self._on_change()  # may take them back, which is the last moment for that
            if not self._hold_commits:
                self._commit([item for item in ended if item.wire_id in self._items])

    @property
    def all_unwound(self) -> bool:
        """Whether every offered session is accepted and has unwound."""
        return all(item.unwound for item in self._items.values())

    def commit_all(self) -> None:
        """Commit everything, which must be accepted and unwound."""
        assert self.all_unwound
        self._commit(list(self._items.values()))

    def _commit(self, items: list[Item]) -> None:
        if not items:
            return
        reach(Point.OLD_COMMIT)
        commits = self._machine.commit(item.wire_id for item in items)
        # All of it is given up before any of it is said: whatever goes wrong between, nothing is served by both.
        for item in items:
            del self._items[item.wire_id]
            for connection in item.connections:
                connection._stream.detach()
            if item.session is not None:
                del self._by_session[item.session]
            self.escrow.hold(item.wire_id, item.bundle)
            self.committed += 1
            reach(Point.OLD_ESCROWED)
        try:
            for message in commits:
                self._channel.send(message)
            reach(Point.OLD_COMMITTED)
        finally:  # what is told of them now may follow the commit
            moved = [item.session for item in items if item.session is not None]
            self.tally.count_moved(moved)
            for session in moved:
                self.engine.release(session)
        self._on_change()

    def refused(self, refusals: Iterable[m.Refusal]) -> None:
        """The new process cannot serve these: they go on here."""
        reach(Point.OLD_REFUSED)
        for refusal in refusals:
            item = self._items.pop(refusal.id)
            if self.first_refusal is None or self.first_refusal.code == CONFIG:
                self.first_refusal = refusal
            if item.session is not None:
                del self._by_session[item.session]
                self._keep(item.session, refusal.code, refusal.detail)
                self._go_on(item)
        self._on_change()

    # -- taking back ---------------------------------------------------------------------------------

    def left_boundary(self, session: Session) -> None:
        """An offered session is to end, or its handler was woken: take it back, it is not committed."""
        item = self._by_session.get(session)
        if item is not None and not item.unwound and not item.unwinding and not self._hold_commits:
            self._revoke([item], then_want=True)

    def _revoke(self, items: list[Item], *, then_want: bool) -> asyncio.Task[None]:
        """Take items back that are in the book; return a task that ends when they go on."""
        reach(Point.OLD_REVOKE)
        # One that the new process has refused needs no revocation, only to go on.
        live = [item.wire_id for item in items if self._machine.sessions[item.wire_id] in OPEN]
        for item in items:
            del self._items[item.wire_id]
            if item.session is not None:
                del self._by_session[item.session]
            self._revoking[item.wire_id] = item
        heard = True
        for message in self._machine.revoke(live):
            try:
                self._channel.send(message)
            except BufferError:  # it reads nothing; they go on when it is dead, which the deadline sees to
                heard = False
        task = detached(self._go_on_when_heard(items, heard=heard, then_want=then_want), "hotfd-revoke")
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task

    async def _go_on_when_heard(self, items: list[Item], *, heard: bool, then_want: bool) -> None:
        # Served again only once the revocation is in the kernel: were this process to die before that,
        # the new one would find an offer without a revocation, and own what has gone on here.
        if not await self._channel.flushed() or not heard:
            self._on_change()
            return
        reach(Point.OLD_REVOKED)
        for item in items:
            if self._revoking.pop(item.wire_id, None) is not None:
                session = self._go_on(item)
                if then_want and session is not None:
                    self.gate.want(session)
        self._on_change()

    def revoke_all(self) -> asyncio.Task[None] | None:
        """Take back what is offered and not committed, while the new process may be alive.

        Returns:
            a task that ends when it goes on here, or cannot; None when nothing was open.
        """
        if not self._items:
            return None
        return self._revoke(list(self._items.values()), then_want=False)

    def resume_uncommitted(self) -> None:
        """Go on with what was never committed; the new process is certainly dead."""
        items = [*self._items.values(), *self._revoking.values()]
        self._items.clear()
        self._revoking.clear()
        self._by_session.clear()
        for item in items:
            self._go_on(item)

    def _go_on(self, item: Item) -> Session | None:
        """Serve a session here again that was offered and not committed; return it as it is now."""
        session = item.session
        if session is None:
            return None
        return self._serve_again(session)

    def _serve_again(self, session: Session) -> Session:
        """Serve a session again that may be fenced; return it as it is now."""
        if any(connection.handed_off for connection in session.connections) or session.disturbed:
            return self.engine.renew(session)
        self.engine.resume(session)
        return session

    def restore_committed(self, wire_id: int, read: Readers, *, spent: bool = False, reason: str | None = None) -> None:
        """Serve a committed session here again; the new process is certainly dead, and its byte streams are whole.

        Args:
            wire_id: the session.
            read: reads its states.
            spent: what it had received and not been given, and had written and not sent, is done with.
            reason: the reason code to count it by, if it is no plain return.
        """
        bundle = self.escrow.held(wire_id)
        if bundle is None or not bundle.connections:
            return  # the process-wide state, which is still here; or a session that has ended
        if spent:
            bundle.connections = [
                msgspec.structs.replace(record, undelivered=b"", unsent=b"", merged=None)
                for record in bundle.connections
            ]
        reach(Point.OLD_RESTORE)
        states = decode_states(bundle, read)
        self.escrow.take(wire_id)  # only now: whatever has raised until here, the session can still be ended in order
        self.engine.adopt([restore(bundle, states, self.engine.framing, self.engine)])
        self._uncount(bundle)
        self.tally.count("returned", len(bundle.connections), reason)
        reach(Point.OLD_RESTORED)

    def close_committed(self, wire_id: int) -> None:
        """End a committed session that was touched and whose process is dead: reset its connections.

        An orderly end would pass a truncation off as complete.
        """
        if self.escrow.held(wire_id) is None:
            return
        reach(Point.OLD_RESET)
        bundle = self.escrow.take(wire_id)
        if bundle.connections:
            for fd in bundle.descriptors:
                reset(fd)
            for record in bundle.connections:
                self.engine.bus.forget(record.id)
            self._uncount(bundle)
            self.tally.lose(bundle.record.id, len(bundle.connections))

    def keep_newcomer(self, message: m.Newcomer, descriptors: list[int]) -> None:
        """Keep the copy of a connection that the new process has accepted.

        Args:
            message: what it says of it.
            descriptors: what came with it; the copy is taken out of them.

        Raises:
            ChannelError: it is no connection, or one that comes from here: after a take-back it would be served twice.
        """
        if self.witness.given(message.cookie):
            raise ChannelError("a newcomer that was offered to the new process, and not accepted by it")
        self.escrow.hold_newcomer(message.cookie, newcomer_of(message, descriptors))

    def close_held(self) -> None:
        """End all committed sessions that are still in escrow: whether they can be served, nobody can tell any more."""
        for wire_id in self.escrow.sessions:
            self.close_committed(wire_id)
        for newcomer in self.escrow.take_newcomers():
            self.close_newcomer(newcomer)

    def close_newcomer(self, newcomer: Newcomer) -> None:
        """End a connection that the dead process had accepted; the caller gives its descriptor up."""
        self.tally.lose(_name(newcomer), 1)
        reset(newcomer.fd)

    def _uncount(self, bundle: Bundle) -> None:
        """A session that was counted as moved has not."""
        self.tally.sessions["moved"] -= 1
        self.tally.connections["moved"] -= len(bundle.connections)

    def close(self) -> None:
        """Forget the book; nothing of it is open any more but the escrow, which is closed here."""
        reach(Point.OLD_PARTED)
        self.gate.close()
        for task in self._background:
            task.cancel()
        if self._unwind_timer is not None:
            self._unwind_timer.cancel()
        self._unwinding.clear()
        self.escrow.close()
        self.witness = Witness()  # a process in which some sessions have stayed may live on for long
        self._releases.clear()


def _name(newcomer: Newcomer) -> str:
    """Name a connection whose id only the dead process knew: by its client's address."""
    sock = socket.socket(fileno=newcomer.fd)
    try:
        peer = sock.getpeername()
    except OSError:  # the client has gone
        peer = None
    finally:
        sock.detach()
    return f"newcomer {':'.join(map(str, peer[:2]))}" if isinstance(peer, tuple) else "newcomer"


def process_state(value: Any) -> bytes:
    """Encode the process-wide state.

    Raises:
        HandoffRefused: it cannot travel.
    """
    try:
        return encode_any(value)
    except StateError as error:
        raise HandoffRefused("state-encode", f"export_state returned what cannot travel: {error}") from error


def reset(fd: int) -> None:
    """Reset a connection and close its descriptor, which the caller gives up."""
    with suppress(OSError):  # no TCP, or not connected any more; closing is then enough
        _core.abort(fd)
    os.close(fd)
