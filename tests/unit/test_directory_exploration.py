"""No session ever exists twice: several processes with their directories, in every interleaving within bounds.

The world is a service of up to four generations. The directories in it are the real ones; around them is what a
process does with their verdicts (``server/rooms.py``), how generations get to know each other (``server/neighbours.py``),
and how sessions move (a handoff's own channel, on which the links' messages go too, and the other one of what had stayed
behind). Any process dies at any time; what it has said is still read, and each neighbour notices in its own time.

Three questions are asked in every state: is there a session twice, has anything moved backwards, and, when everything
has been read and every handoff has ended, does anybody still wait for a session that nobody has.
"""

from __future__ import annotations

import copy
import random
import re
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, ClassVar, TypeVar

import pytest

from hotfd.server.directory import Directory, Verdict
from hotfd.wire import messages as m

WALKS = 50
"""Random ways through worlds that are too large to be seen whole, in each of twenty tests; half a second."""

TRIES = 5000
"""Random ways on which a planted mistake is looked for; the rarest is met on one in a thousand."""

DEATH = 0.04
"""How often something dies on a random way, of all that happens."""

MAX_STATES = 400_000
"""States of an exploration that is meant to be seen whole; more means that its bounds are too wide."""

T = TypeVar("T")
Step = Callable[["World"], None]
Word = tuple[Any, ...]
"""A message as a plain tuple, which copies of the world share: its kind, and what it says."""

LINK, FOLLOW = "link", "follow"
"""The two channels from one process to another: the link, and that of what had stayed behind."""


class Violation(Exception):  # noqa: N818 - reads as what it is
    """Something was seen that must not be."""


class End:
    """One end of a link, the same in all copies of the world: what is sent on it goes to the world of the moment."""

    def __init__(self, owner: int, other: int) -> None:
        self.owner = owner
        self.other = other
        self.newer = other > owner
        self.up = True

    def __repr__(self) -> str:
        return f"{self.owner}-{self.other}"

    def send(self, message: m.Message) -> None:
        match message:
            case m.Holds(keys=keys, last=last):
                World.now.say(self.owner, self.other, "holds", tuple(keys), last)
            case m.Released(key=key):
                World.now.say(self.owner, self.other, "released", key)
            case m.Wanted(key=key):
                World.now.say(self.owner, self.other, "wanted", key)


ENDS = {(owner, other): End(owner, other) for owner in range(5) for other in range(5) if owner != other}


def message_of(word: Word) -> m.Message | None:
    """The directory's message that a word stands for."""
    match word:
        case "holds", keys, last:
            return m.Holds(list(keys), last)
        case "released", key:
            return m.Released(key)
        case "wanted", key:
            return m.Wanted(key)
    return None


class Process:
    """One generation: its directory, and everything around it that matters.

    Attributes:
        sessions: the keys of its shared sessions.
        waiting: the keys that connections of it wait for.
        due: what is to move since somebody waits: keys of sessions, and with a ``?`` in front wishes to join.
        phase: alone, moving, finished or replaced, as the old process of a handoff.
        predecessor: which process has started it, for a handoff.
        settled: whether it owns what it serves.
        serving: whether connections may be in it.
        newer, older: the neighbours that count.
        closed: those to whom it has closed its channel.
        introduced: those that do not count yet, and who has brought them.
        escrow: what it has given away and would take back, and to whom.
    """

    def __init__(self, number: int, directory: type[Directory], predecessor: int | None = None) -> None:
        self.number = number
        self.predecessor = predecessor
        self.directory = directory(partial(held, number), partial(woken, number), partial(wanted, number))
        self.alive = True
        self.settled = number == 0
        self.serving = number == 0
        self.phase = "alone"
        self.newer: int | None = None
        self.older: dict[int, bool] = {}
        """Older neighbours, and whether they know the process that is to replace this one."""
        self.introduced: dict[int, int] = {}
        self.closed: set[int] = set()
        self.sessions: set[str] = set()
        self.waiting: set[str] = set()
        self.due: set[str] = set()
        self.escrow: dict[str, int] = {}

    def key(self) -> tuple[object, ...]:
        return (
            self.alive,
            self.settled,
            self.serving,
            self.phase,
            self.newer,
            frozenset(self.older.items()),
            frozenset(self.introduced.items()),
            frozenset(self.closed),
            frozenset(self.sessions),
            frozenset(self.waiting),
            frozenset(self.due),
            frozenset(self.escrow.items()),
            *(frozen(value) for value in vars(self.directory).values()),
        )

    def twin(self) -> Process:
        other = copied(self)
        other.directory = copied(self.directory)
        other.directory._below = {key: dict(holders) for key, holders in self.directory._below.items()}
        return other


