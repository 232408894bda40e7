"""A task that waits is resumed once, in the turn of the loop in which it is woken, and a cancellation is never lost."""

from __future__ import annotations

import asyncio
from asyncio import tasks
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import pytest

from hotfd.server.waiter import Waiter
from tests.unit.server_rig import rig, until
from tests.unit.wire_support import on_each_loop, turns

if TYPE_CHECKING:
    from hotfd import Connection


class Waiting:
    """A task that waits again and again, and notes what happens to it."""

    def __init__(self, make: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]] = asyncio.create_task) -> None:
        self.waiter = Waiter(asyncio.get_running_loop())
        self.seen: list[str] = []
        self.task = make(self._run())

    async def _run(self) -> None:
        while True:
            try:
                await self.wait()
            except asyncio.CancelledError as error:
                self.seen.append(f"cancelled {error}".strip())
                raise
            self.seen.append("woken")

    async def wait(self) -> None:
        waiter = self.waiter
        waiter.arm()
        try:
            if waiter.armed:
                await waiter
        finally:
            waiter.leave()


def as_the_loop_does(function: Callable[[], object]) -> asyncio.Future[None]:
    """Have the loop call a function; the result is there when it has."""
    done = asyncio.get_running_loop().create_future()

    def call() -> None:
        try:
            function()
        except BaseException as error:
            done.set_exception(error)
        else:
            done.set_result(None)

    asyncio.get_running_loop().call_soon(call)
    return done


@on_each_loop
async def test_the_task_goes_on_before_wake_now_returns() -> None:
    made = Waiting()
    await turns(1)

    def wake() -> None:
        for times in range(1, 4):
            made.waiter.wake_now()
            assert made.seen == ["woken"] * times

    await as_the_loop_does(wake)
    made.task.cancel()


@on_each_loop
async def test_the_task_goes_on_in_the_next_turn_after_wake_and_only_once() -> None:
    made = Waiting()
    await turns(1)

    def wake() -> None:
        made.waiter.wake()
        made.waiter.wake()
        made.waiter.wake_now()  # it is woken already
        assert made.seen == []

    await as_the_loop_does(wake)
    await turns(2)
    assert made.seen == ["woken"]
    made.task.cancel()


@on_each_loop
async def test_who_is_woken_before_he_waits_does_not_wait() -> None:
    waiter = Waiter(asyncio.get_running_loop())
    waiter.wake()
    assert not waiter.armed, "nobody waits: nothing is kept"
    waiter.arm()
    waiter.wake_now()
    assert not waiter.armed
    waiter.leave()


@on_each_loop
async def test_a_cancellation_ends_the_wait_with_its_message() -> None:
    made = Waiting()
    await turns(1)
    made.task.cancel("enough")
    made.waiter.wake_now()  # what comes in between does not undo it
    with pytest.raises(asyncio.CancelledError):
        await made.task
    assert made.seen == ["cancelled enough"]


@on_each_loop
async def test_a_cancellation_in_the_same_turn_as_a_wake_is_delivered() -> None:
    made = Waiting()
    await turns(1)
    made.waiter.wake()
    made.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await made.task
    assert made.seen[-1] == "cancelled"


@on_each_loop
async def test_a_wait_after_a_cancelled_one_is_like_any_other() -> None:
    made = Waiting()
    await turns(1)
    made.task.cancel()
    await asyncio.wait([made.task])
    again = asyncio.create_task(made.wait())
    await turns(1)
    await as_the_loop_does(made.waiter.wake_now)
    await again


@on_each_loop
async def test_one_task_waits_at_a_time_until_it_has_left() -> None:
    made = Waiting()
    await turns(1)
    with pytest.raises(RuntimeError, match="another task"):
        made.waiter.arm()
    made.task.cancel()
    with pytest.raises(RuntimeError, match="another task"):  # or the cancellation were forgotten
        made.waiter.arm()
    await asyncio.wait([made.task])
    made.waiter.arm()


@on_each_loop
async def test_the_task_goes_on_in_its_own_context() -> None:
    whose: ContextVar[str] = ContextVar("whose", default="nobody")
    seen: list[str] = []
    waiter = Waiter(asyncio.get_running_loop())

    async def run() -> None:
        whose.set("the task")
        waiter.arm()
        await waiter
        seen.append(whose.get())

    task = asyncio.create_task(run())
    await turns(1)
    whose.set("the loop")
    await as_the_loop_does(waiter.wake_now)
    await task
    assert seen == ["the task"]


async def test_tasks_that_are_written_in_python_can_wait_too() -> None:
    made = Waiting(lambda coroutine: tasks._PyTask(coroutine, loop=asyncio.get_running_loop()))  # type: ignore[attr-defined]
    await turns(1)

    def wake() -> None:
        made.waiter.wake_now()
        assert made.seen == ["woken"]

    await as_the_loop_does(wake)
    made.task.cancel("enough")
    await asyncio.wait([made.task])
    assert made.seen == ["woken", "cancelled enough"]


# ---------------------------------------------------------------- what it is for


@on_each_loop
async def test_a_request_is_answered_before_the_call_for_its_bytes_returns() -> None:
    async def echo(conn: Connection[Any]) -> None:
        async for line in conn:
            await conn.send(line)

    async with rig(echo) as made:
        client = await made.client()

        def arrive() -> None:
            client.say(b"hello\n")
            made.engine.poller._on_readable()
            assert client.sock.recv(100) == b"hello\n"

        await as_the_loop_does(arrive)


@on_each_loop
async def test_who_finds_the_connection_lost_goes_on_before_its_handler_does() -> None:
    order: list[str] = []

    async def wait_for_the_end(conn: Connection[Any]) -> None:
        assert await conn.receive() is None
        order.append("handler")

    async with rig(wait_for_the_end) as made:
        await made.client()
        (connection,) = made.session.connections

        def lose() -> None:
            connection._stream.lose(ConnectionResetError(104, "reset"))
            order.append("finder")

        await as_the_loop_does(lose)
        await until(lambda: len(order) == 2)
    assert order == ["finder", "handler"]


@on_each_loop
async def test_a_frame_is_still_there_when_its_handler_was_cancelled_in_the_turn_that_brought_it() -> None:
    given: list[bytes | None] = []

    async def patient(conn: Connection[Any]) -> None:
        try:
            async with asyncio.timeout(None) as limit:
                given.append(b"waits")
                limit.reschedule(0)
                given.append(await conn.receive())
        except TimeoutError:
            given.append(b"timeout")
        given.append(await conn.receive())

    async with rig(patient) as made:
        client = await made.client()
        await until(lambda: given == [b"waits", b"timeout"])
        client.say(b"frame\n")
        await until(lambda: given[-1] == b"frame")
