"""Both state machines against each other: every interleaving within bounds, and a crash of either side at every point.

The world is a session or two, the two machines, and between them what the channel is made of: the old process's own
queue (lost with it), and a kernel queue in either direction (which outlives its writer). Each state that can be
reached is visited once; in each, either side dies on a copy of the world and the survivor does what the machines
say. Two questions are asked everywhere: who may touch a session now, and who serves it in the end.
"""

from __future__ import annotations

import copy
import random
import re
from collections.abc import Callable, Iterable, Iterator

import pytest

from hotfd.errors import ChannelError
from hotfd.wire import messages as m
from hotfd.wire import receiver as new
from hotfd.wire import sender as old

WALKS = 60
"""Random ways through the world that is too large to be seen whole; about a second."""

Step = Callable[["World"], None]


class World:
    """Where everything stands.

    ``here`` are the sessions that the old process serves, ``touched`` the wire ids that the new one has acted
    on, ``resumed`` the wire ids whose session the old process has served since it offered them.

    Args:
        sessions: how many there are.
        offers: how many the old process makes at most; a session that came back is offered again.
    """

    sender_type: type[old.Sender] = old.Sender
    receiver_type: type[new.Receiver] = new.Receiver

    def __init__(self, sessions: int, offers: int) -> None:
        self.all = frozenset(range(sessions))
        self.offers_left = offers
        self.sender = self.sender_type()
        self.receiver = self.receiver_type()
        self.session_of: dict[int, int] = {}
        self.here = set(self.all)
        self.resumed: set[int] = set()
        self.touched: set[int] = set()
        self.outbox: list[m.Message] = []
        self.to_new: list[m.Message] = []
        self.to_old: list[m.Message] = []
        self.receiver.receive(m.Setup(m.PROTOCOL, "id", 2, 1, {}, False, {}))
        self.receiver.hello()
        self.sender.receive(m.Hello(m.PROTOCOL, 2, "1", {}, 1024, 10))
        self.sender.receive(self.receiver.ready())
        self.receiver.receive(m.Listeners([], False))

    def key(self) -> tuple[object, ...]:
        queues = (self.outbox, self.to_new, self.to_old)
        return (
            self.sender.phase,
            tuple(self.sender.sessions.items()),
            self.receiver.phase,
            tuple(self.receiver.sessions.items()),
            tuple((offer.id, *sorted(offer.arrived)) for offer in self.receiver._gathering.values()),
            tuple(tuple(map(repr, queue)) for queue in queues),
            frozenset(self.here),
            frozenset(self.touched),
            frozenset(self.session_of.items()),
        )

    def twin(self) -> World:
        """A copy to try a step on. Messages are never changed, so they are shared."""
        other = copy.copy(self)
        for holder in (other, sender := copy.copy(self.sender), receiver := copy.copy(self.receiver)):
            for name, value in vars(holder).items():
                if isinstance(value, (dict, list, set)):
                    setattr(holder, name, value.copy())
        receiver._gathering = copy.deepcopy(receiver._gathering)
        other.sender, other.receiver = sender, receiver
        return other

    # -- what the old process does ------------------------------------------------------------------

    def offer(self, sessions: tuple[int, ...], parts: int) -> None:
        self.offers_left -= 1
        offer, first = self.sender.offer(len(sessions))
        for id, session in enumerate(sessions, first):
            self.session_of[id] = session
            self.here.remove(session)
        self.outbox += [m.OfferPart(offer, part, parts, first, len(sessions)) for part in range(parts)]

    def commit(self, ids: list[int]) -> None:
        self.outbox += self.sender.commit(ids)

    def revoke(self, ids: list[int]) -> None:
        self.outbox += self.sender.revoke(ids)

    def finish(self) -> None:
        self.outbox.append(self.sender.finish(0.0))

    def flush(self) -> None:
        """The kernel takes a packet; only now is a revocation as good as told."""
        message = self.outbox.pop(0)
        self.to_new.append(message)
        if isinstance(message, m.Revoke):
            self.resume(message.ids)

    def resume(self, ids: Iterable[int]) -> None:
        for id in ids:
            self.here.add(self.session_of[id])
            self.resumed.add(id)

    def old_reads(self) -> None:
        message = self.to_old.pop(0)
        ids = self.sender.receive(message)
        if isinstance(message, m.Refuse):
            self.resume(ids)

    # -- what the new process does ------------------------------------------------------------------

    def new_reads(self) -> None:
        self.receiver.receive(self.to_new.pop(0))

    def accept(self, id: int) -> None:
        self.to_old += self.receiver.accept([id])

    def refuse(self, id: int) -> None:
        self.to_old += self.receiver.refuse([m.Refusal(id, "code", "")])

    def touch(self, id: int) -> None:
        self.touched.add(id)

    def settle(self) -> None:
        self.to_old.append(self.receiver.settle(0, 0, 0))

    # -- what can happen next -----------------------------------------------------------------------

    def steps(self) -> Iterator[tuple[str, Step]]:
        yield from self.old_steps()
        yield from self.new_steps()

    def old_steps(self) -> Iterator[tuple[str, Step]]:
        if self.outbox:
            yield "flush", World.flush
        if self.to_old:
            yield f"old reads {type(self.to_old[0]).__name__}", World.old_reads
        for id in self.committable():
            yield f"commit {id}", lambda world, id=id: world.commit([id])
        open_ids = self.sender.open_sessions()
        for ids in [[id] for id in open_ids] + ([open_ids] if len(open_ids) > 1 else []):
            yield f"revoke {ids}", lambda world, ids=ids: world.revoke(ids)
        if self.sender.phase is old.Phase.MOVING:
            if self.offers_left:
                yield from self.offers_to_make()
            if not open_ids:
                yield "finish", World.finish

    def offers_to_make(self) -> Iterator[tuple[str, Step]]:
        free = tuple(sorted(self.here))
        choices = [(session,) for session in free] + ([free] if len(free) > 1 else [])
        for sessions in choices:
            parts = len(sessions)
            yield f"offer {sessions} in {parts}", lambda world, s=sessions, p=parts: world.offer(s, p)

    def committable(self) -> list[int]:
        return [id for id, stage in self.sender.sessions.items() if stage is old.Stage.ACCEPTED]

    def new_steps(self) -> Iterator[tuple[str, Step]]:
        if self.to_new:
            yield f"new reads {type(self.to_new[0]).__name__}", World.new_reads
        for id, stage in self.receiver.sessions.items():
            if stage is new.Stage.HELD:
                yield f"accept {id}", lambda world, id=id: world.accept(id)
            if stage in {new.Stage.HELD, new.Stage.GATHERING}:
                yield f"refuse {id}", lambda world, id=id: world.refuse(id)
            if stage is new.Stage.OWNED and id not in self.touched:
                yield f"touch {id}", lambda world, id=id: world.touch(id)
        if self.receiver.phase is new.Phase.PROBATION:
            yield "settle", World.settle

    # -- death --------------------------------------------------------------------------------------

    def old_dies(self) -> None:
        self.outbox.clear()
        self.read_to_the_end()
        self.receiver.orphaned()

    def read_to_the_end(self) -> None:
        while self.to_new:
            self.new_reads()

    def new_dies(self) -> old.TakenBack:
        for message in self.outbox:  # certain death is as good as a revocation that was told
            if isinstance(message, m.Revoke):
                self.resume(message.ids)
        while self.to_old:
            self.old_reads()
        self.settled_when_it_died = self.sender.phase is old.Phase.SETTLED
        return self.sender.take_back(self.touched.__contains__)

    settled_when_it_died = False

    # -- the questions ------------------------------------------------------------------------------

    def owned(self) -> list[int]:
        return [id for id, stage in self.receiver.sessions.items() if stage is new.Stage.OWNED]

    def check_alive(self) -> str | None:
        """While both live: no session is served by both, none is given away twice, none is touched too early."""
        owned = [self.session_of[id] for id in self.owned()]
        if len(set(owned)) != len(owned):
            return "the new process owns a session twice"
        if both := self.here & set(owned):
            return f"both processes own {sorted(both)}"
        committed = {self.session_of[id] for id, s in self.sender.sessions.items() if s is old.Stage.COMMITTED}
        if back := committed & self.here:
            return f"the old process serves {sorted(back)}, which are committed to a living process"
        if self.touched - set(self.owned()):
            return "the new process has touched what it does not own"
        return None

    def check_old_dies(self) -> str | None:
        """The new process then owns exactly what was offered whole, not refused, and not served again since."""
        arrived = self.arriving()
        revoked = {id for message in self.to_new if isinstance(message, m.Revoke) for id in message.ids}
        refused = {id for id, stage in self.receiver.sessions.items() if stage is new.Stage.REFUSED}
        revoked |= {id for id, stage in self.receiver.sessions.items() if stage is new.Stage.REVOKED}
        self.old_dies()
        owned = set(self.owned())
        if served := owned & self.resumed:
            return f"the new process owns {sorted(served)}, which the old one has served since"
        if owned != arrived - revoked - refused:
            return f"the new process owns {sorted(owned)} of {sorted(arrived)}, less {sorted(revoked | refused)}"
        sessions = [self.session_of[id] for id in owned]
        return "the new process owns a session twice" if len(set(sessions)) != len(sessions) else None

    def arriving(self) -> set[int]:
        """The wire ids of offers of which every part is in the new process or on its way in the kernel."""
        missing = {(o.id, part) for o in self.receiver._gathering.values() for part in range(o.parts)}
        missing -= {(o.id, part) for o in self.receiver._gathering.values() for part in o.arrived}
        parts = [message for message in self.to_new if isinstance(message, m.OfferPart)]
        ids = set(self.receiver.sessions)
        for part in parts:
            ids |= set(range(part.first, part.first + part.sessions))
            missing |= {(part.offer, number) for number in range(part.parts) if part.part == 0}
        missing -= {(part.offer, part.part) for part in parts}
        spans = {o.id: o.ids for o in self.receiver._gathering.values()}
        spans |= {part.offer: range(part.first, part.first + part.sessions) for part in parts}
        return ids - {id for offer, _ in missing for id in spans[offer]}

    def check_new_dies(self) -> str | None:
        """The old process then serves every session, but those that the new one has touched."""
        touched = {self.session_of[id] for id in self.touched}
        fate = self.new_dies()
        back = [self.session_of[id] for id in (*fate.resume, *fate.restore)]
        lost = {self.session_of[id] for id in fate.lost}
        if wrong := touched & set(back):
            return f"the old process goes on with {sorted(wrong)}, which the new one has touched"
        if self.settled_when_it_died:  # it notes no touches any more, and had everything
            touched = self.all - self.here
        if lost != touched:
            return f"{sorted(lost)} are given up, and {sorted(touched)} were touched"
        if set(back) & self.here or len(set(back)) != len(back):
            return f"a session comes back twice: {back}, with {sorted(self.here)} served already"
        if self.here | set(back) | lost != self.all:
            return "a session has nobody"
        return None