def copied(original: T) -> T:
    """A copy whose containers are its own."""
    other = copy.copy(original)
    for name, value in vars(other).items():
        if isinstance(value, (dict, list, set)):
            setattr(other, name, value.copy())
    return other


def frozen(value: object) -> object:
    if isinstance(value, dict):
        return frozenset((str(key), frozen(inner)) for key, inner in value.items())
    return frozenset(map(str, value)) if isinstance(value, set) else str(value) if isinstance(value, End) else value


def held(number: int) -> list[str]:
    return sorted(World.now.processes[number].sessions)


def woken(number: int, key: str | None) -> None:
    World.now.wakes.append((number, key))


def wanted(number: int, key: str) -> None:
    process = World.now.processes[number]
    if key in process.sessions:
        process.due.add(key)


class World:
    """Where everything stands.

    Args:
        generations: how many processes there can be.
        keys: of sessions.
        joins, leaves, deaths: how many of them there can be.
    """

    now: ClassVar[World]
    directory: ClassVar[type[Directory]] = Directory

    def __init__(self, generations: int, keys: str, *, joins: int, leaves: int, deaths: int) -> None:
        self.generations = generations
        self.keys = keys
        self.left = {"join": joins, "leave": leaves, "die": deaths}
        self.processes = [Process(0, self.directory)]
        self.queues: dict[tuple[int, int, str], list[Word]] = {}
        self.wakes: list[tuple[int, str | None]] = []

    def key(self) -> tuple[object, ...]:
        queues = frozenset((way, tuple(queue)) for way, queue in self.queues.items() if queue)
        return (*(process.key() for process in self.processes), queues, tuple(self.left.values()))

    def twin(self) -> World:
        other = copy.copy(self)
        other.left = self.left.copy()
        other.processes = [process.twin() for process in self.processes]
        other.queues = {way: queue.copy() for way, queue in self.queues.items() if queue}
        other.wakes = []
        return other

    def take(self, step: Step) -> None:
        """Do one thing, and what follows from it at once."""
        World.now = self
        step(self)
        while self.wakes:
            number, key = self.wakes.pop(0)
            process = self.processes[number]
            for wish in sorted(process.waiting) if process.alive else ():
                if key is None or key == wish:
                    self.admit(process, wish)
        self.check()

    # -- what is said --------------------------------------------------------------------------------

    def say(self, origin: int, to: int, *word: object, way: str = LINK) -> None:
        receiver = self.processes[to]
        if receiver.alive and (way == FOLLOW or origin not in receiver.closed):
            self.queues.setdefault((origin, to, way), []).append(word)
        else:
            self.lose(to, word)

    def lose(self, to: int, word: Word) -> None:
        """Nobody reads this: an end of a channel in it is closed, as the other end learns."""
        if word[0] in {"newest", "elder"} and self.processes[to].alive:
            self.say(to, word[1], "end")

    def close(self, process: Process, other: int) -> None:
        """A process closes its channel to another one."""
        process.closed.add(other)
        for word in self.queues.pop((other, process.number, LINK), []):
            self.lose(process.number, word)
        self.say(process.number, other, "end")

    def read(self, origin: int, to: int, way: str) -> None:
        """A process takes the next thing that another one has said to it."""
        word = self.queues[origin, to, way].pop(0)
        process = self.processes[to]
        if (message := message_of(word)) is not None:
            process.directory.received(ENDS[to, origin], message)  # type: ignore[arg-type]
            return
        self.read_of_neighbours(process, origin, word)
        self.read_of_sessions(process, origin, word, way)

    def read_of_neighbours(self, process: Process, origin: int, word: Word) -> None:
        to = process.number
        match word:
            case ("linked",):
                self.read_linked(process, origin)
            case ("newest", other):
                for former in [known for known, by in process.introduced.items() if known > to and by == origin]:
                    self.drop_introduced(process, former)
                    self.close(process, former)
                self.meet(process, other, origin)
            case ("elder", other):
                self.meet(process, other, origin)
            case ("replaced",) if origin < to:
                self.promote(process, origin)
            case ("replaced",):
                self.close(process, origin)
                self.lose_neighbour(process, origin)
            case ("end",):
                self.lose_neighbour(process, origin)

    def read_of_sessions(self, process: Process, origin: int, word: Word, way: str) -> None:
        to = process.number
        match word:
            case ("commit", key):
                if way == FOLLOW:
                    self.say(to, origin, "kept", key, way=FOLLOW)
                self.arrive(process, key)
            case ("kept", key):
                process.escrow.pop(key, None)
            case ("finish",):
                process.settled = True
                self.say(to, origin, "settled")
            case ("settled",):
                self.read_settled(process)

    # -- neighbours ----------------------------------------------------------------------------------

    def begin(self, number: int) -> None:
        """A handoff: the new process is ready, and nothing has moved."""
        process = self.processes[number]
        new = len(self.processes)
        self.processes.append(Process(new, self.directory, number))
        process.phase = "moving"
        self.connect(process, new)

    def connect(self, process: Process, other: int) -> None:
        """What ``Links.connect`` does: a neighbour counts from here on."""
        if other > process.number:
            process.newer = other
            self.say(process.number, other, "linked")
        else:
            process.older[other] = False
        for older in list(process.older) if other > process.number else [other]:
            if process.newer is not None and not process.older[older]:
                process.older[older] = True
                self.say(process.number, older, "newest", process.newer)
                self.say(process.number, process.newer, "elder", older)
            if process.phase == "replaced":
                self.let_part(process, older)
        process.directory.connected(ENDS[process.number, other])  # type: ignore[arg-type]

    def meet(self, process: Process, other: int, by: int) -> None:
        process.closed.discard(other)
        process.introduced[other] = by
        process.directory.connected(ENDS[process.number, other])  # type: ignore[arg-type]

    def read_linked(self, process: Process, origin: int) -> None:
        process.serving = True
        if process.introduced.pop(origin, None) is not None or origin not in process.older:
            self.connect(process, origin)

    def promote(self, process: Process, by: int) -> None:
        for other in [other for other, introducer in process.introduced.items() if introducer == by]:
            del process.introduced[other]
            self.connect(process, other)
            if other > process.number:
                process.due |= process.sessions

    def part(self, process: Process, other: int) -> None:
        """What ``Links.disconnect`` does: a neighbour counts no more."""
        if process.newer == other:
            process.newer = None
            for older in process.older:
                if process.phase == "replaced":
                    self.let_part(process, older)
                else:
                    process.older[older] = False
        process.older.pop(other, None)
        self.promote(process, other)
        process.directory.disconnected(ENDS[process.number, other])  # type: ignore[arg-type]

    def lose_neighbour(self, process: Process, other: int) -> None:
        if other in process.introduced:
            self.drop_introduced(process, other)
        elif process.newer == other or other in process.older:
            self.part(process, other)

    def drop_introduced(self, process: Process, other: int) -> None:
        by = process.introduced.pop(other)
        process.introduced = {known: by if was == other else was for known, was in process.introduced.items()}
        process.directory.disconnected(ENDS[process.number, other])  # type: ignore[arg-type]

    def read_settled(self, process: Process) -> None:
        process.phase = "replaced"
        process.escrow.clear()
        process.directory.replaced()
        if process.newer is not None:
            self.say(process.number, process.newer, "replaced")
        for older in process.older:
            self.let_part(process, older)

    def let_part(self, process: Process, older: int) -> None:
        if process.older[older] or process.newer is None:
            self.say(process.number, older, "replaced")

    # -- sessions and connections --------------------------------------------------------------------

    def join(self, number: int, key: str) -> None:
        self.left["join"] -= 1
        self.processes[number].waiting.add(key)
        self.admit(self.processes[number], key)

    def admit(self, process: Process, key: str) -> None:
        """What ``Rooms.admit`` does."""
        process.due.discard(f"?{key}")
        if key in process.sessions:
            process.waiting.discard(key)
            return
        match process.directory.verdict(key):
            case Verdict.CREATE:
                process.waiting.discard(key)
                self.serve(process, key)
            case Verdict.ORPHANED:
                process.waiting.discard(key)
            case Verdict.MOVE:
                process.due.add(f"?{key}")

    def serve(self, process: Process, key: str) -> None:
        if key in process.sessions:
            raise Violation(f"{key} comes twice to process {process.number}")
        process.sessions.add(key)
        process.directory.arrived(key)

    def arrive(self, process: Process, thing: str) -> None:
        """A session has come, or a connection with its wish."""
        if thing[0] != "?":
            self.serve(process, thing)
        else:
            process.waiting.add(thing[1:])
            self.admit(process, thing[1:])

    def over(self, number: int, key: str) -> None:
        """The last connection has left the session."""
        self.left["leave"] -= 1
        process = self.processes[number]
        process.sessions.discard(key)
        process.due.discard(key)
        process.directory.released(key)
        woken(number, key)

    def move(self, number: int, thing: str, way: str) -> None:
        """A session, or a connection with its wish, is committed to the newer process."""
        process = self.processes[number]
        assert process.newer is not None
        if process.newer < number:
            raise Violation("a session moves backwards")
        process.due.discard(thing)
        (process.waiting if thing[0] == "?" else process.sessions).discard(thing.lstrip("?"))
        process.escrow[thing] = process.newer
        if way == FOLLOW:
            self.say(number, process.newer, "handover")
        self.say(number, process.newer, "commit", thing, way=way)
        woken(number, thing.lstrip("?"))

    # -- death ---------------------------------------------------------------------------------------

    def die(self, number: int, *, touched: bool) -> None:
        """A process dies; what was given to it and has been read is touched, or not. What it has said stays."""
        self.left["die"] -= 1
        dead = self.processes[number]
        unread = {
            word[1] for way, queue in self.queues.items() if way[1] == number for word in queue if word[0] == "commit"
        }
        for process in self.processes:
            for thing in [thing for thing, to in process.escrow.items() if to == number and thing not in unread]:
                if touched:
                    del process.escrow[thing]
        for way in [way for way in self.queues if way[1] == number]:
            del self.queues[way]
        fresh = Process(number, self.directory, dead.predecessor)
        fresh.alive = False
        fresh.phase = dead.phase
        self.processes[number] = fresh

    def notice(self, number: int, other: int) -> None:
        """A process has read everything that a dead neighbour has said, and parts from it."""
        process = self.processes[number]
        self.read_out(number, other, LINK)
        self.read_out(number, other, FOLLOW)
        self.take_back(process, other)
        self.leave_to(process, other)

    def read_out(self, number: int, other: int, way: str) -> None:
        while self.queues.get((other, number, way)):
            self.read(other, number, way)

    def take_back(self, process: Process, other: int) -> None:
        for thing in [thing for thing, to in process.escrow.items() if to == other]:
            del process.escrow[thing]
            self.arrive(process, thing)

    def leave_to(self, process: Process, other: int) -> None:
        if process.phase in {"moving", "finished"} and process.newer == other:
            process.phase = "alone"
            process.due.clear()
        if other == process.predecessor:
            process.settled = True
        self.lose_neighbour(process, other)

    # -- what can happen next ------------------------------------------------------------------------

    def steps(self) -> Iterator[tuple[str, Step]]:
        yield from self.consequences()
        for process in self.processes:
            if process.alive:
                yield from self.wishes(process)
                yield from self.moves(process)

    def consequences(self) -> Iterator[tuple[str, Step]]:
        """What happens by itself, sooner or later."""
        for (origin, to, way), queue in self.queues.items():
            if queue and (self.announced(origin, to) if way == FOLLOW else self.linked(self.processes[to], origin)):
                yield f"{to} reads {queue[0]} of {origin}", lambda w, o=origin, t=to, y=way: w.read(o, t, y)
        for process in self.processes:
            if process.alive:
                for other in self.processes:
                    if not other.alive and self.linked(process, other.number):
                        names = process.number, other.number
                        yield f"{names[0]} notices the death of {names[1]}", lambda w, n=names: w.notice(*n)

    def announced(self, origin: int, to: int) -> bool:
        """Whether a process has read on the link of the other channel."""
        return ("handover",) not in self.queues.get((origin, to, LINK), [])

    def linked(self, process: Process, other: int) -> bool:
        """Whether a process has a channel to another: it comes with a message, or was there when it was started."""
        started_by = other == process.predecessor and not process.serving
        neighbours = {process.newer, *process.older, *process.introduced, *process.escrow.values()}
        return started_by or other in neighbours

    def wishes(self, process: Process) -> Iterator[tuple[str, Step]]:
        n = process.number
        for key in self.keys if self.left["join"] and process.serving else ():
            if key not in process.waiting | process.sessions:
                yield f"a connection of {n} joins {key}", lambda w, k=key: w.join(n, k)
        for key in sorted(process.sessions) if self.left["leave"] else ():
            yield f"{key} ends in {n}", lambda w, k=key: w.over(n, k)
        if self.left["die"]:
            for touched in (False, True):
                yield f"{n} dies{' with what it touched' * touched}", lambda w, t=touched: w.die(n, touched=t)

    def moves(self, process: Process) -> Iterator[tuple[str, Step]]:
        n = process.number
        if process.phase == "moving":
            for thing in [*sorted(process.sessions), *(f"?{key}" for key in sorted(process.waiting))]:
                yield f"{thing} moves from {n}", lambda w, t=thing: w.move(n, t, LINK)
            yield f"{n} finishes", lambda w: w.finish(n)
        if self.may_begin(process):
            yield f"{n} hands over", lambda w: w.begin(n)
        yield from self.remainders(process)

    def may_begin(self, process: Process) -> bool:
        coming = any(queue and way[1:] == (process.number, FOLLOW) for way, queue in self.queues.items())
        return (
            process.phase == "alone"
            and process.settled
            and process.newer is None
            and len(self.processes) < self.generations
            and process.number == max(other.number for other in self.processes if other.settled or other.alive)
            and not coming
        )

    def finish(self, number: int) -> None:
        process = self.processes[number]
        process.phase = "finished"
        assert process.newer is not None
        self.say(number, process.newer, "finish")

    def remainders(self, process: Process) -> Iterator[tuple[str, Step]]:
        """What had stayed behind moves when somebody waits for it."""
        n, newer = process.number, process.newer
        held_up = any(other > n for other in process.introduced)
        if process.phase != "replaced" or newer is None or held_up or process.escrow:
            return
        if self.processes[newer].alive and self.processes[newer].phase == "alone" and n in self.processes[newer].older:
            for thing in sorted(process.due):
                yield f"{thing} follows from {n}", lambda w, t=thing: w.move(n, t, FOLLOW)

    # -- the questions -------------------------------------------------------------------------------

    def check(self) -> None:
        """No session exists twice; one on its way exists where it goes."""
        places: list[tuple[str, str]] = []
        for process in self.processes:
            if process.alive:
                places += [(key, f"in {process.number}") for key in process.sessions]
        for (origin, to, _), queue in self.queues.items():
            places += [(word[1], f"on its way from {origin} to {to}") for word in queue if word[0] == "commit"]
        for key in self.keys:
            if len(found := [place for name, place in places if name == key]) > 1:
                raise Violation(f"{key} exists twice: {' and '.join(found)}")

    def come_to_rest(self) -> None:
        """Everything is read, every handoff comes to its end, and what somebody waits for moves; then nobody waits."""
        for _ in range(1000):
            steps = list(self.consequences())
            for process in self.processes if not steps else ():
                if process.alive:
                    steps += [(name, step) for name, step in self.moves(process) if name.endswith("finishes")]
                    steps += list(self.remainders(process))
            if not steps:
                break
            _, step = steps[0]
            self.take(step)
        else:
            raise Violation("it never comes to rest")
        for process in self.processes:
            if process.alive and process.waiting:
                holders = [other.number for other in self.processes if process.waiting & other.sessions]
                raise Violation(
                    f"at rest {process.number} waits for {process.waiting}, which {holders or 'nobody'} has"
                )


