"""The state types of shared sessions, by name.

What a connection keeps is declared when the server is made. What a shared session keeps is said where it is
joined, and a new process must read it before any of its handlers has run. So a type travels by its name,
``module:qualname``, and the new process looks that name up among the modules that its program has loaded:
nothing is imported, and nothing but a class is taken.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from hotfd.errors import StateError
from hotfd.state import Codec, State

NOTHING: Final = ""
"""The kind of a session that keeps no state."""

Declared = type[Any] | State[Any] | None
"""What ``state=`` takes."""


class Kinds:
    """The kinds of state that this process's shared sessions keep.

    Args:
        home: the name of the module that the program's handler is from, where types are looked for as well.
        declared: types that cannot be found by their names, because they are no classes at module level.

    Raises:
        StateError: one of them cannot travel.
    """

    def __init__(self, home: str, declared: Sequence[type[Any] | State[Any]] = ()) -> None:
        self._home = home
        self._declared: dict[str, Declared] = {}
        self._codecs: dict[str, Codec[Any]] = {}
        self._aliases: dict[str, str] = {}  # what other processes call them by
        self.name(None)
        for entry in declared:
            self.name(entry)

    def name(self, declared: Declared) -> str:
        """Return the name of a declared type, and know it from now on.

        Raises:
            StateError: it cannot travel.
        """
        name = _name_of(declared)
        if name not in self._codecs or (self._declared[name] is not declared and isinstance(declared, State)):
            self._codecs[name] = Codec.of(declared)
            self._declared[name] = declared
        return name

    def canonical(self, name: str) -> str:
        """Return the name by which this program knows a kind that another process has named.

        A class keeps its sessions when a new version defines it in another module.

        Raises:
            StateError: the program has no such class.
        """
        if name not in self._codecs and name not in self._aliases:
            found = self._find(name)
            if found is None:
                raise StateError(
                    name.rpartition(":")[2],
                    "is the state of shared sessions, and this program has no such class; keep it at module level, "
                    "or name it in session_states=",
                )
            self._aliases[name] = self.name(found)
        return self._aliases.get(name, name)

    def codec(self, name: str) -> Codec[Any]:
        """Return the codec of a kind that this or another process has named; raises as :meth:`canonical`."""
        return self._codecs[self.canonical(name)]

    def _find(self, name: str) -> type[Any] | None:
        module, _, qualname = name.partition(":")
        for place in (module, self._home, "__main__"):
            found: Any = sys.modules.get(place)
            for step in qualname.split("."):
                found = getattr(found, step, None)
            if isinstance(found, type):
                return found
        return None

    @property
    def schemas(self) -> dict[str, dict[str, Any]]:
        """What another process must know to read the states of these kinds."""
        return {name: codec.schema for name, codec in self._codecs.items() if name != NOTHING}

    def unreadable(self, schemas: Mapping[str, dict[str, Any]]) -> str | None:
        """Say why states of another process cannot be read here; None when they can."""
        for name, schema in schemas.items():
            try:
                problem = self.codec(name).unreadable(schema)
            except StateError as error:
                problem = str(error)
            if problem is not None:
                return problem
        return None

    def known(self, names: Iterable[str]) -> dict[str, dict[str, Any]]:
        """Return the schemas of those of the named kinds that this program has."""
        found: dict[str, dict[str, Any]] = {}
        for name in names:
            with suppress(StateError):
                found[name] = self.codec(name).schema
        return found

    def new(self, name: str) -> Any:
        """Return the state of a fresh session; raises what the program's class raises."""
        return self.codec(name).new()

    def encode(self, name: str, value: Any) -> bytes:
        """Return a state in its written form.

        Raises:
            StateError: something in it cannot travel.
        """
        return self.codec(name).encode(value)

    def reader(self, schemas: Mapping[str, dict[str, Any]]) -> Callable[[str, bytes], Any]:
        """Return a function that reads what a process with these schemas has written; they may become more."""
        readers: dict[str, Callable[[bytes], Any]] = {}

        def read(name: str, data: bytes) -> Any:
            if name not in readers:
                if name not in schemas and name != NOTHING:
                    raise StateError(name.rpartition(":")[2], "is a kind that was not announced")
                codec = self.codec(name)
                readers[name] = codec.reader(schemas.get(name, codec.schema))
            return readers[name](data)

        return read


def _name_of(declared: Declared) -> str:
    if declared is None:
        return NOTHING
    named: Any = declared
    if isinstance(declared, State):
        named = declared.declared if declared.declared is not None else declared.encode
    qualname = getattr(named, "__qualname__", None)
    return f"{named.__module__}:{qualname}" if isinstance(qualname, str) else f":{named!r}"
