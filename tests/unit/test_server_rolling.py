"""How much is offered at a time, and how often somebody is told of it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from hotfd.server import outcome
from hotfd.server.moving import BATCH
from hotfd.server.outcome import PROGRESS_INTERVAL, Journal
from hotfd.server.rolling import LONG_TURN, PIPELINE, _Pace
from tests.unit.server_rig import joined, rig, room_of, until
from tests.unit.wire_support import nothing_stays_open, on_each_loop

if TYPE_CHECKING:
    from hotfd.server.connection import Connection

__all__ = ["nothing_stays_open"]


MS = 2.0**-10
"""About a millisecond, in which sums and quotients are exact."""


class Clock:
    """A loop's clock that stands still unless it is told otherwise."""

    def __init__(self) -> None:
        self.now = 0.0
        self.pace = _Pace(lambda: self.now)

    async def turn(self, *, offers: int, own: float, others: float) -> int:
        """Make offers for so many seconds, and let others work for so many more; return how many the next turn makes."""
        self.pace.begin()
        for _ in range(offers):
            self.pace.made(BATCH, full=False)
        self.now += own
        asyncio.get_running_loop().call_soon(lambda: setattr(self, "now", self.now + others))
        await self.pace.turn()
        return self.pace.offers


async def test_a_quiet_server_makes_one_offer_in_a_turn() -> None:
    clock = Clock()
    assert await clock.turn(offers=1, own=MS, others=MS / 2) == 1
    assert clock.pace.limit == PIPELINE * BATCH


async def test_as_many_are_made_as_take_no_longer_than_what_the_others_do() -> None:
    clock = Clock()
    assert await clock.turn(offers=1, own=MS, others=12.5 * MS) == 12
    assert await clock.turn(offers=12, own=12 * MS, others=20 * MS) == 20
    assert await clock.turn(offers=20, own=20 * MS, others=0.0) == 1


async def test_a_turn_without_end_makes_no_offers_without_end() -> None:
    assert await Clock().turn(offers=1, own=MS, others=100.0) == LONG_TURN


async def test_a_turn_in_which_nobody_was_ready_says_nothing() -> None:
    clock = Clock()
    assert await clock.turn(offers=1, own=MS, others=10 * MS) == 10
    assert await clock.turn(offers=0, own=MS, others=500 * MS) == 10


def test_the_first_word_and_the_last_are_told_and_few_between(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[int] = []
    now = 1000.0
    monkeypatch.setattr(outcome, "monotonic", lambda: now)
    journal = Journal(lambda event: told.append(event["moved"]), 1)
    for moved in range(100):
        journal.progress(moved, 101, last=False)
        now += PROGRESS_INTERVAL / 10
    for _ in range(2):
        journal.progress(100, 101, last=True)
    assert told[0] == 0
    assert told[-2:] != [100, 100], "it was told"
    assert told[-1] == 100, "the last word, though one has stayed"
    assert len(told) in {11, 12}, "rounding decides"


# ---------------------------------------------------------------- what a batch is filled with


async def echo(conn: Connection[Any]) -> None:
    async for line in conn:
        await conn.send(line)


async def busy(conn: Connection[Any]) -> None:
    async for line in conn:
        await conn.send(line)
        await asyncio.Event().wait()


async def member(conn: Connection[Any]) -> None:
    async for line in conn:
        session = await conn.join(line.split()[1].decode())
        await conn.send(b"in %d" % len(session.connections))


@pytest.mark.usefixtures("nothing_stays_open")
@on_each_loop
async def test_idle_sessions_are_asked_and_taken_in_one_step_and_no_more_of_them_than_fit() -> None:
    async with rig(echo) as made:
        for _ in range(5):
            await made.client()
        gate = made.moving.gate
        gate.pending.extend(made.sessions)
        batch = gate.fill(3)
        assert batch == made.sessions[:3]
        assert list(gate.pending) == made.sessions[3:], "they are not asked before they can be taken"
        assert [session.gated for session in made.sessions] == [True] * 3 + [False] * 2
        assert gate.fill(3) == made.sessions[3:]
        assert gate.fill(3) == []
        gate.reopen_each(made.sessions)


@pytest.mark.usefixtures("nothing_stays_open")
@on_each_loop
async def test_a_session_that_works_is_asked_and_waited_for() -> None:
    async with rig(busy) as made:
        client, _ = await made.client(), await made.client()
        client.say(b"x\n")
        await client.hears(b"x\n")
        gate = made.moving.gate
        gate.pending.extend(made.sessions)
        assert gate.fill(10) == made.sessions[1:]
        assert gate.late
        gate.reopen_all()
        gate.reopen_each(made.sessions)


@pytest.mark.usefixtures("nothing_stays_open")
@on_each_loop
async def test_a_room_that_does_not_fit_any_more_is_the_first_of_the_next_batch() -> None:
    async with rig(member) as made:
        await joined(made, "a", 3)
        await made.client()
        room, gate = room_of(made, "a"), made.moving.gate
        alone = next(session for session in made.sessions if session is not room)
        gate.pending.extend([alone, room])
        assert gate.fill(2) == [alone]
        assert gate.fill(2) == [room], "larger than a batch, and so alone"
        gate.reopen_each([alone, room])


@pytest.mark.usefixtures("nothing_stays_open")
@on_each_loop
async def test_a_session_that_was_in_a_room_meanwhile_is_taken_once() -> None:
    async def visitor(conn: Connection[Any]) -> None:
        async for line in conn:
            await conn.join("a")
            await conn.leave()
            await conn.send(line)

    async with rig(visitor) as made:
        client = await made.client()
        gate = made.moving.gate
        gate.pending.extend(made.sessions)
        client.say(b"x\n")
        await client.hears(b"x\n")
        await until(lambda: made.session.obstacle() is None)
        assert gate.fill(10) == made.sessions
        assert not gate.pending
        gate.reopen_each(made.sessions)