# ---------------------------------------------------------------- seeing all of it


def explore(start: World) -> str | None:
    """Visit every state that can be reached; return the first wrong thing and how it came about."""
    seen = {start.key()}
    waiting: list[tuple[World, tuple[Any, ...]]] = [(start, ())]
    for world, path in waiting:
        if problem := tried(world.twin(), World.come_to_rest):
            return told(problem, path)
        for name, step in world.steps():
            following = world.twin()
            if problem := tried(following, lambda w, s=step: w.take(s)):
                return told(problem, (path, name))
            key = following.key()
            if key not in seen:
                seen.add(key)
                assert len(seen) < MAX_STATES
                waiting.append((following, (path, name)))
    return None


def walk(world: World, choice: random.Random) -> str | None:
    """Go one random way to its end; return the first wrong thing and how it came about."""
    path: tuple[Any, ...] = ()
    while True:
        if problem := tried(world.twin(), World.come_to_rest):
            return told(problem, path)
        steps = list(world.steps())
        if not steps:
            return None
        rare = [step for step in steps if " dies" in step[0]]
        common = [step for step in steps if " dies" not in step[0]]
        name, step = choice.choice(rare if rare and (not common or choice.random() < DEATH) else common)
        path = (path, name)
        if problem := tried(world, lambda w, s=step: w.take(s)):
            return told(problem, path)


