"""The whole handoff as one system: both processes, what can go wrong at any point, and what must hold all the same."""

from __future__ import annotations

from collections.abc import Iterator

from hotfd.wire import messages as m
from hotfd.wire.receiver import Stage
from hotfd.wire.sender import Phase as SenderPhase
from tests.proof.explorer import Step, Wrong
from tests.proof.new_process import NewProcess
from tests.proof.old_process import OldProcess
from tests.proof.story import tell_step
from tests.proof.world import (
    DEAD,
    DYING,
    HUNG,
    LIVE,
    MOVING,
    NEWCOMER,
    PROVING,
    UP,
    bits,
    name,
)

FAULTS = (
    "old_dies", "new_dies", "old_hangs", "new_hangs", "old_loses_the_channel", "new_loses_the_channel", "new_fails",
    "old_gives_up", "old_offer_fails", "old_part_fails",
)  # fmt: skip
"""What can go wrong. ``old_gives_up`` is a deadline that is over although the new process lives and works."""


class Handoff(OldProcess, NewProcess):
    """One handoff from its first offer to its end."""

    def steps(self) -> list[Step]:
        """Return what can happen next."""
        found: list[Step] = []
        if self.old == UP:
            found += self.old_steps()
        if self.new in (UP, DYING):
            found += self.new_steps()
        if self.new == DYING or (self.new == HUNG and self.old_mode > PROVING):
            found.append(("new_is_killed",))
        if self.old == HUNG:
            found.append(("old_is_ended",))
        if self.faults:
            kinds = self.rig.bounds.kinds
            found += [step for step in self._faults() if not kinds or step[0] in kinds]
        return found

    def _faults(self) -> Iterator[Step]:
        if self.old == UP:
            yield ("old_dies",)
            yield ("old_hangs",)
            if not self.old_closed and self.new != DEAD and not self._settled_waits():
                yield ("old_loses_the_channel",)
            if self.old_mode == MOVING:
                if self.offers_left and self._all_begun(len(self.unsent)):
                    free = (room for room in range(len(self.rig.members)) if self._at_boundary(room))
                    yield from (("old_offer_fails", (room,)) for room in free)
                if self.unsent:
                    yield ("old_part_fails",)
            waits = self.giving.open_sessions() or self.revoking or self.old_mode == PROVING
            if self.old_mode in (MOVING, PROVING) and waits and self.new == UP:
                yield ("old_gives_up",)
        if self.new == UP:
            yield ("new_dies",)
            yield ("new_hangs",)
            if not self.new_closed and self.old != DEAD:
                yield ("new_loses_the_channel",)
            if self._unsettled and not self.new_failing:
                yield ("new_fails",)

    def _settled_waits(self) -> bool:
        """Whether Settled is there to be read: whoever throws that away does not know that he has nothing any more."""
        return any(isinstance(self.rig.messages[letter][0], m.Settled) for letter in self.to_old)

    def take(self, step: Step) -> None:
        """Let a step happen; a fault is counted."""
        if step[0] in FAULTS:
            self.faults -= 1
        getattr(self, step[0])(*step[1:])

    # -- what goes wrong -----------------------------------------------------------------------------

    def old_gives_up(self) -> None:
        """A deadline is over although the new process lives."""
        self.old_waits_no_longer()

    def old_hangs(self) -> None:
        """It makes no step any more, and lives; the supervisor ends it."""
        self.old = HUNG

    def new_hangs(self) -> None:
        """It makes no step any more, and lives; the old process ends it."""
        self.new = HUNG

    def new_fails(self) -> None:
        """It is not healthy, says so, and leaves."""
        self._say([m.Failed("unhealthy", "")])
        self.new_failing = True

    def old_loses_the_channel(self) -> None:
        """Its end is closed, and it lives."""
        self.old_closed = self.dropped = True
        for letter in self.to_old:
            message = self.rig.messages[letter][0]
            if isinstance(message, m.Ended):
                self.told &= ~bits(message.cookies)
        self.reset_new = self.reset_new or bool(self.to_old)
        self.old_outbox = self.to_old = ()

    def new_loses_the_channel(self) -> None:
        """Its end is closed, and it lives."""
        self.new_closed = True
        self.reset_old = self.reset_old or bool(self.to_new)
        self.new_outbox = self.to_new = ()

    def old_is_ended(self) -> None:
        """The supervisor ends a process that hangs."""
        self.old_dies()

    def new_is_killed(self) -> None:
        """A signal has come to its process."""
        self.new_dies()

    def old_dies(self) -> None:
        """Its descriptors and what it had not given to the kernel are gone."""
        self.doomed |= self._lost_with_old()
        self.old = DEAD
        self.reset_new = self.reset_new or bool(self.to_old)
        self.old_has = (None,) * len(self.old_has)
        self.old_outbox = self.to_old = self.unsent = ()
        self.revoking = 0

    def new_dies(self) -> None:
        """Its descriptors and what it had not given to the kernel are gone; the touch map is not."""
        self.doomed |= self._lost_with_new()
        self.new = DEAD
        self.reset_old = self.reset_old or bool(self.to_new)
        self.new_has = (None,) * len(self.new_has)
        self.new_outbox = self.to_new = self.gathered = ()

    # -- what is lost by that, and nothing else may be -------------------------------------------------

    def _lost_with_old(self) -> int:
        """The connections that nobody can serve when the old process dies now; from the promise, not from the machines.

        The new one gets what was offered whole and not taken back; neither the commit nor the acceptance matters.
        """
        everybody = bits(range(len(self.rig.words)))
        waiting = [self.rig.messages[letter][0] for letter in self.to_new]
        if self.new in (DYING, DEAD) or self.new_failing or any(isinstance(message, m.Abort) for message in waiting):
            return everybody
        if self.new_closed:
            return everybody & ~self._used_by(self.new_has, LIVE)
        kept = self._used_by(self.new_has, LIVE)
        revoked = {id for message in waiting if isinstance(message, m.Revoke) for id in message.ids}
        for id, room in enumerate(self.room_of):
            if id not in revoked and self._bequeathed(id):
                kept |= bits(self.rig.members[room])
        if self.taking.listening or any(isinstance(message, m.Listeners) for message in waiting):
            kept |= self.backlog
        return everybody & ~kept

    def _bequeathed(self, id: int) -> bool:
        """Whether all of a session's offer is in the new process, or on its way in the kernel, and not refused."""
        stage = self.taking.sessions.get(id)
        if stage not in (None, Stage.GATHERING):
            return stage in (Stage.HELD, Stage.ACCEPTED, Stage.OWNED)
        parts = set()
        for letter in (*self.gathered, *self.to_new):
            message = self.rig.messages[letter][0]
            if isinstance(message, m.OfferPart) and message.first <= id < message.first + message.sessions:
                parts.add(message.part)
                wanted = message.parts
        return bool(parts) and len(parts) == wanted

    def _lost_with_new(self) -> int:
        """The connections that nobody can serve when the new process dies now."""
        if self.old == DEAD:
            return bits(range(len(self.rig.words)))
        settled = self.giving.phase is SenderPhase.SETTLED or self.inherited
        copies = self._used_by(self.old_has, NEWCOMER)
        for letter in self.to_old:
            message, cargo = self.rig.messages[letter]
            settled = settled or isinstance(message, m.Settled)
            copies |= bits(cargo.descriptors)
        mine = self._used_by(self.new_has, LIVE)
        committed = bits(at for id in self._committed() for at in self.of_session(id))
        if settled:
            return mine | committed | copies | self.backlog  # no touch is noted, and no end told any more
        lost = mine & bits(self.rig.newcomers) & ~copies
        for at in range(len(self.rig.words)):
            if (mine | committed | copies) >> at & 1 and not self._is_old(at) and self.touched & self._slot(at):
                lost |= 1 << at
        return lost

    def _committed(self) -> Iterator[int]:
        for id, stage in self.giving.sessions.items():
            if stage.value == "committed":
                yield id

    def _slot(self, at: int) -> int:
        return self.slot(at) if at in self.rig.newcomers or any(at in self.of_session(id) for id in self._ids()) else 0

    def _ids(self) -> range:
        return range(len(self.room_of))

    def _is_old(self, at: int) -> bool:
        held = self.old_has[at]
        return held is not None and held.use is LIVE

    @staticmethod
    def _used_by(has: tuple[object, ...], use: str) -> int:
        return bits(at for at, held in enumerate(has) if held is not None and held.use is use)  # type: ignore[attr-defined]

    # -- what must hold --------------------------------------------------------------------------------

    def judge(self, steps: list[Step]) -> None:
        """Raise Wrong if this state must not be."""
        old, new = self._used_by(self.old_has, LIVE), self._used_by(self.new_has, LIVE)
        if both := old & new:
            raise Wrong(f"G1: both processes may read and write {names(both)}")
        for who, has in (("old", self.old_has), ("new", self.new_has)):
            for at, held in enumerate(has):
                if held is not None and held.use is LIVE:
                    self.check_whole(who, at, held.stream)
        for served in (old, new):
            for members in self.rig.sets:
                if served & members and (parted := members & ~self.ended & ~served):
                    raise Wrong(f"G3: a session of several connections is served without {names(parted)}")
        if all(step[0] in FAULTS for step in steps):
            self._judge_the_end(old, new)

    def _judge_the_end(self, old: int, new: int) -> None:
        """Nothing more happens by itself: whatever can be served is served, by one, to its last answer."""
        if self.old == DEAD and self.new in (DEAD, HUNG):
            return
        excused = self.doomed | self.ended
        if self.new == HUNG:  # after it has settled it is nobody's but its supervisor's
            excused |= new | self.backlog
        everybody = bits(range(len(self.rig.words)))
        if stranded := everybody & ~excused & ~(old | new):
            raise Wrong(f"G1: nobody serves {names(stranded)}")
        for at in range(len(self.rig.words)):
            done = self.ledger[at]
            if not excused >> at & 1 and (done.handled, done.answered) != (
                self.rig.ends[at][-1] + 1 if self.rig.ends[at] else 0,
                len(self.rig.ends[at]),
            ):
                raise Wrong(f"G3: {name(at)} waits for an answer that nobody writes")
        for who, has, up in (("old", self.old_has, self.old), ("new", self.new_has, self.new)):
            left = [name(at) for at, held in enumerate(has) if held is not None and held.use is not LIVE]
            if left and up == UP and not self.new_closed:
                raise Wrong(f"a descriptor is left: {who} keeps {', '.join(left)}")
        if self.gathered and self.new == UP:
            raise Wrong("a descriptor is left: new keeps parts of an offer")

    def describe(self, step: Step) -> str:
        """Say in words what a step does."""
        return tell_step(self, step)


def names(connections: int) -> str:
    """Name connections."""
    return ", ".join(name(at) for at in range(connections.bit_length()) if connections >> at & 1)
