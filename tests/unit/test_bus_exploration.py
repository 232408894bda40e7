"""The order of the bus in several processes: every interleaving within bounds, and a death at every point.

The world is up to three processes, the queues between them (which outlive their writer, as the kernel's do), and
subscribers, one of which moves. Each state that can be reached is visited once; from each, the world comes to rest
in the one way that the links' rules leave, and every subscriber alive is asked what it was given.
"""

from __future__ import annotations

import pickle
import random
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from hotfd.server import order, order_links
from hotfd.server.order import Order, later_of
from hotfd.wire import messages as m

if TYPE_CHECKING:
    from hotfd.server.order_log import Entry

WALKS = 300
"""Random ways through worlds that are too large to be seen whole."""

OPTIONAL = ("offered", "touched", "passed on")
"""Steps that nobody has to take."""

LONG_LIFE = 0.9
"""How often a process that could die on a random way does not: else all the ways would be short."""

Step = Callable[["World"], None]
Name = tuple[int, int]
"""A message: by whom, and the how manieth of his."""


class End:
    """One end of a link: what its owner has said and the other has not read."""

    def __init__(self, owner: int, peer: int, *, newer: bool) -> None:
        self.owner = owner
        self.peer = peer
        self.newer = newer
        self.said: list[Any] = []
        self.up = True
        self.leaving = False
        self.other: End

    def send(self, message: Any) -> None:
        if self.up:
            self.said.append(message)


class Subscriber:
    """What somebody in a process was given; ``seen`` is what came along with it and was not applied there yet."""

    def __init__(self, got: list[Name], seen: dict[bytes, int]) -> None:
        self.got = got
        self.seen = seen


class Process:
    order_type: type[Order] = Order

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.alive = True
        self.order = self.order_type(token(pid), self.applied)
        self.ends: list[End] = []
        self.subscribers: dict[str, Subscriber] = {f"native of {pid}": Subscriber([], {})}
        self.base: dict[bytes, int] | None = {} if pid == 0 else None
        self.returned: list[Name] = []
        self.offers: dict[str, tuple[list[Name], dict[bytes, int]]] = {}  # in custody here

    def applied(self, entry: Entry) -> None:
        name = pid_of(entry.origin), entry.number
        for subscriber in self.subscribers.values():
            if entry.number > subscriber.seen.get(entry.origin, 0):
                subscriber.got.append(name)
        if entry.origin == self.order.token:
            self.returned.append(name)

    @property
    def above(self) -> End | None:
        return next((end for end in self.ends if end.newer and end.up and not end.leaving), None)


def token(pid: int) -> bytes:
    return pid.to_bytes(8, "big")


def pid_of(origin: bytes) -> int:
    return int.from_bytes(origin, "big")


