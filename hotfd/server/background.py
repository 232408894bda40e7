"""What a program does beside its sessions: its background tasks, and how it comes to rest for a handoff.

Background tasks run in the process that accepts connections, and so in one process at a time. A handoff stops
them before anything is given away, then tells the program (``on_freeze``). When it is undone, the program is told
(``on_thaw``) and the tasks start again::

    WAITING --start--> RUNNING --ends, or raises--> OVER
       ^                  |                          ^
       |                stop: cancelled              | a coroutine, which has one life only
       |                  v                          |
       +-----ends-----STOPPING-----------------------+
"""

from __future__ import annotations

import asyncio
import enum
import inspect
import logging
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import Context
from typing import Any, Final

from hotfd import log
from hotfd.errors import HandoffRefused

Work = Callable[[], Coroutine[Any, Any, object]] | Coroutine[Any, Any, object]
Hook = Callable[[], Any]

STOP_LIMIT: Final = 1.0
"""Seconds in which cancelled background tasks must have ended: with ``together`` everybody is held meanwhile."""

THAW_LIMIT: Final = 10.0
"""Seconds that ``on_thaw`` may take before the server goes on without it, since clients wait for that."""


class Stage(enum.Enum):
    """Where a background task is between its start and its end."""

    WAITING = "waiting"
    RUNNING = "running"
    STOPPING = "stopping"
    OVER = "over"


class _Job:
    """One piece of background work, and its task while it runs."""

    __slots__ = ("name", "stage", "task", "work")

    def __init__(self, work: Work) -> None:
        self.work = work
        self.name: str = getattr(work, "__qualname__", None) or type(work).__name__
        self.stage = Stage.WAITING
        self.task: asyncio.Task[object] | None = None

    def begin(self) -> Coroutine[Any, Any, object]:
        """Return the coroutine to run."""
        return self.work if inspect.iscoroutine(self.work) else self.work()  # type: ignore[operator]


class Background:
    """Background tasks. Status shows :attr:`failed`, how many have raised."""

    def __init__(self) -> None:
        self.failed = 0
        self._jobs: dict[_Job, None] = {}  # those that are not over
        self._wanted = False

    def add(self, work: Work) -> None:
        """Run something beside the sessions: at once if this process accepts, else when it begins to.

        Args:
            work: a coroutine function without arguments. A coroutine is taken too, but has one life: once a
                handoff has stopped it, it is over, also when that handoff is undone.

        Raises:
            TypeError: it is neither.
        """
        if not inspect.iscoroutine(work) and not callable(work):
            raise TypeError(f"background work is a coroutine function, not {work!r}")
        job = _Job(work)
        self._jobs[job] = None
        if self._wanted:
            self._start(job)

    @property
    def running(self) -> list[str]:
        """The names of the tasks that run."""
        return sorted(job.name for job in self._jobs if job.task is not None)

    def start(self) -> None:
        """Run everything that waits. Idempotent."""
        self._wanted = True
        for job in list(self._jobs):
            self._start(job)

    def _start(self, job: _Job) -> None:
        if job.stage is not Stage.WAITING:
            return
        try:
            # In an empty context: work that a handler adds is not a task of that handler, which may move.
            job.task = Context().run(lambda: asyncio.get_running_loop().create_task(job.begin(), name=job.name))
        except Exception as error:  # noqa: BLE001 - the program's own function
            self._raised(job, error)
            del self._jobs[job]
            return
        job.stage = Stage.RUNNING
        job.task.add_done_callback(lambda task: self._ended(job, task))

    def _ended(self, job: _Job, task: asyncio.Task[object]) -> None:
        job.task = None
        interrupted = job.stage is Stage.STOPPING and (task.cancelled() or not self._wanted)
        job.stage = Stage.OVER
        if not task.cancelled() and (error := task.exception()) is not None:
            self._raised(job, error)
        if interrupted and inspect.iscoroutine(job.work):
            log.event(logging.INFO, "background-task-over", task=job.name, reason="a coroutine cannot start again")
        elif interrupted:
            job.stage = Stage.WAITING
            if self._wanted:  # it has taken so long that the handoff was undone meanwhile
                self._start(job)
        if job.stage is Stage.OVER:
            self._jobs.pop(job, None)

    def _raised(self, job: _Job, error: BaseException) -> None:
        job.stage = Stage.OVER
        self.failed += 1
        log.event(logging.ERROR, "background-task-failed", exc_info=error, task=job.name)

    def halt(self) -> None:
        """Cancel everything that runs, and start nothing more."""
        self._wanted = False
        for job in self._jobs:
            if job.stage is Stage.RUNNING and job.task is not None:
                job.stage = Stage.STOPPING
                job.task.cancel()

    async def stop(self, limit: float = STOP_LIMIT) -> list[str]:
        """Cancel everything that runs, and wait until it has ended.

        Args:
            limit: seconds to wait.

        Returns:
            the names of the tasks that have not ended by then.
        """
        self.halt()
        tasks = {job.task: job.name for job in self._jobs if job.task is not None}
        if not tasks:
            return []
        _, left = await asyncio.wait(tasks, timeout=limit)
        return sorted(tasks[task] for task in left)

    async def close(self) -> None:
        """Stop for good; a task that does not end is logged, and left to the end of the loop."""
        for name in await self.stop():
            log.event(logging.WARNING, "background-task-does-not-stop", task=name)
        for job in self._jobs:
            if job.stage is Stage.WAITING and inspect.iscoroutine(job.work):
                job.work.close()
        self._jobs.clear()


