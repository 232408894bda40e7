"""What the codec knows of each declared class: its fields, which must be there, and how an object is made again.

Objects are rebuilt without their ``__init__`` and ``__post_init__``. Both have run, when the object was made; a second
run would act twice (open, count, register, stamp the time) and would undo what has happened to the object since.
"""

from __future__ import annotations

import dataclasses
import enum
import inspect
import itertools
import typing
from collections.abc import Callable, Iterable
from typing import Any, Final, Literal

import msgspec

from hotfd.errors import StateError
from hotfd.state.declare import State, check_version

Kind = Literal["dataclass", "struct", "namedtuple", "typeddict", "enum", "flag", "custom"]

RECORDS: Final[frozenset[str]] = frozenset({"dataclass", "struct", "namedtuple"})
"""Kinds that are written alike, as an array of their fields, so that one may become another between versions."""

Hint = tuple[Any, ...]
"""Alternatives of a declared type. Each is ``(head, hint, ...)``: a class or a word, then the hints of its arguments."""

Make = Callable[[Iterable[Any]], Any]


class _Absent(enum.Enum):
    ABSENT = 0


ABSENT_VALUE: Final = _Absent.ABSENT
"""Stands for a dataclass field that has no value: ``field(init=False)`` before it is set, or a deleted attribute."""


@dataclasses.dataclass(slots=True)
class Shape:
    """One declared class, as the codec sees it.

    Attributes:
        cls: the class.
        kind: what it is.
        name: how schemas call it; assigned when all classes of a state are known.
        fields: names in order; for an enum its members, for a flag ``NAME=value``.
        hints: the declared type of each field.
        defaults: for each field that has one, what gives its default.
        required: the fields that must have been written.
        version: of its shape.
        upgrade: makes an object of what another version wrote.
        downgrade: makes of an object what an older version reads.
        slots: the fields that live in slots and not in ``__dict__``.
        has_dict: whether its objects have a ``__dict__``.
        make: builds an object from one value per field, in order.
        custom: how objects of an otherwise unknown class travel.
    """

    cls: type
    kind: Kind
    name: str = ""
    fields: tuple[str, ...] = ()
    hints: dict[str, Hint] = dataclasses.field(default_factory=dict)
    defaults: dict[str, Callable[[], Any]] = dataclasses.field(default_factory=dict)
    required: tuple[str, ...] = ()
    version: int = 1
    upgrade: Callable[[Any, int], Any] | None = None
    downgrade: Callable[[Any, int], Any] | None = None
    slots: frozenset[str] = frozenset()
    has_dict: bool = False
    make: Make | None = None
    custom: State[Any] | None = None


def shape_of(cls: type) -> Shape | None:
    """Return the shape of a class of a kind that can travel, its hints still empty, or None for any other class.

    Raises:
        StateError: the kind can travel, this class cannot.
    """
    if issubclass(cls, enum.Enum):
        return _enum_shape(cls)
    if issubclass(cls, msgspec.Struct):
        return _struct_shape(cls)
    if issubclass(cls, tuple) and hasattr(cls, "_fields"):
        return _namedtuple_shape(cls)
    if is_typeddict(cls):
        return Shape(cls, "typeddict")
    if dataclasses.is_dataclass(cls):
        return _dataclass_shape(cls)
    return None


def is_typeddict(cls: type) -> bool:
    """Say whether a class is a TypedDict, typing's or that of typing_extensions."""
    return issubclass(cls, dict) and hasattr(cls, "__required_keys__") and hasattr(cls, "__total__")


def _enum_shape(cls: type[enum.Enum]) -> Shape:
    if issubclass(cls, enum.Flag):
        # A flag is written as its number, for combinations have no name; so the numbers are part of the shape.
        return Shape(cls, "flag", fields=tuple(f"{member.name}={member.value}" for member in cls))
    return Shape(cls, "enum", fields=tuple(cls.__members__))


def _namedtuple_shape(cls: type) -> Shape:
    fields: tuple[str, ...] = cls._fields  # type: ignore[attr-defined]  # what makes it a NamedTuple
    values: dict[str, Any] = getattr(cls, "_field_defaults", {})
    return _versioned(
        Shape(
            cls,
            "namedtuple",
            fields=fields,
            defaults={name: _constant(value) for name, value in values.items()},
            has_dict=cls.__dictoffset__ != 0,
            make=lambda values: tuple.__new__(cls, values),
        )
    )


def _struct_shape(cls: type[msgspec.Struct]) -> Shape:
    defaults: dict[str, Callable[[], Any]] = {}
    for field in msgspec.structs.fields(cls):
        if field.default_factory is not msgspec.NODEFAULT:
            defaults[field.name] = field.default_factory
        elif field.default is not msgspec.NODEFAULT:
            defaults[field.name] = _constant(field.default)
    names = cls.__struct_fields__
    make = _struct_maker(cls, names) if hasattr(cls, "__post_init__") else _struct_caller(cls, names)
    return _versioned(
        Shape(cls, "struct", fields=names, defaults=defaults, has_dict=cls.__dictoffset__ != 0, make=make)
    )