def tried(world: World, what: Callable[[World], None]) -> str | None:
    try:
        what(world)
    except Violation as violation:
        return str(violation)
    return None


def told(problem: str, path: tuple[Any, ...]) -> str:
    names: list[str] = []
    while path:
        path, name = path
        names.append(name)
    return f"{problem}; after: {', '.join(reversed(names)) or 'nothing'}"


# ---------------------------------------------------------------- what holds


@pytest.mark.parametrize(
    ("generations", "joins", "deaths"), [(2, 2, 1), (3, 1, 0)], ids=["two-of-which-one-dies", "three"]
)
def test_in_every_state_a_session_is_in_one_place_at_most_and_nobody_waits_in_vain(
    generations: int, joins: int, deaths: int
) -> None:
    assert explore(World(generations, "a", joins=joins, leaves=1, deaths=deaths)) is None


@pytest.mark.parametrize("part", range(20))
def test_on_a_random_way_a_session_is_in_one_place_at_most_and_nobody_waits_in_vain(part: int) -> None:
    for seed in range(part * WALKS, (part + 1) * WALKS):
        assert walk(large(), random.Random(seed)) is None, f"with the seed {seed}"


def large(kind: type[World] = World) -> World:
    return kind(4, "ab", joins=8, leaves=4, deaths=2)


