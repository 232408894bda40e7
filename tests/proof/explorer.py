"""Visits every state that a system can come to, and tells the shortest way to one that is wrong.

Breadth first: the first state that is found wrong is one of those with the fewest steps to it. A state is a tuple of
components, and few of the components are different from state to state: each is kept once and known by a number, and
a state that was seen is its components' numbers as bytes (what model checkers call collapse compression). That is
exact: no two states share a key. Of the way to a state only the step and the state before it are kept; the story is
told by going the way again.
"""

from __future__ import annotations

import random
import time
from array import array
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol, Self

FAULTLESS = 20
"""A random way takes a fault in one of so many steps: it shall come to something before it is over."""

Step = tuple[Any, ...]
"""The name of a method of the system, and its arguments."""


class Wrong(Exception):  # noqa: N818 - a verdict on what is explored, and no error of the program
    """What holds in every state does not hold in this one, or a step has broken it."""


class System(Protocol):
    """What can be explored."""

    def steps(self) -> list[Step]:
        """Return what can happen next."""

    def take(self, step: Step) -> None:
        """Let it happen, in place. Raises Wrong when it must not have been possible."""

    def judge(self, steps: list[Step]) -> None:
        """Raise Wrong if this state, in which these steps are possible, must not be."""

    def pack(self) -> tuple[Hashable, ...]:
        """Return everything that tells this state from others."""

    def unpack(self, state: tuple[Any, ...]) -> Self:
        """Return the system in such a state."""

    def describe(self, step: Step) -> str:
        """Say in words what a step does in this state."""


@dataclass(slots=True)
class Story:
    """The shortest way to something wrong."""

    problem: str
    steps: list[str]

    def __str__(self) -> str:
        told = [f"{number:3}. {step}" for number, step in enumerate(self.steps, 1)]
        return "\n".join([self.problem, *told])


@dataclass(slots=True)
class Found:
    """What an exploration has come to.

    Attributes:
        states: how many different ones were visited.
        transitions: how many steps were taken.
        ends: how many states had nothing to come but faults.
        depth: how many steps the longest of the shortest ways has.
        seconds: how long it took, on the processor.
        complete: whether every state was visited that there is.
        wrong: the story of what is wrong, if anything is.
    """

    states: int = 0
    transitions: int = 0
    ends: int = 0
    depth: int = 0
    seconds: float = 0.0
    complete: bool = False
    wrong: Story | None = None
    steps: dict[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        speed = self.states / self.seconds if self.seconds else 0.0
        rest = "" if self.complete else ", not to the end"
        return (
            f"{self.states:,} states, {self.transitions:,} transitions, depth {self.depth}, {self.ends:,} ends, "
            f"{self.seconds:.1f} s, {speed:,.0f} states/s{rest}"
        )


class _Seen:
    """The states that were visited, and from where."""

    def __init__(self, width: int) -> None:
        self._numbers: list[dict[Hashable, int]] = [{} for _ in range(width)]
        self._keys: set[bytes] = set()
        self._steps: dict[Step, int] = {}
        self._before = array("l")
        self._by = array("i")

    def __len__(self) -> int:
        return len(self._keys)

    def add(self, state: tuple[Hashable, ...], before: int, step: Step) -> bool:
        """Note a state; False when it was seen before."""
        numbers = [known.setdefault(part, len(known)) for known, part in zip(self._numbers, state, strict=True)]
        key = array("I", numbers).tobytes()
        if key in self._keys:
            return False
        self._keys.add(key)
        self._before.append(before)
        self._by.append(self._steps.setdefault(step, len(self._steps)))
        return True

    def way(self, index: int) -> list[Step]:
        """Return the steps from the beginning to a state."""
        names, steps = list(self._steps), []
        while index > 0:
            steps.append(names[self._by[index]])
            index = self._before[index]
        return steps[::-1]


def explore(start: System, *, limit: int | None = None, faults: Iterable[str] = ()) -> Found:
    """Visit every state that can be reached, until one is wrong.

    Args:
        start: where everything begins.
        limit: how many states are visited at most; None for all.
        faults: the names of steps that need not come: a state in which only they can is an end.
    """
    found, clock, unneeded = Found(), time.process_time(), frozenset(faults)
    first = start.pack()
    seen = _Seen(len(first))
    seen.add(first, 0, ())
    level: list[tuple[Any, ...]] = [first]
    index, way = 0, None
    while level and way is None and (limit is None or len(seen) < limit):
        following: list[tuple[Any, ...]] = []
        for state in level:
            system = start.unpack(state)
            steps = system.steps()
            try:
                system.judge(steps)
            except Wrong as wrong:
                way, problem = seen.way(index), str(wrong)
                break
            found.ends += all(step[0] in unneeded for step in steps)
            for step in steps:
                found.transitions += 1
                after = start.unpack(state)
                try:
                    after.take(step)
                except Wrong as wrong:
                    way, problem = [*seen.way(index), step], str(wrong)
                    break
                packed = after.pack()
                if seen.add(packed, index, step):
                    following.append(packed)
                    found.steps[step[0]] = found.steps.get(step[0], 0) + 1
            if way is not None:
                break
            index += 1
        level = following
        found.depth += bool(level)
    found.states, found.seconds = len(seen), time.process_time() - clock
    found.complete = way is None and not level
    if way is not None:
        found.wrong = Story(problem, tell(start.unpack(first), way))
    return found


def walk(start: System, choice: random.Random, *, faults: Iterable[str] = ()) -> Story | None:
    """Go one random way to its end, and tell it if a state on it is wrong; a fault is taken in one of twenty steps.

    Args:
        start: where it begins.
        choice: decides.
        faults: the names of steps that need not come.
    """
    unneeded, way = frozenset(faults), []
    first = start.pack()
    system = start.unpack(first)
    try:
        while True:
            steps = system.steps()
            system.judge(steps)
            progress = [step for step in steps if step[0] not in unneeded]
            wrongs = [step for step in steps if step[0] in unneeded]
            if not progress:
                return None
            way.append(choice.choice(wrongs if wrongs and choice.randrange(FAULTLESS) == 0 else progress))
            system.take(way[-1])
    except Wrong as wrong:
        return Story(str(wrong), tell(start.unpack(first), way))


def tell(system: System, way: Iterable[Step]) -> list[str]:
    """Go a way again, and say in words what happens on it."""
    story = []
    for step in way:
        story.append(system.describe(step))
        try:
            system.take(step)
        except Wrong:
            break
    return story
