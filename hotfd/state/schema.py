"""What one process tells the other about its state, and whether one can read what the other wrote.

A schema is JSON-able. Reading follows three rules:

1. Of the same version, nothing may be lost: every field that was written must exist, every field that must have a
   value must have been written, and no field may have become something else. A new field takes its default.
2. Of an older version, the class needs an ``upgrade(old, version)``. It gets a dict of the fields. What a newer version
   wrote is not read: how could older code know what it means? That version writes it anew, on demand, as the older one
   would have written it (:mod:`hotfd.state.downgrade`).
3. A class inside a state counts with its own version by the same rules. Where the root is upgraded, whatever inside
   cannot be read as an object becomes a dict too (a member of an enum its name), and is the root's to deal with.

All of it is decided by schemas alone, before anything moves.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec

from hotfd.state import form
from hotfd.state.shapes import RECORDS, Hint, Shape

if TYPE_CHECKING:
    from collections.abc import Iterator

PlainHint = list[list[Any]]
"""A hint as JSON: alternatives, each ``[name, hint, ...]``."""

MAX_TYPES: Final = 10_000
"""Classes in one schema; programs have tens, and a hostile schema must not cost minutes to compare."""

MAX_HINT_DEPTH: Final = 50
"""Levels of ``list[list[...]]`` in one hint; ten times what anybody can read, and safe to walk by recursion."""

UNKNOWN: Final = "the schema of the other process cannot be understood; is it another release of hotfd?"


class TypeSchema(msgspec.Struct):
    """One class in a schema: its kind, its fields in the order in which they are written, and what they hold."""

    kind: Literal["dataclass", "struct", "namedtuple", "typeddict", "enum", "flag", "custom"]
    fields: list[str] = msgspec.field(default_factory=list)
    required: list[str] = msgspec.field(default_factory=list)
    hints: dict[str, PlainHint] = msgspec.field(default_factory=dict)
    version: int = 1


class Schema(msgspec.Struct):
    """A whole state: the format and version it is written in, its root, and every class that it can hold."""

    format: int
    version: int
    root: str | None
    hint: PlainHint
    types: dict[str, TypeSchema]

    def order(self) -> list[str]:
        """Return the classes in the order of their tags. It does not depend on the order of a JSON object."""
        return sorted(self.types)


def of_shapes(root: str | None, version: int, hint: Hint, shapes: dict[type, Shape]) -> Schema:
    """Return the schema of a compiled state."""
    names = {cls: shape.name for cls, shape in shapes.items()}
    types = {
        shape.name: TypeSchema(
            kind=shape.kind,
            fields=list(shape.fields),
            required=list(shape.required),
            hints={name: _plain(hint, names) for name, hint in shape.hints.items()},
            version=shape.version,
        )
        for shape in shapes.values()
    }
    return Schema(form.FORMAT, version, root, _plain(hint, names), types)


def understood(schema: object) -> Schema | str:
    """Return the other process's schema once it has proved to be one, else one line that says why it is none."""
    try:
        found = msgspec.convert(schema, Schema)
    except (msgspec.ValidationError, RecursionError):
        return UNKNOWN
    if found.format != form.FORMAT:
        return f"state is written in format {found.format}, and format {form.FORMAT} is read; use the same hotfd"
    if len(found.types) > MAX_TYPES or not all(_is_hint(hint, MAX_HINT_DEPTH) for hint in _hints(found)):
        return UNKNOWN
    return found


@dataclass(slots=True)
class Plan:
    """How what was written is read: by class of the writer, the shape to build, or None for a dict of its fields.

    Attributes:
        shapes: by name in the writer's schema.
        upgrades: the names whose dict goes through the shape's ``upgrade``.
        root_upgrade: whether the root as a whole goes through the state's ``upgrade``.
        problems: why it cannot be read, the first of them first.
    """

    shapes: dict[str, Shape | None] = field(default_factory=dict)
    upgrades: set[str] = field(default_factory=set)
    root_upgrade: bool = False
    problems: list[str] = field(default_factory=list)


