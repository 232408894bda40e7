"""Which tasks belong to which handler.

A handler may be moved only when nothing that it started is still at work. asyncio does not tell who
started a task, so hotfd runs each handler in a context of its own, and a task factory notes each task that
is made in such a context. The factory wraps the one that the program has set, and costs one context
variable's look-up for other tasks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context, ContextVar, copy_context
from typing import Any, Final, TypeVar

T = TypeVar("T")


NO_TASKS: Final[frozenset[asyncio.Task[Any]]] = frozenset()
"""What all scopes share in which no task was made yet; a set of their own is four times as large as they are."""


class Scope:
    """The live tasks that were made in one context."""

    __slots__ = ("on_idle", "resuming", "tasks")

    def __init__(self, on_idle: Callable[[], None], *, resuming: bool = False) -> None:
        self.tasks: set[asyncio.Task[Any]] | frozenset[asyncio.Task[Any]] = NO_TASKS
        self.on_idle = on_idle
        self.resuming = resuming
        """Whether it is a handler's that starts again and has not waited for a frame yet."""

    def _add(self, task: asyncio.Task[Any]) -> None:
        if isinstance(self.tasks, frozenset):
            self.tasks = set()
        self.tasks.add(task)
        task.add_done_callback(self._done)

    def discard(self, task: asyncio.Task[Any]) -> None:
        """Count a task no more; one that is not counted says nothing."""
        if isinstance(self.tasks, set):
            self.tasks.discard(task)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self.discard(task)
        if not self.tasks:
            self.on_idle()

    def names(self) -> list[str]:
        """Return the names of the live tasks, for people."""
        return sorted(task.get_name() for task in self.tasks)

    def context(self) -> Context:
        """Return a copy of the caller's context; tasks that are made in it are counted in this scope."""
        context = copy_context()
        context.run(_SCOPE.set, self)
        return context

    def run(
        self, coroutine: Coroutine[Any, Any, Any], name: str, loop: asyncio.AbstractEventLoop | None = None
    ) -> asyncio.Task[Any]:
        """Start a task whose own children are counted in this scope; the task itself is not.

        Args:
            coroutine: what it does.
            name: its name, for people.
            loop: the loop that runs, where it is at hand: Python 3.11 looks for it with a system call.
        """
        context = self.context()
        loop = loop or asyncio.get_running_loop()
        factory = loop.get_task_factory()
        if isinstance(factory, _Factory) and factory.before is None:  # what it would make, less the way there
            return asyncio.Task(coroutine, loop=loop, name=name, context=context)
        # In an empty context the factory sees no scope, so the task is not counted in its maker's.
        return Context().run(lambda: loop.create_task(coroutine, name=name, context=context))

    @property
    def current(self) -> bool:
        """Whether the caller runs in this scope."""
        return _SCOPE.get() is self


_SCOPE: ContextVar[Scope | None] = ContextVar("hotfd_scope", default=None)


def caller() -> Scope | None:
    """Return the scope that the caller runs in; None for who is no handler's."""
    return _SCOPE.get()


class _Factory:
    """The task factory: makes the task as before, and notes it in the scope of whoever makes it."""

    def __init__(self, before: Callable[..., Any] | None) -> None:
        self.before = before

    def __call__(self, loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> Any:
        make = self.before or _new_task
        task = make(loop, coro, **options)
        scope = _SCOPE.get()
        if scope is not None and not task.done():
            scope._add(task)
        return task


def _new_task(loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> asyncio.Task[Any]:
    return asyncio.Task(coro, loop=loop, **options)


def detached(coroutine: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
    """Start a task of the server's own, whoever has caused it: no handler's scope counts it."""
    loop = asyncio.get_running_loop()
    return Context().run(lambda: loop.create_task(coroutine, name=name))


async def aside(function: Callable[..., T], *args: Any) -> T:
    """Run a function that reads files in a thread of its own, which ends with it: none stays in the process.

    Returns or raises what the function does. Cancelled, it leaves the function to its end, which nobody waits for.
    """
    pool = ThreadPoolExecutor(1, "hotfd-aside")
    try:
        return await asyncio.get_running_loop().run_in_executor(pool, function, *args)
    finally:
        pool.shutdown(wait=False)


def install(loop: asyncio.AbstractEventLoop) -> None:
    """Let the loop note tasks. Idempotent."""
    before = loop.get_task_factory()
    if not isinstance(before, _Factory):
        loop.set_task_factory(_Factory(before))
