"""Values that cannot be changed by accident: a session's configuration is the same from its beginning to its end.

The containers here are ordinary lists, dicts and sets to whoever reads them (``isinstance``, comparison, JSON), and
raise TypeError when somebody writes. A copy of one (``copy.copy``, ``copy.deepcopy``, pickle) is an ordinary one.
"""

from __future__ import annotations

import copy
import dataclasses
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

K = TypeVar("K")
V = TypeVar("V")


def _refuse(self: object, *_args: object, **_kwargs: object) -> NoReturn:
    raise TypeError("configuration is read-only; a copy of it can be changed (copy.deepcopy)")


class ReadOnlyList(list[V]):
    """A list that raises TypeError when it is to be changed."""

    __slots__ = ()

    append = extend = insert = remove = pop = clear = sort = reverse = _refuse
    __setitem__ = __delitem__ = __iadd__ = __imul__ = _refuse

    def __reduce_ex__(self, _protocol: object) -> tuple[type[list[V]], tuple[list[V]]]:
        return list, (list(self),)


class ReadOnlyDict(dict[K, V]):
    """A dict that raises TypeError when it is to be changed."""

    __slots__ = ()

    pop = popitem = clear = update = setdefault = _refuse
    __setitem__ = __delitem__ = __ior__ = _refuse

    def __reduce_ex__(self, _protocol: object) -> tuple[type[dict[K, V]], tuple[dict[K, V]]]:
        return dict, (dict(self),)


class ReadOnlySet(set[V]):
    """A set that raises TypeError when it is to be changed."""

    __slots__ = ()

    add = discard = remove = pop = clear = update = _refuse
    difference_update = intersection_update = symmetric_difference_update = _refuse
    __iand__ = __ior__ = __isub__ = __ixor__ = _refuse

    def copy(self) -> set[V]:
        """Return an ordinary set with the same members, as the other containers' ``copy`` does."""
        return set(self)

    def __reduce_ex__(self, _protocol: object) -> tuple[type[set[V]], tuple[set[V]]]:
        return set, (set(self),)


def owned(value: Any) -> Any:
    """Return a read-only copy of a value, whose parts belong to nobody else.

    A default value belongs to its class, and all values that are built share it: it could be changed by the program,
    and by :meth:`hotfd.config.schema.Schema.follow`.

    Args:
        value: what JSON can bring, and instances of Structs, dataclasses and pydantic models. Anything else is
            returned as it is.
    """
    if isinstance(value, str | int | float | None):
        return value
    if isinstance(value, dict):
        return ReadOnlyDict({key: owned(item) for key, item in value.items()})
    if isinstance(value, list):
        return ReadOnlyList([owned(item) for item in value])
    if type(value) is tuple:
        return tuple([owned(item) for item in value])
    if isinstance(value, frozenset):
        return frozenset([owned(item) for item in value])
    if isinstance(value, set):
        return ReadOnlySet([owned(item) for item in value])
    names = attributes(value)
    if names is None:
        return value
    duplicate = copy.copy(value)
    own(duplicate, names)
    return duplicate


def own(instance: object, names: Iterable[str]) -> None:
    """Make what these attributes of an instance hold its own, and read-only."""
    for name in names:
        try:
            value = getattr(instance, name)
        except AttributeError:  # A field may be declared and never set.
            continue
        mine = owned(value)
        if mine is not value:
            overwrite(instance, name, mine)


def overwrite(instance: object, name: str, value: object) -> None:
    """Set an attribute of an instance of a frozen class."""
    if isinstance(instance, msgspec.Struct):
        msgspec.structs.force_setattr(instance, name, value)
    else:
        object.__setattr__(instance, name, value)


def attributes(value: object) -> Iterator[str] | None:
    """Return the names of the fields of an instance of a Struct, a dataclass or a pydantic model; None for others."""
    if isinstance(value, msgspec.Struct):
        return iter(value.__struct_fields__)
    if dataclasses.is_dataclass(value):
        return iter([field.name for field in dataclasses.fields(value)])
    fields = getattr(type(value), "__pydantic_fields__", None)
    return None if fields is None else iter(list(fields))
