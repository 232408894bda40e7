"""Timers that pause, travel with what is left, and are taken up again."""

from __future__ import annotations

import asyncio
import functools
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

import hotfd
from hotfd import testing
from hotfd.errors import ConnectionClosed, ConnectionMoved
from hotfd.server import tasks, timers
from hotfd.server.timers import Timers
from hotfd.wire import messages as m
from hotfd.wire.records import MAX_TIMER_NAME, MAX_TIMERS
from tests.unit.server_rig import rig, until
from tests.unit.wire_support import LIMIT, on_each_loop, turns


class Clock:
    """The time as the test says, and a loop that goes by it: what is to be called later is called when the test gets there."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._later: list[tuple[float, asyncio.Handle]] = []

    def __call__(self) -> float:
        return self.now

    def __getattr__(self, name: str) -> Any:
        return getattr(asyncio.get_running_loop(), name)

    def call_later(self, delay: float, callback: Callable[..., object], *args: Any) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, asyncio.get_running_loop())
        self._later.append((self.now + delay, handle))
        return handle

    async def passes(self, seconds: float) -> None:
        self.now += seconds
        due = sorted((pair for pair in self._later if pair[0] <= self.now), key=lambda pair: pair[0])
        self._later = [pair for pair in self._later if pair[0] > self.now]
        asyncio.get_running_loop().call_soon(self._call, [handle for _, handle in due])
        await turns()

    def _call(self, handles: list[asyncio.Handle]) -> None:
        for handle in handles:
            if not handle.cancelled():  # by the one before it
                handle._run()


class Asyncio:
    """The module asyncio, whose running loop goes by a clock: a loop in C cannot be given another time."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def __getattr__(self, name: str) -> Any:
        return getattr(asyncio, name)

    def get_running_loop(self) -> Clock:
        return self._clock


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Let the test say how time passes."""
    made = Clock()
    monkeypatch.setattr(timers, "monotonic", made)
    monkeypatch.setattr(timers, "asyncio", Asyncio(made))
    return made


class Owner:
    """Timers, and what they have done."""

    def __init__(self, *, shared: bool = False) -> None:
        tasks.install(asyncio.get_running_loop())
        self.log: list[str] = []
        self.timers = Timers("owner", lambda: self.log.append("touch"), lambda: self.log.append("rest"), shared=shared)

    def does(self, what: str) -> Callable[[], None]:
        return lambda: self.log.append(what)

    def set(self, delay: float, name: str, **options: Any) -> timers.Timer:
        return self.timers.call_later(delay, self.does(name), (), name, **options)

    def travels(self) -> Owner:
        """The same in another process."""
        self.timers.freeze()
        written = self.timers.written()
        self.timers.moved()
        there = Owner(shared=self.timers._shared)
        there.timers.bring(written)
        return there


async def test_a_timer_runs_once_when_its_time_has_come(clock: Clock) -> None:
    owner = Owner()
    timer = owner.set(5, "ring")
    assert (timer.name, timer.remaining, timer.pending) == ("ring", 5, True)
    await clock.passes(4)
    assert owner.log == []
    assert timer.remaining == 1
    await clock.passes(1)
    assert owner.log == ["touch", "ring"]
    assert (timer.remaining, timer.pending, dict(owner.timers.pending)) == (0.0, False, {})
    await clock.passes(100)
    assert owner.log == ["touch", "ring"]


async def test_a_timer_gets_its_arguments_and_is_named_after_its_callback(clock: Clock) -> None:
    owner = Owner()
    assert owner.timers.call_later(1, owner.log.append, ("x",)).name == "list.append"
    await clock.passes(1)
    assert owner.log == ["touch", "x"]


async def test_a_cancelled_timer_does_not_run(clock: Clock) -> None:
    owner = Owner()
    timer = owner.set(1, "ring")
    timer.cancel()
    timer.cancel()
    await clock.passes(2)
    assert (owner.log, timer.pending, timer.remaining) == ([], False, 0.0)


async def test_setting_a_name_again_replaces_the_timer(clock: Clock) -> None:
    owner = Owner()
    first = owner.timers.call_later(1, owner.does("first"), (), "x")
    second = owner.timers.call_later(3, owner.does("second"), (), "x")
    assert (first.pending, second.pending, dict(owner.timers.pending)) == (False, True, {"x": second})
    first.cancel()
    await clock.passes(3)
    assert owner.log == ["touch", "second"]


async def test_two_functions_of_one_name_do_not_replace_each_other_in_silence(clock: Clock) -> None:
    owner = Owner()
    ring, ding = lambda: owner.log.append("ring"), lambda: owner.log.append("ding")
    owner.timers.call_later(1, ring)
    with pytest.raises(ValueError, match="another function"):
        owner.timers.call_later(1, ding)
    owner.timers.call_later(2, ring)
    owner.timers.call_later(1, ding, name="ding")
    await clock.passes(2)
    assert owner.log == ["touch", "ding", "touch", "ring"]


async def test_a_callback_can_set_itself_again(clock: Clock) -> None:
    owner = Owner()

    def tick() -> None:
        owner.log.append("tick")
        owner.timers.call_later(1, tick)

    owner.timers.call_later(1, tick)
    for _ in range(3):
        await clock.passes(1)
    assert owner.log == ["touch", "tick"] * 3
    assert len(owner.timers.pending) == 1


# -- pausing ------------------------------------------------------------------------------------------


async def test_what_becomes_due_while_held_runs_afterwards_in_the_order_of_its_time(clock: Clock) -> None:
    owner = Owner()
    owner.set(3, "late")
    owner.set(1, "early")
    owner.set(9, "later")
    owner.timers.hold()
    await clock.passes(5)
    assert owner.log == []
    assert owner.timers.pending["early"].remaining == 0.0
    owner.timers.go_on()
    await turns()
    assert owner.log == ["touch", "early", "touch", "late"]
    await clock.passes(4)
    assert owner.log[4:] == ["touch", "later"], "the clock has run on while they were held"


async def test_the_clock_stands_while_frozen(clock: Clock) -> None:
    owner = Owner()
    timer = owner.set(3, "ring")
    await clock.passes(1)
    owner.timers.freeze()
    await clock.passes(100)
    assert timer.remaining == 2
    assert owner.timers.written() == [("ring", 2)]
    owner.timers.go_on()
    await clock.passes(1.5)
    assert owner.log == []
    await clock.passes(0.5)
    assert owner.log == ["touch", "ring"]


async def test_a_timer_that_is_set_or_cancelled_while_frozen_is_a_change(clock: Clock) -> None:
    owner = Owner()
    old = owner.set(3, "old")
    owner.timers.freeze()
    before = owner.timers.changes
    owner.set(2, "new")
    assert owner.timers.changes > before
    before = owner.timers.changes
    old.cancel()
    assert owner.timers.changes > before
    await clock.passes(50)
    assert owner.timers.written() == [("new", 2)]
    owner.timers.go_on()
    await clock.passes(2)
    assert owner.log == ["touch", "new"]


async def test_a_callback_that_closes_the_gate_lets_nothing_else_run(clock: Clock) -> None:
    owner = Owner()
    owner.timers.call_later(1, owner.timers.hold, (), "gate")
    owner.set(1, "ring")
    await clock.passes(1)
    assert owner.log == ["touch"]
    owner.timers.go_on()
    await turns()
    assert owner.log == ["touch", "touch", "ring"]


# -- travelling ---------------------------------------------------------------------------------------


async def test_a_timer_travels_with_what_is_left_and_is_taken_up_by_a_handler_that_starts_again(clock: Clock) -> None:
    owner = Owner()
    owner.set(10, "ring")
    await clock.passes(4)
    there = owner.travels()
    came = there.timers.pending["ring"]
    assert (came.remaining, came.callback, came.pending) == (6, None, True)
    assert there.set(10, "ring", resuming=True) is came
    await clock.passes(5)
    assert there.log == []
    await clock.passes(1)
    assert there.log == ["touch", "ring"]
    assert owner.log == []


async def test_what_nobody_sets_again_stays_pending_and_travels_on(clock: Clock) -> None:
    owner = Owner()
    owner.set(2, "ring")
    there = owner.travels()
    await clock.passes(5)
    assert there.log == []
    assert there.timers.pending["ring"].remaining == 0.0
    further = there.travels()
    assert further.timers.written() == [("ring", 0.0)]
    further.set(10, "ring", resuming=True)
    await turns()
    assert further.log == ["touch", "ring"]


async def test_a_timer_that_came_can_be_cancelled_or_replaced(clock: Clock) -> None:
    owner = Owner()
    owner.set(2, "a")
    owner.set(2, "b")
    there = owner.travels()
    there.timers.pending["a"].cancel()
    there.set(7, "a", resuming=True)
    there.set(8, "b")
    assert there.timers.written() == [("a", 7), ("b", 8)]


async def test_a_handler_that_has_taken_a_timer_up_may_set_it_anew(clock: Clock) -> None:
    owner = Owner()
    owner.set(2, "ring")
    there = owner.travels()
    there.set(10, "ring", resuming=True)
    there.set(10, "ring", resuming=True)
    assert there.timers.written() == [("ring", 10)]


async def test_the_first_of_several_handlers_takes_a_shared_timer_up_and_the_others_get_the_same(clock: Clock) -> None:
    owner = Owner(shared=True)
    owner.set(2, "round")
    there = owner.travels()
    first = there.set(30, "round", resuming=True)
    assert there.set(30, "round", resuming=True) is first
    await clock.passes(2)
    assert there.log == ["touch", "round"]
    late = there.set(30, "round", resuming=True)
    assert late is first
    assert not late.pending, "it has run already; a handler that starts late does not begin it anew"
    assert there.set(30, "round").pending, "but anybody may, afterwards"
    assert there.set(30, "round", resuming=True) is there.timers.pending["round"]


async def test_after_the_move_the_old_side_can_neither_run_nor_cancel(clock: Clock) -> None:
    owner = Owner()
    timer = owner.set(1, "ring")
    owner.timers.freeze()
    owner.timers.moved()
    timer.cancel()
    owner.timers.go_on()
    await clock.passes(5)
    assert owner.log == []
    assert owner.timers.written() == [("ring", 1)], "as it was written down, should it come back"
    with pytest.raises(ConnectionClosed):
        owner.set(1, "more")


async def test_the_end_of_the_owner_is_the_end_of_its_timers(clock: Clock) -> None:
    owner = Owner()
    timer = owner.set(1, "ring")
    owner.timers.end()
    owner.timers.go_on()
    await clock.passes(5)
    assert (owner.log, timer.pending, owner.timers.written()) == ([], False, [])
    with pytest.raises(ConnectionClosed):
        owner.set(1, "more")


# -- coroutine functions, and faults ------------------------------------------------------------------


async def test_a_callback_may_be_a_coroutine_function_and_is_at_work_until_it_has_ended(clock: Clock) -> None:
    owner, go = Owner(), asyncio.Event()

    async def ring() -> None:
        owner.log.append("begins")
        await go.wait()
        assert owner.timers.current
        owner.log.append("ends")

    owner.timers.call_later(1, ring, name="ring")
    await clock.passes(1)
    assert owner.log == ["touch", "begins"]
    assert owner.timers.busy() == ["owner-timer-ring"]
    go.set()
    await turns()
    assert owner.log == ["touch", "begins", "ends", "rest"]
    assert owner.timers.busy() == []


async def test_what_a_callback_starts_is_at_work_too(clock: Clock) -> None:
    owner, go, started = Owner(), asyncio.Event(), []
    owner.timers.call_later(1, lambda: started.append(asyncio.create_task(go.wait(), name="mine")), name="x")
    await clock.passes(1)
    assert owner.timers.busy() == ["mine"]
    assert not owner.timers.current
    go.set()
    await turns()
    assert owner.timers.busy() == []
    assert owner.log == ["touch", "rest"]


async def test_a_callback_that_raises_is_logged_and_ends_nothing(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    owner = Owner()

    def sync() -> None:
        raise RuntimeError("sync")

    async def later() -> None:
        raise RuntimeError("later")

    async def gone() -> None:
        raise ConnectionClosed("the client has left")

    with caplog.at_level(logging.INFO, logger="hotfd"):
        for callback in (sync, later, gone):
            owner.timers.call_later(1, callback, name=callback.__name__)
        owner.set(1, "ring")
        await clock.passes(1)
    assert owner.log.count("ring") == 1
    found = {record.hotfd["timer"]: record for record in caplog.records}  # type: ignore[attr-defined]
    assert {name: record.levelname for name, record in found.items()} == {
        "sync": "ERROR",
        "later": "ERROR",
        "gone": "INFO",
    }
    assert found["sync"].exc_info is not None
    assert owner.timers.busy() == []


@pytest.mark.parametrize("delay", [-1, -1e-9, math.inf, math.nan])
async def test_a_delay_that_is_none_is_refused(delay: float) -> None:
    owner = Owner()
    with pytest.raises(ValueError, match="finite"):
        owner.set(delay, "x")
    assert owner.timers.written() == []


@pytest.mark.parametrize("name", ["", "x" * (MAX_TIMER_NAME + 1)])
async def test_a_name_that_is_too_short_or_too_long_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="characters"):
        Owner().set(1, name)


async def test_what_cannot_be_called_or_named_is_refused() -> None:
    owner = Owner()
    with pytest.raises(TypeError, match="function"):
        owner.timers.call_later(1, None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no name of their own"):
        owner.timers.call_later(1, functools.partial(print, "x"))


async def test_the_number_of_pending_timers_is_bounded() -> None:
    owner = Owner()
    for number in range(MAX_TIMERS):
        owner.set(1000, str(number))
    with pytest.raises(ValueError, match=str(MAX_TIMERS)):
        owner.set(1000, "one more")
    owner.set(1000, "0")
    owner.timers.pending["1"].cancel()
    owner.set(1000, "one more")
    owner.timers.end()


@on_each_loop
async def test_timers_run_in_the_order_of_their_time_on_a_real_clock() -> None:
    owner, done = Owner(), asyncio.Event()
    for number, delay in enumerate((0.4, 0, 0, 0.2)):  # far more than it takes to set them
        owner.set(delay, str(number))
    owner.timers.call_later(0.4, done.set, name="done")
    async with asyncio.timeout(LIMIT):
        await done.wait()
    assert [what for what in owner.log if what != "touch"] == ["1", "2", "3", "0"]


# -- with handlers that are handed over ---------------------------------------------------------------


@dataclass
class Alarm:
    armed: bool = False


async def alarm(conn: hotfd.Connection[Alarm]) -> None:
    async def ring() -> None:
        conn.state.armed = False
        await conn.send(b"ring")

    if conn.state.armed:
        conn.call_later(3600, ring, name="ring")
    async for line in conn:
        if line.isdigit():
            conn.state.armed = True
            conn.call_later(int(line) / 100, ring, name="ring")
        await conn.send(b",".join(name.encode() for name in conn.timers))


async def test_a_timer_survives_every_handover_of_a_test() -> None:
    async with testing.serve(alarm, state=Alarm) as server:
        client = await server.connect()
        await client.send(b"20")
        await client.expect(b"ring")
        for _ in range(3):
            await client.send(b"x")
            await client.expect(b"ring")
        await client.expect(b"ring")
        await client.send(b"x")
        await client.expect(b"")
        assert server.handovers >= 5


async def test_a_handler_that_forgets_its_timer_is_found_out() -> None:
    async def forgetful(conn: hotfd.Connection[Alarm]) -> None:
        async for _ in conn:
            conn.call_later(0.3, conn.close, name="bye")
            await conn.send(b"soon")

    async with testing.serve(forgetful, state=Alarm, timeout=1.0) as server:
        client = await server.connect()
        await client.send(b"x")
        await client.expect(b"soon")
        with pytest.raises(AssertionError, match="nothing within"):
            await client.expect_end()


async def test_a_timer_of_a_handler_that_works_waits_for_the_gate_and_then_runs() -> None:
    order: list[str] = []
    busy, go = asyncio.Event(), asyncio.Event()

    async def talk(conn: hotfd.Connection[None]) -> None:
        async for _ in conn:
            conn.session.gate(True)
            conn.call_later(0, order.append, "timer", name="timer")
            busy.set()
            await go.wait()
            order.append("frame")

    async with rig(talk) as made:
        client = await made.client()
        client.say(b"x\n")
        await until(busy.is_set)
        await turns()
        assert order == []
        go.set()
        await until(lambda: order == ["frame"])
        made.session.gate(False)
        await until(lambda: order == ["frame", "timer"])


async def test_a_timer_that_is_set_while_its_session_is_offered_takes_the_offer_back() -> None:
    async def talk(conn: hotfd.Connection[None]) -> None:
        async for _ in conn:
            pass

    async with rig(talk) as made:
        await made.client()
        (id,) = await made.offered()
        (connection,) = made.session.connections
        connection.call_later(1000, print)
        made.say(m.Accept([id]))
        await until(lambda: any(isinstance(message, m.Revoke) for message in made.heard()))
        await until(lambda: made.moving.gate.has_ready)
        assert list(connection.timers) == ["print"]


async def test_an_outsider_cannot_set_a_timer_on_what_has_moved_or_ended() -> None:
    async def talk(conn: hotfd.Connection[None]) -> None:
        async for _ in conn:
            pass

    async with rig(talk) as made:
        first, _ = await made.client(), await made.client()
        gone, moved = (session.connections[0] for session in made.sessions)
        first.sock.close()
        await until(lambda: len(made.sessions) == 1)
        with pytest.raises(ConnectionClosed):
            gone.call_later(1, print)
        session = moved.session
        assert session.call_later(1000, print) is session.timers["print"]
        moved._hand_off()
        with pytest.raises(ConnectionMoved):
            moved.call_later(1, print)
        with pytest.raises(ConnectionMoved):
            session.call_later(1, print)
        made.engine.abandon()  # as a process does that has handed everything over
