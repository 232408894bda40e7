r"""The old process's side of a handoff, as a state machine without I/O.

Two tables say everything: how the handoff as a whole goes on, and how each session does.

Whole handoff::

    STARTING --Hello--> PREPARING --Ready--> MOVING --finish()--> PROBATION --Settled--> SETTLED
        |                   |                   |                     |
        +-------------------+--- take_back() ---+---------------------+--> FAILED

Each session::

    OFFERED --Accept--> ACCEPTED --commit()--> COMMITTED --take_back()--> RETURNED | LOST
       |  \                |
       |   +---revoke()----+--> REVOKED       a late Accept or Refuse of it says nothing
       +--Refuse--> REFUSED

The rule that everything rests on: **a session that is not COMMITTED can always be taken back by
revoking it, and a session that is COMMITTED only when the new process is certainly dead.** The machine
raises when asked for anything else, and then its state is what it was before.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from hotfd.errors import ChannelError
from hotfd.wire import messages as m


class Phase(enum.Enum):
    """How far the handoff as a whole is."""

    STARTING = "starting"
    PREPARING = "preparing"
    MOVING = "moving"
    PROBATION = "probation"
    SETTLED = "settled"
    FAILED = "failed"


class Stage(enum.Enum):
    """How far one session is."""

    OFFERED = "offered"
    ACCEPTED = "accepted"
    COMMITTED = "committed"
    REFUSED = "refused"
    REVOKED = "revoked"
    RETURNED = "returned"
    LOST = "lost"


OPEN = (Stage.OFFERED, Stage.ACCEPTED)
"""The stages in which the old process may still revoke. No set: to hash a member of an enum takes longer than to compare."""

_RECEIVABLE: dict[type[m.Message], frozenset[Phase]] = {
    m.Hello: frozenset({Phase.STARTING}),
    m.Ready: frozenset({Phase.PREPARING}),
    m.Failed: frozenset({Phase.STARTING, Phase.PREPARING, Phase.MOVING, Phase.PROBATION}),
    m.Accept: frozenset({Phase.MOVING, Phase.PROBATION}),
    m.Refuse: frozenset({Phase.MOVING, Phase.PROBATION}),
    # Behind Settled too: until the kernel has that, the new process tells what it accepts and what ends.
    m.Newcomer: frozenset({Phase.MOVING, Phase.PROBATION, Phase.SETTLED}),
    m.Ended: frozenset({Phase.MOVING, Phase.PROBATION, Phase.SETTLED}),
    m.Settled: frozenset({Phase.PROBATION}),
}
"""Which message the new process may send in which phase; everything else is its mistake."""


@dataclass(slots=True)
class TakenBack:
    """What the old process does with each session once the new process is certainly dead.

    Attributes:
        resume: never committed; nobody but the old process ever owned them.
        restore: committed and untouched; the escrow serves them again.
        lost: committed and touched, or in doubt; they cannot be continued and are ended.
    """

    resume: list[int] = field(default_factory=list)
    restore: list[int] = field(default_factory=list)
    lost: list[int] = field(default_factory=list)


class Sender:
    """The machine. One instance is one handoff."""

    def __init__(self) -> None:
        self.phase = Phase.STARTING
        self.sessions: dict[int, Stage] = {}
        self._next_session = 0
        self._next_offer = 0

    # -- what the new process says ------------------------------------------------------------------

    def receive(self, message: m.Message) -> list[int]:
        """Take one message of the new process.

        Returns:
            for Accept and Refuse the ids that it concerns: those that are still open. Late answers about
            revoked sessions are left out, since revocation has settled them. Empty for other messages.

        Raises:
            ChannelError: the new process may not say this now; nothing has changed.
        """
        if self.phase not in _RECEIVABLE.get(type(message), ()):
            raise ChannelError(f"{type(message).__name__} in phase {self.phase.value}")
        match message:
            case m.Hello():
                self.phase = Phase.PREPARING
            case m.Ready():
                self.phase = Phase.MOVING
            case m.Settled():
                if any(stage in OPEN for stage in self.sessions.values()):
                    raise ChannelError("Settled while sessions are offered")
                self.phase = Phase.SETTLED
            case m.Accept(ids=ids):
                return self._answer(ids, Stage.ACCEPTED)
            case m.Refuse(refusals=refusals):
                return self._answer([refusal.id for refusal in refusals], Stage.REFUSED)
        return []

    def _answer(self, ids: list[int], stage: Stage) -> list[int]:
        if len(set(ids)) != len(ids):
            raise ChannelError("an answer in which an id stands twice")
        concerned, stage_of = [], self.sessions.get
        for id in ids:
            before = stage_of(id)
            if before is Stage.OFFERED:
                concerned.append(id)
            elif before is not Stage.REVOKED:
                raise ChannelError(f"an answer to session {id}, which is not open")
        self.sessions.update(dict.fromkeys(concerned, stage))
        return concerned

    # -- what the old process does ------------------------------------------------------------------

    @property
    def next_session(self) -> int:
        """The id that the next offered session will have."""
        return self._next_session

    def offer(self, sessions: int) -> tuple[int, int]:
        """Open an offer of so many sessions.

        Returns:
            the offer's id and its first session's id; the others follow. Neither is ever used again.
        """
        self._require(Phase.MOVING)
        if sessions < 1:
            raise ValueError(f"an offer of {sessions} sessions")
        offer, first = self._next_offer, self._next_session
        self._next_offer += 1
        self._next_session += sessions
        self.sessions.update(dict.fromkeys(range(first, first + sessions), Stage.OFFERED))
        return offer, first

    def commit(self, ids: Iterable[int]) -> list[m.Message]:
        """Give accepted sessions away for good. Once the messages are queued there is no way back but death."""
        return self._move(ids, (Stage.ACCEPTED,), Stage.COMMITTED, m.Commit)

    def revoke(self, ids: Iterable[int]) -> list[m.Message]:
        """Take open sessions back. They may be served again once the messages are queued."""
        return self._move(ids, OPEN, Stage.REVOKED, m.Revoke)

    def _move(
        self, ids: Iterable[int], allowed: tuple[Stage, ...], to: Stage, kind: type[m.Commit] | type[m.Revoke]
    ) -> list[m.Message]:
        wanted = list(ids)
        if len(set(wanted)) != len(wanted):
            raise ValueError("an id stands twice")
        stage_of = self.sessions.get
        for id in wanted:
            if stage_of(id) not in allowed:
                raise ValueError(f"session {id} is {stage_of(id)}, it cannot become {to.value}")
        self.sessions.update(dict.fromkeys(wanted, to))
        return [kind(part) for part in m.chunks(wanted)]

    def finish(self, probation: float) -> m.Message:
        """End the offers; what is open must have been answered, committed or revoked."""
        self._require(Phase.MOVING)
        if open_ids := self.open_sessions():
            raise ValueError(f"sessions are open: {open_ids[:5]}")
        self.phase = Phase.PROBATION
        return m.Finish(probation)

    def open_sessions(self) -> list[int]:
        """Return the ids that are offered or accepted, and not committed."""
        return [id for id, stage in self.sessions.items() if stage in OPEN]

    def take_back(self, touched: Callable[[int], bool]) -> TakenBack:
        """The new process is certainly dead: say what becomes of each session. The machine ends FAILED.

        A process that has settled notes no touches any more: what it owned is lost, whatever ``touched`` says.
        """
        settled = self.phase is Phase.SETTLED
        result = TakenBack()
        for id, stage in self.sessions.items():
            if stage in OPEN:
                self.sessions[id] = Stage.REVOKED
                result.resume.append(id)
            elif stage is Stage.COMMITTED:
                lost = settled or touched(id)
                self.sessions[id] = Stage.LOST if lost else Stage.RETURNED
                (result.lost if lost else result.restore).append(id)
        self.phase = Phase.FAILED
        return result

    def forget(self) -> None:
        """A settled handoff is over in this process: what became of which session is not asked any more.

        A process in which some sessions have stayed may live on for long, and each entry would keep memory around it in use.

        Raises:
            ValueError: it is not settled.
        """
        self._require(Phase.SETTLED)
        self.sessions.clear()

    def _require(self, phase: Phase) -> None:
        if self.phase is not phase:
            raise ValueError(f"not now: the handoff is {self.phase.value}, this needs {phase.value}")
