"""The helper tasks of a handler: they live as long as it does, and do not keep it from moving."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

from hotfd.server.tasks import Scope

T = TypeVar("T")


class Helpers:
    """The helpers of one handler, and the tasks that those have made.

    Attributes:
        stopped: whether any was cancelled; its handler must start again to have it again.

    Args:
        on_rest: called when the last of them has ended.
    """

    __slots__ = ("_on_rest", "_scope", "_tasks", "stopped")

    def __init__(self, on_rest: Callable[[], None]) -> None:
        self.stopped = False
        self._on_rest = on_rest
        self._scope: Scope | None = None
        self._tasks: dict[asyncio.Task[Any], bool] = {}  # whether it was cancelled

    def __len__(self) -> int:
        return len(self._tasks)

    def start(self, coroutine: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        """Run a coroutine as a helper."""
        if self._scope is None:
            self._scope = Scope(self._on_rest)
        task = self._scope.run(coroutine, name)
        self._tasks[task] = False
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        del self._tasks[task]
        if not self._tasks:
            self._on_rest()

    def stop(self) -> bool:
        """Cancel the helpers, each once: a second time would break off how it ends.

        Returns:
            whether none is left, nor a task that one has made.
        """
        for task, cancelled in self._tasks.items():
            if not cancelled:
                self._tasks[task] = self.stopped = True
                task.cancel()
        return not self._tasks and not (self._scope is not None and self._scope.tasks)

    @property
    def ending(self) -> bool:
        """Whether one that was cancelled has not ended yet."""
        return any(self._tasks.values())

    @property
    def current(self) -> bool:
        """Whether the caller is a helper, or a task that one has made."""
        return self._scope is not None and self._scope.current


NO_HELPERS: Final = Helpers(lambda: None)
"""What all handlers share that have had no helper yet: most have none, and a connection costs the less."""
