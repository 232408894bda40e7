"""What a task waits for, as an operator is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from hotfd.server.awaits import LEFT_OUT, MAX_PLACES, awaited_by


async def inner(event: asyncio.Event) -> None:
    secret = "a value"  # noqa: F841 - it must not be told
    await event.wait()


async def outer(event: asyncio.Event) -> None:
    await inner(event)


async def generator(event: asyncio.Event) -> AsyncIterator[int]:
    yield 1
    await inner(event)
    yield 2


async def over_a_generator(event: asyncio.Event) -> None:
    async for _ in generator(event):
        pass


async def deep(event: asyncio.Event, levels: int) -> None:
    await (deep(event, levels - 1) if levels else inner(event))


async def by_task(event: asyncio.Event) -> None:
    await asyncio.create_task(inner(event))


class Hand:
    """A handler that is a method."""

    async def play(self, event: asyncio.Event) -> None:
        async with asyncio.timeout(60):
            await inner(event)


def places_of(handler: Callable[[asyncio.Event], Awaitable[Any]]) -> list[str]:
    """Run a handler until it waits, and return where it does."""

    async def main() -> list[str]:
        event = asyncio.Event()

        async def run() -> None:
            await handler(event)

        task = asyncio.ensure_future(run())
        for _ in range(5):  # turns of the loop that tasks within tasks need to come to their waiting
            await asyncio.sleep(0)
        found = awaited_by(task)
        event.set()
        await task
        assert awaited_by(task) == []
        return found[1:]  # without run() itself

    return asyncio.run(main())


def functions(places: list[str]) -> list[str]:
    """Return the functions' names of places."""
    return [place.split(":")[1] for place in places]


def line_of(function: Callable[..., Any], offset: int) -> int:
    """Return the number of a line of a function, from its first on."""
    return function.__code__.co_firstlineno + offset


def test_each_coroutine_is_named_with_its_file_and_line_and_the_innermost_comes_last() -> None:
    places = places_of(outer)
    assert places[0] == f"unit/test_server_awaits.py:outer:{line_of(outer, 1)}"
    assert places[1] == f"unit/test_server_awaits.py:inner:{line_of(inner, 2)}"
    assert places[2].startswith("asyncio/locks.py:Event.wait:")
    assert len(places) == 3


def test_no_value_is_told() -> None:
    assert "a value" not in "".join(places_of(outer))


def test_a_task_that_is_awaited_is_followed() -> None:
    assert functions(places_of(by_task)) == ["by_task", "inner", "Event.wait"]


def test_a_method_behind_a_timeout_is_named_by_its_class() -> None:
    assert functions(places_of(Hand().play)) == ["Hand.play", "inner", "Event.wait"]


def test_an_asynchronous_generator_is_looked_into() -> None:
    assert functions(places_of(over_a_generator)) == ["over_a_generator", "generator", "inner", "Event.wait"]


def test_of_a_deep_recursion_the_two_ends_are_told() -> None:
    async def main() -> list[str]:
        event = asyncio.Event()
        task = asyncio.create_task(deep(event, 400))
        await asyncio.sleep(0)
        found = awaited_by(task)
        event.set()
        await task
        return found

    found = asyncio.run(main())
    assert len(found) == MAX_PLACES
    assert found[1] == LEFT_OUT
    assert set(functions([found[0], *found[2:-2]])) == {"deep"}
    assert functions(found[-2:]) == ["inner", "Event.wait"]


LOCALS = "test_tasks_that_await_each_other_in_a_ring_do_not_hang_the_answer.<locals>"


def test_tasks_that_await_each_other_in_a_ring_do_not_hang_the_answer() -> None:
    async def main() -> list[str]:
        tasks: list[asyncio.Task[Any]] = []

        async def wait_for_the_other(index: int) -> None:
            await asyncio.sleep(0)
            await tasks[1 - index]

        tasks += [asyncio.create_task(wait_for_the_other(index)) for index in (0, 1)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        for task in tasks:
            # Neither can be cancelled, since that would cancel the other first: they are left to the collector.
            task._log_destroy_pending = False  # type: ignore[attr-defined]
        return awaited_by(tasks[0])

    loop = asyncio.new_event_loop()
    try:
        found = loop.run_until_complete(main())
    finally:
        loop.close()
    assert functions(found) == [f"{LOCALS}.main.<locals>.wait_for_the_other"] * 2


def test_the_task_that_runs_at_this_moment_is_told_too() -> None:
    async def main() -> list[str]:
        task = asyncio.current_task()
        assert task is not None
        return awaited_by(task)

    assert functions(asyncio.run(main())) == ["test_the_task_that_runs_at_this_moment_is_told_too.<locals>.main"]