def test_the_ways_come_to_everything_that_can_happen() -> None:
    seen: set[str] = set()

    class Watched(World):
        def admit(self, process: Process, key: str) -> None:
            if key not in process.sessions:
                seen.add(process.directory.verdict(key).value)
            super().admit(process, key)

        def read(self, origin: int, to: int, way: str) -> None:
            seen.add(self.queues[origin, to, way][0][0])
            super().read(origin, to, way)

        def take_back(self, process: Process, other: int) -> None:
            seen.update("taken back" for to in process.escrow.values() if to == other)
            super().take_back(process, other)

    for seed in range(100):
        walk(large(Watched), random.Random(seed))
    links = {"linked", "holds", "released", "wanted", "newest", "elder", "replaced", "handover", "end"}
    moves = {"commit", "kept", "finish", "settled", "taken back"}
    assert seen == links | moves | {verdict.value for verdict in Verdict}


# ---------------------------------------------------------------- that it would be seen


class CreatesTooEarly(World):
    """Makes a session although it does not know yet what older processes have."""

    class directory(Directory):  # noqa: N801 - in the place of the attribute
        @property
        def _complete(self) -> bool:
            return True


class BelievesTheHub(World):
    """Takes a key for free when who has passed it on has it no more, though a silent one may have it."""

    class directory(Directory):  # noqa: N801
        def _withdraw(self, link: Any, key: str) -> None:
            super()._withdraw(link, key)
            if key in self._doubtful:
                self._forget(key)
                self.released(key)


