"""From plain values to typed ones, piece by piece: each form checks one kind of value and builds it, read-only.

Everything is checked even when something is wrong, so that who wrote the values hears of all faults at once. Other
threads run meanwhile (:meth:`hotfd.config.findings.Findings.rest`): no step takes long, as one call of a
decoder would with a large release. A form returns None where it has noted a fault; nothing is made of that then.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

import msgspec

from hotfd.config.findings import one_of, sized
from hotfd.config.frozen import ReadOnlyDict, ReadOnlyList, attributes, own, owned

if TYPE_CHECKING:
    from hotfd.config.findings import Findings

_ABSENT: Final = object()


class Form(Protocol):
    """One kind of value.

    Attributes:
        words: what is expected, for people.
    """

    words: str

    def build(self, value: Any, findings: Findings) -> Any:
        """Return the typed value of a plain one, or note why there is none."""
        ...


class Scalar:
    """A value without parts.

    Args:
        kind: its type, as msgspec takes it.
        words: what is expected.
        exact: the type of the plain values that need no check, or None.
    """

    def __init__(self, kind: Any, words: str, exact: type | None = None) -> None:
        self.kind = kind
        self.words = words
        self._exact = exact

    def build(self, value: Any, findings: Findings) -> Any:
        """Return the typed value of a plain one, or note why there is none."""
        findings.rest()
        if type(value) is self._exact:
            return value
        try:
            return msgspec.convert(value, self.kind)
        except (msgspec.ValidationError, ValueError):
            findings.wrong(value, self.words)
            return None

    def build_key(self, key: str, findings: Findings) -> Any:
        """Return the typed form of a table's key, which is a string among plain values."""
        if self._exact is str:
            return key
        try:
            return next(iter(msgspec.convert({key: None}, dict[self.kind, None], str_keys=True)))  # type: ignore[name-defined]
        except (msgspec.ValidationError, ValueError):
            findings.wrong(key, f"a key that is {self.words}")
            return None


class Anything:
    """Any value that JSON has."""

    words = "any value"
    kind = Any

    def build(self, value: Any, findings: Findings) -> Any:
        """Return a read-only copy."""
        findings.rest()
        if isinstance(value, dict):
            return ReadOnlyDict({key: self.build(item, findings) for key, item in value.items()})
        if isinstance(value, list):
            return ReadOnlyList([self.build(item, findings) for item in value])
        return owned(value)


class Row:
    """A list, a set, or a tuple of any length.

    Args:
        item: what each member is.
        make: builds the container.
        least: members that there must be, or None.
        most: members that there may be, or None.
    """

    def __init__(
        self, item: Form, make: Callable[[list[Any]], Any], least: int | None = None, most: int | None = None
    ) -> None:
        self._item = item
        self._make = make
        self._least = least or 0
        self._most = most
        self.words = sized("a list", least, most, "values")

    def build(self, value: Any, findings: Findings) -> Any:
        """Return the typed value of a plain one, or note why there is none."""
        findings.rest()
        if not isinstance(value, list):
            findings.wrong(value, self.words)
            return None
        before = findings.count
        items = []
        path = findings.path
        for index, item in enumerate(value):
            path.append(index)
            items.append(self._item.build(item, findings))
            path.pop()
        if findings.count > before:
            return None
        try:
            made = self._make(items)
        except TypeError:  # a member of a set has no hash
            findings.wrong(value, "a list of values that can be members of a set")
            return None
        if len(made) < self._least or (self._most is not None and len(made) > self._most):
            findings.wrong(value, self.words)
            return None
        return made


class Pair:
    """A tuple of so many values, each of its own kind."""

    def __init__(self, items: Sequence[Form]) -> None:
        self._items = items
        self.words = f"a list of {len(items)} values"

    def build(self, value: Any, findings: Findings) -> Any:
        """Return the typed value of a plain one, or note why there is none."""
        findings.rest()
        if not isinstance(value, list) or len(value) != len(self._items):
            findings.wrong(value, self.words)
            return None
        items = []
        for index, (form, item) in enumerate(zip(self._items, value, strict=True)):
            findings.path.append(index)
            items.append(form.build(item, findings))
            findings.path.pop()
        return tuple(items)


class Table:
    """A dict whose keys are free.

    Args:
        key: what each key is.
        item: what each value is.
        least: entries that there must be, or None.
        most: entries that there may be, or None.
    """

    def __init__(self, key: Scalar, item: Form, least: int | None = None, most: int | None = None) -> None:
        self._key = key
        self._item = item
        self._least = least or 0
        self._most = most
        self.words = sized("a table", least, most, "entries")

    def build(self, value: Any, findings: Findings) -> Any:
        """Return the typed value of a plain one, or note why there is none."""
        findings.rest()
        if not isinstance(value, dict):
            findings.wrong(value, self.words)
            return None
        if len(value) < self._least or (self._most is not None and len(value) > self._most):
            findings.wrong(value, self.words)
            return None
        made: dict[Any, Any] = {}
        path = findings.path
        for key, item in value.items():
            path.append(key)
            typed_key = self._key.build_key(key, findings)
            if typed_key in made:  # "1" and "01" are the same number
                findings.wrong(key, "a key that is there once")
            made[typed_key] = self._item.build(item, findings)
            path.pop()
        return ReadOnlyDict(made)


