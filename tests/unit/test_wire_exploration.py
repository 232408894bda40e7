"""The handoff protocol, explored: every interleaving within bounds, every crash at every point.

What is explored, and what must hold in each state, is in tests/proof: the two machines are the real ones, the processes
around them are as small as they can be. ``make explore`` goes further.
"""

from __future__ import annotations

import copy
import random
import re

import pytest

from hotfd.wire import receiver as new
from hotfd.wire import sender as old
from tests.proof.explorer import explore, tell, walk
from tests.proof.handoff import FAULTS, Handoff
from tests.proof.machines import freeze
from tests.proof.mistakes import MISTAKES
from tests.proof.world import Bounds
from tests.proof.worlds import LARGE, SMALL, WIDE

WALKS = 1000
"""Random ways through the world that is too large to be seen whole; less than a second."""

PARTS = Bounds((("", ""),))

# ---------------------------------------------------------------- what holds


@pytest.mark.timeout(600)  # it computes, and may have to share the processor
@pytest.mark.parametrize("world", SMALL)
def test_in_every_state_a_session_has_one_owner_whoever_dies(world: str) -> None:
    found = explore(Handoff(SMALL[world]), faults=FAULTS)
    print(found)
    assert found.wrong is None, str(found.wrong)
    assert found.complete


def test_on_random_ways_through_a_wider_world_a_session_has_one_owner_whoever_dies() -> None:
    start = Handoff(WIDE)
    for seed in range(WALKS):
        story = walk(start, random.Random(seed), faults=FAULTS)
        assert story is None, f"with seed {seed}: {story}"


# ---------------------------------------------------------------- that everything is seen


def test_the_exploration_comes_to_every_stage_and_every_phase_and_takes_every_fault() -> None:
    start, taken = Handoff(PARTS), set()
    found = explore(start, faults=FAULTS)
    assert found.wrong is None, str(found.wrong)
    taken = set(found.steps)
    seen: set[object] = set()
    for machines in (start.rig.senders, start.rig.receivers):
        for number in range(len(machines)):
            seen |= {machines[number].phase, *machines[number].sessions.values()}
    before = {old.Phase.STARTING, old.Phase.PREPARING, new.Phase.STARTING, new.Phase.PREPARING}
    assert seen == {*old.Stage, *old.Phase, *new.Stage, *new.Phase} - before
    assert set(FAULTS) - taken == set()


def test_every_attribute_of_a_machine_is_part_of_its_state() -> None:
    for machine in (old.Sender(), new.Receiver()):
        for name in vars(machine):
            other = copy.deepcopy(machine)
            setattr(other, name, "something else")
            assert freeze(vars(other)) != freeze(vars(machine)), name


def test_what_is_packed_is_unpacked_as_it_was() -> None:
    start = Handoff(LARGE["two connections and a frame each"])
    choice, world = random.Random(1), start
    while steps := world.steps():
        world.take(choice.choice(steps))
        again = start.unpack(world.pack())
        assert again.pack() == world.pack()
        assert again.steps() == world.steps()
        world = again


def test_an_exploration_with_a_limit_says_that_it_is_not_complete() -> None:
    found = explore(Handoff(PARTS), limit=100, faults=FAULTS)
    assert found.states >= 100
    assert not found.complete
    assert "not to the end" in str(found)


# ---------------------------------------------------------------- that it would be seen


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.__name__)
def test_a_planted_mistake_is_found(mistake: type[Handoff]) -> None:
    bounds, problem = MISTAKES[mistake]
    found = explore(mistake(bounds), faults=FAULTS)
    assert found.wrong is not None, "nothing was found"
    assert re.search(problem, found.wrong.problem), str(found.wrong)


def test_a_world_without_the_mistake_has_nothing_to_be_found() -> None:
    for bounds in {bounds for bounds, _ in MISTAKES.values()}:
        found = explore(Handoff(bounds), limit=3_000, faults=FAULTS)
        assert found.wrong is None, str(found.wrong)


def test_a_story_is_told_from_its_beginning_in_the_words_of_the_protocol() -> None:
    mistake = next(kind for kind in MISTAKES if kind.__name__ == "ResumesBeforeItsRevocationIsQueued")
    story = explore(mistake(MISTAKES[mistake][0]), faults=FAULTS).wrong
    assert story is not None
    assert story.steps[-1] == "new learns that old is dead, reads to the end, and owns what was offered"
    assert {"old offers session 1 (connection a)", "old revokes session 1 (connection a)"} <= set(story.steps)
    assert "old dies" in story.steps


def test_every_step_has_words() -> None:
    for seed in range(50):
        way, world, choice = [], Handoff(WIDE), random.Random(seed)
        while steps := world.steps():
            way.append(choice.choice(steps))
            world.take(way[-1])
        assert len(tell(Handoff(WIDE), way)) == len(way)
