"""From a value to its written form.

The writer trusts, then checks. Whether an integer fits 64 bits and whether text is valid Unicode is not asked of every
value: msgpack refuses those that it cannot write, and only then is the value walked again by a *careful* writer, for
which int and str are no atoms. So a container of atoms is recognised by one pass of ``map(type, ...)`` at C speed.

Of an object's fields those need work that are no atoms. Which these are, and what writes them, depends on the types of
its values alone, and objects of one class mostly have the same: what has been found is remembered by those types.
"""

from __future__ import annotations

import collections
import functools
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import attrgetter, itemgetter
from typing import Any, Final

import msgspec

from hotfd.state import form
from hotfd.state.downgrade import Descent, TooNew
from hotfd.state.form import ATOMS, FORMAT, MAX_DEPTH, Fault, call
from hotfd.state.objects import attributes_of, items_of, no_attributes, several, values_of
from hotfd.state.plain import PLAIN, write_int, write_str
from hotfd.state.shapes import ABSENT_VALUE, Shape

Handler = Callable[[Any, int], Any]

_FACTORY_NAMES: Final = {factory: name for name, factory in form.FACTORIES.items()}
_CAREFUL_ATOMS: Final = ATOMS - {int, str}
_NONE: Final[Mapping[type, Descent]] = {}

MAX_REMEMBERED: Final = 64
"""Combinations of types that are remembered for each class: as many as six fields have each of which may be None."""


class Writer:
    """Writes values made of plain types and of the classes of one state.

    Args:
        shapes: those classes, in the order of their tags.
        entry_names: keys that are declared (of TypedDicts) and may therefore appear in a path.
        descents: the classes that are not written as they are, but as older code reads them.
        strangers: declared classes that older code does not have.
        root: the class that all values to write are of, if that is known.
    """

    def __init__(
        self,
        shapes: Iterable[Shape],
        entry_names: frozenset[str],
        descents: Mapping[type, Descent] = _NONE,
        strangers: Iterable[Shape] = (),
        root: type | None = None,
    ) -> None:
        listed, unknown = list(shapes), list(strangers)
        self._fast = _Walk(listed, entry_names, ATOMS, descents, unknown).handler(root)
        self._careful = _Walk(listed, entry_names, _CAREFUL_ATOMS, descents, unknown).handler(root)
        self._encode = msgspec.msgpack.Encoder().encode

    def encode(self, value: Any, *trailer: Any) -> bytes:
        """Return a value's written form.

        Args:
            value: what to write.
            trailer: atoms, or lists and dicts of atoms, that follow the value.

        Raises:
            Fault: something in the value cannot travel.
        """
        try:
            try:
                return self._encode((FORMAT, self._fast(value, 0), *trailer))
            except (OverflowError, UnicodeEncodeError):
                return self._encode((FORMAT, self._careful(value, 0), *trailer))
        except RecursionError:
            raise Fault("is nested too deeply for what is left of this thread's stack") from None


