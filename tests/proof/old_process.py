"""What the old process does: the decisions of hotfd/server/moving.py, rolling.py, cutover.py and takeback.py.

The sender machine is the real one. Each method whose name is in a step is what the process does without waiting in
between; where the program waits, anybody else may be next.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from hotfd.wire import messages as m
from hotfd.wire.sender import Phase, Sender, Stage, TakenBack
from tests.proof.explorer import Step, Wrong
from tests.proof.world import (
    ALONE,
    DEAD,
    DONE,
    DYING,
    ESCROW,
    FAILING,
    FENCED,
    FRESH,
    KILLING,
    LIVE,
    MOVING,
    NEWCOMER,
    PROVING,
    UNDOING,
    UP,
    Cargo,
    Held,
    Stream,
    World,
    bits,
    name,
    put,
)


class OldProcess(World):
    """The old process in a world."""

    @property
    def giving(self) -> Sender:
        """Its machine, to look at."""
        return self.rig.senders[self.sender]

    newcomers_of_the_settled_are_lost = True

    # -- what can happen next ------------------------------------------------------------------------

    def old_steps(self) -> Iterator[Step]:
        """What the old process can do."""
        yield from self.acts("old", self.old_has)
        if self.old_outbox:
            yield ("old_flushes",)
        if (self.to_old or self.reset_old) and not self.old_closed:
            yield ("old_reads",)
        mode, open_ids = self.old_mode, self.giving.open_sessions()
        if mode == MOVING:
            yield from self._moving_steps(open_ids)
        if mode in (MOVING, FAILING):
            accepted = self.committable()
            yield from (("old_commits", (id,)) for id in accepted)
            if len(accepted) > 1:
                yield ("old_commits", tuple(accepted))
        yield from self._failing_steps(bool(open_ids or self.revoking or mode == PROVING))
        if mode == ALONE:
            yield from (("old_accepts", at) for at in self.rig.newcomers if self.backlog >> at & 1)

    def _failing_steps(self, waits: bool) -> Iterator[Step]:
        mode = self.old_mode
        deaf = self.new != UP or self.new_closed or self.old_closed
        if mode in (MOVING, PROVING) and waits and deaf:
            yield ("old_waits_no_longer",)
        if mode in (MOVING, PROVING, FAILING) and self.new == DEAD:
            yield ("old_learns_of_the_death",)
        if mode == FAILING:
            yield ("old_undoes",)
        if mode == UNDOING:
            yield ("old_kills",)
        if mode == KILLING and self.new == DEAD:
            yield ("old_takes_back",)

    def committable(self) -> list[int]:
        """The sessions that may be committed."""
        return [id for id, stage in self.giving.sessions.items() if stage is Stage.ACCEPTED]

    def _moving_steps(self, open_ids: list[int]) -> Iterator[Step]:
        if self.offers_left and self._all_begun(len(self.unsent)):
            free = tuple(room for room in range(len(self.rig.members)) if self._at_boundary(room))
            yield from (("old_offers", (room,)) for room in free)
            if len(free) > 1:
                yield ("old_offers", free)
        yield from (("old_queues_part", at) for at in range(len(self.unsent)) if self._all_begun(at))
        yield from (("old_revokes", (id,)) for id in open_ids if not self._half_queued(id))
        if not open_ids and not self.revoking and not self.unsent:
            yield ("old_finishes",)

    def _at_boundary(self, room: int) -> bool:
        held = [self.old_has[at] for at in self.rig.members[room] if not self.ended >> at & 1]
        return bool(held) and all(one is not None and one.use is LIVE and not one.stream.busy for one in held)

    def _all_begun(self, count: int) -> bool:
        """Whether each of so many offers has a part in the queue: they begin in their order, and then may mix."""
        return all(self._part(parts).part > 0 for parts in self.unsent[:count])

    def _part(self, parts: tuple[int, ...]) -> m.OfferPart:
        message = self.rig.messages[parts[0]][0]
        assert isinstance(message, m.OfferPart)
        return message

    def _half_queued(self, id: int) -> bool:
        """Whether parts of a session's offer are still to be queued, which the program does without a pause."""
        parts = (self._part(parts) for parts in self.unsent)
        return any(part.first <= id < part.first + part.sessions for part in parts)

    # -- moving --------------------------------------------------------------------------------------

    def old_offers(self, rooms: tuple[int, ...]) -> None:
        """It fences sessions at their boundary, and writes them down."""
        self.unsent += (self._write_down(rooms),)
        if len(self.unsent[-1]) == 1:
            self.old_queues_part(len(self.unsent) - 1)

    def _write_down(self, rooms: tuple[int, ...]) -> tuple[int, ...]:
        self.offers_left -= 1
        offer, first = self.tell_sender(("offer", len(rooms)), lambda machine: machine.offer(len(rooms)))
        flat = []
        for id, room in enumerate(rooms, first):
            self.room_of += (room,)
            for at in self.rig.members[room]:
                held = self.old_has[at]
                if held is not None:
                    flat.append((id, at, self._record(held.stream)))
                    self.old_has = put(self.old_has, at, Held(FENCED, held.stream))
        per_part = self.rig.bounds.per_part
        parts = [tuple(flat[at : at + per_part]) for at in range(0, len(flat), per_part)]
        return tuple(
            self.rig.letter(
                m.OfferPart(offer, number, len(parts), first, len(rooms)),
                # The order of descriptors means nothing: here it is never that of the records.
                Cargo(records, tuple(at for _, at, _ in reversed(records))),
            )
            for number, records in enumerate(parts)
        )

    def _record(self, stream: Stream) -> Stream:
        """What travels of a connection: all of it, but for what a handler is at."""
        return stream._replace(busy=False)

    def old_queues_part(self, which: int) -> None:
        """It queues the next part of an offer."""
        part, *rest = self.unsent[which]
        self._queue_letters((part,))
        left = (*self.unsent[:which], *((tuple(rest),) if rest else ()), *self.unsent[which + 1 :])
        self.unsent = left

    def old_offer_fails(self, rooms: tuple[int, ...]) -> None:
        """No descriptor or memory is left for an offer's first part."""
        self._write_down(rooms)
        self.old_mode = FAILING

    def old_part_fails(self) -> None:
        """No descriptor or memory is left for the next part."""
        self.unsent = ()
        self.old_mode = FAILING

    def old_commits(self, ids: tuple[int, ...]) -> None:
        """It gives accepted sessions away; what it keeps of them is in escrow from here on."""
        self._queue(self.tell_sender(("commit", ids), lambda machine: machine.commit(ids)))
        for id in ids:
            self._use(id, ESCROW)

    def old_revokes(self, ids: tuple[int, ...]) -> None:
        """It takes open sessions back; they go on when the kernel has the message."""
        self.revoking |= bits(ids)
        self._queue(self.tell_sender(("revoke", ids), lambda machine: machine.revoke(ids)))

    def old_finishes(self) -> None:
        """There are no more offers."""
        self._queue([self.tell_sender("finish", lambda machine: machine.finish(0.0))])
        self.old_mode = PROVING

    def _queue(self, messages: Iterable[m.Message]) -> None:
        self._queue_letters(tuple(self.rig.letter(message) for message in messages))

    def _queue_letters(self, letters: tuple[int, ...]) -> None:
        if self.old_closed:
            self.dropped = True
        else:
            self.old_outbox += letters

    def _use(self, id: int, use: str) -> None:
        for at in self.of_session(id):
            held = self.old_has[at]
            if held is not None:
                self.old_has = put(self.old_has, at, Held(use, held.stream))

    def _go_on(self, ids: Iterable[int]) -> None:
        for id in ids:
            if self.touched >> id & 1:
                raise Wrong(f"G5: old goes on with session {self.room_of[id] + 1}, which new has touched")
            self._use(id, LIVE)
            self.revoking &= ~(1 << id)

    # -- the channel ---------------------------------------------------------------------------------

    def old_flushes(self) -> None:
        """The kernel takes a packet; only now is a revocation as good as told."""
        if self.new == DEAD or self.new_closed:
            self.old_outbox, self.dropped = (), True
            return
        letter, *rest = self.old_outbox
        self.old_outbox = tuple(rest)
        self.to_new += (letter,)
        message = self.rig.messages[letter][0]
        if isinstance(message, m.Revoke) and not self.dropped:
            self._go_on(message.ids)

    def old_reads(self) -> None:
        """It receives a packet, or a reset, which is not the end."""
        if self.reset_old:
            self.reset_old = False
            self._heard_reset()
            return
        letter, *rest = self.to_old
        self.to_old = tuple(rest)
        self._heard(letter)
        if self.giving.phase is Phase.SETTLED and self.old_mode == PROVING:
            self._settled()

    def _heard_reset(self) -> None:
        pass

    def _drain(self) -> None:
        while (self.to_old or self.reset_old) and not self.old_closed:
            self.old_reads()

    def _heard(self, letter: int) -> None:
        message, cargo = self.rig.messages[letter]
        ids = self.tell_sender(letter, lambda machine: machine.receive(message))
        match message:
            case m.Refuse():
                self._go_on(ids)
            case m.Newcomer():
                (at,) = cargo.descriptors
                if self.giving.phase is Phase.SETTLED:
                    return
                self.old_has = put(self.old_has, at, Held(NEWCOMER, FRESH))
            case m.Ended(cookies=cookies):
                self._drop(cookies)
            case m.Failed() if self.old_mode in (MOVING, PROVING):
                self.old_mode = FAILING

    def _drop(self, connections: Iterable[int]) -> None:
        for at in connections:
            held = self.old_has[at]
            if held is not None and held.use in (ESCROW, NEWCOMER):
                self.old_has = put(self.old_has, at, None)

    # -- the ends ------------------------------------------------------------------------------------

    def _settled(self) -> None:
        """The new process has everything: the copies are closed."""
        self.old_mode = DONE
        kept = [held if held is not None and held.use is LIVE else None for held in self.old_has]
        self.old_has = tuple(kept)

    def old_waits_no_longer(self) -> None:
        """A deadline is over; what has come already is read before that is believed."""
        self._drain()
        if self.old_mode == MOVING and not self.giving.open_sessions() and not self.revoking:
            return
        if self.old_mode in (MOVING, PROVING):
            self.old_mode = FAILING

    def old_learns_of_the_death(self) -> None:
        """The pidfd says that the new process is dead; what it said before comes first."""
        self._drain()
        if self.giving.phase is Phase.SETTLED:
            self._settled()
        elif self.old_mode != DONE:
            self.unsent = ()
            self.old_mode = KILLING

    def old_undoes(self) -> None:
        """It begins to roll back: what is open is revoked; with nothing open and nothing committed, Abort is said."""
        self._drain()
        self.unsent = ()
        if self.giving.phase is Phase.SETTLED:
            self._settled()
            return
        self.old_mode = UNDOING
        if open_ids := self.giving.open_sessions():
            self.old_revokes(tuple(open_ids))
        elif not self.revoking and Stage.COMMITTED not in self.giving.sessions.values():
            self._queue([m.Abort("code", "")])

    def old_kills(self) -> None:
        """It kills the new process, and waits for its certain death."""
        self.old_mode = KILLING
        if self.new != DEAD:
            self.new = DYING

    def old_takes_back(self) -> None:
        """The new process is certainly dead: what nobody else serves is served again, and what cannot be is reset."""
        self._drain()
        open_ids = self.giving.open_sessions()
        revoked = [id for id in range(len(self.room_of)) if self.revoking >> id & 1]
        settled = self.giving.phase is Phase.SETTLED and self.newcomers_of_the_settled_are_lost
        fate = self._fates()
        self._go_on([*open_ids, *revoked])
        self._go_on(fate.restore)
        for id in fate.lost:
            for at in self.of_session(id):
                if self.old_has[at] is not None:
                    self._reset(at)
        for at in self.rig.newcomers:
            if self.old_has[at] is not None:
                if settled or self._newcomer_lost(at):
                    self._reset(at)
                else:
                    self.old_has = put(self.old_has, at, Held(LIVE, FRESH))
        self.old_mode = ALONE
        self.old_outbox = ()

    def _fates(self) -> TakenBack:
        touched = self.touched
        fate = self.tell_sender(
            ("take back", touched), lambda machine: machine.take_back(lambda id: bool(touched >> id & 1))
        )
        assert isinstance(fate, TakenBack)
        return fate

    def _newcomer_lost(self, at: int) -> bool:
        return bool(self.touched & self.slot(at))

    def _reset(self, at: int) -> None:
        if self.new != DEAD:
            raise Wrong(f"G1: old resets {name(at)} while new lives")
        if self.told >> at & 1:
            raise Wrong(
                f"G2: {name(at)} had ended in good order, old was told, and resets it: bytes on their way are lost"
            )
        if not self.doomed >> at & 1:
            raise Wrong(f"G5: {name(at)} was not touched, and old resets it")
        self.old_has = put(self.old_has, at, None)

    def old_accepts(self, at: int) -> None:
        """It accepts a connection that waits."""
        self.backlog &= ~(1 << at)
        self.old_has = put(self.old_has, at, Held(LIVE, FRESH))