def explore(start: World) -> str | None:
    """Visit every state that can be reached; return the first wrong thing and how it came about."""
    seen = {start.key()}
    waiting: list[tuple[World, tuple[str, ...]]] = [(start, ())]
    for world, path in waiting:
        if problem := judge(world):
            return told(problem, path)
        for name, step in world.steps():
            following = world.twin()
            if problem := take(step, following):
                return told(problem, (*path, name))
            key = following.key()
            if key not in seen:
                seen.add(key)
                waiting.append((following, (*path, name)))
    return None


def walk(world: World, choice: random.Random) -> str | None:
    """Go one random way to its end; return the first wrong thing and how it came about."""
    path: list[str] = []
    while True:
        if problem := judge(world):
            return told(problem, path)
        steps = list(world.steps())
        if not steps:
            return None
        name, step = choice.choice(steps)
        path.append(name)
        if problem := take(step, world):
            return told(problem, path)


def told(problem: str, path: Iterable[str]) -> str:
    return f"{problem}; after: {', '.join(path) or 'nothing'}"


def take(step: Step, world: World) -> str | None:
    try:
        step(world)
    except (ChannelError, ValueError) as error:
        return f"an honest side was refused: {error}"
    return None


def judge(world: World) -> str | None:
    try:
        return (
            world.check_alive()
            or after("the old process died", world.twin().check_old_dies)
            or after("the new process died", world.twin().check_new_dies)
        )
    except ChannelError as error:
        return f"a survivor refused what an honest process had said: {error}"