class Freezer:
    """Brings a program to rest before its sessions are given away, and lets it go on when that is undone.

    Args:
        background: its background tasks.
        on_freeze: the program's hook: flush files, release locks, pause schedulers.
        on_thaw: its counterpart.
    """

    def __init__(self, background: Background, on_freeze: Hook | None = None, on_thaw: Hook | None = None) -> None:
        self._background = background
        self._on_freeze = on_freeze
        self._on_thaw = on_thaw
        self._frozen = False
        self._told = False

    async def freeze(self, limit: float) -> None:
        """Stop the background tasks, and then tell the program.

        Args:
            limit: seconds that ``on_freeze`` may take.

        Raises:
            HandoffRefused: a task does not stop, or the hook failed. :meth:`thaw` undoes what was done.
        """
        self._frozen = True
        left = await self._background.stop()
        if left:
            raise HandoffRefused(
                "background-task", f"did not stop within {STOP_LIMIT:g} s of being cancelled: {', '.join(left)}"
            )
        if self._on_freeze is None:
            return
        self._told = True
        problem = await _call(self._on_freeze, limit)
        if problem is not None:
            raise HandoffRefused("freeze-failed", f"on_freeze {problem}")

    async def thaw(self) -> None:
        """Let the program go on. Does nothing where nothing was frozen; a hook that fails is logged."""
        if not self._frozen:
            return
        self._frozen = False
        told, self._told = self._told, False
        if told and self._on_thaw is not None:
            problem = await _call(self._on_thaw, THAW_LIMIT)
            if problem is not None:
                log.event(logging.ERROR, "thaw-failed", reason=f"on_thaw {problem}")
        self._background.start()


async def _call(hook: Hook, limit: float) -> str | None:
    """Call a hook, which may be a coroutine function: None, or what went wrong."""
    timer = asyncio.timeout(limit)
    try:
        async with timer:
            result = hook()
            if isinstance(result, Awaitable):
                await result
    except Exception as error:  # noqa: BLE001 - the program's own code
        if timer.expired():
            return f"did not return within {limit:g} s"
        log.event(logging.ERROR, "hook-failed", exc_info=error)
        return f"raised {type(error).__name__}; see the log"
    return None
