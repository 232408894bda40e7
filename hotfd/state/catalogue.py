"""From a declared type to the shapes of all classes that it can hold: the walk over annotations, done once at start.

What cannot travel is found here, before the server serves, and named by its field. Annotations are not used to check
or to convert values: a value travels as what it is. They say which classes may be met, and what a field was meant to be.
"""

from __future__ import annotations

import collections
import collections.abc
import dataclasses
import types
import typing
from typing import Any, Final

from hotfd.errors import StateError
from hotfd.state.declare import State
from hotfd.state.form import type_name
from hotfd.state.plain import PLAIN
from hotfd.state.shapes import Hint, Shape, shape_of

ANY: Final[Hint] = (("Any",),)
"""The hint of what may be anything that can travel."""

CONTAINERS: Final[frozenset[type]] = frozenset(
    {
        list,
        dict,
        tuple,
        set,
        frozenset,
        collections.deque,
        collections.defaultdict,
        collections.OrderedDict,
        collections.Counter,
    }
)

SIMPLE: Final[frozenset[type]] = (
    frozenset({type(None), bool, int, float, str, bytes}) | CONTAINERS | {plain.type for plain in PLAIN}
)
"""Every type that travels without being declared."""

ABSTRACT: Final[frozenset[type]] = frozenset(
    {
        collections.abc.Collection,
        collections.abc.Container,
        collections.abc.Hashable,
        collections.abc.Iterable,
        collections.abc.Mapping,
        collections.abc.MutableMapping,
        collections.abc.MutableSequence,
        collections.abc.MutableSet,
        collections.abc.Reversible,
        collections.abc.Sequence,
        collections.abc.Set,
        collections.abc.Sized,
    }
)
"""What a list, a dict or a set may be declared as. A generator is an Iterable too; it is refused when it is met."""

WRAPPERS: Final[frozenset[str]] = frozenset({"Final", "Required", "NotRequired", "ReadOnly"})
"""Words around a type that say nothing about its values; by name, for typing and typing_extensions each have them."""

ADVICE: Final = "keep it out of the state or give State(encode=, decode=)"


