"""From the written form back to a value. What arrives is not trusted: whatever it is, it becomes a value or a fault.

Nothing is allocated by a size that is merely claimed: msgpack checks its lengths against the data, and every container
here is built from items that are already there. Classes are those that the reader declared; none is looked up by name.
"""

from __future__ import annotations

import collections
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import msgspec

from hotfd.state import form
from hotfd.state.form import ATOMS, Fault, call, type_name
from hotfd.state.plain import BY_TAG, read_plain
from hotfd.state.shapes import ABSENT_VALUE, Shape

if TYPE_CHECKING:
    from hotfd.state.schema import Plan, Schema, TypeSchema

Builder = Callable[[list[Any]], Any]

MALFORMED: Final = (msgspec.DecodeError, OverflowError, RecursionError, TypeError, ValueError)
"""What decoding raises. TypeError: a map with a key that has no hash. RecursionError: arrays in arrays in arrays."""

_ABSENT_WIRE: Final = [form.ABSENT]


class Reader:
    """Reads what a writer with a given schema wrote.

    Args:
        written: the writer's schema.
        plan: how its classes are read here.
    """

    def __init__(self, written: Schema, plan: Plan) -> None:
        self._builders: dict[int, Builder] = {
            form.LIST: self._items,
            form.TUPLE: lambda wire: tuple(self._items(wire)),
            form.SET: lambda wire: _distinct(set, self._items(wire)),
            form.FROZENSET: lambda wire: _distinct(frozenset, self._items(wire)),
            form.DEQUE: self._deque,
            form.PAIRS: self._pairs,
            form.DEFAULTDICT: self._defaultdict,
            form.ORDEREDDICT: lambda wire: collections.OrderedDict(self._inner_dict(wire, 2)),
            form.COUNTER: self._counter,
        }
        for tag in BY_TAG:
            self._builders[tag] = read_plain
        for number, name in enumerate(written.order()):
            theirs = written.types[name]
            if theirs.kind != "typeddict":
                self._builders[form.FIRST_TYPE + number] = self._builder(theirs, plan.shapes.get(name), name, plan)

    def read(self, wire: Any) -> Any:
        """Return the value of one tree, such as :func:`unpack` finds in what was written.

        Raises:
            Fault: it is no tree of this schema.
        """
        kind = type(wire)
        if kind in ATOMS:
            return wire
        if kind is dict:
            return self._map(wire)
        if kind is list and wire and type(wire[0]) is int:
            builder = self._builders.get(wire[0])
            if builder is not None:
                return builder(wire)
        raise Fault("is not in the written form of a state")

    def field(self, wire: Any) -> Any:
        """Return the value of the tree of a field, which may have none, and is ABSENT_VALUE then.

        Raises:
            Fault: it is no tree of this schema.
        """
        return ABSENT_VALUE if wire == _ABSENT_WIRE else self.read(wire)

    def _items(self, wire: list[Any]) -> list[Any]:
        """Return the items of ``[tag, [item, ...], ...]``."""
        if len(wire) != 2 or type(wire[1]) is not list:
            raise Fault("is no written sequence")
        return self._values(wire[1])

    def _values(self, wires: list[Any], prefix: str = "") -> list[Any]:
        if ATOMS.issuperset(map(type, wires)):
            return wires
        values: list[Any] = []
        try:
            for wire in wires:
                values.append(wire if type(wire) in ATOMS else self.read(wire))  # noqa: PERF401 - see below
        except Fault as fault:
            # As many as have been read come before the one that cannot be.
            fault.under(f"{prefix}[{len(values)}]")
            raise
        return values

    def _map(self, wire: dict[Any, Any]) -> dict[Any, Any]:
        if not ATOMS.issuperset(map(type, wire)):
            raise Fault("has a key that is not in the written form of a state")
        if ATOMS.issuperset(map(type, wire.values())):
            return wire
        return dict(zip(wire, self._values(list(wire.values()), ".values()"), strict=True))

    def _deque(self, wire: list[Any]) -> collections.deque[Any]:
        if len(wire) != 3 or not (wire[2] is None or (type(wire[2]) is int and wire[2] >= 0)):
            raise Fault("is no written deque")
        items = self._items(wire[:2])
        if wire[2] is not None and not len(items) <= wire[2] <= sys.maxsize:
            raise Fault("is no written deque")
        return collections.deque(items, wire[2])

    def _pairs(self, wire: list[Any]) -> dict[Any, Any]:
        if len(wire) != 3 or type(wire[1]) is not list or type(wire[2]) is not list or len(wire[1]) != len(wire[2]):
            raise Fault("is no written dict")
        keys, values = self._values(wire[1], ".keys()"), self._values(wire[2], ".values()")
        made: dict[Any, Any] = _distinct(dict, list(zip(keys, values, strict=True)))
        return made

    def _inner_dict(self, wire: list[Any], length: int) -> dict[Any, Any]:
        found = self.read(wire[1]) if len(wire) == length else None
        if type(found) is not dict:
            raise Fault("is no written dict")
        return found

    def _counter(self, wire: list[Any]) -> collections.Counter[Any]:
        made: collections.Counter[Any] = collections.Counter()
        # Counter(mapping) would count; an update as a dict assigns, whatever the values are.
        dict.update(made, self._inner_dict(wire, 2))
        return made

    def _defaultdict(self, wire: list[Any]) -> collections.defaultdict[Any, Any]:
        content = self._inner_dict(wire, 3)
        if type(wire[2]) is not str or wire[2] not in form.FACTORIES:
            raise Fault("is no written defaultdict")
        return collections.defaultdict(form.FACTORIES[wire[2]], content)

    def _builder(self, theirs: TypeSchema, shape: Shape | None, name: str, plan: Plan) -> Builder:
        if name in plan.upgrades:
            assert shape is not None
            return self._upgraded(self._raw(theirs), shape, theirs.version)
        if shape is None:
            return self._raw(theirs)
        if shape.kind == "enum":
            return _enum_member(shape.cls)
        if shape.kind == "flag":
            return self._flag(shape.cls)
        if shape.custom is not None:
            return self._custom(shape)
        return self._record(theirs, shape)

    def _raw(self, theirs: TypeSchema) -> Builder:
        """Return what makes of an object that is no longer known, or not yet upgraded, a plain value."""
        if theirs.kind in ("enum", "flag", "custom"):
            return lambda wire: self._single(wire)
        names = tuple(theirs.fields)

        def build(wire: list[Any]) -> dict[str, Any]:
            values = self._fields(wire, names)
            return {name: value for name, value in zip(names, values, strict=True) if value is not ABSENT_VALUE}

        return build

    def _upgraded(self, raw: Builder, shape: Shape, version: int) -> Builder:
        assert shape.upgrade is not None
        upgrade = shape.upgrade
        expected = frozenset({shape.cls})

        def build(wire: list[Any]) -> Any:
            return upgraded(upgrade, raw(wire), version, expected)

        return build

    def _single(self, wire: list[Any]) -> Any:
        if len(wire) != 2:
            raise Fault("is not in the written form of a state")
        return self.read(wire[1])

    def _flag(self, cls: Any) -> Builder:
        def build(wire: list[Any]) -> Any:
            number = self._single(wire)
            if type(number) is int:
                try:
                    member = cls(number)
                except ValueError:
                    member = None
                # A flag with boundary=CONFORM drops bits that it does not know.
                if type(member) is cls and member.value == number:
                    return member
            raise Fault(f"is no {cls.__name__} of this version")

        return build

    def _custom(self, shape: Shape) -> Builder:
        assert shape.custom is not None
        decode = shape.custom.decode
        assert decode is not None
        return lambda wire: call(decode, "decode", self._single(wire))

    def _record(self, theirs: TypeSchema, shape: Shape) -> Builder:
        make = shape.make
        assert make is not None
        if tuple(theirs.fields) != shape.fields:
            return self._rearranged(theirs, shape)
        names, length = shape.fields, len(shape.fields) + 1

        def build(wire: list[Any]) -> Any:
            values = wire[1:]
            if len(wire) == length and ATOMS.issuperset(map(type, values)):
                return make(values)
            return made(shape, self._fields(wire, names))

        return build

    def _rearranged(self, theirs: TypeSchema, shape: Shape) -> Builder:
        """Return the builder for an object whose writer had other fields, or the same ones in another order."""
        raw = self._raw(theirs)
        names, defaults = shape.fields, shape.defaults

        def build(wire: list[Any]) -> Any:
            old = raw(wire)
            values: list[Any] = []
            for name in names:
                if name in old:
                    values.append(old[name])
                elif name in written or name not in defaults:
                    values.append(ABSENT_VALUE)
                else:
                    values.append(call(defaults[name], f"the default of {name}"))
            return made(shape, values)

        written = frozenset(theirs.fields)
        return build

    def _fields(self, wire: list[Any], names: tuple[str, ...]) -> list[Any]:
        if len(wire) != len(names) + 1:
            raise Fault("has more or fewer fields than were announced")
        values: list[Any] = []
        try:
            for item in wire[1:]:
                values.append(item if type(item) in ATOMS else self.field(item))  # noqa: PERF401 - see _values
        except Fault as fault:
            fault.under(f".{names[len(values)]}")
            raise
        return values


