"""What the annotations of configuration classes say, and the marker ``hotfd.Live``."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Final, Literal, NamedTuple, TypeGuard

import msgspec

from hotfd.errors import ConfigError


class Live:
    """Marks a field whose newest value holds for all sessions, running ones too, as soon as a server has staged it.

    Everything else a session keeps as it was when it began::

        @dataclass(frozen=True)
        class Rules:
            damage: int = 10
            announcement: Annotated[str, hotfd.Live] = ""
    """


class Hint(NamedTuple):
    """An annotation without what is wrapped around it: ``Annotated``, ``Final``, a ``NewType``, an alias.

    Attributes:
        bare: the annotation itself.
        metadata: what was annotated.
    """

    bare: Any
    metadata: tuple[Any, ...]

    @property
    def live(self) -> bool:
        """Whether it is marked with :class:`Live`."""
        return any(item is Live or isinstance(item, Live) for item in self.metadata)


class Field(NamedTuple):
    """A field of a configuration class: its name in the program, its key among the values, its annotation."""

    name: str
    key: str
    annotation: Any


def unwrap(annotation: Any) -> Hint:
    """Take away what is wrapped around an annotation."""
    metadata: list[Any] = []
    while True:
        if typing.get_origin(annotation) is Annotated:
            metadata.extend(annotation.__metadata__)
            annotation = annotation.__origin__
        elif typing.get_origin(annotation) is Final:
            annotation = annotation.__args__[0]
        elif hasattr(annotation, "__supertype__"):  # typing.NewType
            annotation = annotation.__supertype__
        elif type(annotation).__name__ == "TypeAliasType":  # the "type" statement of Python 3.12
            annotation = annotation.__value__
        else:
            return Hint(annotation, tuple(metadata))


def is_model(kind: object) -> TypeGuard[Any]:
    """Return whether a type is a pydantic model, without a need for pydantic."""
    return isinstance(kind, type) and hasattr(kind, "__pydantic_fields__") and hasattr(kind, "model_fields")


def is_configuration(kind: object) -> TypeGuard[type]:
    """Return whether a type has fields of its own: a Struct, a dataclass, a pydantic model."""
    if not isinstance(kind, type):
        return False
    return issubclass(kind, msgspec.Struct) or dataclasses.is_dataclass(kind) or is_model(kind)


def fields_of(kind: type) -> list[Field]:
    """Return the fields of a class that has some.

    Raises:
        ConfigError: an annotation names something that is not there.
    """
    if is_model(kind):
        return [
            Field(name, info.validation_alias if isinstance(info.validation_alias, str) else name, _of_model(info))
            for name, info in kind.model_fields.items()
        ]
    try:
        annotations = typing.get_type_hints(kind, include_extras=True)
    except (NameError, TypeError) as error:
        raise ConfigError(
            f"{kind.__qualname__}: its annotations cannot be resolved: {error}. What they name must be found in the "
            "module of the class"
        ) from None
    names: Iterable[tuple[str, str]]
    if issubclass(kind, msgspec.Struct):
        names = zip(kind.__struct_fields__, kind.__struct_encode_fields__, strict=True)
    else:
        names = ((field.name, field.name) for field in dataclasses.fields(kind))  # type: ignore[arg-type]
    return [Field(name, key, annotations[name]) for name, key in names]


def parts(annotation: Any) -> Iterator[Hint]:
    """Yield an annotation and those inside it: members of unions, items of containers, arguments of generic classes.

    The fields of classes are not looked at.
    """
    hint = unwrap(annotation)
    yield hint
    if typing.get_origin(hint.bare) is not Literal:
        for argument in typing.get_args(hint.bare):
            yield from parts(argument)


def classes(annotation: Any) -> list[type]:
    """Return the classes with fields that are inside an annotation, at any depth, each once."""
    found: list[type] = []
    pending = [annotation]
    while pending:
        for hint in parts(pending.pop()):
            kind = typing.get_origin(hint.bare) or hint.bare
            if is_configuration(kind) and kind not in found:
                found.append(kind)
                pending += [field.annotation for field in fields_of(kind)]
    return found


def _of_model(info: Any) -> Any:
    # pydantic takes the outermost Annotated apart; its own resolution of names sees more than get_type_hints.
    return Annotated[(info.annotation, *info.metadata)] if info.metadata else info.annotation
