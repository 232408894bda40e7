"""From a class to the form that builds its instances; and why some classes cannot be a configuration.

What JSON cannot bring, and what could be changed while sessions rely on it, is an error when the server starts.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import typing
import uuid
from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal, Union

import msgspec
from msgspec import inspect

from hotfd.config.findings import alternatives, one_of, sized
from hotfd.config.frozen import ReadOnlyList, ReadOnlySet
from hotfd.config.hints import is_model
from hotfd.config.typed import Anything, Choice, Form, Instance, Member, Pair, Row, Scalar, Table
from hotfd.errors import ConfigError

TIMES: Final[dict[type[inspect.Type], tuple[type, str]]] = {
    inspect.DateTimeType: (dt.datetime, "a date and time such as '2026-01-31T12:00:00Z'"),
    inspect.TimeType: (dt.time, "a time such as '12:00:00'"),
}
"""Types that can demand a time zone, and what is expected of them."""

PLAIN: Final[dict[type[inspect.Type], tuple[Any, str]]] = {
    inspect.NoneType: (None, "null"),
    inspect.BoolType: (bool, "true or false"),
    inspect.DateType: (dt.date, "a date such as '2026-01-31'"),
    inspect.TimeDeltaType: (dt.timedelta, "a duration such as 'PT1H30M'"),
    inspect.UUIDType: (uuid.UUID, "a UUID"),
    inspect.DecimalType: (decimal.Decimal, "a decimal number"),
}
"""Types without parameters, and what is expected of them."""

FORBIDDEN: Final[dict[type[inspect.Type], str]] = {
    inspect.BytesType: "bytes, which JSON cannot bring; take str",
    inspect.ByteArrayType: "bytearray, which JSON cannot bring; take str",
    inspect.MemoryViewType: "memoryview, which JSON cannot bring; take str",
    inspect.ExtType: "msgspec.msgpack.Ext, which JSON cannot bring",
    inspect.RawType: "msgspec.Raw, which nothing checks; take Any for values of any kind",
    inspect.TypedDictType: "a TypedDict, which anybody could change; take a frozen dataclass or Struct",
    inspect.NamedTupleType: "a NamedTuple, which is a list among the values, with no keys; take a frozen dataclass",
}
"""Types that msgspec knows and a configuration cannot have."""

BOUNDS: Final = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
"""Constraints of numbers, as they are written for people."""


def plan(kind: Any) -> Instance:
    """Return the form of a Struct or a dataclass.

    Args:
        kind: the class, or a generic one with its arguments.

    Raises:
        ConfigError: it is no such class, it or one inside of it is not frozen, or it has fields that JSON cannot
            bring; the message names class and field.
    """
    try:
        form = _Planner().form(inspect.type_info(kind), _name(kind))
    except (TypeError, NameError, ValueError) as error:  # what msgspec raises for types that it cannot have
        raise ConfigError(f"{_name(kind)} cannot be a configuration: {error}") from None
    if not isinstance(form, Instance):
        raise ConfigError(
            f"{_name(kind)} cannot be a configuration: take a frozen dataclass, a frozen msgspec.Struct or a frozen "
            "pydantic model"
        )
    return form


class _Planner:
    """Goes through a type; knows the classes that it has met, since classes can contain themselves."""

    def __init__(self) -> None:
        self._instances: dict[Any, Instance] = {}

    def form(self, info: inspect.Type, where: str) -> Form:
        """Return the form of a type.

        Args:
            info: the type.
            where: the class and field that has it, for errors.
        """
        match info:
            case inspect.Metadata():
                return self.form(info.type, where)
            case inspect.AnyType():
                return Anything()
            case inspect.StructType() | inspect.DataclassType():
                return self._instance(info)
            case inspect.UnionType():
                return self._choice(info, where)
            case inspect.DictType():
                key = self.form(info.key_type, where)
                if isinstance(key, Anything):
                    key = Scalar(str, "a string", str)
                if not isinstance(key, Scalar):
                    raise _refusal(where, "a dict with keys that have parts")
                return Table(key, self.form(info.value_type, where), info.min_length, info.max_length)
            case inspect.TupleType():
                return Pair([self.form(item, where) for item in info.item_types])
            case inspect.CollectionType():
                make = _MAKERS[type(info)]
                return Row(self.form(info.item_type, where), make, info.min_length, info.max_length)
            case _:
                return _scalar(info, where)

    def _instance(self, info: inspect.StructType | inspect.DataclassType) -> Instance:
        known = self._instances.get(info.cls)
        if known is not None:
            return known
        name = _name(info.cls)
        kind = typing.get_origin(info.cls) or info.cls
        tag = None
        if isinstance(info, inspect.StructType):
            tag = _check_struct(info, kind)
        else:
            _check_dataclass(kind)
        form = self._instances[info.cls] = Instance(kind, tag)
        form.members = {
            field.encode_name: Member(field.name, self.form(field.type, f"{name}.{field.name}"), field.required)
            for field in info.fields
        }
        return form

    def _choice(self, info: inspect.UnionType, where: str) -> Choice:
        row: Form | None = None
        tables: list[Form] = []
        scalars: list[Scalar] = []
        for member in info.types:
            form = self.form(member, where)
            match form:
                case Scalar():
                    scalars.append(form)
                case Row() | Pair():
                    row = form
                case _:
                    tables.append(form)
        scalars.sort(key=lambda scalar: scalar.kind is None)  # "or null" comes last: it is what is meant least often
        forms: list[Form | None] = [*tables[:1], row, *scalars]
        words = alternatives(form.words for form in forms if form is not None)
        return Choice(words, _joined(scalars), row, tables)


_MAKERS: Final = {
    inspect.ListType: ReadOnlyList,
    inspect.VarTupleType: tuple,
    inspect.SetType: ReadOnlySet,
    inspect.FrozenSetType: frozenset,
}


def _joined(scalars: Sequence[Scalar]) -> Scalar | None:
    if len(scalars) < 2:
        return scalars[0] if scalars else None
    kinds: Any = Union[tuple(scalar.kind for scalar in scalars)]  # noqa: UP007 - made of a list
    return Scalar(kinds, alternatives(scalar.words for scalar in scalars))


def _scalar(info: inspect.Type, where: str) -> Scalar:
    if (plain := PLAIN.get(type(info))) is not None:
        kind, words = plain
        return Scalar(kind, words, bool if kind is bool else None)
    match info:
        case inspect.IntType():
            return _number(info, int, "an integer")
        case inspect.FloatType():
            return _number(info, float, "a number")
        case inspect.StrType():
            words = sized("a string", info.min_length, info.max_length, "characters")
            if info.pattern is not None:
                words += f" that matches {info.pattern!r}"
            return _constrained(info, str, words)
        case inspect.DateTimeType() | inspect.TimeType():
            kind, words = TIMES[type(info)]
            zone = {None: "", True: ", with a time zone", False: ", without a time zone"}[info.tz]
            return _constrained(info, kind, words + zone)
        case inspect.EnumType():
            return Scalar(info.cls, one_of(member.value for member in info.cls))
        case inspect.LiteralType():
            return Scalar(Literal[info.values], one_of(info.values))
    if isinstance(info, inspect.CustomType) and is_model(info.cls):
        raise _refusal(where, "a pydantic model inside a class that is none; make both pydantic models, or neither")
    kind = info.cls if isinstance(info, inspect.CustomType) else type(info)
    raise _refusal(where, FORBIDDEN.get(type(info), f"{_name(kind)}, which JSON cannot bring"))


def _number(info: inspect.IntType | inspect.FloatType, kind: type, words: str) -> Scalar:
    bounds = [f"{sign} {value}" for name, sign in BOUNDS.items() if (value := getattr(info, name)) is not None]
    words = " ".join([words, " and ".join(bounds)]) if bounds else words
    if info.multiple_of is not None:
        words += f", a multiple of {info.multiple_of}"
    return _constrained(info, kind, words)


def _constrained(info: inspect.Type, kind: type, words: str) -> Scalar:
    constraints = {name: value for name in info.__struct_fields__ if (value := getattr(info, name)) is not None}
    if not constraints:
        return Scalar(kind, words, kind if kind in (int, float, str) else None)
    return Scalar(Annotated[kind, msgspec.Meta(**constraints)], words)


def _check_struct(info: inspect.StructType, kind: Any) -> tuple[str, str | int] | None:
    name, config = _name(kind), kind.__struct_config__
    if not config.frozen:
        raise ConfigError(f"{name} is not frozen, so it could change under a session: class {name}(..., frozen=True)")
    if config.array_like:
        raise ConfigError(f"{name} is array_like, so its values have no keys: leave array_like out")
    return None if info.tag_field is None or info.tag is None else (info.tag_field, info.tag)


def _check_dataclass(kind: Any) -> None:
    name = _name(kind)
    if not dataclasses.is_dataclass(kind):
        raise ConfigError(f"{name} is an attrs class: take a frozen dataclass or a frozen msgspec.Struct")
    parameters: Any = getattr(kind, "__dataclass_params__")  # noqa: B009 - the type checker does not know it
    if not parameters.frozen:
        raise ConfigError(f"{name} is not frozen, so it could change under a session: @dataclass(frozen=True)")
    for field in kind.__dataclass_fields__.values():
        if field._field_type is dataclasses._FIELD_INITVAR:  # type: ignore[attr-defined]
            raise ConfigError(f"{name}.{field.name} is an InitVar, which is no field: make it one")
        if field._field_type is dataclasses._FIELD and not field.init:  # type: ignore[attr-defined]
            raise ConfigError(f"{name}.{field.name} has init=False, so no value can reach it: make it a property")


def _name(kind: Any) -> str:
    return str(getattr(kind, "__qualname__", kind))


def _refusal(where: str, what: str) -> ConfigError:
    return ConfigError(f"{where} is {what}")