def _struct_caller(cls: type[msgspec.Struct], names: tuple[str, ...]) -> Make:
    # Without __post_init__ a Struct's constructor does nothing but assign, and cannot be overridden.
    if all(p.kind is p.POSITIONAL_OR_KEYWORD for p in inspect.signature(cls).parameters.values()):
        return lambda values: cls(*values)
    return lambda values: cls(**dict(zip(names, values, strict=True)))


def _struct_maker(cls: type[msgspec.Struct], names: tuple[str, ...]) -> Make:
    # A Struct cannot be made without its constructor, but it can be copied without. The first copy comes from a
    # subclass whose __post_init__ does nothing, and that is then given the real class: same layout, same fields.
    hooked = [base for base in cls.__mro__ if "__init_subclass__" in vars(base)]
    if not {object, typing.Generic}.issuperset(hooked):
        raise StateError(
            cls.__name__,
            "has both __post_init__ and __init_subclass__, and cannot be rebuilt without running one of them; "
            "give State(encode=, decode=)",
        )
    meta: Any = type(cls)
    blank = meta("Blank", (cls,), {"__post_init__": lambda _: None, "__module__": __name__})
    # It holds lists, so that the collector knows it, and with it all copies: of an object of numbers alone it need not, but
    # force_setattr does not say when that changes, and a cycle through the object would never be freed.
    template = blank(**{name: [] for name in names})
    object.__dict__["__class__"].__set__(template, cls)
    copy, assign = msgspec.Struct.__copy__, msgspec.structs.force_setattr  # type: ignore[attr-defined]

    def make(values: Iterable[Any]) -> Any:
        made = copy(template)
        # None of the assignments returns anything, so that any() makes them all: a loop without the interpreter.
        any(map(assign, itertools.repeat(made), names, values))
        return made

    return make


def _dataclass_shape(cls: type) -> Shape:
    fields = dataclasses.fields(cls)
    names = tuple(field.name for field in fields)
    slots = _slots(cls)
    if lost := sorted(slots - set(names)):
        raise StateError(f"{cls.__name__}.{lost[0]}", "is a slot and no field, it would be lost; make it a field")
    for name in names:
        found = inspect.getattr_static(cls, name, None)
        if name not in slots and inspect.isdatadescriptor(found):
            raise StateError(f"{cls.__name__}.{name}", "is kept by a descriptor, which cannot be seen into")
    try:
        object.__new__(cls)
    except TypeError:
        problem = "is abstract" if inspect.isabstract(cls) else "extends a built-in class, whose content would be lost"
        raise StateError(cls.__name__, f"{problem}; it cannot travel") from None
    defaults: dict[str, Callable[[], Any]] = {}
    for field in fields:
        if field.default_factory is not dataclasses.MISSING:
            defaults[field.name] = field.default_factory
        elif field.default is not dataclasses.MISSING:
            defaults[field.name] = _constant(field.default)
    has_dict = cls.__dictoffset__ != 0
    make = _dataclass_maker(cls, names)
    return _versioned(
        Shape(cls, "dataclass", fields=names, defaults=defaults, slots=slots, has_dict=has_dict, make=make)
    )


def _slots(cls: type) -> frozenset[str]:
    members: set[str] = set()
    for base in cls.__mro__:
        members.update(name for name, value in vars(base).items() if inspect.ismemberdescriptor(value))
    return frozenset(members)


def _dataclass_maker(cls: type, names: tuple[str, ...]) -> Make:
    # Attribute by attribute, as __init__ does it: an object whose __dict__ was filled as a dict is larger from then on, and
    # its attributes are slower. The built-in setattr is the faster one; it asks the class, which may have its own way.
    new, plain = object.__new__, cls.__setattr__ is object.__setattr__  # type: ignore[comparison-overlap]  # not bound
    assign = setattr if plain else object.__setattr__

    def make(values: Iterable[Any]) -> Any:
        made: Any = new(cls)
        # As with Structs: a loop without the interpreter.
        any(map(assign, itertools.repeat(made), names, values))
        return made

    return make


def _constant(value: Any) -> Callable[[], Any]:
    return lambda: value


def _versioned(shape: Shape) -> Shape:
    """Read ``version``, ``upgrade`` and ``downgrade`` off the class, unless it means something else by these names."""
    shape.required = tuple(name for name in shape.fields if name not in shape.defaults)
    cls = shape.cls
    if "version" not in shape.fields:
        found = inspect.getattr_static(cls, "version", 1)
        # A method or a property of that name is the class's own business; a number, or a text, is meant for us.
        if not callable(found) and not hasattr(found, "__get__"):
            shape.version = check_version(found, f"{cls.__name__}.version")
    if "upgrade" not in shape.fields:
        shape.upgrade = _converter(cls, "upgrade")
    if "downgrade" not in shape.fields:
        shape.downgrade = _converter(cls, "downgrade")
    return shape


def _converter(cls: type, name: str) -> Callable[[Any, int], Any] | None:
    """Return a function of the class that can be called without an object; a method of that name is its own."""
    if isinstance(inspect.getattr_static(cls, name, None), classmethod | staticmethod):
        return typing.cast("Callable[[Any, int], Any]", getattr(cls, name))
    return None
