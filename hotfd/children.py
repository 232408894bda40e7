"""The children of this process, and whatever they leave behind: none of it outlives who asks for that.

A process that is a subreaper (prctl(2), PR_SET_CHILD_SUBREAPER) becomes the parent of everything that has lost its own
below it. So who ends its children until there is none has ended all that it has started, at any depth.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import prctl


@contextmanager
def none_left() -> Iterator[None]:
    """Leave no process behind: what is started inside is ended, however this ends, and at whatever moment.

    A signal whose handler raises (control-C) can come between the start of a process and the assignment that would
    have it known to whoever ends it in order. Only for a program's main thread, and a program that wants no children
    from before.
    """
    prctl.set_child_subreaper(1)
    try:
        yield
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):  # impatience ends the children no sooner
            signal.signal(number, signal.SIG_IGN)
        end_children()


def end_children() -> None:
    """Kill and reap every child, and what becomes a child when its parent has died, until there is none.

    All of them are stopped first, so that none makes another one while the next is looked for.
    """
    while True:
        children = _children()
        for pid in children:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
        for pid in children:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def _children() -> list[int]:
    found: list[int] = []
    for thread in os.listdir("/proc/self/task"):
        with suppress(FileNotFoundError), open(f"/proc/self/task/{thread}/children", encoding="ascii") as file:
            found += map(int, file.read().split())
    return found
