"""The direct way back to objects whose fields are as declared: msgspec checks and builds all that it can in one go, in C.

For a class with plain fields there is a type of msgspec's that fits what is written of its objects and nothing else: of
``[64, "ann", [LIST, [1, 2]]]`` it is ``tuple[Literal[64], str | ..., tuple[Literal[LIST], list[int | ...]]]``. Once
something has been decoded as that, no tag, length or type is left to be looked at.

Declarations are only what to expect. A value travels as what it is, and may be something else; a field may have no value.
Then msgspec refuses, and :class:`hotfd.state.reader.Reader`, which knows all that may come and has the words for what may
not, reads it from the beginning. Nothing of the program's has been called until then. Whether the two agree is tested.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import itemgetter
from types import GenericAlias, NoneType
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

import msgspec

from hotfd.state import form
from hotfd.state.form import ATOMS, Fault
from hotfd.state.reader import MALFORMED, Reader, made, no_extension
from hotfd.state.shapes import RECORDS, Hint, Shape

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hotfd.state.schema import Plan, Schema

MAX_PARTS: Final = 1_000
"""Parts of one expectation; states have tens. Classes that contain each other several times over would make it explode."""

MAX_NESTED: Final = 20
"""Classes within each other of which something particular is expected; states have three. Each takes up to a dozen frames of
the interpreter's thousand."""

Finish = Callable[[Any], Any]


class Part(NamedTuple):
    """What to expect of one declared type.

    Attributes:
        type: decodes what is written of it, and nothing that means something else.
        finish: makes the value of what was decoded, None excepted, which means itself; None if that is the value.
    """

    type: Any
    finish: Finish | None = None


# msgspec has no union of text and bytes. Numbers are expected everywhere: it would take an integer for the float that was
# declared, or the reverse, and convert it.
TEXT: Final = Part(None | bool | int | float | str)
BYTES: Final = Part(None | bool | int | float | bytes)


def direct(
    written: Schema, plan: Plan, reader: Reader, root: Hint, otherwise: Callable[[bytes], Any]
) -> Callable[[bytes], Any]:
    """Return what reads states directly, where that is possible.

    Args:
        written: the schema of the process that writes.
        plan: how its classes are read here; the state as a whole is not upgraded.
        reader: reads what nothing particular is expected of.
        root: the declared type of a state.
        otherwise: reads a state of whatever form from the beginning, and has the words for what is none.
    """
    part = _Expectations(written, plan, reader).of_root(root)
    if part is None:
        return otherwise
    build = part.finish
    assert build is not None
    decode = msgspec.msgpack.Decoder(_tagged(form.FORMAT, part.type), ext_hook=no_extension).decode

    def read(data: bytes) -> Any:
        try:
            _, wire = decode(data)
        except MALFORMED:
            return otherwise(data)
        return build(wire)

    return read


class _Expectations:
    """Finds what to expect of declared types; the arguments are those of :func:`direct`."""

    def __init__(self, written: Schema, plan: Plan, reader: Reader) -> None:
        self._classes = dict(_as_written(written, plan))
        self._anything = Part(Any, reader.field)
        self._within: set[type] = set()
        self._parts = 0

    def of_root(self, hint: Hint) -> Part | None:
        """Return what to expect of a whole state, if that is an object of one class; None if it is anything else."""
        if len(hint) == 1 and hint[0][0] in self._classes:
            return self._object(hint[0][0])
        return None

    def _part(self, hint: Hint) -> Part:
        self._parts += 1
        kinds = [alternative for alternative in hint if alternative[0] is not NoneType]
        heads = {head for head, *_ in kinds}
        if ATOMS.issuperset(heads):
            return self._anything if heads >= {str, bytes} else BYTES if bytes in heads else TEXT
        found = self._container(*kinds[0]) if len(kinds) == 1 and self._parts < MAX_PARTS else None
        return self._anything if found is None else Part(found.type | None, found.finish)

    def _container(self, head: Any, *arguments: Hint) -> Part | None:
        if head in self._classes and head not in self._within and len(self._within) < MAX_NESTED:
            return self._object(head)
        parts = [self._part(argument) for argument in arguments if argument != (("...",),)]
        if not parts or self._anything in parts:
            return None
        if head is list:
            return _sequence(form.LIST, list, parts[0])
        if head is tuple and len(parts) < len(arguments):
            return _sequence(form.TUPLE, tuple, parts[0])
        if head is tuple and all(part.finish is None for part in parts):
            return Part(_tagged(form.TUPLE, GenericAlias(tuple, tuple(part.type for part in parts))), _SECOND)
        if head is dict and parts[0] in (TEXT, BYTES):
            return _mapping(*parts)
        return None

    def _object(self, cls: type) -> Part:
        tag, shape = self._classes[cls]
        self._within.add(cls)
        parts = [self._part(shape.hints[name]) for name in shape.fields]
        self._within.discard(cls)
        return Part(_tagged(tag, *(part.type for part in parts)), self._builder(shape, parts))

    def _builder(self, shape: Shape, parts: list[Part]) -> Finish:
        make, names = shape.make, shape.fields
        assert make is not None
        steps = [(index, part.finish) for index, part in enumerate(parts) if part.finish is not None]
        certain = self._anything not in parts

        def build(wire: tuple[Any, ...]) -> Any:
            _, *values = wire
            try:
                for index, finish in steps:
                    if (found := values[index]) is not None:
                        values[index] = finish(found)
            except Fault as fault:
                fault.under(f".{names[index]}")
                raise
            return make(values) if certain else made(shape, values)

        return build


_SECOND: Final[Finish] = itemgetter(1)


def _tagged(tag: int, *types: Any) -> Any:
    return GenericAlias(tuple, (Literal[tag], *types))


def _as_written(written: Schema, plan: Plan) -> Iterator[tuple[type, tuple[int, Shape]]]:
    """Yield the classes whose objects are written as they are here, each with its tag and its shape."""
    for tag, name in enumerate(written.order(), form.FIRST_TYPE):
        shape = plan.shapes.get(name)
        if shape is None or shape.kind not in RECORDS or name in plan.upgrades:
            continue
        if shape.fields == tuple(written.types[name].fields):
            yield shape.cls, (tag, shape)


def _sequence(tag: int, kind: type[list[Any]] | type[tuple[Any, ...]], item: Part) -> Part:
    finish = item.finish
    if finish is None:
        items = (item.type,) if kind is list else (item.type, ...)
        return Part(_tagged(tag, GenericAlias(kind, items)), _SECOND)

    def each(wire: tuple[int, list[Any]]) -> Any:
        items = wire[1]
        for index, item in enumerate(items):
            try:
                if item is not None:
                    items[index] = finish(item)
            except Fault as fault:
                fault.under(f"[{index}]")
                raise
        return items if kind is list else tuple(items)

    return Part(_tagged(tag, GenericAlias(list, (item.type,))), each)


def _mapping(key: Part, value: Part) -> Part:
    finish = value.finish
    if finish is None:
        return Part(GenericAlias(dict, (key.type, value.type)))

    def each(found: dict[Any, Any]) -> dict[Any, Any]:
        for index, (name, item) in enumerate(found.items()):
            try:
                if item is not None:
                    found[name] = finish(item)
            except Fault as fault:
                fault.under(f".values()[{index}]")
                raise
        return found

    return Part(GenericAlias(dict, (key.type, value.type)), each)
