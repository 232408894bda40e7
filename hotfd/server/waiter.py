"""What a parked handler waits on: like a future, but a task can be resumed by it within the turn of the loop that wakes it.

A future tells its task in the next turn of the loop. For a server that answers requests, this is a second turn for each
of them, with its own look into the kernel's poll. What has to be done in a task's stead is small: a task awaits
whatever keeps to the protocol of futures (see :func:`asyncio.isfuture`, which was made for such objects), and hands it the
function that goes on with the task. A future leaves that to the loop; a waiter can call it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from contextvars import Context
from typing import Any, Final

NOTHING: Final = type(None)
"""Called, it returns None, without a step in Python: it is called for every frame."""


class Waiter:
    """One place to wait at, for one task at a time; used again for each wait.

    A wait is::

        waiter.arm()
        try:
            if waiter.armed:        # nothing has woken it since
                await waiter
        finally:
            waiter.leave()

    Attributes:
        taken: whether a task is between :meth:`arm` and :meth:`leave`.
        armed: whether it is, and was not woken yet.
        result: what a task asks a future whose wait is over: returns nothing, or raises that the wait was cancelled.

    Args:
        loop: the loop of the tasks that wait.
    """

    __slots__ = ("_asyncio_future_blocking", "_context", "_loop", "_resume", "armed", "result", "taken")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._asyncio_future_blocking = False
        self._resume: Callable[[Waiter], object] | None = None  # goes on with the task that waits
        self._context: Context  # it is there when _resume is
        self.result: Callable[[], object] = NOTHING
        self.armed = self.taken = False

    def __await__(self) -> Generator[Any, Any, Any]:
        self._asyncio_future_blocking = True  # a task believes that something is awaited, and not just given to it
        steps: Any = iter((self,))  # any iterator will do (PEP 492); this one has no frame
        return steps  # type: ignore[no-any-return]

    def arm(self) -> None:
        """Say that a wait begins, before whatever may end it is looked at.

        Raises:
            RuntimeError: another task waits.
        """
        if self.taken:
            raise RuntimeError("another task of this handler waits for the next frame already")
        self.armed = self.taken = True

    def leave(self) -> None:
        """Say that the wait is over, however it has ended."""
        self.armed = self.taken = False

    def wake(self) -> None:
        """End the wait; the task goes on in the next turn of the loop. Without a wait, nothing happens."""
        if self.armed:
            self.armed = False
            resume, self._resume = self._resume, None
            if resume is not None:
                self._loop.call_soon(resume, self, context=self._context)

    def wake_now(self) -> None:
        """End the wait; the task goes on before this returns.

        Only for a function that the loop itself has called: no task may be running, and the one that goes on may do
        anything to what its caller works on.
        """
        resume = self._resume
        if resume is None or not self.armed:
            self.wake()
            return
        self.armed = False
        self._resume = None
        self._context.run(resume, self)

    # -- what a task asks of a future ----------------------------------------------------------------

    def add_done_callback(self, resume: Callable[[Waiter], object], *, context: Context) -> None:
        """Take what goes on with the task that waits."""
        self._resume = resume
        self._context = context

    def cancel(self, msg: object = None) -> bool:
        """End the wait by a CancelledError in the task. False when it has ended already: the task then does that itself."""
        if not self.armed:
            return False

        def result() -> None:
            self.result = NOTHING
            raise asyncio.CancelledError() if msg is None else asyncio.CancelledError(msg)

        self.result = result
        self.wake()
        return True
