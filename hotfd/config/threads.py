"""Blocking work beside the event loop that nothing waits for when the process ends."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


async def aside(function: Callable[..., T], *args: object) -> T:
    """Run a function in a daemon thread of its own.

    A program's check that hangs, or a disk that does, keeps neither the loop's default executor busy nor the process
    from its end, which would join the threads of any executor.

    Returns or raises what the function does; RuntimeError for what would end the loop. Cancelled, it leaves the function
    to its end, which nobody waits for.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def deliver(result: T | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]  # T may be None

    def run() -> None:
        try:
            outcome: tuple[T | None, BaseException | None] = function(*args), None
        except BaseException as error:  # noqa: BLE001 - it is the caller's, whatever it is
            outcome = None, _bearable(error)
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(deliver, *outcome)

    threading.Thread(target=run, name="hotfd-config", daemon=True).start()
    return await future


class Crew:
    """Runs functions aside, so many at a time: those that hang, and that nobody waits for any more, count as well.

    Args:
        size: threads at a time. When all are busy, who comes next waits for one.
    """

    def __init__(self, size: int) -> None:
        self._free = asyncio.Semaphore(size)

    @property
    def busy(self) -> bool:
        """Whether all of its threads are."""
        return self._free.locked()

    async def run(self, function: Callable[..., T], *args: object) -> T:
        """Run a function as :func:`aside` does, as soon as a thread is free."""
        await self._free.acquire()
        loop = asyncio.get_running_loop()
        begun = False

        def work() -> T:
            nonlocal begun
            begun = True
            try:
                return function(*args)
            finally:
                with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                    loop.call_soon_threadsafe(self._free.release)

        try:
            return await aside(work)
        except RuntimeError:
            if not begun:  # the system gave no thread: it is free for the next one
                self._free.release()
            raise


def _bearable(error: BaseException) -> BaseException:
    """Return an error as a future can hold it and a loop survives it: in a thread, SystemExit ends that alone."""
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        return error
    return RuntimeError(f"the function raised {type(error).__name__}")