def after(what: str, check: Callable[[], str | None]) -> str | None:
    problem = check()
    return f"{what}: {problem}" if problem else None


# ---------------------------------------------------------------- what holds


@pytest.mark.parametrize(("sessions", "offers"), [(2, 1), (1, 3)], ids=["two-in-one-offer", "one-offered-again"])
def test_in_every_state_a_session_has_one_owner_whoever_dies(sessions: int, offers: int) -> None:
    assert explore(World(sessions, offers)) is None


@pytest.mark.parametrize("seed", range(WALKS))
def test_on_a_random_way_a_session_has_one_owner_whoever_dies(seed: int) -> None:
    assert walk(World(3, 6), random.Random(seed)) is None


def test_the_exploration_comes_to_every_stage_and_every_phase() -> None:
    stages: set[object] = set()

    class Watched(World):
        def check_alive(self) -> str | None:
            stages.update(self.sender.sessions.values(), self.receiver.sessions.values())
            stages.update((self.sender.phase, self.receiver.phase))
            return super().check_alive()

    assert explore(Watched(2, 1)) is None
    ends = {old.Stage.RETURNED, old.Stage.LOST, old.Phase.FAILED, new.Phase.ORPHANED}  # on copies, in judge()
    before = {old.Phase.STARTING, old.Phase.PREPARING, new.Phase.STARTING, new.Phase.PREPARING, new.Phase.ABORTED}
    assert stages == {*old.Stage, *old.Phase, *new.Stage, *new.Phase} - ends - before