class World:
    """Where everything stands.

    ``mover`` is where the moving subscriber is owned, and ``fate`` what becomes of it: ``there``, ``offered``,
    ``committed``.

    Args:
        processes: how many may be started.
        publishes: how often anybody publishes.
        deaths: how many processes may die.
        moves: whether a subscriber moves.
        introduced: processes know the next newer one before the one between them dies, and are linked to it at
            once; else they are roots of their own for a while.
        passes: processes are passed on to the newest while the one between them lives.
    """

    def __init__(
        self,
        processes: int,
        publishes: int,
        deaths: int,
        *,
        moves: bool = False,
        introduced: bool = True,
        passes: bool = False,
    ) -> None:
        self.introduced = introduced
        self.passes = passes
        self.generations = processes
        self.publishes = publishes
        self.deaths = deaths
        self.processes = [Process(0)]
        self.fate = "there" if moves else "nowhere"
        self.mover = 0
        self.touched = False
        self.forked = False
        if moves:
            self.processes[0].subscribers["mover"] = Subscriber([], {})

    def twin(self) -> World:
        return pickle.loads(pickle.dumps(self))  # type: ignore[no-any-return]

    def key(self) -> str:
        parts: list[Any] = [self.publishes, self.deaths, self.fate, self.mover, self.touched, self.forked]
        for process in self.processes:
            state = process.order
            parts += [
                process.alive,
                state.applied,
                [(entry.origin, entry.number, entry.above) for entry in state.log],
                state.log._holds.keys(),
                [(post.key, post.sent) for post in state._pending._posts.values()],
                (state._waiting, state._welcomed, state._told_kept),
                [(end.peer, end.newer, end.up, list(map(repr, end.said))) for end in process.ends],
                [(name, each.got, each.seen) for name, each in process.subscribers.items()],
                process.returned,
                process.offers,
            ]
        return repr(parts)

    # -- what can happen next -----------------------------------------------------------------------

    def steps(self) -> Iterator[tuple[str, Step]]:
        alive = [process for process in self.processes if process.alive]
        for process in alive:
            pid = process.pid
            if self.publishes:
                yield f"{pid} publishes", lambda world, pid=pid: world.publish(pid)
            for at, end in enumerate(process.ends):
                if end.up and end.other.said:
                    yield f"{pid} reads {end.other.said[0]!r:.40}", lambda world, pid=pid, at=at: world.read(pid, at)
                elif end.up and (end.leaving or not self.processes[end.peer].alive):
                    yield f"{pid} sees the end of {end.peer}", lambda world, pid=pid, at=at: world.ends(pid, at)
            if self.deaths and len(alive) > 1:
                yield f"{pid} dies", lambda world, pid=pid: world.die(pid)
        if self.may_start:
            yield "a new process is linked", World.start
        for older, newer in self.strays():
            yield f"{older} is linked to {newer}", lambda world, a=older, b=newer: world.link(a, b)
        for older, newer in self.introductions():
            yield f"{older} is passed on to {newer}", lambda world, a=older, b=newer: world.pass_on(a, b)
        yield from self.moves()

    def moves(self) -> Iterator[tuple[str, Step]]:
        process = self.processes[self.mover]
        if not process.alive:
            return
        if self.fate == "there" and process.above is not None:
            yield "the mover is offered", World.offer
        if self.fate == "offered" and (above := process.above) is not None and "mover" in self.at(above.peer).offers:
            yield "the mover is committed", World.commit
        if self.fate == "committed" and not self.touched and any("mover" in p.subscribers for p in self.newer()):
            yield "the mover is touched", World.touch

    def at(self, pid: int) -> Process:
        return self.processes[pid]

    def newer(self) -> list[Process]:
        return [process for process in self.processes if process.alive and process.pid > self.mover]

    @property
    def may_start(self) -> bool:
        newest = self.processes[-1]
        return newest.alive and len(self.processes) < self.generations and not newest.order._waiting

    def strays(self) -> Iterator[tuple[int, int]]:
        """Processes whose newer neighbour has died, with the next newer one that knows of it."""
        for process in self.processes:
            if process.alive and process.above is None:
                for other in self.processes[process.pid + 1 :]:
                    dead = self.processes[process.pid + 1 : other.pid]
                    unseen = any(end.up and end.peer in {p.pid for p in dead} for end in other.ends)
                    if other.alive and dead and not any(p.alive for p in dead) and not unseen:
                        yield process.pid, other.pid

    def introductions(self) -> Iterator[tuple[int, int]]:
        """Processes that the one above them can pass on to the one above that."""
        for process in self.processes:
            above = process.above
            if process.alive and above is not None and self.passes and not self.deaths and not self.forked:
                between = self.at(above.peer)
                newer = between.above
                if between.alive and between.order._welcomed and newer is not None and self.at(newer.peer).alive:
                    yield process.pid, newer.peer

    # -- steps ---------------------------------------------------------------------------------------

    def publish(self, pid: int) -> None:
        self.publishes -= 1
        process = self.at(pid)
        if process.order.root and self.survivor(pid):
            self.forked = True
        process.order.publish("topic", b"")

    def survivor(self, pid: int) -> bool:
        """Whether a newer process lives: one that is a root all the same is one of its own."""
        return any(other.alive for other in self.processes[pid + 1 :])

    def start(self) -> None:
        self.processes.append(Process(len(self.processes)))
        self.processes[-1].order.wait()
        self.link(len(self.processes) - 2, len(self.processes) - 1)

    def link(self, older: int, newer: int) -> None:
        below, above = End(older, newer, newer=True), End(newer, older, newer=False)
        below.other, above.other = above, below
        for end in (below, above):
            self.at(end.owner).ends.append(end)
            self.at(end.owner).order.connected(end)

    def pass_on(self, older: int, newer: int) -> None:
        former = self.at(older).above
        assert former is not None
        former.leaving = former.other.leaving = True
        self.link(older, newer)

    def read(self, pid: int, at: int) -> None:
        process = self.at(pid)
        end = process.ends[at]
        message = end.other.said.pop(0)
        if isinstance(message, m.Message):
            if isinstance(message, m.Publish) and process.order.root and self.survivor(pid):
                self.forked = True
            if isinstance(message, m.BusJoin) and process.base is None:
                process.base = dict(message.applied)
            assert process.order.received(end, message)
        elif message[0] == "offer":
            process.offers["mover"] = message[1:]
            process.order.hold("mover", message[2])
        else:
            self.own(process)
        self.look()

    def own(self, process: Process) -> None:
        """Take the mover up, as the bus does."""
        if "mover" in process.offers:
            got, mark = process.offers.pop("mover")
            later = [(pid_of(entry.origin), entry.number) for entry in process.order.since(mark)]
            seen = {origin: number for origin, number in mark.items() if not process.order.has_applied(origin, number)}
            process.subscribers["mover"] = Subscriber(got + later, seen)
            process.order.release("mover")

    def offer(self) -> None:
        process = self.at(self.mover)
        assert process.above is not None
        process.order.hold("mover")
        mover = process.subscribers["mover"]
        process.above.send(("offer", mover.got.copy(), later_of(process.order.applied, mover.seen)))
        self.fate = "offered"

    def commit(self) -> None:
        process = self.at(self.mover)
        assert process.above is not None
        process.above.send(("commit",))
        process.order.release("mover")
        self.fate = "committed"

    def touch(self) -> None:
        self.touched = True

    def die(self, pid: int) -> None:
        self.deaths -= 1
        self.at(pid).alive = False

    def ends(self, pid: int, at: int) -> None:
        """Everything that a dead neighbour has said is read: it is gone for good."""
        process = self.at(pid)
        end = process.ends[at]
        end.up = False
        if end.peer == self.mover and not end.newer:
            self.own(process)  # a bequest
            if "mover" in process.subscribers:
                self.mover, self.fate = pid, "there"
        next_newer = next((each for each in self.processes[pid + 1 :] if each.alive), None)
        if end.newer and process.above is None and next_newer is not None:
            if self.introduced:
                self.link(pid, next_newer.pid)
            elif process.order._pending._posts:
                self.forked = True
        process.order.disconnected(end)
        if pid == self.mover and end.newer:  # it comes back, unless its new owner has acted for it
            if self.fate == "committed" and self.touched:
                del process.subscribers["mover"]
                self.fate = "nowhere"
            elif self.fate in {"offered", "committed"}:
                process.order.release("mover")
                self.fate = "there"
        self.look()

    def settle(self) -> None:
        """Come to rest: read everything, see every death, link what is to be linked."""
        self.publishes = self.deaths = 0
        self.generations = 0
        while True:
            step = next((step for name, step in self.steps() if not any(word in name for word in OPTIONAL)), None)
            if step is None:
                return
            step(self)

    # -- what must hold ------------------------------------------------------------------------------

    def look(self) -> None:
        """Nobody is given anything twice, or in another order than it was published in."""
        for process in self.processes:
            for name, subscriber in process.subscribers.items():
                last: dict[int, int] = {}
                for origin, number in subscriber.got:
                    before = last.setdefault(origin, number - 1)
                    assert number == before + 1, f"{name}, in {process.pid}, got {subscriber.got}"
                    last[origin] = number

    def judge(self, *, whole: bool = True) -> None:
        """At rest: everybody alive was given everything that anybody was, in one order.

        Args:
            whole: nobody can have died with a message that he alone had.
        """
        self.look()
        alive = [process for process in self.processes if process.alive]
        returned = {name for process in self.processes for name in process.returned}
        everything = returned | {name for p in alive for each in p.subscribers.values() for name in each.got}
        orders = []
        for process in alive:
            assert not process.order._pending._posts, f"{process.pid} waits for ever"
            assert not process.order.log._holds.keys() - set(process.ends), "a hold is left"
            for name, subscriber in process.subscribers.items():
                base = process.base or {}
                due = {each for each in everything if each[1] > base.get(token(each[0]), 0)}
                if name == "mover":
                    due = everything
                assert set(subscriber.got) >= due or not whole, (
                    f"{name}, in {process.pid}, got {subscriber.got} of {due}"
                )
                orders.append(subscriber.got)
        if not self.forked:
            for one in orders:
                for other in orders:
                    both = set(one) & set(other)
                    assert [x for x in one if x in both] == [x for x in other if x in both], f"{one} and {other}"