class KeepsOneHolder(World):
    """Remembers of a key only who has named it last."""

    class directory(Directory):  # noqa: N801
        def _heard(self, link: Any, keys: list[str], *, last: bool) -> None:
            for key in keys:
                self._below.pop(key, None)
            super()._heard(link, keys, last=last)


class TellsOnlyItsOwn(World):
    """Does not pass on which keys older processes have."""

    class directory(Directory):  # noqa: N801
        def _tell(self, newer: Any, keys: Iterable[str]) -> None:
            super()._tell(newer, [key for key in keys if key in self._held()])


class GoesOnAlone(World):
    """Makes sessions again when the process that has replaced it is gone, as others like it do."""

    class directory(Directory):  # noqa: N801
        def replaced(self) -> None:
            pass


class CreatesBesideTheNewer(World):
    """Makes a session although a newer process is there."""

    class directory(Directory):  # noqa: N801
        def verdict(self, key: str) -> Verdict:
            found = super().verdict(key)
            return Verdict.CREATE if found is Verdict.MOVE and key not in self._below else found


class NeverAsks(World):
    """Waits for a session, and tells nobody."""

    class directory(Directory):  # noqa: N801
        def _ask(self, wanted: m.Wanted) -> None:
            pass


class NeverReleases(World):
    """Does not say that a session has ended."""

    class directory(Directory):  # noqa: N801
        def released(self, key: str) -> None:
            self._wake(key)


