"""What stands for a process in a test: a handler, its hooks, and the memory that a new process has not.

In a test all generations of a server live in one process, so what a handler keeps in variables outside of
itself survives, as it would not in life. Two things are done about it:

* :func:`per_process` has the handler made anew for every generation, with everything around it;
* :class:`Memory` puts back what a handler rebinds with ``nonlocal`` or ``global``.

What neither sees (a list in a module that grows) needs a real process: :class:`hotfd.testing.ServerProcess`.
"""

from __future__ import annotations

import dis
import functools
import inspect
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from types import CodeType, FunctionType
from typing import Any, Final

from hotfd.server.connection import Connection
from hotfd.state import decode_any
from hotfd.testing.travel import HandoverFailed, write_process_state

Handler = Callable[[Connection[Any]], Awaitable[None]]
Hook = Callable[[], Any]

_UNBOUND: Final = object()
_REBINDS: Final = frozenset({"STORE_DEREF", "DELETE_DEREF", "STORE_GLOBAL", "DELETE_GLOBAL"})


@dataclass(frozen=True, slots=True)
class Program:
    """A handler and its hooks, as :class:`hotfd.Server` takes them.

    Attributes:
        handler: serves one connection.
        on_start: called once for each process that there would be.
        export_state: returns the process-wide state; then all connections move together.
        import_state: takes what ``export_state`` returned.
    """

    handler: Handler
    on_start: Hook | None = None
    export_state: Hook | None = None
    import_state: Callable[[Any], Any] | None = None

    def __post_init__(self) -> None:
        if (self.export_state is None) != (self.import_state is None):
            raise ValueError("export_state and import_state need each other")


@dataclass(frozen=True, slots=True)
class PerProcess:
    """See :func:`per_process`."""

    make: Callable[[], Handler | Program]


def per_process(make: Callable[[], Handler | Program]) -> PerProcess:
    """Say that ``make()`` does what a new process does: makes the handler and everything that it shares.

    Args:
        make: returns a handler, or a :class:`Program`; called for each process that there would be.

    Returns:
        what :func:`hotfd.testing.serve` takes in place of a handler. Then all connections are handed over
        at once, whenever one of them is due, as a handoff does.
    """
    return PerProcess(make)


class Programs:
    """The programs of all generations, one after another.

    Args:
        made: a program, or what makes one for each generation.
    """

    def __init__(self, made: Program | PerProcess) -> None:
        self._make = made.make if isinstance(made, PerProcess) else None
        self.current = self._made() if isinstance(made, PerProcess) else made
        self._memory = Memory(self.current.handler)

    @property
    def shared(self) -> bool:
        """Whether connections share what a new process would begin without: then they move at once."""
        return self._make is not None or self.current.export_state is not None or bool(self._memory)

    async def start(self) -> None:
        """Run ``on_start`` of the current program; raises what it raises."""
        if self.current.on_start is not None:
            await settle(self.current.on_start())

    async def export(self) -> bytes | None:
        """Return the process-wide state as it travels; None when there is none.

        Raises:
            HandoverFailed: ``export_state`` raised, or what it returned cannot travel.
        """
        if self.current.export_state is None:
            return None
        try:
            value = await settle(self.current.export_state())
        except Exception as error:
            raise HandoverFailed("export-state", f"export_state raised {type(error).__name__}: {error}") from error
        return write_process_state(value)

    async def succeed(self, process: bytes | None) -> None:
        """Be the next process: forget, make the program anew, run its ``on_start``, and give it what travelled.

        Args:
            process: what :meth:`export` returned.

        Raises:
            HandoverFailed: the program raised something.
        """
        try:
            self._memory.forget()
            if self._make is not None:
                self.current = self._made()
            await self.start()
        except Exception as error:
            raise HandoverFailed("not-ready", f"its start raised {type(error).__name__}: {error}") from error
        if self.current.import_state is not None and process is not None:
            try:
                await settle(self.current.import_state(decode_any(process)))
            except Exception as error:
                raise HandoverFailed("state-decode", f"import_state raised {type(error).__name__}: {error}") from error

    def _made(self) -> Program:
        assert self._make is not None
        made = self._make()
        return made if isinstance(made, Program) else Program(made)


async def settle(value: Any) -> Any:
    """Return what a hook returned, awaited if it is awaitable."""
    return await value if isinstance(value, Awaitable) else value


class Memory:
    """The variables outside of a function that the function binds anew, with the values that they had at first.

    A counter under ``nonlocal`` is one. Only rebinding is seen, in the function itself and those inside it.

    Args:
        function: the handler; of a method or a partial, the function in it is looked at.
    """

    def __init__(self, function: Any) -> None:
        self._cells: dict[str, tuple[Any, Any]] = {}
        self._globals: dict[str, Any] = {}
        self._namespace: dict[str, Any] = {}
        plain = _function_of(function)
        if plain is None:
            return
        self._namespace = plain.__globals__
        cells = dict(zip(plain.__code__.co_freevars, plain.__closure__ or (), strict=True))
        for operation, name in _rebound(plain.__code__):
            if operation.endswith("GLOBAL"):
                self._globals[name] = self._namespace.get(name, _UNBOUND)
            elif name in cells:
                self._cells[name] = cells[name], _content(cells[name])

    def __bool__(self) -> bool:
        return bool(self._cells or self._globals)

    def forget(self) -> None:
        """Put every variable back."""
        for cell, value in self._cells.values():
            if value is not _UNBOUND:
                cell.cell_contents = value
            elif _content(cell) is not _UNBOUND:
                del cell.cell_contents
        for name, value in self._globals.items():
            if value is not _UNBOUND:
                self._namespace[name] = value
            else:
                self._namespace.pop(name, None)


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # a cell whose variable has no value yet
        return _UNBOUND


def _function_of(handler: Any) -> FunctionType | None:
    while isinstance(handler, functools.partial):
        handler = handler.func
    handler = inspect.unwrap(getattr(handler, "__func__", handler))
    if not isinstance(handler, FunctionType):
        handler = getattr(type(handler).__call__, "__func__", type(handler).__call__)
    return handler if isinstance(handler, FunctionType) else None


def _rebound(code: CodeType) -> Iterator[tuple[str, str]]:
    """Yield operation and name of each variable that a function's code binds, and that is not its own."""
    own = set(code.co_cellvars)
    for instruction in dis.get_instructions(code):
        if instruction.opname in _REBINDS and instruction.argval not in own:
            yield instruction.opname, instruction.argval
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from (found for found in _rebound(constant) if found[1] not in own)
