"""The schema of a module's configuration: from a release's values to the typed, frozen value that handlers read."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, TypeVar, cast

import msgspec

from hotfd.config.findings import Findings
from hotfd.config.following import Following
from hotfd.config.hints import is_model
from hotfd.config.planner import plan
from hotfd.errors import ConfigError, ReleaseRefused

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hotfd.config.following import LiveValues

T = TypeVar("T")

ID_LENGTH: Final = 16
"""Hexadecimal digits of a schema's id: 64 bits, for the few schemas that a module ever has."""


class Kind(Protocol):
    """What differs between the kinds of classes."""

    def build(self, value: Any, findings: Findings) -> Any:
        """Return the typed value of plain ones, frozen to the bottom; or None, with faults noted."""
        ...

    def plain(self, value: Any) -> Any:
        """Return the plain values of a typed one."""
        ...

    def json_schema(self) -> dict[str, Any]:
        """Return the JSON Schema of the class; objects need not forbid other keys in it."""
        ...


class Schema(Generic[T]):
    """What a module's values must be: the class that the code declares. Made by :meth:`of`.

    Attributes:
        type: the class.
        json: its JSON Schema, draft 2020-12; the same bytes for the same class in every process.
        id: the first 16 hexadecimal digits of the SHA-256 of that.
        live: the fields that are marked with ``hotfd.Live``: their paths among the values, sorted.
    """

    def __init__(self, type: type[T], kind: Kind, following: Following) -> None:
        self.type = type
        self.json = msgspec.json.encode({"$schema": DIALECT, **_closed(kind.json_schema())}, order="sorted")
        self.id = hashlib.sha256(self.json).hexdigest()[:ID_LENGTH]
        self.live = following.paths
        self._kind = kind
        self._following = following

    @classmethod
    def of(cls, type: type[T]) -> Schema[T]:
        """Return the schema of a class.

        Args:
            type: a frozen dataclass, a frozen msgspec Struct or a frozen pydantic model. The classes inside must be
                frozen too. Of pydantic models, all that is inside is pydantic's.

        Raises:
            ConfigError: the class cannot be a configuration; the message names class and field and says what to write.
        """
        if is_model(type):
            from hotfd.config.models import Model  # pydantic is there only when its models are used

            kind: Kind = Model(type)
        else:
            kind = _Declared(type)
        return cls(type, kind, Following(type))

    def build(self, module: str, values: Mapping[str, Any]) -> T:
        """Return the typed value of a release's values. Its containers are read-only, to the bottom.

        May run in a thread of its own. Others get their turn about every 0.1 ms; pydantic checks its models in one
        step, though.

        Args:
            module: the module's name, for errors.
            values: plain values, as JSON has them; they are not changed, nor kept.

        Raises:
            ReleaseRefused: they are not what the class declares; it has every fault.
        """
        findings = Findings()
        value: Any = None
        try:
            value = self._kind.build(dict(values), findings)
        except RecursionError:
            findings.path.clear()
            findings.wrong(None, "values that are nested less deeply")
        if findings.faults:
            raise ReleaseRefused(module, findings.faults)
        return cast("T", value)

    def plain(self, value: T) -> dict[str, Any]:
        """Return the plain values of a typed one, as JSON has them; ``build`` makes an equal one of them.

        Raises:
            ConfigError: the value holds what JSON cannot bring.
        """
        try:
            return cast("dict[str, Any]", self._kind.plain(value))
        except (TypeError, ValueError, OverflowError) as error:
            raise ConfigError(f"{self.type.__qualname__}: a value has no plain form: {error}") from None

    def follow(self, value: T, newest: T) -> None:
        """Copy the live fields of the newest value into another, in place.

        What one of the two does not have is left alone: a nested part that is None, or of another class. Doing it
        again changes nothing.

        The value is frozen all the same for everybody else; but where it has live fields, equality and hash change
        with them: it cannot be a key of a dict.

        Args:
            value: what a session holds; it must have been built here, so that its parts belong to it alone.
            newest: the value of the newest release.
        """
        self.set_live(value, self.live_values(newest))

    def live_values(self, value: T) -> LiveValues | None:
        """Return what the live fields of a value are now; None where no field is live."""
        return self._following.taken(value)

    def set_live(self, value: T, live: LiveValues | None) -> None:
        """Set the live fields of a value, in place, as :meth:`follow` does."""
        self._following.give(value, live)


class _Declared:
    """Structs and dataclasses."""

    def __init__(self, type: Any) -> None:
        self._type = type
        self._form = plan(type)

    def build(self, value: Any, findings: Findings) -> Any:
        return self._form.build(value, findings)

    def plain(self, value: Any) -> Any:
        plain = msgspec.to_builtins(value, str_keys=True, order="deterministic")
        return msgspec.json.decode(msgspec.json.encode(plain))  # tuples become lists

    def json_schema(self) -> dict[str, Any]:
        return msgspec.json.schema(self._type)


DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
"""The draft that msgspec and pydantic write."""

_NAMED: Final = frozenset({"properties", "patternProperties", "$defs"})
"""Parts of a JSON Schema that are schemas by name."""

_VERBATIM: Final = frozenset({"default", "enum", "const", "examples"})
"""Parts of a JSON Schema that are values."""


def _closed(schema: Any) -> Any:
    """Return a JSON Schema in which objects with declared keys have no others, and decimals can be numbers."""
    if isinstance(schema, list):
        return [_closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    closed: dict[str, Any] = {}
    for key, item in schema.items():
        if key in _NAMED and isinstance(item, dict):
            closed[key] = {name: _closed(named) for name, named in item.items()}
        else:
            closed[key] = item if key in _VERBATIM else _closed(item)
    if "properties" in closed:
        closed.setdefault("additionalProperties", False)
    if closed.get("format") == "decimal" and closed.get("type") == "string":
        closed["type"] = ["number", "string"]  # msgspec takes both
    return closed
