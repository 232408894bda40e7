"""Mistakes that could be made in the protocol, each planted into the world that is explored.

What a proof is worth shows in what it finds. Each class here is the whole system with one thing wrong: in a machine, in
what a process makes of it, or in what it takes the kernel to mean. Some of them were made here, and found like this.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from hotfd.errors import ChannelError
from hotfd.transfer.offer import Arrived, Bundle, _Gathering
from hotfd.wire import messages as m
from hotfd.wire import receiver as new
from hotfd.wire import sender as old
from tests.proof.handoff import Handoff
from tests.proof.world import ALONE, LIVE, Bounds, Held, Stream, put

if TYPE_CHECKING:
    from tests.proof.explorer import Step

ONE = Bounds((("X",),))
SILENT = Bounds((("",),))
TWO = Bounds((("",), ("",)), offers=2, refusals=0)
ENDING = Bounds((("E",),), refusals=0)
HALVES = Bounds((("xX",),), refusals=0)
PAIR = Bounds((("X", "X"),), per_part=2, refusals=0, faults=0)
PARTS = Bounds((("", ""),), refusals=0)
ROOMS = Bounds((("", ""), ("", "")), offers=2, refusals=0, faults=0)
VISITOR = Bounds((("",),), newcomers=("X",), offers=0, refusals=0)


class CommitsBeforeItIsAccepted(Handoff):
    """Old gives away what nobody has accepted."""

    class sender_type(old.Sender):  # noqa: N801 - in the place of the attribute
        def commit(self, ids: Iterable[int]) -> list[m.Message]:
            wanted = list(ids)
            self.sessions.update((id, old.Stage.COMMITTED) for id in wanted)
            return [m.Commit(wanted)]

    def committable(self) -> list[int]:
        return self.giving.open_sessions()


class OwnsWhatItAccepts(Handoff):
    """New takes its own acceptance for the commit."""

    class receiver_type(new.Receiver):  # noqa: N801
        def receive(self, message: m.Message) -> list[int]:
            ids = super().receive(message)
            return [] if isinstance(message, m.Commit) else ids

        def _change(self, ids: list[int], allowed: tuple[new.Stage, ...], to: new.Stage) -> list[int]:
            allowed = (*allowed, new.Stage.OWNED)
            return super()._change([id for id in ids if self.sessions.get(id) in allowed], allowed, to)

    def new_accepts_session(self, id: int) -> None:
        super().new_accepts_session(id)
        self._own([id])


class ResumesAfterItsCommit(Handoff):
    """Old takes back what it has committed to a living process."""

    class sender_type(old.Sender):  # noqa: N801
        def open_sessions(self) -> list[int]:
            given = {*old.OPEN, old.Stage.COMMITTED}
            return [id for id, stage in self.sessions.items() if stage in given]

        def revoke(self, ids: Iterable[int]) -> list[m.Message]:
            wanted = list(ids)
            self.sessions.update((id, old.Stage.REVOKED) for id in wanted)
            return [m.Revoke(wanted)]


class ResumesBeforeItsRevocationIsQueued(Handoff):
    """Old serves a session again when it has decided to, and not when the kernel has the message."""

    def old_revokes(self, ids: tuple[int, ...]) -> None:
        super().old_revokes(ids)
        self._go_on(ids)


class HonoursALateAccept(Handoff):
    """Old takes an Accept that crosses its Revoke for the last word."""

    class sender_type(old.Sender):  # noqa: N801
        def _answer(self, ids: list[int], stage: old.Stage) -> list[int]:
            self.sessions.update((id, old.Stage.OFFERED) for id in ids if self.sessions[id] is old.Stage.REVOKED)
            return super()._answer(ids, stage)


class BearsNoLateAnswer(Handoff):
    """Old takes an answer that crosses its Revoke for a mistake."""

    class sender_type(old.Sender):  # noqa: N801
        def _answer(self, ids: list[int], stage: old.Stage) -> list[int]:
            if any(self.sessions.get(id) is old.Stage.REVOKED for id in ids):
                raise ChannelError("late")
            return super()._answer(ids, stage)


class BearsNoCrossedRevocation(Handoff):
    """New takes a Revoke that crosses its Refuse for a mistake."""

    class receiver_type(new.Receiver):  # noqa: N801
        def _revoke(self, ids: list[int]) -> list[int]:
            if any(self.sessions.get(id) is new.Stage.REFUSED for id in ids):
                raise ChannelError("crossed")
            return super()._revoke(ids)


class BearsNoRevocationOfTheUnheard(Handoff):
    """New takes the Revoke of an offer of which no part could be made for a mistake."""

    class receiver_type(new.Receiver):  # noqa: N801
        def _revoke(self, ids: list[int]) -> list[int]:
            if any(id >= self._next_session for id in ids):
                raise ChannelError("unheard")
            return super()._revoke(ids)


class BearsNothingBehindSettled(Handoff):
    """Old takes what the new process says before the kernel has its Settled for a mistake."""

    class sender_type(old.Sender):  # noqa: N801
        def receive(self, message: m.Message) -> list[int]:
            if self.phase is old.Phase.SETTLED and isinstance(message, (m.Newcomer, m.Ended)):
                raise ChannelError("behind Settled")
            return super().receive(message)


class BearsNoCrossedAbort(Handoff):
    """New takes an Abort that crosses its Settled for a mistake."""

    class receiver_type(new.Receiver):  # noqa: N801
        def receive(self, message: m.Message) -> list[int]:
            if self.phase is new.Phase.SETTLED and isinstance(message, m.Abort):
                raise ChannelError("crossed")
            return super().receive(message)


class MatchesByOrder(Handoff):
    """New ties the first descriptor to the first record."""

    @staticmethod
    def match(part: m.OfferPart, gathering: _Gathering) -> Arrived:
        bundles = {record.session: Bundle(record, [], []) for record in gathering.sessions}
        for record, fd in zip(gathering.connections, gathering.by_cookie.values(), strict=True):
            bundles[record.session].connections.append(record)
            bundles[record.session].descriptors.append(fd)
        return Arrived(bundles, None)


class MixesParts(Handoff):
    """New counts parts, whichever offer they are of."""

    def _parts_of(self, number: int) -> tuple[int, ...]:
        return self.gathered


class TakesTheEndForANewDeath(Handoff):
    """Old takes the end of the channel for the death of the new process."""

    def old_steps(self) -> Iterator[Step]:
        yield from super().old_steps()
        if self.new_closed and not self.to_old and not self.reset_old and self.old_mode < ALONE:
            yield ("old_takes_back",)


class TakesTheEndForAnOldDeath(Handoff):
    """New takes the end of the channel for the death of the old process."""

    def _ends(self) -> Iterator[Step]:
        if self.old_closed and not self.to_new and not self.reset_new:
            yield ("new_learns_of_the_death",)
        else:
            yield from super()._ends()


class TakesAResetForTheOldEnd(Handoff):
    """New reads nothing behind a reset, where the Revoke or the Commit may be."""

    def _reset_comes(self) -> None:
        self.to_new = ()


class TakesAResetForTheNewEnd(Handoff):
    """Old reads nothing behind a reset, where the Settled may be."""

    def _heard_reset(self) -> None:
        self.to_old = ()


class OwnsWithoutReadingToTheEnd(Handoff):
    """New inherits when it learns of the death, whatever still waits in the channel."""

    def _drain_to_the_end(self) -> None:
        self.to_new = ()


class InheritsHalves(Handoff):
    """New takes what it has a part of for its own."""

    def new_learns_of_the_death(self) -> None:
        self._drain_to_the_end()
        for letter in self.gathered:
            for _, at, stream in self.rig.messages[letter][1].records:
                self.new_has = put(self.new_has, at, Held(LIVE, stream))
        super().new_learns_of_the_death()


class IgnoresEnded(Handoff):
    """Old keeps its copy of a connection that is over."""

    def _drop(self, connections: Iterable[int]) -> None:
        pass


class TakesBackTheTouched(Handoff):
    """Old goes on with what the new process has acted on."""

    def _fates(self) -> old.TakenBack:
        return self.tell_sender("take back", lambda machine: machine.take_back(lambda id: False))


class ForgetsTheCommitted(Handoff):
    """Old does not take back what it had committed."""

    def _fates(self) -> old.TakenBack:
        return old.TakenBack(lost=[], restore=[], resume=super()._fates().resume)


class ActsBeforeItTouches(Handoff):
    """New reads first, and notes that afterwards."""

    def _serving_steps(self) -> Iterator[Step]:
        yield from self.acts("new", self.new_has)
        yield from super()._serving_steps()


class WelcomesTheSettledsNewcomers(Handoff):
    """Old takes newcomers of a process that has settled for untouched, since none is noted."""

    newcomers_of_the_settled_are_lost = False


class OffersInTheMiddleOfAFrame(Handoff):
    """Old offers a session whose handler is at work."""

    def _at_boundary(self, room: int) -> bool:
        held = [self.old_has[at] for at in self.rig.members[room]]
        return all(one is not None and one.use is LIVE for one in held)


class LeavesHalfAFrameBehind(Handoff):
    """Old does not send what it has read and not delivered."""

    def _record(self, stream: Stream) -> Stream:
        return stream._replace(start=0, stop=0)


class LeavesAnswersBehind(Handoff):
    """Old does not send what was written and not sent."""

    def _record(self, stream: Stream) -> Stream:
        return stream._replace(sent=stream.written)


class SendsAnswersTwice(Handoff):
    """Old writes into the record what the kernel has taken already."""

    def _record(self, stream: Stream) -> Stream:
        return stream._replace(sent=0)


MISTAKES: dict[type[Handoff], tuple[Bounds, str]] = {
    CommitsBeforeItIsAccepted: (ONE, "refused: session 0 is"),
    OwnsWhatItAccepts: (ONE, "G[1235]"),
    ResumesAfterItsCommit: (ONE, "refused|G1: both"),
    ResumesBeforeItsRevocationIsQueued: (ONE, "G[123]"),
    HonoursALateAccept: (ONE, "refused|G1: both"),
    BearsNoLateAnswer: (SILENT, "refused: late"),
    BearsNoCrossedRevocation: (SILENT, "refused: crossed"),
    BearsNoRevocationOfTheUnheard: (SILENT, "refused: unheard"),
    BearsNothingBehindSettled: (VISITOR, "refused: behind Settled"),
    BearsNoCrossedAbort: (VISITOR, "refused: crossed"),
    MatchesByOrder: (PAIR, "G[23]"),
    MixesParts: (ROOMS, "refused: its sessions are not those"),
    TakesTheEndForANewDeath: (SILENT, "G1: "),
    TakesTheEndForAnOldDeath: (ONE, "G[125]"),
    TakesAResetForTheOldEnd: (TWO, "G1|G2"),
    TakesAResetForTheNewEnd: (VISITOR, "G[1235]"),
    OwnsWithoutReadingToTheEnd: (SILENT, "G1: nobody"),
    InheritsHalves: (PARTS, "G3: a session of several"),
    IgnoresEnded: (ENDING, "G2: a had ended"),
    TakesBackTheTouched: (SILENT, "G5: old goes on"),
    ForgetsTheCommitted: (SILENT, "G1: nobody"),
    ActsBeforeItTouches: (ONE, "G[23]"),
    WelcomesTheSettledsNewcomers: (VISITOR, "G[23]"),
    OffersInTheMiddleOfAFrame: (ONE, "G[23]"),
    LeavesHalfAFrameBehind: (HALVES, "G2"),
    LeavesAnswersBehind: (ONE, "G[123]"),
    SendsAnswersTwice: (ENDING, "G2: new sends a answer 1 next"),
}
"""What is planted, in which world it is looked for, and what is said of it."""
