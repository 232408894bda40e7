"""The root of a state: what a declaration says about the whole, the class's own words and the State's put together."""

from __future__ import annotations

import enum
import inspect
import types
import typing
from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar, cast

from hotfd.errors import StateError
from hotfd.state.catalogue import SIMPLE, Catalogue
from hotfd.state.declare import State
from hotfd.state.schema import upgrade_advice
from hotfd.state.shapes import RECORDS, Hint, Shape, is_typeddict

S = TypeVar("S")

Converter = Callable[[Any, int], Any]

OWN_FORM: Final[Hint] = (("State(encode=)",),)
"""The hint of a root that its own functions write and read: like nothing else, whatever they make of it."""


class Root(Generic[S]):
    """A declaration, compiled.

    Args:
        declared: a type, a State, or None where nothing is kept.

    Attributes:
        name: how errors call the state; the first step of every path.
        schema_name: how schemas call it; None where nothing is kept.
        catalogue: every class that it can hold.
        hint: its type.
        types: the types that a state can be of, exactly; None where that is open.
        version: of its shape.
        upgrade: makes a state of what another version wrote, or None.
        downgrade: makes of a state what an older version reads, or None.
        give: what to do when there is no ``upgrade`` and one is needed.
        encode: a user's function that writes it, or None.
        decode: its reverse.
        new: makes the state of a fresh connection.

    Raises:
        StateError: the declared type cannot travel, or no fresh state can be made.
    """

    def __init__(self, declared: type[S] | State[S] | None) -> None:
        self.catalogue = Catalogue()
        state: State[Any] | None = None
        if declared is not None:
            state = declared if isinstance(declared, State) else State(declared)
        kind: Any = state.declared if state is not None else None
        cls = _class_of(kind)
        self.name = cls.__name__ if cls is not None else "state"
        self.encode = state.encode if state is not None else None
        self.decode = state.decode if state is not None else None
        self.hint, self.types = self._walk(state)
        self.catalogue.finish()
        shape = self.catalogue.shapes.get(cls) if cls is not None else None
        self.schema_name = None if state is None else self.name if shape is None else shape.name
        self.version, self.upgrade, self.downgrade = _versioned(state, shape)
        self.give = _give(shape)
        self.new: Callable[[], S] = _factory(state, cls, self.name)

    def _walk(self, state: State[Any] | None) -> tuple[Hint, frozenset[type] | None]:
        if state is None:
            return ((type(None),),), frozenset({type(None)})
        if state.encode is not None:
            known = isinstance(state.declared, type)
            return OWN_FORM, frozenset({state.declared}) if known else None  # type: ignore[arg-type]  # a type
        hint = self.catalogue.add(state.declared, self.name)
        if any(not isinstance(head, type) for head, *_ in hint):
            return hint, None
        return hint, frozenset(dict if is_typeddict(head) else head for head, *_ in hint)


def _class_of(declared: Any) -> type | None:
    """Return the class that a declaration names, ``Box`` for ``Box[int]``, or None where it names none or several."""
    found = typing.get_origin(declared) or declared
    return found if isinstance(found, type) and found not in (types.UnionType, typing.Annotated) else None


def _versioned(state: State[Any] | None, shape: Shape | None) -> tuple[int, Converter | None, Converter | None]:
    """Return version, upgrade and downgrade; what a State says goes before what the class says, for it as well."""
    version, upgrade, downgrade = (
        (shape.version, shape.upgrade, shape.downgrade) if shape is not None else (1, None, None)
    )
    if state is not None:
        version = state.version if state.version is not None else version
        upgrade, downgrade = state.upgrade or upgrade, state.downgrade or downgrade
    if shape is not None:
        shape.version, shape.upgrade, shape.downgrade = version, upgrade, downgrade
    return version, upgrade, downgrade


def _give(shape: Shape | None) -> str:
    if shape is not None and shape.kind in RECORDS:
        return upgrade_advice(shape)
    return "give State(upgrade=) an upgrade(old, version)"


def _factory(state: State[Any] | None, cls: Any, name: str) -> Callable[[], Any]:
    if state is None:
        return lambda: None
    if state.new is not None:
        return state.new
    if cls is None or issubclass(cls, enum.Enum) or inspect.isabstract(cls):
        raise StateError(
            name, "no fresh state can be made of this type; give State(..., new=) a function that makes one"
        )
    if is_typeddict(cls):
        return dict
    try:
        # Plain types have no signature to ask, and making one of them does nothing else.
        if cls in SIMPLE:
            cls()
        else:
            inspect.signature(cls).bind()
    except (TypeError, ValueError) as error:
        problem = f"cannot be made without arguments ({error}); give its fields defaults, or State(..., new=)"
        raise StateError(name, problem) from None
    return cast("Callable[[], Any]", cls)
