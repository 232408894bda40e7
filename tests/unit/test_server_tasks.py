"""Which tasks are counted to which handler."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from hotfd.server import tasks
from hotfd.server.tasks import Scope
from tests.unit.wire_support import LIMIT, on_each_loop, turns


class Rest:
    """A scope, and how often it has come to rest."""

    def __init__(self) -> None:
        self.idle = 0
        self.scope = Scope(self._on_idle)

    def _on_idle(self) -> None:
        self.idle += 1


async def ended(task: asyncio.Task[Any]) -> Any:
    async with asyncio.timeout(LIMIT):
        return await task


def installed() -> Rest:
    tasks.install(asyncio.get_running_loop())
    return Rest()


@on_each_loop
async def test_a_handler_is_not_counted_and_what_it_starts_is() -> None:
    rest, go = installed(), asyncio.Event()

    async def helper() -> None:
        await go.wait()

    async def handler() -> None:
        assert rest.scope.current
        helpers = [asyncio.create_task(helper(), name=name) for name in ("b", "a")]
        assert rest.scope.names() == ["a", "b"]
        await asyncio.gather(*helpers)

    task = rest.scope.run(handler(), "handler")
    assert task.get_name() == "handler"
    await turns()
    assert rest.scope.names() == ["a", "b"]
    assert rest.idle == 0
    go.set()
    await ended(task)
    await turns()
    assert (rest.scope.tasks, rest.idle) == (set(), 1)


@on_each_loop
async def test_what_a_helper_starts_is_counted_too() -> None:
    rest, go = installed(), asyncio.Event()

    async def grandchild() -> None:
        await go.wait()

    async def child() -> asyncio.Task[None]:
        return asyncio.create_task(grandchild(), name="grandchild")

    async def handler() -> asyncio.Task[None]:
        return await asyncio.create_task(child())

    left = await ended(rest.scope.run(handler(), "handler"))
    await turns()
    assert rest.scope.names() == ["grandchild"], "the scope outlives the handler"
    assert rest.idle == 0
    go.set()
    await ended(left)
    await turns()
    assert rest.idle == 1


@on_each_loop
async def test_tasks_from_outside_are_not_counted_even_when_they_call_into_the_handler() -> None:
    rest, go = installed(), asyncio.Event()
    made: list[asyncio.Task[Any]] = []

    async def handler() -> None:
        await go.wait()

    task = rest.scope.run(handler(), "handler")
    made.append(asyncio.create_task(go.wait()))
    assert not rest.scope.current
    assert rest.scope.tasks == set()
    go.set()
    await ended(task)
    await ended(made[0])
    assert rest.idle == 0


@on_each_loop
async def test_a_handler_that_starts_another_does_not_count_it() -> None:
    rest, other, go = installed(), Rest(), asyncio.Event()

    async def inner() -> None:
        assert other.scope.current
        asyncio.create_task(go.wait(), name="inner's")  # noqa: RUF006 - held by the scope
        await go.wait()

    async def handler() -> asyncio.Task[None]:
        return other.scope.run(inner(), "inner")

    task = await ended(rest.scope.run(handler(), "handler"))
    await turns()
    assert rest.scope.names() == []
    assert other.scope.names() == ["inner's"]
    go.set()
    await ended(task)
    await turns()
    assert (rest.idle, other.idle) == (0, 1)


@on_each_loop
async def test_a_helper_that_fails_or_is_cancelled_is_counted_no_longer() -> None:
    rest = installed()

    async def fails() -> None:
        raise LookupError

    async def handler() -> None:
        failing = asyncio.create_task(fails())
        cancelled = asyncio.create_task(asyncio.Event().wait())
        await turns()
        cancelled.cancel()
        await asyncio.gather(failing, cancelled, return_exceptions=True)

    await ended(rest.scope.run(handler(), "handler"))
    await turns()
    assert rest.scope.tasks == set()
    assert rest.idle >= 1


@on_each_loop
async def test_task_groups_timeouts_and_gather_are_seen() -> None:
    rest, go = installed(), asyncio.Event()

    async def handler() -> None:
        async with asyncio.timeout(LIMIT), asyncio.TaskGroup() as group:
            group.create_task(go.wait(), name="grouped")

            async def gathered() -> None:
                await asyncio.gather(go.wait(), go.wait())

            group.create_task(gathered(), name="gatherer")

    task = rest.scope.run(handler(), "handler")
    await turns()
    assert len(rest.scope.tasks) == 4
    assert {"grouped", "gatherer"} <= set(rest.scope.names())
    go.set()
    await ended(task)
    await turns()
    assert rest.scope.tasks == set()


@on_each_loop
async def test_a_factory_that_the_program_has_set_still_makes_the_tasks() -> None:
    loop = asyncio.get_running_loop()
    made: list[asyncio.Task[Any]] = []

    def factory(loop: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, Any], **options: Any) -> asyncio.Task[Any]:
        made.append(asyncio.Task(coro, loop=loop, **options))
        return made[-1]

    loop.set_task_factory(factory)
    rest = installed()

    async def handler() -> None:
        await asyncio.create_task(asyncio.sleep(0))

    task = rest.scope.run(handler(), "handler")
    await ended(task)
    await turns()
    assert made[0] is task
    assert len(made) == 2
    assert rest.idle == 1


@on_each_loop
async def test_installing_twice_counts_once() -> None:
    rest = installed()
    loop = asyncio.get_running_loop()
    factory: Callable[..., Any] | None = loop.get_task_factory()
    tasks.install(loop)
    assert loop.get_task_factory() is factory

    async def handler() -> None:
        await asyncio.create_task(asyncio.sleep(0))

    await ended(rest.scope.run(handler(), "handler"))
    await turns()
    assert rest.idle == 1