class Member(NamedTuple):
    """A field of a class: its name in the program, what it is, whether it may be missing."""

    name: str
    form: Form
    required: bool


class Instance:
    """An instance of a Struct or of a dataclass.

    Args:
        kind: the class.
        tag: the key and the value that tell the class from others; None if it has none.

    Attributes:
        members: by key, its fields; set once they are known, since a class can contain itself.
    """

    words = "a table"

    def __init__(self, kind: Callable[..., Any], tag: tuple[str, str | int] | None) -> None:
        self.kind = kind
        self.tag = tag
        self.members: Mapping[str, Member] = {}
        self._rewrites = hasattr(kind, "__post_init__")

    def build(self, value: Any, findings: Findings) -> Any:
        """Return the typed value of a plain one, or note why there is none."""
        findings.rest()
        if not isinstance(value, dict):
            findings.wrong(value, self.words)
            return None
        before = findings.count
        arguments = self._arguments(value, findings)
        if findings.count > before:
            return None
        try:
            made = self.kind(**arguments)
        except Exception as error:  # noqa: BLE001 - the class's own checks; whatever they raise, it does not take this
            findings.wrong(value, f"what {self._name} accepts: {error or type(error).__name__}")
            return None
        if self._rewrites:
            own(made, attributes(made) or ())
        elif len(arguments) < len(self.members):
            own(made, [member.name for member in self.members.values() if member.name not in arguments])
        return made

    def _arguments(self, value: dict[str, Any], findings: Findings) -> dict[str, Any]:
        arguments: dict[str, Any] = {}
        path = findings.path
        taken = 0
        for key, (name, form, required) in self.members.items():
            item = value.get(key, _ABSENT)
            if item is not _ABSENT:
                taken += 1
                path.append(key)
                arguments[name] = form.build(item, findings)
                path.pop()
            elif required:
                findings.missing(key)
        if self.tag is not None:
            taken += self._check_tag(value, findings, *self.tag)
        if taken < len(value):
            self._unknown(value, findings)
        return arguments

    def _check_tag(self, value: dict[str, Any], findings: Findings, key: str, tag: str | int) -> bool:
        found = value.get(key, _ABSENT)
        if found is _ABSENT:
            findings.missing(key)
            return False
        if type(found) is not type(tag) or found != tag:
            findings.path.append(key)
            findings.wrong(found, one_of([tag]))
            findings.path.pop()
        return True

    def _unknown(self, value: dict[str, Any], findings: Findings) -> None:
        unused = [known for known in self.members if known not in value]
        for key in value:
            if key not in self.members and (self.tag is None or key != self.tag[0]):
                findings.unknown(key, unused)

    @property
    def _name(self) -> str:
        return str(getattr(self.kind, "__qualname__", self.kind))


class Choice:
    """One of several kinds: a union. Of each sort of plain value (a table, a list, any other), one can be meant.

    Args:
        words: what is expected, for people.
        scalar: what a value without parts is, or None if it may be none.
        row: what a list is, or None.
        tables: what a table is: one form, or several instances with the same key for their tags.
    """

    def __init__(self, words: str, scalar: Scalar | None, row: Form | None, tables: Sequence[Form]) -> None:
        self.words = words
        self._scalar = scalar
        self._row = row
        self._table = tables[0] if len(tables) == 1 else None
        self._tagged = {form.tag[1]: form for form in tables if isinstance(form, Instance) and form.tag is not None}
        self._tag = next((f.tag[0] for f in self._tagged.values() if f.tag is not None), "")

    def build(self, value: Any, findings: Findings) -> Any:
        """Return the typed value of a plain one, or note why there is none."""
        form: Form | None
        if isinstance(value, dict):
            form = self._table
            if form is None and self._tagged:
                return self._build_tagged(value, findings)
        elif isinstance(value, list):
            form = self._row
        else:
            form = self._scalar
        if form is None:
            findings.wrong(value, self.words)
            return None
        before = findings.count
        made = form.build(value, findings)
        if form is self._scalar and findings.count > before:
            findings.faults[-1] = findings.faults[-1]._replace(expected=self.words)
        return made

    def _build_tagged(self, value: dict[str, Any], findings: Findings) -> Any:
        tag = value.get(self._tag, _ABSENT)
        if tag is _ABSENT:
            findings.missing(self._tag)
            return None
        form = self._tagged.get(tag) if isinstance(tag, str | int) and not isinstance(tag, bool) else None
        if form is not None:
            return form.build(value, findings)
        findings.path.append(self._tag)
        findings.wrong(tag, one_of(self._tagged))
        findings.path.pop()
        return None
