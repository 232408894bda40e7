"""From a value to its written form.

The writer trusts, then checks. Whether an integer fits 64 bits and whether text is valid Unicode is not asked of every
value: msgpack refuses those that it cannot write, and only then is the value walked again by a *careful* writer, for
which int and str are no atoms. So a container of atoms is recognised by one pass of ``map(type, ...)`` at C speed.
"""

from __future__ import annotations

import collections
import functools
import itertools
from collections.abc import Callable, Iterable, Mapping
from operator import attrgetter, itemgetter
from typing import Any, Final

import msgspec

from hotfd.state import form
from hotfd.state.downgrade import Descent, TooNew
from hotfd.state.form import ATOMS, MAX_DEPTH, Fault, call
from hotfd.state.plain import PLAIN, write_int, write_str
from hotfd.state.shapes import ABSENT_VALUE, Shape

Handler = Callable[[Any, int], Any]

_FACTORY_NAMES: Final = {factory: name for name, factory in form.FACTORIES.items()}
_CAREFUL_ATOMS: Final = ATOMS - {int, str}
_NONE: Final[Mapping[type, Descent]] = {}


class Writer:
    """Writes values made of plain types and of the classes of one state.

    Args:
        shapes: those classes, in the order of their tags.
        entry_names: keys that are declared (of TypedDicts) and may therefore appear in a path.
        descents: the classes that are not written as they are, but as older code reads them.
        strangers: declared classes that older code does not have.
    """

    def __init__(
        self,
        shapes: Iterable[Shape],
        entry_names: frozenset[str],
        descents: Mapping[type, Descent] = _NONE,
        strangers: Iterable[Shape] = (),
    ) -> None:
        listed, unknown = list(shapes), list(strangers)
        self._fast = _Walk(listed, entry_names, ATOMS, descents, unknown)
        self._careful = _Walk(listed, entry_names, _CAREFUL_ATOMS, descents, unknown)
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
                return self._encode((form.FORMAT, self._fast.write(value, 0), *trailer))
            except (OverflowError, UnicodeEncodeError):
                return self._encode((form.FORMAT, self._careful.write(value, 0), *trailer))
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
        self._handlers: dict[type, Handler] = {
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

    def write(self, value: Any, depth: int) -> Any:
        """Return the tree of one value, ``depth`` levels below the root."""
        kind = type(value)
        if kind in self._atoms:
            return value
        handler = self._handlers.get(kind)
        if handler is None:
            raise Fault(self._stranger(kind))
        if depth >= MAX_DEPTH:
            raise Fault(f"is nested deeper than {MAX_DEPTH} levels, or contains itself")
        return handler(value, depth + 1)

    def _stranger(self, kind: type) -> str:
        name = form.type_name(kind)
        for known in (*self._classes, *self._handlers):
            if known in kind.__mro__:
                return (
                    f"is of type {name}, which extends {form.type_name(known)} and would come back as that; declare it"
                )
        return f"is of type {name}, which cannot travel; declare it, keep it out of the state or give State(encode=, decode=)"

    def _items(self, items: Iterable[Any], depth: int, step: Callable[[int], str]) -> list[Any]:
        atoms = self._atoms
        written: list[Any] = []
        try:
            for item in items:
                written.append(item if type(item) in atoms else self.write(item, depth))  # noqa: PERF401 - see below
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
            _no_attributes(value)
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
            return lambda value, depth: (tag, self.write(descent.of_custom(value), depth))

        def write(value: Any, depth: int) -> Any:
            found = _items_of(value, shape) if shape.kind == "namedtuple" else _attributes(value, shape)
            return (tag, *self._fields(descent.of_object(value, found), depth))

        return write

    def _custom(self, tag: int, shape: Shape) -> Handler:
        assert shape.custom is not None
        encode = shape.custom.encode
        assert encode is not None

        def write(value: Any, depth: int) -> Any:
            return (tag, self.write(call(encode, "encode", value), depth))

        return write

    def _namedtuple(self, tag: int, shape: Shape) -> Handler:
        atoms, fields, has_dict = self._atoms, shape.fields, shape.has_dict

        def write(value: Any, depth: int) -> Any:
            if has_dict:
                _no_attributes(value)
            if atoms.issuperset(map(type, value)):
                return (tag, *value)
            return (tag, *self._fields(zip(fields, value, strict=True), depth))

        return write

    def _record(self, tag: int, shape: Shape) -> Handler:
        cls = shape.cls
        if shape.kind == "dataclass" and shape.has_dict and not shape.slots:
            return self._record_in_dict(tag, shape)
        # Attribute access may have been taken over by the class; then it is gone round, at a price.
        taken_over = any({"__getattribute__", "__getattr__"} & vars(base).keys() for base in cls.__mro__[:-1])
        if taken_over or (shape.kind == "dataclass" and shape.has_dict):
            return lambda value, depth: (tag, *self._fields(_attributes(value, shape), depth))
        return self._record_in_slots(tag, shape)

    def _record_in_dict(self, tag: int, shape: Shape) -> Handler:
        atoms, names, count = self._atoms, shape.fields, len(shape.fields)
        take = _several(itemgetter, names)

        def write(value: Any, depth: int) -> Any:
            attributes = value.__dict__
            # As many attributes as fields, and every field among them: there is nothing else.
            if len(attributes) == count:
                try:
                    values = take(attributes)
                except KeyError:
                    pass
                else:
                    if atoms.issuperset(map(type, values)):
                        return (tag, *values)
                    return (tag, *self._fields(zip(names, values, strict=True), depth))
            return (tag, *self._fields(_attributes(value, shape), depth))

        return write

    def _record_in_slots(self, tag: int, shape: Shape) -> Handler:
        atoms, names, has_dict = self._atoms, shape.fields, shape.has_dict
        take = _several(attrgetter, names)

        def write(value: Any, depth: int) -> Any:
            if has_dict:
                _no_attributes(value)
            try:
                values = take(value)
            except AttributeError:
                return (tag, *self._fields(_attributes(value, shape), depth))
            if atoms.issuperset(map(type, values)):
                return (tag, *values)
            return (tag, *self._fields(zip(names, values, strict=True), depth))

        return write

    def _fields(self, fields: Iterable[tuple[str, Any]], depth: int) -> list[Any]:
        atoms = self._atoms
        written: list[Any] = []
        for name, value in fields:
            try:
                written.append(value if type(value) in atoms else self.write(value, depth))
            except Fault as fault:
                fault.under(f".{name}")
                raise
        return written


def _several(make: Any, names: tuple[str, ...]) -> Callable[[Any], tuple[Any, ...]]:
    """Return a getter of several attributes or items that returns a tuple for one and for none as well."""
    if len(names) > 1:
        return make(*names)  # type: ignore[no-any-return]  # itemgetter or attrgetter
    if not names:
        return lambda _: ()
    one = make(*names)
    return lambda value: (one(value),)


def _attributes(value: Any, shape: Shape) -> list[tuple[str, Any]]:
    """Return the fields of an object in detail: one that has no value as ABSENT_VALUE, and nothing overlooked."""
    attributes: dict[str, Any] = object.__getattribute__(value, "__dict__") if shape.has_dict else {}
    if shape.kind == "struct":
        _no_attributes(value)
    elif extra := sorted(attributes.keys() - set(shape.fields), key=str):
        fault = Fault("is an attribute and no field, it would be lost; make it a field")
        fault.under(f".{extra[0]}")
        raise fault
    found: list[tuple[str, Any]] = []
    for name in shape.fields:
        if shape.kind == "dataclass" and name not in shape.slots:
            # Not what the class would answer: a default there shows again when the field is left out.
            found.append((name, attributes.get(name, ABSENT_VALUE)))
            continue
        try:
            found.append((name, object.__getattribute__(value, name)))
        except AttributeError:
            found.append((name, ABSENT_VALUE))
    return found


def _items_of(value: Any, shape: Shape) -> list[tuple[str, Any]]:
    if shape.has_dict:
        _no_attributes(value)
    return list(zip(shape.fields, value, strict=True))


def _stranger_to_older_code(name: str) -> Handler:
    def write(_: Any, __: int) -> Any:
        raise TooNew(f"is of type {name}, of which the older code has no such version")

    return write


def _no_attributes(value: Any) -> None:
    for name in getattr(value, "__dict__", ()):
        fault = Fault("is an attribute and would be lost")
        fault.under(f".{name}")
        raise fault


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
