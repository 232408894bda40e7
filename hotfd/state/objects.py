"""What an object holds: the values of its fields, and nothing overlooked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hotfd.state.form import Fault
from hotfd.state.shapes import ABSENT_VALUE, Shape


def several(make: Any, names: tuple[str, ...]) -> Callable[[Any], tuple[Any, ...]]:
    """Return a getter of several attributes or items that returns a tuple for one and for none as well."""
    if len(names) > 1:
        return make(*names)  # type: ignore[no-any-return]  # itemgetter or attrgetter
    if not names:
        return lambda _: ()
    one = make(*names)
    return lambda value: (one(value),)


def attributes_of(value: Any, shape: Shape) -> list[tuple[str, Any]]:
    """Return the fields of an object in detail: one that has no value as ABSENT_VALUE, and nothing overlooked.

    Raises:
        Fault: it has an attribute that is no field.
    """
    attributes: dict[str, Any] = object.__getattribute__(value, "__dict__") if shape.has_dict else {}
    if shape.kind == "struct":
        no_attributes(value)
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


def values_of(value: Any, shape: Shape) -> list[Any]:
    """Return what :func:`attributes_of` does, without the names."""
    return [found for _, found in attributes_of(value, shape)]


def items_of(value: Any, shape: Shape) -> list[tuple[str, Any]]:
    """Return the fields of a NamedTuple: what it holds, and not what a class with an ``__iter__`` of its own shows.

    Raises:
        Fault: it has an attribute that is no field.
    """
    if shape.has_dict:
        no_attributes(value)
    return list(zip(shape.fields, tuple.__iter__(value), strict=True))


def no_attributes(value: Any) -> None:
    """Refuse an object that has attributes besides its content.

    Raises:
        Fault: it has one; the fault names it.
    """
    for name in getattr(value, "__dict__", ()):
        fault = Fault("is an attribute and would be lost")
        fault.under(f".{name}")
        raise fault
