"""What the new process does: the decisions of hotfd/server/takeover.py and custody.py.

The receiver machine is the real one, and so is what puts the parts of an offer together and ties descriptors to
records (hotfd/transfer/offer.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from hotfd.transfer import offer
from hotfd.wire import messages as m
from hotfd.wire import records
from hotfd.wire.receiver import Phase, Receiver, Stage
from tests.proof.world import (
    CUSTODY,
    DEAD,
    DYING,
    FRESH,
    LIVE,
    UP,
    Cargo,
    Held,
    Stream,
    World,
    bits,
    put,
)

if TYPE_CHECKING:
    from tests.proof.explorer import Step

COOKIE = 1000
"""What is between the number of a connection and its socket's cookie, and twice between it and its descriptor."""


class NewProcess(World):
    """The new process in a world."""

    @property
    def taking(self) -> Receiver:
        """Its machine, to look at."""
        return self.rig.receivers[self.receiver]

    # -- what can happen next ------------------------------------------------------------------------

    def new_steps(self) -> Iterator[Step]:
        """What the new process can do."""
        yield from self._serving_steps()
        if self.new_outbox:
            yield ("new_flushes",)
        if (self.to_new or self.reset_new) and not self.new_closed:
            yield ("new_reads",)
        for id, stage in self.taking.sessions.items():
            if stage is Stage.HELD:
                yield ("new_accepts_session", id)
            if self.refusals_left and stage in (Stage.HELD, Stage.GATHERING):
                yield ("new_refuses", id)
        if self.taking.phase is Phase.PROBATION and not self.new_failing:
            yield ("new_settles",)
        if self.new_failing:
            yield ("new_leaves",)
        if not self.inherited:
            yield from self._ends()

    def _serving_steps(self) -> Iterator[Step]:
        for at, held in enumerate(self.new_has):
            if held is not None and held.use is LIVE and not (self.unhooked or self.touched & self.slot(at)):
                yield ("new_touches", at)
        for step in self.acts("new", self.new_has):
            if self.unhooked or self.touched & self.slot(step[2]):
                yield step
        if self.taking.listening:
            yield from (("new_accepts", at) for at in self.rig.newcomers if self.backlog >> at & 1)

    def _ends(self) -> Iterator[Step]:
        if self.old == DEAD:
            yield ("new_learns_of_the_death",)
        elif self.old_closed and not self.to_new and not self.reset_new and self._unsettled:
            yield ("new_leaves",)

    @property
    def _unsettled(self) -> bool:
        return self.taking.phase in (Phase.MOVING, Phase.PROBATION)

    # -- the channel ---------------------------------------------------------------------------------

    def new_flushes(self) -> None:
        """The kernel takes a packet."""
        if self.old == DEAD or self.old_closed or self.new_closed:
            self.new_outbox = ()
            return
        letter, *rest = self.new_outbox
        self.new_outbox = tuple(rest)
        self.to_old += (letter,)
        match self.rig.messages[letter][0]:
            case m.Ended(cookies=cookies):
                for at in cookies:
                    self.told |= 1 << at
            case m.Settled():
                self.unhooked = True

    def new_reads(self) -> None:
        """It receives a packet, or a reset, which is not the end."""
        if self.reset_new:
            self.reset_new = False
            self._reset_comes()
            return
        letter, *rest = self.to_new
        self.to_new = tuple(rest)
        message = self.rig.messages[letter][0]
        ids = self.tell_receiver(letter, lambda machine: machine.receive(message))
        match message:
            case m.OfferPart():
                self._take_part(letter, message, ids)
            case m.Commit():
                self._own(ids)
            case m.Revoke():
                self._drop_sessions(ids)
            case m.Abort() if not self.unhooked:  # one that has settled serves until it is killed
                self.new_leaves()

    def _reset_comes(self) -> None:
        pass

    def _say(self, messages: Iterable[m.Message]) -> None:
        self.new_outbox += tuple(self.rig.letter(message) for message in messages)

    # -- custody -------------------------------------------------------------------------------------

    def _take_part(self, letter: int, part: m.OfferPart, complete: list[int]) -> None:
        self.gathered += (letter,)
        mine = self._parts_of(part.offer)
        if len(mine) < part.parts:
            return
        self.gathered = tuple(other for other in self.gathered if other not in mine)
        for id, bundle in self._put_together(part, mine).items():
            if id not in complete:
                continue  # revoked or refused while its parts arrived
            for at, stream in bundle:
                self.new_has = put(self.new_has, at, Held(CUSTODY, stream))

    def _parts_of(self, number: int) -> tuple[int, ...]:
        return tuple(letter for letter in self.gathered if self._offer(letter).offer == number)

    def _offer(self, letter: int) -> m.OfferPart:
        message = self.rig.messages[letter][0]
        assert isinstance(message, m.OfferPart)
        return message

    def _put_together(self, part: m.OfferPart, letters: tuple[int, ...]) -> dict[int, list[tuple[int, Stream]]]:
        """Return the connections of each session of an offer: which socket it is, and how its record has it."""
        _, bundles = self.rig.receivers.move(
            self.rig.receivers.first, ("put together", part.offer, letters), lambda _: self._matched(part, letters)
        )
        assert isinstance(bundles, dict)
        return bundles

    def _matched(self, part: m.OfferPart, letters: tuple[int, ...]) -> dict[int, list[tuple[int, Stream]]]:
        gathering, streams = offer._Gathering(), {}
        counts: dict[int, int] = {}
        for letter in letters:
            cargo = self.rig.messages[letter][1]
            for id, at, stream in cargo.records:
                cookie, streams[at] = COOKIE + at, stream
                counts[id] = counts.get(id, 0) + 1
                gathering.connections.append(records.ConnectionRecord(id, cookie, str(at), "", 0, None, b""))
            for at in cargo.descriptors:
                gathering.by_cookie[COOKIE + at] = 2 * COOKIE + at
        gathering.sessions = [records.SessionRecord(id, str(id), count) for id, count in counts.items()]
        arrived = self.match(part, gathering)
        return {
            id: [
                (fd - 2 * COOKIE, streams[record.cookie - COOKIE])
                for record, fd in zip(bundle.connections, bundle.descriptors, strict=True)
            ]
            for id, bundle in arrived.bundles.items()
        }

    match = staticmethod(offer._match)

    def _drop_sessions(self, ids: Iterable[int]) -> None:
        for id in ids:
            for at in self.of_session(id):
                held = self.new_has[at]
                if held is not None and held.use is CUSTODY:
                    self.new_has = put(self.new_has, at, None)

    def new_accepts_session(self, id: int) -> None:
        """It can serve a session, and says so."""
        self._say(self.tell_receiver(("accept", id), lambda machine: machine.accept([id])))

    def new_refuses(self, id: int) -> None:
        """It cannot read a session's state, or its descriptors were lost."""
        self.refusals_left -= 1
        refusal = m.Refusal(id, "code", "")
        if self.old == DEAD:  # nobody else can serve it, and this process cannot
            self.doomed |= bits(self.of_session(id))
        self._say(self.tell_receiver(("refuse", id), lambda machine: machine.refuse([refusal])))
        self._drop_sessions([id])

    # -- owning --------------------------------------------------------------------------------------

    def _own(self, ids: Iterable[int]) -> None:
        for id in ids:
            for at in self.of_session(id):
                held = self.new_has[at]
                if held is not None and held.use is CUSTODY:
                    self.new_has = put(self.new_has, at, Held(LIVE, held.stream))

    def new_touches(self, at: int) -> None:
        """It notes that it is about to act on a session."""
        self.touched |= self.slot(at)

    def new_accepts(self, at: int) -> None:
        """It accepts a connection that waits, and sends the old process a copy."""
        self.backlog &= ~(1 << at)
        self.new_has = put(self.new_has, at, Held(LIVE, FRESH))
        if not self.unhooked:
            self.new_outbox += (self.rig.letter(m.Newcomer(at, at, ""), Cargo((), (at,))),)

    def end(self, who: str, at: int) -> None:
        """A connection is over; the new process tells the old one, which has a copy."""
        super().end(who, at)
        if who == "new" and not self.unhooked:
            self._say([m.Ended([at])])

    def new_settles(self) -> None:
        """The probation is over, and it is healthy."""
        self._say([self.tell_receiver("settle", lambda machine: machine.settle(0.0, 0.0, 0.0))])

    # -- the ends ------------------------------------------------------------------------------------

    def new_learns_of_the_death(self) -> None:
        """The pidfd says that the old process is dead: what it said is read to the end, and what it offered is owned."""
        self._drain_to_the_end()
        if self.new == DEAD:
            return  # an Abort was there
        if self._unsettled and not self.new_closed:  # who cannot read to the end inherits nothing
            self._own(self.tell_receiver("orphaned", lambda machine: machine.orphaned()))
            self.new_has = tuple(held if held is None or held.use is LIVE else None for held in self.new_has)
        self.inherited = self.unhooked = True
        self.gathered = self.new_outbox = ()

    def _drain_to_the_end(self) -> None:
        while self.new in (UP, DYING) and (self.to_new or self.reset_new) and not self.new_closed:
            self.new_reads()

    def new_leaves(self) -> None:
        """It lets go of everything without a trace, and exits."""
        self.new_dies()

    def new_dies(self) -> None:
        """It is dead."""
        raise NotImplementedError
