"""What a task waits for: where its coroutines stand, from the handler inwards.

A session that comes to no boundary has a handler that awaits something. Its operator has to know what, and needs
no debugger for it: each coroutine knows the one that it awaits (``cr_await``, ``gi_yieldfrom`` and ``ag_await``, see
the Python library's :mod:`inspect`). Names and lines are told, and never a value.
"""

from __future__ import annotations

import asyncio
import gc
import inspect
import os
from collections.abc import Iterator
from types import AsyncGeneratorType, CodeType, FrameType
from typing import Any

MAX_STEPS = 4096
"""Frames that are walked at most: more than Python's recursion limit lets one task have, and some tasks in a row."""

MAX_PLACES = 24
"""Places in an answer; beyond it the middle is left out, since the two ends are what tells a person most."""

LEFT_OUT = "..."
"""Stands for what :data:`MAX_PLACES` has left out."""

FILE_PARTS = 2
"""Parts of a file's name that are told: ``asyncio/tasks.py`` is enough to know it, and keeps a line short."""

_LINKS = (("cr_frame", "cr_await"), ("gi_frame", "gi_yieldfrom"), ("ag_frame", "ag_await"))


def awaited_by(task: asyncio.Task[Any]) -> list[str]:
    """Say where a task waits.

    Must be called on the task's own loop.

    Args:
        task: a task that runs on this loop; one that is done has no places.

    Returns:
        places as ``file:function:line``, the innermost last, at most :data:`MAX_PLACES`. What the server itself
        does around a handler is left out, and a task that is awaited is followed.
    """
    places = [_place(frame.f_code, frame.f_lineno) for frame in _beginning_with_the_handler(_frames(task))]
    if len(places) > MAX_PLACES:
        places[1 : 2 - MAX_PLACES] = [LEFT_OUT]
    return places


def _place(code: CodeType, line: int) -> str:
    name = "/".join(code.co_filename.split(os.sep)[-FILE_PARTS:])
    return f"{name}:{code.co_qualname}:{line}"


def _beginning_with_the_handler(frames: Iterator[FrameType]) -> Iterator[FrameType]:
    """Leave the outermost frames out that are the server's own."""
    outside = True
    for frame in frames:
        outside = outside and str(frame.f_globals.get("__name__", "")).startswith("hotfd.server.")
        if not outside:
            yield frame


def _frames(task: asyncio.Task[Any]) -> Iterator[FrameType]:
    """Yield the frames of a task and of the tasks that it awaits, each before what it awaits."""
    seen = {task}
    step: Any = task.get_coro()
    for _ in range(MAX_STEPS):
        frame, inner = _look(step)
        if frame is not None:
            yield frame
        if inner is None or isinstance(inner, asyncio.Future) or _look(inner) == (None, None):
            # A future's iterator does not tell its future; the task does. Where a loop brings tasks of its own
            # that do not, the places end here.
            awaited = getattr(task, "_fut_waiter", None)
            if not isinstance(awaited, asyncio.Task) or awaited in seen:
                return
            task = awaited
            seen.add(task)
            inner = task.get_coro()
        step = inner


def _look(step: Any) -> tuple[FrameType | None, Any]:
    """Return the frame of a coroutine or generator and what it awaits; neither, when it is none."""
    for frame, inner in _LINKS:
        if hasattr(step, frame):
            return getattr(step, frame), getattr(step, inner, None)
    if inspect.isawaitable(step) and not isinstance(step, asyncio.Future):
        # A step of an asynchronous generator (PEP 525) has no attribute that leads to its generator.
        for referent in gc.get_referents(step):
            if isinstance(referent, AsyncGeneratorType):
                return None, referent
    return None, None
