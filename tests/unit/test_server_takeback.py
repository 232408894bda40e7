"""What is known of the sessions and connections that a dead new process had."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from hotfd.server.cutover import Cutover
from hotfd.server.escrow import Escrow, Newcomer
from hotfd.server.options import Identity, Options
from hotfd.server.takeback import _Verdicts
from hotfd.server.witness import Witness
from hotfd.transfer.channel import Arrival
from hotfd.transfer.touch import NEWCOMERS, TouchMap
from hotfd.wire import messages as m
from hotfd.wire.sender import Phase, Sender
from tests.unit.wire_support import is_open, nothing_stays_open, on_each_loop

__all__ = ["nothing_stays_open"]

pytestmark = pytest.mark.usefixtures("nothing_stays_open")


@pytest.fixture()
def touch() -> Iterator[TouchMap]:
    made, fd = TouchMap.create()
    os.close(fd)
    yield made
    made.close()


@pytest.fixture()
def visitor() -> Iterator[Newcomer]:
    """A connection of which the kernel counts nothing, as of every Unix socket."""
    mine, theirs = socket.socketpair()
    with mine, theirs:
        yield Newcomer(mine.fileno(), NEWCOMERS, "unix:/run/server")


def machine_in(phase: Phase) -> Sender:
    machine = Sender()
    machine.phase = phase
    return machine


def verdicts(machine: Sender, visitor: Newcomer, touch: TouchMap) -> _Verdicts:
    escrow = Escrow()
    escrow.hold_newcomer(1, visitor)
    moving: Any = SimpleNamespace(escrow=escrow, witness=Witness())
    return _Verdicts(machine, moving, touch, "session")


@pytest.mark.parametrize(("touched", "lost"), [(False, False), (True, True)])
def test_a_newcomer_that_was_not_touched_in_the_probation_can_go_on(
    touch: TouchMap, visitor: Newcomer, touched: bool, lost: bool
) -> None:
    if touched:
        touch.mark(visitor.slot)
    assert verdicts(machine_in(Phase.PROBATION), visitor, touch).newcomer_lost(visitor) is lost


def test_a_newcomer_of_a_process_that_had_settled_cannot_go_on_since_no_touch_is_noted(
    touch: TouchMap, visitor: Newcomer
) -> None:
    assert verdicts(machine_in(Phase.SETTLED), visitor, touch).newcomer_lost(visitor)


@on_each_loop
async def test_a_newcomer_behind_settled_is_closed_and_no_mistake_of_the_new_process() -> None:
    engine: Any = SimpleNamespace()
    cutover = Cutover(engine, Identity(1), Options(), lambda event: None)
    cutover._machine = machine_in(Phase.SETTLED)
    cutover._moving = moving = SimpleNamespace(escrow=Escrow())  # type: ignore[assignment]
    copy = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
    cutover._on_message(Arrival(m.Newcomer(1, NEWCOMERS, "tcp"), [copy], False, os.getpid(), -1))
    cutover._on_message(Arrival(m.Ended([1]), [], False, os.getpid(), -1))
    assert not is_open(copy)
    assert moving.escrow.newcomers == []
    cutover.raise_failure()