class Catalogue:
    """The shapes of all classes that one declared state can hold.

    Attributes:
        shapes: by class, with names assigned once :meth:`finish` has been called.
    """

    def __init__(self) -> None:
        self.shapes: dict[type, Shape] = {}
        self._aliases: set[int] = set()
        self._pending: list[Shape] = []

    def add(self, annotation: Any, where: str) -> Hint:
        """Walk one declared type, and every class that it leads to.

        Args:
            annotation: a class or any other form of type hint, its forward references resolved.
            where: what the type was declared for, e.g. ``Visitor.lock``; errors begin with it.

        Returns:
            The type as alternatives; see :data:`hotfd.state.shapes.Hint`.

        Raises:
            StateError: something in it cannot travel.
        """
        hint = self._hint(annotation, where)
        while self._pending:
            self._fill(self._pending.pop())
        return hint

    def finish(self) -> None:
        """Give every class the name by which schemas call it.

        Raises:
            StateError: two classes cannot be told apart.
        """
        names = collections.Counter(cls.__name__ for cls in (*SIMPLE, *self.shapes))
        seen: set[str] = set()
        for cls, shape in self.shapes.items():
            # All that share a name are told apart by their modules, not all but the first: which is the first may
            # change from one version to the next, and would hand one class the objects of the other.
            shape.name = cls.__name__ if names[cls.__name__] == 1 else f"{cls.__module__}.{cls.__qualname__}"
            if shape.name in seen:
                raise StateError(shape.name, "names two different classes of this state; rename one")
            seen.add(shape.name)

    # One case per form of annotation, in the order in which they must be told apart.
    def _hint(self, annotation: Any, where: str) -> Hint:
        if annotation is Any or annotation is object:
            return ANY
        if annotation is None:
            return ((type(None),),)
        if isinstance(annotation, str | typing.ForwardRef):
            name = annotation if isinstance(annotation, str) else annotation.__forward_arg__
            raise StateError(where, f"names a type that cannot be found: {name}")
        if isinstance(annotation, typing.TypeVar):
            return self._type_variable(annotation, where)
        if isinstance(annotation, typing.NewType):
            return self._hint(annotation.__supertype__, where)
        if isinstance(annotation, dataclasses.InitVar):
            raise StateError(where, "is an InitVar, which is gone once the object is made; make it a field")
        origin = typing.get_origin(annotation)
        if origin is not None:
            return self._generic(annotation, origin, typing.get_args(annotation), where)
        if type(annotation).__name__ == "TypeAliasType":
            return self._alias(annotation, where)
        if isinstance(annotation, type):
            return self._class(annotation, (), where)
        if _word(annotation) == "LiteralString":
            return ((str,),)
        if _word(annotation) == "Self":
            return ANY
        raise StateError(where, f"{type_name(annotation)} cannot travel; {ADVICE}")

    def _type_variable(self, variable: typing.TypeVar, where: str) -> Hint:
        choices = variable.__constraints__ or ((variable.__bound__,) if variable.__bound__ is not None else ())
        return self._union(choices, where) if choices else ANY

    def _alias(self, alias: Any, where: str) -> Hint:
        # ``type Json = None | list[Json]`` leads back to itself; inside itself it may be anything.
        if id(alias) in self._aliases:
            return ANY
        self._aliases.add(id(alias))
        try:
            return self._hint(alias.__value__, where)
        finally:
            self._aliases.discard(id(alias))

    def _union(self, choices: tuple[Any, ...], where: str) -> Hint:
        alternatives: list[Any] = []
        for choice in choices:
            alternatives.extend(found for found in self._hint(choice, where) if found not in alternatives)
        return tuple(alternatives)

    def _generic(self, annotation: Any, origin: Any, arguments: tuple[Any, ...], where: str) -> Hint:
        if origin is typing.Annotated or hasattr(annotation, "__metadata__"):
            return self._annotated(annotation, where)
        if origin is typing.Union or origin is types.UnionType:
            return self._union(arguments, where)
        if origin is typing.Literal or _word(origin) == "Literal":
            # Members of enums are met as values; None, text and numbers need no class.
            return self._union(tuple(type(value) for value in arguments), where)
        if _word(origin) in WRAPPERS:
            return self._hint(arguments[0], where)
        if type(origin).__name__ == "TypeAliasType":
            for argument in arguments:
                self._hint(argument, where)
            return self._alias(origin, where)
        if isinstance(origin, type):
            return self._class(origin, arguments, where)
        raise StateError(where, f"{type_name(annotation)} cannot travel; {ADVICE}")

    def _annotated(self, annotation: Any, where: str) -> Hint:
        inner = annotation.__origin__
        for note in annotation.__metadata__:
            if isinstance(note, State) and note.encode is not None:
                return self._custom(inner, note, where)
        return self._hint(inner, where)

    def _custom(self, cls: Any, state: State[Any], where: str) -> Hint:
        if not isinstance(cls, type) or cls in SIMPLE:
            raise StateError(where, "State(encode=, decode=) as an annotation needs a class of its own")
        known = self.shapes.get(cls)
        if known is None:
            version = state.version if state.version is not None else 1
            self.shapes[cls] = Shape(
                cls, "custom", version=version, upgrade=state.upgrade, downgrade=state.downgrade, custom=state
            )
        elif known.custom is not state:
            raise StateError(where, f"{type_name(cls)} travels in two different ways; use one State for all its fields")
        return ((cls,),)

    def _class(self, cls: type, arguments: tuple[Any, ...], where: str) -> Hint:
        if cls in ABSTRACT:
            self._arguments(arguments, where)
            return ANY
        if cls not in SIMPLE and cls not in self.shapes:
            shape = shape_of(cls)
            if shape is None:
                raise StateError(where, f"{type_name(cls)} cannot travel; {ADVICE}")
            self.shapes[cls] = shape
            self._pending.append(shape)
        # Values of a TypedDict are dicts: that is what the hint of one compares as.
        return ((cls, *self._arguments(arguments, where)),)

    def _arguments(self, arguments: tuple[Any, ...], where: str) -> list[Hint]:
        return [(("...",),) if argument is Ellipsis else self._hint(argument, where) for argument in arguments]

    def _fill(self, shape: Shape) -> None:
        if shape.kind in ("enum", "flag"):
            return
        name = shape.cls.__name__
        hints = _hints_of(shape.cls)
        # An InitVar is no field, and is the one annotation that must not be passed over in silence.
        for field, annotation in hints.items():
            if isinstance(annotation, dataclasses.InitVar):
                self._hint(annotation, f"{name}.{field}")
        if shape.kind == "typeddict":
            shape.fields = tuple(hints)
            shape.required = tuple(field for field in hints if _is_required(shape.cls, field, hints[field]))
        shape.hints = {field: self._hint(hints.get(field, Any), f"{name}.{field}") for field in shape.fields}


def _hints_of(cls: type) -> dict[str, Any]:
    try:
        # The class's own name is given for classes made inside a function, which may refer to themselves.
        return typing.get_type_hints(cls, localns={cls.__name__: cls}, include_extras=True)
    except NameError as error:
        problem = f"names a type that cannot be found: {error.name}; import it outside of TYPE_CHECKING"
    except (AttributeError, SyntaxError, TypeError) as error:
        problem = f"has an annotation that is no type ({type(error).__name__})"
    raise StateError(cls.__name__, problem)


def _is_required(cls: Any, field: str, annotation: Any) -> bool:
    # Under ``from __future__ import annotations`` __required_keys__ misses what the annotation itself says.
    word = _word(typing.get_origin(annotation))
    if word in ("Required", "NotRequired"):
        return word == "Required"
    return field in cls.__required_keys__


def _word(form: Any) -> str | None:
    return getattr(form, "_name", None)
