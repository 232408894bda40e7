"""The codec of one declared state: compiled once when a server starts, used for every session that moves."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import msgspec

from hotfd.errors import StateError, StateTooNew
from hotfd.state import schema as schemas
from hotfd.state.catalogue import ANY, Catalogue
from hotfd.state.compare import difference, same_by_identity
from hotfd.state.direct import direct
from hotfd.state.downgrade import TooNew, Way, way_back
from hotfd.state.form import Fault, call, type_name
from hotfd.state.reader import Reader, unpack, upgraded
from hotfd.state.roots import Root
from hotfd.state.schema import Plan, Schema, Target
from hotfd.state.writer import Writer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from hotfd.state.declare import State
    from hotfd.state.shapes import Shape

S = TypeVar("S")


class Codec(Generic[S]):
    """Writes the states of one declared type, and reads those that a process of any version wrote.

    Made by :meth:`of`. Everything that a value is comes back: types, order, private fields, NaNs. What cannot is a
    StateError: when the codec is made, if the declared type says so, else when the value is written. Two references
    to one object come back as two equal objects; an object that contains itself is refused.

    Attributes:
        version: version of the state's shape.
        schema: what a reading process must know of this one's state; JSON-able.
    """

    __slots__ = ("_only", "_own", "_root", "_schema", "_shapes", "_target", "_write", "schema", "version")

    def __init__(self, root: Root[S]) -> None:
        self._root = root
        self._shapes = root.catalogue.shapes
        self._schema = schemas.of_shapes(root.schema_name, root.version, root.hint, self._shapes)
        self._target = Target(self._schema, _by_name(self._shapes), root.upgrade is not None, root.give)
        self._only = next(iter(root.types)) if root.encode is None and root.types and len(root.types) == 1 else None
        self._write = _writer(self._target.shapes, self._schema, self._only).encode
        self._own: Callable[[bytes], S] | None = None
        self.version = root.version
        self.schema: dict[str, Any] = msgspec.to_builtins(self._schema)

    @classmethod
    def of(cls, declared: type[S] | State[S] | None) -> Codec[S]:
        """Compile the codec of a declared type.

        Args:
            declared: a dataclass, msgspec Struct, TypedDict, NamedTuple, a container or plain type, a
                :class:`State` that says more, or None where nothing is kept.

        Raises:
            StateError: something in the type cannot travel, or no fresh state can be made.
        """
        return cls(Root(declared))

    def new(self) -> S:
        """Return the state of a fresh connection: the class called without arguments, ``{}`` for a TypedDict."""
        return self._root.new()

    def encode(self, value: S) -> bytes:
        """Return a state in its written form.

        Raises:
            StateError: something in it cannot travel; it names the path, never the value.
        """
        try:
            if type(value) is self._only:
                return self._write(value)
            self._check_type(value)
            encode = self._root.encode
            return self._write(value if encode is None else call(encode, "encode", value))
        except Fault as fault:
            raise StateError(fault.path(self._root.name), fault.problem) from None

    def older(self, schema: dict[str, Any]) -> OlderWriter[S] | str:
        """Return what writes states as older code reads them.

        Args:
            schema: :attr:`schema` of the older code.

        Returns:
            the writer, or one line that says which field stands in the way and what to do.
        """
        theirs = schemas.understood(schema)
        if isinstance(theirs, str):
            return theirs
        found = way_back(self._root, self._schema, theirs)
        return found if isinstance(found, str) else OlderWriter(self, found)

    def reader(self, schema: dict[str, Any]) -> Callable[[bytes], S]:
        """Return the function that reads what a process with the given schema wrote.

        Args:
            schema: :attr:`schema` of the process that writes.

        Returns:
            A function from the written form to a state. It raises StateError for what it cannot read.

        Raises:
            StateError: its states cannot be read here; :meth:`unreadable` says the same beforehand.
        """
        found = self._plan(schema)
        if isinstance(found, str):
            raise StateError(self._root.name, found)
        written, plan = found
        if written.root is None and self._root.schema_name is not None:
            # The writer kept nothing, so nothing is lost, and the session begins to keep a state now.
            return lambda _: self.new()
        reader = Reader(written, plan)
        finish = self._finisher(written, plan)

        def whole(data: bytes) -> S:
            form = unpack(data)
            if len(form) != 2:
                raise Fault("is not the written form of a state")
            return finish(reader.read(form[1]))

        as_it_is = not plan.root_upgrade and self._root.decode is None
        read = direct(written, plan, reader, self._root.hint, whole) if as_it_is else whole

        def decode(data: bytes) -> S:
            try:
                return read(data)
            except Fault as fault:
                raise StateError(fault.path(self._root.name), fault.problem) from None
            except RecursionError:
                raise StateError(self._root.name, "is nested too deeply to be read") from None

        return decode

    def unreadable(self, schema: dict[str, Any]) -> str | None:
        """Say why states of another process cannot be read here, before anything moves.

        Args:
            schema: :attr:`schema` of the process that writes.

        Returns:
            None when they can be read, else one line that names the field and what to do.
        """
        found = self._plan(schema)
        return found if isinstance(found, str) else None

    def roundtrips(self, value: S) -> str | None:
        """Write a state, read it again, and compare, exactly and field by field.

        Returns:
            None when it came back the same, else the path of the first difference, or why it cannot be written.
        """
        try:
            return self._difference(value, self._copy(value))
        except StateError as error:
            return str(error)

    def _copy(self, value: S) -> S:
        """Return a state as it comes back; it has no object in common with the one that is written."""
        data = self.encode(value)
        if self._own is None:
            self._own = self.reader(self.schema)
        return self._own(data)

    def _difference(self, before: S, after: S) -> str | None:
        encode, name = self._root.encode, self._root.name
        try:
            if encode is None:
                return difference(before, after, name, self._shapes)
            if not same_by_identity(type(before)):
                return None if type(before) is type(after) and before == after else name
            return difference(call(encode, "encode", before), call(encode, "encode", after), name, self._shapes)
        except Fault as fault:
            return f"{fault.path(name)}: {fault.problem}"

    def _check_type(self, value: object) -> None:
        types = self._root.types
        if types is not None and type(value) not in types:
            expected = " or ".join(sorted(map(type_name, types)))
            raise Fault(f"is of type {type_name(type(value))} and not {expected}")

    def _plan(self, schema: object) -> tuple[Schema, Plan] | str:
        written = schemas.understood(schema)
        if isinstance(written, str):
            return written
        plan = self._target.plan(written)
        return plan.problems[0] if plan.problems else (written, plan)

    def _finisher(self, written: Schema, plan: Plan) -> Callable[[Any], S]:
        """Return what turns the root as it was read into a state: an upgrade, ``decode``, or a check of its type."""
        root = self._root
        # A root that is an object of a class has been upgraded where it was built, as such objects are everywhere.
        if plan.root_upgrade and written.root not in plan.upgrades:
            upgrade = root.upgrade
            assert upgrade is not None
            return lambda old: upgraded(upgrade, old, written.version, root.types)
        decode = root.decode
        if decode is not None:
            return lambda old: call(decode, "decode", old)

        def checked(value: S) -> S:
            self._check_type(value)
            return value

        return checked


class OlderWriter(Generic[S]):
    """Writes the states of one declared type for older code. Made by :meth:`Codec.older`.

    Attributes:
        schema: what the older code must be told of what is written; JSON-able.
    """

    __slots__ = ("_codec", "_downgrades", "_root", "_way", "_writer", "schema")

    def __init__(self, codec: Codec[S], way: Way) -> None:
        self._codec = codec
        self._downgrades = way.root is not None or any(step.downgrade for step in way.descents.values())
        self._root = codec._root
        self._way = way
        self._writer = Writer(way.shapes, _entries(way.shapes), way.descents, way.strangers)
        self.schema: dict[str, Any] = msgspec.to_builtins(way.schema)

    def encode(self, value: S) -> bytes:
        """Return a state in the older code's written form.

        Raises:
            StateTooNew: it holds what the older code does not know.
            StateError: something in it cannot travel, or its ``downgrade`` failed.
        """
        try:
            return self._writer.encode(self._converted(value))
        except TooNew as fault:
            raise StateTooNew(fault.path(self._root.name), fault.problem) from None
        except Fault as fault:
            raise StateError(fault.path(self._root.name), fault.problem) from None

    def _converted(self, value: S) -> Any:
        root, way = self._root, self._way
        self._codec._check_type(value)
        if self._downgrades:
            # The session may go on here, after a dry run, a refusal or a take-back: what the program's downgrade does
            # to its argument must not be done to that.
            value = self._codec._copy(value)
        if way.schema.root is None:
            if self._codec._difference(root.new(), value) is not None:
                raise TooNew("differs from a fresh state, and the older code keeps none")
            return None
        if way.root is not None:
            return call(way.root, "downgrade", value, way.schema.version)
        return value if root.encode is None else call(root.encode, "encode", value)


def encode_any(value: Any, types: Sequence[Any] = ()) -> bytes:
    """Write a value without a declared type, as exactly as a declared one.

    Args:
        value: anything made of plain types and containers, and of the classes named in ``types``.
        types: dataclasses, Structs, NamedTuples and enums that may occur in it.

    Returns:
        Its written form, which says by itself what :func:`decode_any` must know of those classes.

    Raises:
        StateError: something in it cannot travel.
    """
    target, writer = _undeclared(tuple(types))
    try:
        return writer.encode(value, *([msgspec.to_builtins(target.schema)] if types else []))
    except Fault as fault:
        raise StateError(fault.path("value"), fault.problem) from None


def decode_any(data: bytes, types: Sequence[Any] = ()) -> Any:
    """Read what :func:`encode_any` wrote.

    Args:
        data: the written form.
        types: the classes that may occur in it. One whose version differs is read through its own ``upgrade``.

    Raises:
        StateError: it cannot be read.
    """
    target, _ = _undeclared(tuple(types))
    try:
        found = unpack(data)
        if len(found) == 2:
            return _PLAIN_READER.read(found[1])
        written = schemas.understood(found[2])
        if isinstance(written, str):
            raise Fault(written)
        plan = target.plan(written)
        if plan.problems:
            raise Fault(plan.problems[0])
        return Reader(written, plan).read(found[1])
    except Fault as fault:
        raise StateError(fault.path("value"), fault.problem) from None
    except RecursionError:
        raise StateError("value", "is nested too deeply to be read") from None


# A process names the classes of its process-wide state in one or two places; the bound only keeps it bounded.
@functools.lru_cache(maxsize=32)
def _undeclared(types: tuple[Any, ...]) -> tuple[Target, Writer]:
    catalogue = Catalogue()
    for kind in types:
        catalogue.add(kind, getattr(kind, "__name__", "types"))
    catalogue.finish()
    schema = schemas.of_shapes("value", 1, ANY, catalogue.shapes)
    shapes = _by_name(catalogue.shapes)
    return Target(schema, shapes, upgradable=False, give="name its class in types="), _writer(shapes, schema)


def _by_name(shapes: dict[type, Shape]) -> dict[str, Shape]:
    return {shape.name: shape for shape in shapes.values()}


def _writer(shapes: dict[str, Shape], schema: Schema, root: type | None = None) -> Writer:
    return Writer([shapes[name] for name in schema.order()], _entries(shapes.values()), root=root)


def _entries(shapes: Iterable[Shape]) -> frozenset[str]:
    return frozenset(name for shape in shapes if shape.kind == "typeddict" for name in shape.fields)


_PLAIN_READER = Reader(Schema(1, 1, "value", [["Any"]], {}), Plan())