def linked(processes: int, world: World) -> World:
    """Return a world with so many processes, of which each has heard everything."""
    for _ in range(processes - 1):
        world.start()
        while step := next((step for name, step in world.steps() if " reads " in name), None):
            step(world)
    return world


def explore(world: World, limit: int) -> int:
    """Visit every state that can be reached; return how many there are."""
    seen = {world.key()}
    todo: list[tuple[bytes, tuple[str, ...]]] = [(pickle.dumps(world), ())]
    while todo:
        written, path = todo.pop()
        end, current = pickle.loads(written), pickle.loads(written)
        try:
            end.settle()
            end.judge()
            steps = list(current.steps())
            for number, (name, step) in enumerate(steps, 1):
                path_there = (*path, name)
                after = current if number == len(steps) else pickle.loads(written)
                step(after)
                if (key := after.key()) not in seen:
                    seen.add(key)
                    todo.append((pickle.dumps(after), path_there))
        except AssertionError as error:
            raise AssertionError(f"{error}\nafter " + "\n      ".join(path)) from error
        assert len(seen) <= limit, "the world has grown; give it tighter bounds"
    return len(seen)


def walk(world: World, seed: int) -> None:
    """One random way to the end."""
    dice = random.Random(seed)
    path = []
    whole = world.deaths <= 1  # a root that dies while the one below is dead already has told nobody
    try:
        while steps := list(world.steps()):
            name, step = dice.choice(steps)
            if "dies" in name and dice.random() < LONG_LIFE:
                continue
            path.append(name)
            step(world)
        world.settle()
        world.judge(whole=whole)
    except AssertionError as error:
        raise AssertionError(f"{error}\nseed {seed}, after " + "\n      ".join(path)) from error