@dataclass(slots=True, frozen=True)
class Target:
    """The reading side.

    Attributes:
        schema: its own schema.
        shapes: its classes by name.
        upgradable: whether the root has an ``upgrade``.
        give: what to do when it has none and needs one, e.g. ``give Visitor an upgrade(old, version)``.
    """

    schema: Schema
    shapes: dict[str, Shape]
    upgradable: bool
    give: str

    def plan(self, written: Schema) -> Plan:
        """Decide for every class of the writer how its objects are read."""
        plan = Plan()
        if written.root is None:
            return plan
        if self.schema.root is None:
            plan.problems.append(f"{written.root}: was written, and no state is declared, it would be lost; declare it")
            return plan
        same = written.version == self.schema.version
        if not same:
            if written.version > self.schema.version:
                plan.problems.append(
                    f"state version {written.version} is newer than version {self.schema.version} of this code; "
                    "to go back, use hotfd rollback, or hotfd handoff --allow-downgrade"
                )
                return plan
            if not self.upgradable:
                plan.problems.append(
                    f"state version {written.version} cannot be read by version {self.schema.version}: {self.give}"
                )
                return plan
            plan.root_upgrade = True
        renamed = self._root_pair(written)
        for name, theirs in written.types.items():
            self._plan_type(plan, name, theirs, renamed)
        if same and (problem := self._root_problem(written, renamed)):
            plan.problems.insert(0, problem)
        return plan

    def _root_pair(self, written: Schema) -> dict[str, str]:
        # The root is the root, whatever its class is called now.
        if written.root in written.types and self.schema.root in self.shapes:
            return {written.root: self.schema.root}
        return {}

    def _plan_type(self, plan: Plan, name: str, theirs: TypeSchema, renamed: dict[str, str]) -> None:
        shape = self.shapes.get(renamed.get(name, name))
        lenient = plan.root_upgrade
        if shape is not None and shape.version > theirs.version and _upgrades(shape, theirs):
            plan.shapes[name] = shape
            plan.upgrades.add(name)
            return
        problem = self._type_problem(name, theirs, shape, renamed)
        plan.shapes[name] = shape if problem is None else None
        if problem is not None and not lenient:
            plan.problems.append(problem)

    def _type_problem(self, name: str, theirs: TypeSchema, shape: Shape | None, renamed: dict[str, str]) -> str | None:
        if shape is None:
            return f"{name}: was written and is no part of the state any more, it would be lost; {self._advice(name)}"
        if shape.version < theirs.version:
            return f"{name} version {theirs.version} is newer than version {shape.version} of this code"
        if shape.version > theirs.version:
            return f"{name} version {theirs.version} cannot be read by version {shape.version}: {upgrade_advice(shape)}"
        ours = self.schema.types[shape.name]
        if ours.kind != theirs.kind and not {ours.kind, theirs.kind} <= RECORDS:
            return f"{name}: was of kind {theirs.kind} and is of kind {ours.kind}; {self._advice(shape.name)}"
        return next(self._field_problems(theirs, ours, shape.name, renamed), None)

    def _field_problems(
        self, theirs: TypeSchema, ours: TypeSchema, name: str, renamed: dict[str, str]
    ) -> Iterator[str]:
        known = set(ours.fields)
        for written in theirs.fields:
            before, after = theirs.hints.get(written, []), ours.hints.get(written, [])
            if written not in known:
                yield (
                    f"{name}.{written}: was written and is gone or changed, it would be lost; "
                    f"keep it, or {self._advice(name)}"
                )
            elif not fits(before, after, renamed):
                yield f"{name}.{written}: was {hint_text(before)} and is {hint_text(after)}; {self._advice(name)}"
        for needed in ours.required:
            if needed not in theirs.fields:
                yield f"{name}.{needed}: is needed and was not written; give it a default, or {self._advice(name)}"

    def _root_problem(self, written: Schema, renamed: dict[str, str]) -> str | None:
        if fits(written.hint, self.schema.hint, renamed):
            return None
        before, after = hint_text(written.hint), hint_text(self.schema.hint)
        return f"{self.schema.root}: was {before} and is {after}; {self._advice(self.schema.root)}"

    def _advice(self, name: str | None) -> str:
        shape = self.shapes.get(name) if name is not None else None
        if shape is None or shape.kind not in RECORDS or name == self.schema.root:
            return f"raise the version and {self.give}"
        return f"raise the version of {name} and {upgrade_advice(shape)}"


def _upgrades(shape: Shape, theirs: TypeSchema) -> bool:
    # An object of a TypedDict is a dict and nobody can tell; only as the root, which is known, can it be upgraded.
    return shape.upgrade is not None and "typeddict" not in (shape.kind, theirs.kind)


def upgrade_advice(shape: Shape) -> str:
    """Say what a class must do for its other versions to be read."""
    if shape.upgrade is not None:
        return f"let {shape.name}.upgrade see to it"
    if "upgrade" in vars(shape.cls):
        return f"make {shape.name}.upgrade a classmethod or staticmethod"
    return f"give {shape.name} an upgrade(old, version)"


def _plain(hint: Hint, names: dict[type, str]) -> PlainHint:
    return [
        [
            names.get(head, getattr(head, "__name__", head)),
            *(_plain(argument, names) for argument in arguments),
        ]
        for head, *arguments in hint
    ]


def _hints(schema: Schema) -> Iterator[PlainHint]:
    yield schema.hint
    for kind in schema.types.values():
        yield from kind.hints.values()


def _is_hint(hint: object, depth: int) -> bool:
    if not isinstance(hint, list) or depth == 0:
        return False
    return all(
        isinstance(alternative, list)
        and len(alternative) > 0
        and isinstance(alternative[0], str)
        and all(_is_hint(argument, depth - 1) for argument in alternative[1:])
        for alternative in hint
    )


def fits(theirs: PlainHint, ours: PlainHint, renamed: dict[str, str]) -> bool:
    """Say whether every alternative that was written is one that is read; Any, and what is left open, fits all."""
    return all(any(_fits_one(was, now, renamed) for now in ours) for was in theirs)


def _fits_one(was: list[Any], now: list[Any], renamed: dict[str, str]) -> bool:
    if "Any" in (was[0], now[0]):
        return True
    if renamed.get(was[0], was[0]) != now[0]:
        return False
    # list says nothing of its items, list[int] does; to be told more, or less, is no change.
    if len(was) == 1 or len(now) == 1:
        return True
    return len(was) == len(now) and all(fits(a, b, renamed) for a, b in zip(was[1:], now[1:], strict=True))


def hint_text(hint: PlainHint) -> str:
    """Return a hint as a person writes it."""
    return " | ".join(_alternative_text(*alternative) for alternative in hint)


def _alternative_text(head: str, *arguments: PlainHint) -> str:
    name = "None" if head == "NoneType" else head
    return f"{name}[{', '.join(map(hint_text, arguments))}]" if arguments else name
