"""The garbage collector rests while sessions move, and has nothing to catch up on afterwards."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator

import pytest

from hotfd.server import collector
from hotfd.server.collector import CollectorPause


@pytest.fixture(autouse=True)
def as_it_was() -> Iterator[None]:
    yield
    gc.unfreeze()
    gc.enable()


class Node:
    """Something that the collector looks at."""


def is_old(node: Node) -> bool:
    return any(found is node for found in gc.get_objects(generation=2))


async def test_what_was_made_meanwhile_is_old_when_it_goes_on_and_nobody_has_looked_at_it() -> None:
    looks: list[str] = []
    pause = CollectorPause()
    pause.begin()
    assert not gc.isenabled()
    nodes = [Node() for _ in range(1000)]
    assert not is_old(nodes[0])
    gc.callbacks.append(lambda phase, info: looks.append(phase))
    try:
        pause.end()
    finally:
        gc.callbacks.pop()
    assert gc.isenabled()
    assert is_old(nodes[0])
    assert is_old(nodes[-1])
    assert not looks
    assert gc.get_freeze_count() == 0


async def test_what_the_program_has_frozen_stays_frozen() -> None:
    gc.freeze()
    frozen = gc.get_freeze_count()
    pause = CollectorPause()
    pause.begin()
    pause.end()
    assert gc.get_freeze_count() > frozen / 2, "what is frozen can end all the same, and some of it does"


async def test_a_collector_that_the_program_has_switched_off_stays_off() -> None:
    gc.disable()
    pause = CollectorPause()
    pause.begin()
    pause.end()
    assert not gc.isenabled()


async def test_it_works_again_after_a_while_though_sessions_still_move(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collector, "LIMIT", 0.0)
    pause = CollectorPause()
    pause.begin()
    pause.begin()
    while not gc.isenabled():
        await asyncio.sleep(0)
    pause.end()