@pytest.mark.parametrize(
    "world",
    [
        World(2, publishes=1, deaths=1, moves=True),
        World(2, publishes=2, deaths=1),
        linked(2, World(3, publishes=1, deaths=1)),
        pytest.param(linked(3, World(3, publishes=1, deaths=0, passes=True)), marks=pytest.mark.long),
    ],
    ids=["a subscriber moves", "two publish", "three generations", "a process is passed on"],
)
def test_everybody_is_given_everything_once_and_in_one_order_whoever_dies_when(world: World) -> None:
    assert explore(world, limit=60_000) > 1000


@pytest.mark.parametrize("introduced", [True, False], ids=["known", "unknown"])
@pytest.mark.parametrize("moves", [True, False], ids=["a subscriber moves", "processes are passed on"])
@pytest.mark.parametrize(("window", "deaths"), [(512, 0), (512, 1), (512, 2), (1, 0)])
def test_nobody_loses_anything_on_random_ways_through_larger_worlds(
    window: int, deaths: int, moves: bool, introduced: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(order_links, "WINDOW", window)
    monkeypatch.setattr(order, "ACK_EVERY", 1)
    for seed in range(WALKS):
        walk(World(4, publishes=8, deaths=deaths, moves=moves, introduced=introduced, passes=not moves), seed)
