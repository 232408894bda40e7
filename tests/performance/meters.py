"""What counts while a scene runs: instructions of the interpreter, calls into C, or marks for whoever counts from outside.

A meter is called with the name of a figure, and is a context manager: what happens inside counts for that figure. Code
of the tests themselves never counts.
"""

from __future__ import annotations

import os
import sys
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from types import CodeType, FrameType, TracebackType
from typing import Any, Final

Meter = Callable[[str], AbstractContextManager[None]]

TESTS: Final = str(Path(__file__).resolve().parents[1]) + os.sep
"""Code in files below does not count."""

MARK: Final = "/hotfd-count/"
"""Paths that begin with this are asked for, and are nowhere: a mark in a trace of system calls."""


class _Counting:
    """A stretch of counting. A class, since a generator's frames would be counted with what is between them."""

    def __init__(self, begin: Callable[[], None], end: Callable[[], None]) -> None:
        self._begin = begin
        self._end = end

    def __enter__(self) -> None:
        self._begin()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._end()


class Opcodes:
    """Counts instructions that the interpreter executes, of Python's own library too: asyncio's are part of the price."""

    unit = "opcodes"

    def __init__(self) -> None:
        self.found: Counter[str] = Counter()
        self.where: dict[str, Counter[CodeType]] = defaultdict(Counter)
        """By figure: in which functions."""
        self._figure = ""
        self._before: Any = None

    def __call__(self, figure: str) -> AbstractContextManager[None]:
        """Count for a figure."""
        return _Counting(lambda: self._start(figure), lambda: sys.settrace(self._before))

    def _start(self, figure: str) -> None:
        self._figure = figure
        self._before = sys.gettrace()
        sys.settrace(self._enter)

    def _enter(self, frame: FrameType, event: str, _argument: Any) -> Any:
        """A frame begins, or a coroutine goes on."""
        if event != "call" or frame.f_code.co_filename.startswith(TESTS):
            return None
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        return self._step

    def _step(self, frame: FrameType, event: str, _argument: Any) -> Any:
        if event == "opcode":
            self.found[self._figure] += 1
            self.where[self._figure][frame.f_code] += 1
        return self._step


class Calls:
    """Counts calls from Python into C: builtins, methods of builtin types, and the C core."""

    unit = "calls into C"

    def __init__(self) -> None:
        self.found: Counter[str] = Counter()
        self._figure = ""
        self._before: Any = None

    def __call__(self, figure: str) -> AbstractContextManager[None]:
        """Count for a figure."""
        return _Counting(lambda: self._start(figure), lambda: sys.setprofile(self._before))

    def _start(self, figure: str) -> None:
        self._figure = figure
        self._before = sys.getprofile()
        sys.setprofile(self._note)

    def _note(self, frame: FrameType, event: str, _argument: Any) -> None:
        if event == "c_call" and not frame.f_code.co_filename.startswith(TESTS):
            self.found[self._figure] += 1


class Marks:
    """Counts nothing, and leaves marks in a trace of system calls."""

    unit = "system calls"

    def __init__(self) -> None:
        self.found: Counter[str] = Counter()

    def __call__(self, figure: str) -> AbstractContextManager[None]:
        """Mark a stretch."""
        return _Counting(lambda: self._mark(figure), lambda: self._mark(""))

    def _mark(self, figure: str) -> None:
        os.access(MARK + figure, os.F_OK)


METERS: Final[dict[str, type[Opcodes | Calls | Marks]]] = {meter.unit: meter for meter in (Opcodes, Calls, Marks)}
