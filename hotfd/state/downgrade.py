"""Writing a state for older code: what going back to a former version needs.

Older code cannot know what newer code means by its state. So the newer code writes it as the older would have, once
the older has told its schema; for each class that both have:

1. its ``downgrade(state, version)``, where it has one and its version is newer, returns the older version's fields;
2. else the fields that the older code lacks are left out, which an object allows when they hold their defaults;
3. a class of which none is left over on the older side is written nowhere: an object of it stays where it is.

What the types forbid is a problem that is known before anything moves. What only a value shows is a :class:`TooNew`
fault of that one state. The result is announced as a schema of its own, so that the older code reads it by its
ordinary rules and fills in what the newer code has given up.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hotfd.state.compare import difference
from hotfd.state.form import Fault, call, type_name
from hotfd.state.schema import Schema, TypeSchema, fits, hint_text
from hotfd.state.shapes import ABSENT_VALUE, RECORDS, Shape

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from hotfd.state.roots import Root

Fields = list[tuple[str, Any]]


class TooNew(Fault):
    """A value that the older version does not know."""


@dataclass(slots=True, frozen=True)
class Descent:
    """How the objects of one class are written for older code.

    Attributes:
        shape: the class as it is here.
        version: of the class in the older code, for ``downgrade``.
        told: how the older code is called in errors.
        fields: what is written, in order; of an enum the members that the older code knows.
        downgrade: the class's own way back, or None: then what is left out must hold its default.
        shapes: all declared classes.
    """

    shape: Shape
    version: int
    told: str
    fields: tuple[str, ...]
    downgrade: Callable[[Any, int], Any] | None
    shapes: Mapping[type, Shape]

    def of_object(self, value: Any, found: Fields) -> Fields:
        """Return what is written of an object.

        Args:
            value: the object.
            found: all of its fields with their values.

        Raises:
            TooNew: it holds what the older version does not know.
            Fault: ``downgrade`` raised, or returned what is no object of that version.
        """
        if self.downgrade is not None:
            return self._named(call(self.downgrade, "downgrade", value, self.version))
        known = dict(found)
        for name in self.shape.fields:
            if name not in self.fields and not self._at_default(name, known[name]):
                fault = TooNew(f"is not known to {self.told}, and is not at its default")
                fault.under(f".{name}")
                raise fault
        return [(name, known[name]) for name in self.fields]

    def of_custom(self, value: Any) -> Any:
        """Return what is written of an object that has functions of its own for that."""
        assert self.downgrade is not None
        return call(self.downgrade, "downgrade", value, self.version)

    def _named(self, made: Any) -> Fields:
        if type(made) is not dict:
            raise Fault(f"downgrade returned a value of type {type_name(type(made))} and not a dict of fields")
        for name in (*self.fields, *made):
            if name not in made or name not in self.fields:
                # What is no field of the older code has a name that downgrade chose, and may be a value.
                what = "returned no value for it" if name not in made else "returned what is no field of that version"
                fault = Fault(f"downgrade to version {self.version} {what}")
                if name not in made:
                    fault.under(f".{name}")
                raise fault
        return [(name, made[name]) for name in self.fields]

    def _at_default(self, name: str, value: Any) -> bool:
        if value is ABSENT_VALUE:
            return False
        default = call(self.shape.defaults[name], f"the default of {name}")
        return difference(default, value, name, self.shapes) is None

    def of_member(self, name: str) -> str:
        """Return the name of an enum's member, if the older code knows it.

        Raises:
            TooNew: it does not.
        """
        if name not in self.fields:
            raise TooNew(f"is a member of {self.shape.name} that {self.told} does not know")
        return name


@dataclass(slots=True)
class Way:
    """The way back to one older schema.

    Attributes:
        schema: what is written, as it is announced to the older code.
        shapes: the classes that are written, in the order of their tags.
        descents: those that are not written as they are.
        strangers: classes that the older code does not have.
        root: turns the state as a whole into what the older version reads, or None.
    """

    schema: Schema
    shapes: list[Shape] = field(default_factory=list)
    descents: dict[type, Descent] = field(default_factory=dict)
    strangers: list[Shape] = field(default_factory=list)
    root: Callable[[Any, int], Any] | None = None


class _Impossible(Exception):  # noqa: N818 - leaves this module as a text
    """The types forbid it; the text says why."""


def way_back(root: Root[Any], ours: Schema, theirs: Schema) -> Way | str:
    """Find how states of this code are written for older code.

    Args:
        root: the declared state.
        ours: its schema.
        theirs: the schema of the code that is to read.

    Returns:
        the way, or one line that says which field stands in the way and what to do.
    """
    if theirs.version > ours.version:
        return f"version {theirs.version} is newer than version {ours.version} here, and is to read it by itself"
    try:
        return _Finder(root, ours, theirs).way()
    except _Impossible as impossible:
        return str(impossible)


class _Finder:
    """Goes through the classes of both sides once."""

    def __init__(self, root: Root[Any], ours: Schema, theirs: Schema) -> None:
        self._root = root
        self._ours = ours
        self._theirs = theirs
        self._by_class: dict[type, Shape] = root.catalogue.shapes
        self._shapes = {shape.name: shape for shape in self._by_class.values()}
        self._renamed: dict[str, str] = {}
        if ours.root in ours.types and theirs.root in theirs.types:
            self._renamed = {str(ours.root): str(theirs.root)}
        # A downgrade of the whole may keep anything out of the result: then what the types forbid inside of it is
        # asked of each state.
        self._told = f"version {theirs.version}" if theirs.version < ours.version else "the other code"
        self._lenient = root.downgrade is not None and theirs.version < ours.version

    def way(self) -> Way:
        theirs = self._theirs
        way = Way(Schema(theirs.format, theirs.version, theirs.root, theirs.hint, {}))
        if theirs.root is None:
            # It keeps nothing. Only a state that is as good as a fresh one is no loss; the codec sees to that.
            return way
        self._find_root(way)
        found: list[tuple[str, Shape]] = []
        for name, shape in self._shapes.items():
            known = self._renamed.get(name, name)
            if known not in theirs.types:
                way.strangers.append(shape)
                continue
            try:
                way.schema.types[known] = self._pair(way, shape, self._ours.types[name], theirs.types[known])
            except _Impossible:
                if not self._lenient:
                    raise
                way.strangers.append(shape)
                continue
            found.append((known, shape))
        way.shapes = [shape for _, shape in sorted(found, key=lambda item: item[0])]
        return way

    def _find_root(self, way: Way) -> None:
        """Decide about a root that is no object of a class with fields; such a one is a class like any other."""
        root, theirs = self._root, self._theirs
        shape = self._shapes.get(str(self._ours.root))
        if shape is not None and shape.kind in RECORDS and str(self._theirs.root) in self._renamed.values():
            return
        if self._lenient:
            way.root = root.downgrade
        elif not fits(self._ours.hint, theirs.hint, self._renamed):
            raise _Impossible(
                f"{root.name}: is {hint_text(self._ours.hint)}, and was {hint_text(theirs.hint)} in {self._told}; "
                f"{self._give(None)}"
            )
        elif root.encode is not None and theirs.version != self._ours.version:
            raise _Impossible(f"{root.name}: is written in a form of its own; {self._give(None)}")

    def _pair(self, way: Way, shape: Shape, ours: TypeSchema, theirs: TypeSchema) -> TypeSchema:
        """Decide how objects of one class are written; return how that is announced."""
        if ours.kind != theirs.kind and not {ours.kind, theirs.kind} <= RECORDS:
            raise _Impossible(
                f"{shape.name}: is of kind {ours.kind}, and was of kind {theirs.kind} in {self._told}; "
                f"{self._give(shape, theirs)}"
            )
        if shape.version < theirs.version:
            return ours  # a class by itself that is newer over there: its own upgrade reads it
        if shape.kind == "enum":
            return self._enum(way, shape, ours, theirs)
        if shape.kind == "custom" or shape.kind in RECORDS:
            return self._object(way, shape, ours, theirs)
        return self._whole(shape, ours, theirs)

    def _enum(self, way: Way, shape: Shape, ours: TypeSchema, theirs: TypeSchema) -> TypeSchema:
        common = [name for name in ours.fields if name in theirs.fields]
        if common != ours.fields:
            self._descend(way, shape, theirs, common, None)
        return TypeSchema(kind="enum", fields=common)

    def _whole(self, shape: Shape, ours: TypeSchema, theirs: TypeSchema) -> TypeSchema:
        """A flag is a number and a TypedDict a dict: of neither can a part be left out."""
        for name in ours.fields:
            if name not in theirs.fields:
                raise _Impossible(self._unknown(shape, theirs, name))
        self._check_common(shape, ours, theirs)
        return ours

    def _object(self, way: Way, shape: Shape, ours: TypeSchema, theirs: TypeSchema) -> TypeSchema:
        if shape.downgrade is not None and shape.version > theirs.version:
            self._descend(way, shape, theirs, theirs.fields, shape.downgrade)
            return TypeSchema(ours.kind, theirs.fields, theirs.required, theirs.hints, theirs.version)
        if shape.kind == "custom" and shape.version > theirs.version:
            raise _Impossible(f"{shape.name}: is written in a form of its own; {self._give(shape, theirs)}")
        for name in ours.fields:
            if name not in theirs.fields and name not in shape.defaults:
                raise _Impossible(self._unknown(shape, theirs, name))
        self._check_common(shape, ours, theirs)
        common = [name for name in ours.fields if name in theirs.fields]
        if common != ours.fields:
            self._descend(way, shape, theirs, common, None)
        return TypeSchema(
            kind=ours.kind,
            fields=common,
            required=[name for name in common if name in ours.required],
            hints={name: theirs.hints[name] for name in common if name in theirs.hints},
            version=theirs.version,
        )

    def _check_common(self, shape: Shape, ours: TypeSchema, theirs: TypeSchema) -> None:
        """See that the older code gets every field that it needs, and each as it knows it."""
        for name in theirs.required:
            if name not in ours.fields:
                raise _Impossible(
                    f"{shape.name}.{name}: is needed by {self._told} and is gone; {self._give(shape, theirs)}"
                )
        for name in ours.fields:
            now, was = ours.hints.get(name, []), theirs.hints.get(name, [])
            if name in theirs.fields and not fits(now, was, self._renamed):
                raise _Impossible(
                    f"{shape.name}.{name}: is {hint_text(now)}, and was {hint_text(was)} in {self._told}; "
                    f"{self._give(shape, theirs)}"
                )

    def _descend(
        self,
        way: Way,
        shape: Shape,
        theirs: TypeSchema,
        fields: Iterable[str],
        downgrade: Callable[[Any, int], Any] | None,
    ) -> None:
        way.descents[shape.cls] = Descent(shape, theirs.version, self._told, tuple(fields), downgrade, self._by_class)

    def _unknown(self, shape: Shape, theirs: TypeSchema, name: str) -> str:
        name = name.partition("=")[0]  # a flag's member is listed with its number
        return f"{shape.name}.{name}: is not known to {self._told} and cannot be left out; {self._give(shape, theirs)}"

    def _give(self, shape: Shape | None, theirs: TypeSchema | None = None) -> str:
        if shape is None or shape.kind not in RECORDS:
            return "give State(downgrade=) a downgrade(state, version)"
        if shape.downgrade is None and "downgrade" in vars(shape.cls):
            return f"make {shape.name}.downgrade a classmethod or staticmethod"
        if theirs is not None and shape.version <= theirs.version:
            return f"raise the version of {shape.name} and give it a downgrade(state, version)"
        return f"give {shape.name} a downgrade(state, version)"