class IntroducesTooLate(World):
    """Makes the older processes known to the newest only when that has settled."""

    def connect(self, process: Process, other: int) -> None:
        if other < process.number or process.phase != "moving":
            super().connect(process, other)
            return
        older, process.older = process.older, {}
        super().connect(process, other)
        process.older = older

    def read_settled(self, process: Process) -> None:
        super().read_settled(process)
        for older in process.older if process.newer is not None else ():
            self.say(process.number, older, "newest", process.newer)
            self.say(process.number, process.newer or 0, "elder", older)
            self.say(process.number, older, "replaced")


class PartsTooEarly(World):
    """Parts from a dead process before it has taken what that has handed over."""

    def notice(self, number: int, other: int) -> None:
        process = self.processes[number]
        self.read_out(number, other, LINK)
        self.take_back(process, other)
        self.leave_to(process, other)
        while self.wakes:
            woken_number, key = self.wakes.pop(0)
            for wish in sorted(self.processes[woken_number].waiting):
                if key is None or key == wish:
                    self.admit(self.processes[woken_number], wish)
        self.read_out(number, other, FOLLOW)


MISTAKES: dict[type[World], tuple[str, int]] = {
    CreatesTooEarly: ("exists twice", 7),
    BelievesTheHub: ("exists twice", 850),
    KeepsOneHolder: ("exists twice", 13),
    TellsOnlyItsOwn: ("exists twice", 154),
    GoesOnAlone: ("exists twice", 8),
    CreatesBesideTheNewer: ("exists twice", 0),
    NeverAsks: ("waits for", 0),
    NeverReleases: ("waits for", 0),
    IntroducesTooLate: ("exists twice", 505),
    PartsTooEarly: ("twice", 1372),
}
"""What is seen of each, and with which seed it was seen once; that one is tried first."""


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.__name__)
def test_a_planted_mistake_is_found(mistake: type[World]) -> None:
    symptom, once = MISTAKES[mistake]
    problems = (walk(large(mistake), random.Random(seed)) for seed in (once, *range(TRIES)))
    assert any(problem is not None and re.search(symptom, problem.partition(";")[0]) for problem in problems)