def upgraded(upgrade: Callable[[Any, int], Any], old: Any, version: int, expected: frozenset[type] | None) -> Any:
    """Return what a user's ``upgrade`` makes of an old value.

    Raises:
        Fault: it raised, or returned something of another type than the ``expected``; None expects nothing.
    """
    made = call(upgrade, "upgrade", old, version)
    if expected is not None and type(made) not in expected:
        names = " or ".join(sorted(map(type_name, expected)))
        raise Fault(f"upgrade returned a value of type {type_name(type(made))} and not {names}")
    return made


def unpack(data: bytes) -> list[Any]:
    """Return the outermost array of a written form, the format checked: ``[FORMAT, tree, ...]``.

    Raises:
        Fault: it is none of this format.
    """
    try:
        found = _decode(data)
    except MALFORMED:
        found = None
    if type(found) is not list or len(found) < 2 or type(found[0]) is not int or found[0] != form.FORMAT:
        raise Fault(f"is not written in format {form.FORMAT}")
    return found


def no_extension(code: int, data: memoryview) -> Any:
    """Refuse an extension of msgpack's; this format uses none."""
    raise ValueError(code, len(data))


_decode = msgspec.msgpack.Decoder(ext_hook=no_extension).decode


def _distinct(make: Callable[[list[Any]], Any], items: list[Any]) -> Any:
    """Build a set or a dict of items that must stay apart.

    They were apart where they came from; two that fall together here (an ``__eq__`` that has changed, a member that
    was changed after it was put in) would be a loss.
    """
    made = call(make, "putting an item into a set or dict", items)
    if len(made) != len(items):
        raise Fault("has items that are equal, and would be lost")
    return made


def _enum_member(cls: Any) -> Builder:
    members: dict[str, Any] = cls.__members__

    def build(wire: list[Any]) -> Any:
        if len(wire) == 2 and type(wire[1]) is str and wire[1] in members:
            return members[wire[1]]
        raise Fault(f"is no member of {cls.__name__}")

    return build


def made(shape: Shape, values: list[Any]) -> Any:
    """Return an object of the values of its fields, those included that have none.

    Raises:
        Fault: its class always has a value for every field.
    """
    # By identity: what values of a program's own say to ``==`` is nobody's business here.
    if id(ABSENT_VALUE) not in map(id, values):
        assert shape.make is not None
        return shape.make(values)
    if shape.kind != "dataclass":
        raise Fault("has a field without a value")
    partial: Any = object.__new__(shape.cls)
    for name, value in zip(shape.fields, values, strict=True):
        if value is not ABSENT_VALUE:
            object.__setattr__(partial, name, value)
    return partial