class _Walk:
    """One way of walking values: the fast one, or the careful one."""

    def __init__(
        self,
        shapes: list[Shape],
        entry_names: frozenset[str],
        atoms: frozenset[type],
        descents: Mapping[type, Descent],
        strangers: list[Shape],
    ) -> None:
        self._atoms = atoms
        self._descents = descents
        self._entry_names = entry_names
        self._classes = [shape.cls for shape in shapes]
        self._handlers = _Handlers(self._refuse)
        self._handlers |= {
            type(ABSENT_VALUE): lambda _, __: (form.ABSENT,),
            list: self._sequence(form.LIST, "[{}]".format),
            tuple: self._sequence(form.TUPLE, "[{}]".format),
            set: self._sequence(form.SET, "{{{}}}".format),
            frozenset: self._sequence(form.FROZENSET, "{{{}}}".format),
            collections.deque: self._deque,
            dict: self._dict,
            collections.defaultdict: self._defaultdict,
            collections.OrderedDict: self._dict_subclass(form.ORDEREDDICT),
            collections.Counter: self._dict_subclass(form.COUNTER),
            int: lambda value, _: write_int(value),
            str: lambda value, _: write_str(value),
        }
        for plain in PLAIN:
            self._handlers[plain.type] = _without_depth(plain.write)
        for number, shape in enumerate(shapes):
            # Values of a TypedDict are of type dict, and are written as such.
            if shape.kind != "typeddict":
                self._handlers[shape.cls] = self._shape(form.FIRST_TYPE + number, shape)
        for shape in strangers:
            if shape.kind != "typeddict":
                self._handlers[shape.cls] = _stranger_to_older_code(shape.name)

    def handler(self, root: type | None) -> Handler:
        """Return what writes values of one class, or of any."""
        return self.write if root is None or root in self._atoms else self._handlers[root]

    def write(self, value: Any, depth: int) -> Any:
        """Return the tree of one value, ``depth`` levels below the root."""
        kind = type(value)
        return value if kind in self._atoms else self._handlers[kind](value, depth)

    def _refuse(self, value: Any, _: int) -> Any:
        raise Fault(self._stranger(type(value)))

    def _stranger(self, kind: type) -> str:
        name = form.type_name(kind)
        for known in (*self._classes, *self._handlers):
            if known in kind.__mro__:
                return (
                    f"is of type {name}, which extends {form.type_name(known)} and would come back as that; declare it"
                )
        return f"is of type {name}, which cannot travel; declare it, keep it out of the state or give State(encode=, decode=)"

    def _items(self, items: Iterable[Any], depth: int, step: Callable[[int], str]) -> list[Any]:
        atoms, inner = self._atoms, depth + 1
        handlers = self._handlers if inner < MAX_DEPTH else _Handlers(_too_deep)
        written: list[Any] = []
        try:
            for item in items:
                written.append(item if type(item) in atoms else handlers[type(item)](item, inner))  # noqa: PERF401 - see below
        except Fault as fault:
            # As many as are written come before the one that cannot be.
            fault.under(step(len(written)))
            raise
        return written

    def _sequence(self, tag: int, step: Callable[[int], str]) -> Handler:
        atoms = self._atoms

        def write(value: Any, depth: int) -> Any:
            if atoms.issuperset(map(type, value)):
                return (tag, value)
            return (tag, self._items(value, depth, step))

        return write

    def _deque(self, value: Any, depth: int) -> Any:
        return (form.DEQUE, self._items(value, depth, "[{}]".format), value.maxlen)

    def _dict(self, value: dict[Any, Any], depth: int) -> Any:
        atoms = self._atoms
        atomic_keys = atoms.issuperset(map(type, value))
        if atomic_keys and atoms.issuperset(map(type, value.values())):
            return value
        values = self._items(value.values(), depth, functools.partial(self._entry_step, value))
        if atomic_keys:
            return dict(zip(value, values, strict=True))
        keys = self._items(value, depth, ".keys()[{}]".format)
        # The careful writer gets here with keys that have turned out to be atoms after all.
        if ATOMS.issuperset(map(type, keys)):
            return dict(zip(keys, values, strict=True))
        return (form.PAIRS, keys, values)

    def _entry_step(self, value: dict[Any, Any], index: int) -> str:
        # A key is a value, and stays out of the path, unless it is the declared name of an entry.
        key = next(itertools.islice(value, index, None))
        return f'["{key}"]' if type(key) is str and key in self._entry_names else f".values()[{index}]"

    def _dict_subclass(self, tag: int) -> Handler:
        def write(value: Any, depth: int) -> Any:
            no_attributes(value)
            return (tag, self._dict(dict(value), depth))

        return write

    def _defaultdict(self, value: Any, depth: int) -> Any:
        factory = value.default_factory
        # Not every callable has a hash; those that we look for do.
        name = _FACTORY_NAMES.get(factory) if factory is None or isinstance(factory, type) else None
        if name is None:
            raise Fault("has a default_factory that cannot travel; use a built-in type such as list or int")
        return (form.DEFAULTDICT, self._dict(dict(value), depth), name)

    def _shape(self, tag: int, shape: Shape) -> Handler:
        descent = self._descents.get(shape.cls)
        if descent is not None:
            return self._descended(tag, shape, descent)
        if shape.custom is not None:
            return self._custom(tag, shape)
        if shape.kind == "enum":
            return _enum(tag, shape.cls)
        if shape.kind == "flag":
            return lambda value, _: (tag, write_int(value.value))
        if shape.kind == "namedtuple":
            return self._namedtuple(tag, shape)
        return self._record(tag, shape)

    def _descended(self, tag: int, shape: Shape, descent: Descent) -> Handler:
        """Return what writes an object as older code reads it."""
        if shape.kind == "enum":
            member = _enum(tag, shape.cls)
            return lambda value, depth: (tag, descent.of_member(member(value, depth)[1]))
        if shape.custom is not None:
            return lambda value, depth: (tag, self._inner(descent.of_custom(value), depth))
        fields = self._fields(tag, descent.fields)

        def write(value: Any, depth: int) -> Any:
            found = items_of(value, shape) if shape.kind == "namedtuple" else attributes_of(value, shape)
            return fields([item for _, item in descent.of_object(value, found)], depth)

        return write

    def _custom(self, tag: int, shape: Shape) -> Handler:
        assert shape.custom is not None
        encode = shape.custom.encode
        assert encode is not None
        return lambda value, depth: (tag, self._inner(call(encode, "encode", value), depth))

    def _inner(self, value: Any, depth: int) -> Any:
        """Return the tree of what a value is written as. That is a level below: what ``encode`` returns may be its like."""
        if depth + 1 >= MAX_DEPTH and type(value) not in self._atoms:
            return _too_deep(value, depth)
        return self.write(value, depth + 1)

    def _namedtuple(self, tag: int, shape: Shape) -> Handler:
        fields = self._fields(tag, shape.fields)
        if not shape.has_dict and shape.cls.__iter__ is tuple.__iter__:  # type: ignore[attr-defined]  # it is a tuple
            return fields

        def write(value: Any, depth: int) -> Any:
            no_attributes(value)
            return fields([*tuple.__iter__(value)], depth)  # what it holds, not what a class's own __iter__ shows

        return write

    def _record(self, tag: int, shape: Shape) -> Handler:
        cls = shape.cls
        if shape.kind == "dataclass" and shape.has_dict and not shape.slots:
            return self._record_in_dict(tag, shape)
        # Attribute access may have been taken over by the class; then it is gone round, at a price.
        taken_over = any({"__getattribute__", "__getattr__"} & vars(base).keys() for base in cls.__mro__[:-1])
        if taken_over or (shape.kind == "dataclass" and shape.has_dict):
            fields = self._fields(tag, shape.fields)
            return lambda value, depth: fields(values_of(value, shape), depth)
        return self._record_in_slots(tag, shape)

    def _record_in_dict(self, tag: int, shape: Shape) -> Handler:
        fields, take, count = self._fields(tag, shape.fields), several(itemgetter, shape.fields), len(shape.fields)

        def write(value: Any, depth: int) -> Any:
            attributes = value.__dict__
            values: Sequence[Any]
            try:
                # As many attributes as fields, and every field among them: there is nothing else.
                values = take(attributes) if len(attributes) == count else values_of(value, shape)
            except KeyError:
                values = values_of(value, shape)
            return fields(values, depth)

        return write

    def _record_in_slots(self, tag: int, shape: Shape) -> Handler:
        fields, take, has_dict = self._fields(tag, shape.fields), several(attrgetter, shape.fields), shape.has_dict

        def write(value: Any, depth: int) -> Any:
            if has_dict:
                no_attributes(value)
            values: Sequence[Any]
            try:
                values = take(value)
            except AttributeError:
                values = values_of(value, shape)
            return fields(values, depth)

        return write

    def _fields(self, tag: int, names: tuple[str, ...]) -> Callable[[Sequence[Any], int], Any]:
        """Return what writes an object of a class, given the values of its fields and its level."""
        remembered: dict[tuple[type, ...], list[tuple[int, Handler]]] = {}

        def write(values: Sequence[Any], depth: int) -> Any:
            steps = remembered.get(kinds := tuple(map(type, values)))
            if steps is None:
                if len(remembered) >= MAX_REMEMBERED:
                    remembered.clear()
                steps = remembered[kinds] = self._steps(kinds)
            if not steps:
                return (tag, *values)
            written, inner = [tag, *values], depth + 1
            if inner >= MAX_DEPTH:
                steps = [(index, _too_deep) for index, _ in steps]
            try:
                for index, handle in steps:
                    written[index] = handle(written[index], inner)
            except Fault as fault:
                fault.under(f".{names[index - 1]}")
                raise
            return written

        return write

    def _steps(self, kinds: tuple[type, ...]) -> list[tuple[int, Handler]]:
        """Return what is to be done with fields of these types, behind the tag: with those that are no atoms."""
        return [(index, self._handlers[kind]) for index, kind in enumerate(kinds, 1) if kind not in self._atoms]


class _Handlers(dict[type, Handler]):
    """Handlers by class, and one for every other class."""

    def __init__(self, other: Handler) -> None:
        self._other = other

    def __missing__(self, kind: type) -> Handler:
        return self._other


def _stranger_to_older_code(name: str) -> Handler:
    def write(_: Any, __: int) -> Any:
        raise TooNew(f"is of type {name}, of which the older code has no such version")

    return write


def _too_deep(_: Any, __: int) -> Any:
    raise Fault(f"is nested deeper than {MAX_DEPTH} levels, or contains itself")


def _enum(tag: int, cls: Any) -> Handler:
    members: dict[str, Any] = cls.__members__

    def write(value: Any, _: int) -> Any:
        name = value.name
        if members.get(name) is not value:
            raise Fault(f"is no named member of {cls.__name__}")
        return (tag, name)

    return write


def _without_depth(write: Callable[[Any], Any]) -> Handler:
    return lambda value, _: write(value)