# ---------------------------------------------------------------- that it would be seen


class ResumesTooEarly(World):
    """Serves a revoked session again before the revocation is in the kernel."""

    def revoke(self, ids: list[int]) -> None:
        super().revoke(ids)
        self.resume(ids)


class OrphanedTooEarly(World):
    """Inherits without having read the channel to its end."""

    def read_to_the_end(self) -> None:
        pass


class CommitsTooEarly(World):
    """Commits what nobody has accepted."""

    class sender_type(old.Sender):  # noqa: N801 - in the place of the attribute
        def commit(self, ids: Iterable[int]) -> list[m.Message]:
            wanted = list(ids)
            self.sessions.update((id, old.Stage.COMMITTED) for id in wanted)
            return [m.Commit(wanted)]

    def committable(self) -> list[int]:
        return self.sender.open_sessions()


class OwnsTooEarly(World):
    """Takes its own acceptance for the commit."""

    class receiver_type(new.Receiver):  # noqa: N801
        def accept(self, ids: Iterable[int]) -> list[m.Message]:
            said = super().accept(ids)
            self.sessions.update(
                (id, new.Stage.OWNED) for id, stage in self.sessions.items() if stage is new.Stage.ACCEPTED
            )
            return said


class RevokesTooLate(World):
    """Takes back what it has committed to a living process."""

    class sender_type(old.Sender):  # noqa: N801
        def open_sessions(self) -> list[int]:
            given = {*old.OPEN, old.Stage.COMMITTED}
            return [id for id, stage in self.sessions.items() if stage in given]

        def revoke(self, ids: Iterable[int]) -> list[m.Message]:
            wanted = list(ids)
            self.sessions.update((id, old.Stage.REVOKED) for id in wanted)
            return [m.Revoke(wanted)]


class InheritsHalves(World):
    """Takes what it has a part of for its own."""

    class receiver_type(new.Receiver):  # noqa: N801
        def orphaned(self) -> list[int]:
            halves = [id for id, stage in self.sessions.items() if stage is new.Stage.GATHERING]
            self.sessions.update((id, new.Stage.OWNED) for id in halves)
            return halves + super().orphaned()


class RestoresTheTouched(World):
    """Goes on with what the other process had acted on."""

    def new_dies(self) -> old.TakenBack:
        self.touched, touched = set(), self.touched
        fate = super().new_dies()
        self.touched = touched
        return fate


class ForgetsTheCommitted(World):
    """Does not take back what it had committed."""

    def new_dies(self) -> old.TakenBack:
        fate = super().new_dies()
        fate.restore.clear()
        return fate


class BearsNoLateAnswer(World):
    """Takes an answer that crosses a revocation for a mistake."""

    class sender_type(old.Sender):  # noqa: N801
        def _answer(self, ids: list[int], stage: old.Stage) -> list[int]:
            if any(self.sessions.get(id) is old.Stage.REVOKED for id in ids):
                raise ChannelError("late")
            return super()._answer(ids, stage)


class BearsNoCrossedRevocation(World):
    """Takes a revocation that crosses a refusal for a mistake."""

    class receiver_type(new.Receiver):  # noqa: N801
        def receive(self, message: m.Message) -> list[int]:
            if isinstance(message, m.Revoke) and any(self.sessions[id] is new.Stage.REFUSED for id in message.ids):
                raise ChannelError("crossed")
            return super().receive(message)


MISTAKES: dict[type[World], str] = {
    ResumesTooEarly: "the old process died: the new process owns",
    OrphanedTooEarly: "the old process died: the new process owns",
    CommitsTooEarly: "refused",
    OwnsTooEarly: "which the new one has touched|both processes own",
    RevokesTooLate: "refused|both processes own",
    InheritsHalves: "the old process died: the new process owns",
    RestoresTheTouched: "the new process died: the old process goes on with",
    ForgetsTheCommitted: "the new process died: a session has nobody",
    BearsNoLateAnswer: "refused.*: late",
    BearsNoCrossedRevocation: "refused.*: crossed",
}


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.__name__)
def test_a_planted_mistake_is_found(mistake: type[World]) -> None:
    problem = explore(mistake(2, 1))
    assert problem is not None
    assert re.search(MISTAKES[mistake], problem), problem
