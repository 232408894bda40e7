r"""The new process's side of a handoff, as a state machine without I/O.

Whole handoff::

    STARTING --Setup, hello()--> PREPARING --ready()--> MOVING --Finish--> PROBATION --settle()--> SETTLED
                                                           |                   |
                                        old process dead --+-------------------+--> ORPHANED
                                                     Abort --+-------------------+--> ABORTED  (it may cross Settled)

Each session::

    (parts arrive) GATHERING --last part--> HELD --accept()--> ACCEPTED --Commit--> OWNED
                       |                     |  \                |
                       |                     |   +--refuse()--> REFUSED
                       +------- Revoke ------+-------------------+--> REVOKED

A session is touched (read, written, closed, shown to its handler) in OWNED alone. When the old process
is certainly dead **and the channel has been read to its end**, every session that is held or accepted
becomes OWNED: an offer without a revocation is a bequest.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass, field

from hotfd.errors import ChannelError
from hotfd.wire import messages as m

MAX_PARTS = 4096
"""Parts of one offer: at 252 connections a part, a million connections."""

MAX_SESSIONS = 1 << 20
"""Sessions of all offers of which parts are missing; bounds what a broken old process can make the new one remember."""


class Phase(enum.Enum):
    """How far the handoff as a whole is."""

    STARTING = "starting"
    PREPARING = "preparing"
    MOVING = "moving"
    PROBATION = "probation"
    SETTLED = "settled"
    ORPHANED = "orphaned"
    ABORTED = "aborted"


class Stage(enum.Enum):
    """How far one session is."""

    GATHERING = "gathering"
    HELD = "held"
    ACCEPTED = "accepted"
    OWNED = "owned"
    REFUSED = "refused"
    REVOKED = "revoked"


_RECEIVABLE: dict[type[m.Message], frozenset[Phase]] = {
    m.Setup: frozenset({Phase.STARTING}),
    m.Releases: frozenset({Phase.STARTING, Phase.PREPARING, Phase.MOVING}),
    m.Rewritten: frozenset({Phase.PREPARING, Phase.MOVING}),
    m.Listeners: frozenset({Phase.MOVING}),
    m.Kinds: frozenset({Phase.MOVING}),
    m.OfferPart: frozenset({Phase.MOVING}),
    m.Commit: frozenset({Phase.MOVING}),
    m.Revoke: frozenset({Phase.MOVING}),
    m.Finish: frozenset({Phase.MOVING}),
    m.Abort: frozenset({Phase.STARTING, Phase.PREPARING, Phase.MOVING, Phase.PROBATION, Phase.SETTLED}),
}
"""Which message the old process may send in which phase; everything else is its mistake."""


@dataclass(slots=True)
class Offer:
    """An offer of which parts are missing."""

    id: int
    first: int
    sessions: int
    parts: int
    arrived: set[int] = field(default_factory=set)

    @property
    def ids(self) -> range:
        """The wire ids of its sessions."""
        return range(self.first, self.first + self.sessions)


class Receiver:
    """The machine. One instance is one handoff."""

    def __init__(self) -> None:
        self.phase = Phase.STARTING
        self.sessions: dict[int, Stage] = {}
        self.rewritten = False
        self.listening = False
        self._gathering: dict[int, Offer] = {}
        self._next_offer = 0
        self._next_session = 0

    # -- what the old process says ------------------------------------------------------------------

    def receive(self, message: m.Message) -> list[int]:
        """Take one message of the old process.

        Returns:
            the ids that it changes: for the last OfferPart of an offer those now HELD, for Commit those
            now OWNED, for Revoke those now REVOKED. Empty for other messages.

        Raises:
            ChannelError: the old process may not say this now; nothing has changed.
        """
        if self.phase not in _RECEIVABLE.get(type(message), ()):
            raise ChannelError(f"{type(message).__name__} in phase {self.phase.value}")
        match message:
            case m.Rewritten():
                if self.rewritten or self.listening:
                    raise ChannelError("Rewritten twice, or after Listeners")
                self.rewritten = True
            case m.Listeners():
                if self.listening:
                    raise ChannelError("Listeners twice")
                self.listening = True
            case m.OfferPart():
                return self._part(message)
            case m.Commit(ids=ids):
                return self._change(ids, (Stage.ACCEPTED,), Stage.OWNED)
            case m.Revoke(ids=ids):
                return self._revoke(ids)
            case m.Abort():
                self._abort()
            case m.Finish():
                if any(stage in _UNDECIDED for stage in self.sessions.values()):
                    raise ChannelError("Finish while sessions are offered")
                self.phase = Phase.PROBATION
        return []

    def _revoke(self, ids: list[int]) -> list[int]:
        # What this side refused a moment ago may cross a revocation: both mean "not mine".
        live = [id for id in ids if self.sessions.get(id) is not Stage.REFUSED]
        # An offer may be given up before its first part could be made (no descriptor, no memory): it never comes.
        unheard = [id for id in live if id >= self._next_session]
        if unheard != list(range(self._next_session, self._next_session + len(unheard))):
            raise ChannelError("a revocation of sessions that are not the next to be offered")
        heard = [id for id in live if id < self._next_session]
        revoked = self._change(heard, _UNDECIDED, Stage.REVOKED)
        self._next_session += len(unheard)
        return revoked

    def _abort(self) -> None:
        """The old process has taken back what is not this one's yet, and nothing will be bequeathed."""
        self.sessions.update((id, Stage.REVOKED) for id, stage in self.sessions.items() if stage in _UNDECIDED)
        self._gathering.clear()
        self.phase = Phase.ABORTED

    def _part(self, part: m.OfferPart) -> list[int]:
        if not self.listening:
            raise ChannelError("an offer before Listeners")
        offer = self._gathering.get(part.offer)
        if offer is None:
            offer = self._open(part)
        elif (part.first, part.sessions, part.parts) != (offer.first, offer.sessions, offer.parts):
            raise ChannelError(f"the parts of offer {part.offer} disagree")
        if part.part >= offer.parts or part.part in offer.arrived:
            raise ChannelError(f"part {part.part} of offer {part.offer} cannot be")
        if part.offer not in self._gathering:
            self._gathering[part.offer] = offer
            self._next_offer = part.offer + 1
            self._next_session = offer.first + offer.sessions
            self.sessions.update(dict.fromkeys(offer.ids, Stage.GATHERING))
        offer.arrived.add(part.part)
        if len(offer.arrived) < offer.parts:
            return []
        del self._gathering[part.offer]
        held = [id for id in offer.ids if self.sessions[id] is Stage.GATHERING]
        self.sessions.update(dict.fromkeys(held, Stage.HELD))
        return held

    def _open(self, part: m.OfferPart) -> Offer:
        if part.offer < self._next_offer or part.first < self._next_session:
            raise ChannelError(f"offer {part.offer} uses ids again")
        if not 1 <= part.parts <= MAX_PARTS or not 1 <= part.sessions <= MAX_SESSIONS:
            raise ChannelError(f"offer {part.offer} has {part.parts} parts and {part.sessions} sessions")
        awaited = sum(offer.sessions for offer in self._gathering.values())
        if awaited + part.sessions > MAX_SESSIONS:
            raise ChannelError(f"offer {part.offer} has {part.sessions} sessions, and parts of {awaited} are missing")
        return Offer(part.offer, part.first, part.sessions, part.parts)

    # -- what the new process does ------------------------------------------------------------------

    def hello(self) -> None:
        """The Hello is sent."""
        self._advance(Phase.STARTING, Phase.PREPARING)

    def ready(self) -> m.Message:
        """The new process is initialised and healthy."""
        self._advance(Phase.PREPARING, Phase.MOVING)
        return m.Ready()

    def accept(self, ids: Iterable[int]) -> list[m.Message]:
        """Promise to serve held sessions. Those revoked meanwhile are left out."""
        changed = self._settle(ids, Stage.ACCEPTED)
        return [m.Accept(part) for part in m.chunks(changed)]

    def refuse(self, refusals: Iterable[m.Refusal]) -> list[m.Message]:
        """Decline sessions that are held, or whose offer is broken. Those revoked meanwhile are left out."""
        by_id = {refusal.id: refusal for refusal in refusals}
        changed = [by_id[id] for id in self._settle(by_id, Stage.REFUSED)]
        return [m.Refuse(changed[i : i + _REFUSALS]) for i in range(0, len(changed), _REFUSALS)]

    def _settle(self, ids: Iterable[int], to: Stage) -> list[int]:
        changed, stage_of = [], self.sessions.get
        for id in ids:
            stage = stage_of(id)
            if stage is Stage.HELD or (stage is Stage.GATHERING and to is Stage.REFUSED):
                changed.append(id)
            elif stage is not Stage.REVOKED:
                raise ValueError(f"session {id} is {stage}, it cannot become {to.value}")
        self.sessions.update(dict.fromkeys(changed, to))
        return changed

    def settle(self, p50: float, p99: float, longest: float) -> m.Message:
        """The probation is over and the new process is healthy."""
        self._advance(Phase.PROBATION, Phase.SETTLED)
        return m.Settled(p50, p99, longest)

    def orphaned(self) -> list[int]:
        """The old process is certainly dead and the channel is read to its end: own what was offered.

        Returns:
            the ids that become OWNED by this, in the order of the offers.
        """
        if self.phase is Phase.ABORTED:
            return []
        bequeathed = [id for id, stage in self.sessions.items() if stage in (Stage.HELD, Stage.ACCEPTED)]
        self.sessions.update(dict.fromkeys(bequeathed, Stage.OWNED))
        self._gathering.clear()
        self.phase = Phase.ORPHANED
        return bequeathed

    def forget(self) -> None:
        """The handoff is over, whatever the old process may say: what became of which session is not asked any more.

        Raises:
            ValueError: sessions may still come, or be asked back.
        """
        if self.phase not in {Phase.SETTLED, Phase.ORPHANED, Phase.ABORTED}:
            raise ValueError(f"not now: the handoff is {self.phase.value}")
        self.sessions.clear()

    # ------------------------------------------------------------------------------------------------

    def _change(self, ids: list[int], allowed: tuple[Stage, ...], to: Stage) -> list[int]:
        if len(set(ids)) != len(ids):
            raise ChannelError("an id stands twice in a message")
        stage_of = self.sessions.get
        for id in ids:
            if stage_of(id) not in allowed:
                raise ChannelError(f"session {id} is {stage_of(id)}, it cannot become {to.value}")
        self.sessions.update(dict.fromkeys(ids, to))
        return ids

    def _advance(self, before: Phase, after: Phase) -> None:
        if self.phase is not before:
            raise ValueError(f"not now: the handoff is {self.phase.value}, this needs {before.value}")
        self.phase = after


_UNDECIDED = (Stage.GATHERING, Stage.HELD, Stage.ACCEPTED)
"""No set: to hash a member of an enum takes longer than to compare."""

_REFUSALS = 7
"""Refusals in one packet of 64 KiB: each may bring 1,024 characters of four bytes, twice."""
