"""Live fields: which a type has, and how a value follows the newest."""

from __future__ import annotations

import types
import typing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, Union

from hotfd.config.frozen import overwrite
from hotfd.config.hints import classes, fields_of, is_configuration, parts, unwrap
from hotfd.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping


class _Part(NamedTuple):
    """What follows in instances of a class: fields that are live, and fields that have such inside."""

    live: tuple[str, ...]
    nested: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LiveValues:
    """What the live fields of a value are, and those of its parts, by name.

    Attributes:
        kind: the class of the value: only another one of the same class takes them.
    """

    kind: type
    values: Mapping[str, Any]
    parts: Mapping[str, LiveValues | None]


class Following:
    """The live fields of a type.

    Args:
        kind: the type.

    Attributes:
        paths: where they are among the values, sorted; e.g. ``shop.open``.

    Raises:
        ConfigError: a field is marked where it cannot follow: inside a container, or in a class that contains itself.
    """

    def __init__(self, kind: Any) -> None:
        self._parts: dict[type, _Part] = {}
        self.paths = tuple(sorted({".".join(path) for path in self._class(kind, (), ())}))

    def taken(self, value: object) -> LiveValues | None:
        """Return what the live fields of a value are; None if it has none."""
        part = self._parts.get(type(value))
        if part is None:
            return None
        values = {name: getattr(value, name) for name in part.live}
        return LiveValues(type(value), values, {name: self.taken(getattr(value, name)) for name in part.nested})

    def give(self, value: object, live: LiveValues | None) -> None:
        """Set the live fields of a value, as far as it has them."""
        if live is None or type(value) is not live.kind:
            return
        for name, item in live.values.items():
            overwrite(value, name, item)
        for name, part in live.parts.items():
            self.give(getattr(value, name), part)

    def _class(self, kind: Any, path: tuple[str, ...], above: tuple[type, ...]) -> list[tuple[str, ...]]:
        """Return the paths of the live fields of a class, and note what follows in its instances."""
        origin = typing.get_origin(kind) or kind
        arguments = dict(zip(getattr(origin, "__parameters__", ()), typing.get_args(kind), strict=False))
        if origin in above:
            return []
        found: list[tuple[str, ...]] = []
        live, nested = [], []
        for field in fields_of(origin):
            hint = unwrap(_resolved(field.annotation, arguments))
            here = (*path, field.key)
            if hint.live:
                found.append(here)
                live.append(field.name)
                continue
            below = self._inside(hint.bare, here, (*above, origin), arguments, f"{origin.__qualname__}.{field.name}")
            if below:
                found += below
                nested.append(field.name)
        if found:
            self._refuse_recursion(origin)
            self._parts[origin] = _Part(tuple(live), tuple(nested))
        return found

    def _inside(
        self,
        annotation: Any,
        path: tuple[str, ...],
        above: tuple[type, ...],
        arguments: Mapping[TypeVar, Any],
        where: str,
    ) -> list[tuple[str, ...]]:
        found: list[tuple[str, ...]] = []
        for member in _members(_resolved(annotation, arguments)):
            hint = unwrap(_resolved(member, arguments))
            if hint.live:
                raise ConfigError(f"{where}: the whole field must be marked: Annotated[..., hotfd.Live]")
            if is_configuration(typing.get_origin(hint.bare) or hint.bare):
                found += self._class(hint.bare, path, above)
            else:
                self._refuse_inside(hint.bare, where)
        return found

    def _refuse_inside(self, container: Any, where: str) -> None:
        inside = [container, *(field.annotation for kind in classes(container) for field in fields_of(kind))]
        if any(hint.live for annotation in inside for hint in parts(annotation)):
            raise ConfigError(
                f"{where}: hotfd.Live is inside a container, whose parts have no fixed place. Mark the field with the "
                "whole container instead"
            )

    def _refuse_recursion(self, kind: type) -> None:
        if any(kind in classes(field.annotation) for field in fields_of(kind)):
            raise ConfigError(f"{kind.__qualname__} has live fields and contains itself; so they have no fixed place")


def _resolved(annotation: Any, arguments: Mapping[TypeVar, Any]) -> Any:
    return arguments.get(annotation, annotation) if isinstance(annotation, TypeVar) else annotation


def _members(annotation: Any) -> tuple[Any, ...]:
    """Return the members of a union, or the annotation alone."""
    bare = unwrap(annotation).bare
    return typing.get_args(bare) if typing.get_origin(bare) in (Union, types.UnionType) else (annotation,)
