"""Whether two values are the same, exactly: types, order, signs of zero, NaNs, and every field of every object.

``==`` is too kind (``1 == True == 1.0``, dicts in another order) and too strict (NaN, classes without ``__eq__``). This
is written apart from the writer, so that what the writer overlooks is not overlooked here too.
"""

from __future__ import annotations

import collections
import enum
import struct
import uuid
from datetime import datetime, time, timezone, tzinfo
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from hotfd.state.form import call
from hotfd.state.shapes import ABSENT_VALUE, Shape

if TYPE_CHECKING:
    from collections.abc import Mapping

Parts = list[tuple[str, Any]]


def difference(before: Any, after: Any, where: str, shapes: Mapping[type, Shape]) -> str | None:
    """Return the path of the first difference between two values, or None.

    Args:
        before: a value that can travel.
        after: what came of it.
        where: the path of the two, which the result begins with.
        shapes: the declared classes.

    Raises:
        Fault: a user's ``encode`` raised.
    """
    if type(before) is not type(after):
        return where
    parts = _parts(before, shapes)
    if parts is None:
        return None if _exact(before, shapes) == _exact(after, shapes) else where
    others = _parts(after, shapes)
    if others is None or len(parts) != len(others) or _header(before) != _header(after):
        return where
    for (step, mine), (_, other) in zip(parts, others, strict=True):
        found = difference(mine, other, where + step, shapes)
        if found is not None:
            return found
    return None


def _parts(value: Any, shapes: Mapping[type, Shape]) -> Parts | None:
    """Return what a value consists of, in order, each with its step of the path; None if it has no such parts."""
    kind = type(value)
    if kind in (list, tuple, collections.deque):
        return [(f"[{index}]", item) for index, item in enumerate(value)]
    if isinstance(value, dict):
        keys: Parts = [(f".keys()[{index}]", key) for index, key in enumerate(value)]
        return keys + [(f".values()[{index}]", item) for index, item in enumerate(value.values())]
    shape = shapes.get(kind)
    if shape is None or isinstance(value, enum.Enum):
        return None
    if shape.custom is not None:
        return _custom_parts(value, shape)
    if shape.kind == "namedtuple":
        return [(f".{name}", item) for name, item in zip(shape.fields, tuple.__iter__(value), strict=True)]
    return [(f".{name}", _field(value, name)) for name in shape.fields]


def _custom_parts(value: Any, shape: Shape) -> Parts | None:
    # A class that says when its objects are equal is believed; of any other, what encode makes of them counts.
    if not same_by_identity(shape.cls):
        return None
    assert shape.custom is not None
    assert shape.custom.encode is not None
    return [("", call(shape.custom.encode, "encode", value))]


def same_by_identity(cls: type) -> bool:
    """Say whether a class leaves ``==`` at identity, which nothing that travels keeps."""
    return all("__eq__" not in vars(base) for base in cls.__mro__ if base is not object)


def _field(value: Any, name: str) -> Any:
    try:
        return object.__getattribute__(value, name)
    except AttributeError:
        return ABSENT_VALUE


def _header(value: Any) -> Any:
    """Return what a container has besides its parts."""
    if isinstance(value, collections.deque):
        return value.maxlen
    return value.default_factory if isinstance(value, collections.defaultdict) else None


def _exact(value: Any, shapes: Mapping[type, Shape]) -> Any:
    """Return something with a hash that equals that of another value only if the two are the same."""
    kind = type(value)
    parts = _parts(value, shapes)
    if parts is not None:
        return (kind, _header(value), tuple(_exact(part, shapes) for _, part in parts))
    if kind in (set, frozenset):
        return (kind, frozenset(collections.Counter(_exact(item, shapes) for item in value).items()))
    return (kind, _leaf(value))


def _leaf(value: Any) -> Any:
    match value:
        case bytearray():
            return bytes(value)
        case float():
            return struct.pack("d", value)
        case complex():
            return struct.pack("dd", value.real, value.imag)
        case Decimal():
            return value.as_tuple()
        case uuid.UUID():
            return (value.int, value.is_safe)
        case datetime() | time():
            return (value.replace(tzinfo=None), value.fold, _zone(value.tzinfo))
        case tzinfo():
            return _zone(value)
    return value


def _zone(zone: tzinfo | None) -> Any:
    if isinstance(zone, timezone):
        return zone.__getinitargs__()  # type: ignore[attr-defined]  # the name too, which == leaves out
    return zone.key if isinstance(zone, ZoneInfo) else zone
