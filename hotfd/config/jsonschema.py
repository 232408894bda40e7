"""Checks values against a JSON Schema that a server has declared: before they are published, and without its code.

It finds nearly what the server itself will find. Rules that only code can have (``__post_init__``, validators) are
the server's alone.
"""

from __future__ import annotations

import datetime as dt
import decimal
import uuid
from typing import TYPE_CHECKING, Any, Final

import msgspec

from hotfd.config.findings import Findings, alternatives, one_of, path_of, sized
from hotfd.errors import ConfigError, Fault

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from jsonschema.exceptions import ValidationError
    from jsonschema.protocols import Validator

MAX_SCHEMA: Final = 1 << 20
"""Bytes of a schema: as much as a release can have."""

MAX_REFERENCES: Final = 200_000
"""References that one check follows. A small schema can be made to take forever by references to references; a release
of a megabyte follows one for each table in it."""

MAX_CHAIN: Final = 8
"""References and unions inside each other that are followed for the words: no more would fit a line."""

FORMATS: Final[dict[str, Any]] = {
    "date-time": dt.datetime,
    "date": dt.date,
    "time": dt.time,
    "duration": dt.timedelta,
    "uuid": uuid.UUID,
    "decimal": decimal.Decimal,
}
"""Formats of strings, and the types whose servers' reading is tried."""

TYPES: Final = {
    "object": "a table",
    "array": "a list",
    "string": "a string",
    "integer": "an integer",
    "number": "a number",
    "boolean": "true or false",
    "null": "null",
}
"""JSON's types, for people."""

EXAMPLES: Final = {
    "date-time": "a date and time such as '2026-01-31T12:00:00Z'",
    "date": "a date such as '2026-01-31'",
    "time": "a time such as '12:00:00'",
    "duration": "a duration such as 'PT1H30M'",
    "uuid": "a UUID",
    "decimal": "a decimal number",
}
"""Formats, for people."""

BOUNDS: Final = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
"""Constraints of numbers, as they are written for people."""


def check_against(schema_json: bytes, module: str, values: Mapping[str, Any]) -> list[Fault]:
    """Return what is wrong with values, in the words that a server would use; nothing when they are right.

    References lead nowhere but into the schema itself: nothing is fetched.

    Args:
        schema_json: the JSON Schema, as :attr:`hotfd.config.schema.Schema.json` has it.
        module: the module's name, for errors.
        values: plain values, as JSON has them.

    Raises:
        ConfigError: the schema cannot be used, or the package that checks is not installed.
    """
    try:
        import jsonschema
        import referencing
    except ImportError:
        raise ConfigError("checking values before they are published needs: pip install 'hotfd[config]'") from None
    schema = _read(schema_json, module)
    findings = Findings()
    try:
        jsonschema.Draft202012Validator.check_schema(schema)
        validator = _validator(jsonschema, referencing.Registry(), schema)
        _Report(schema, findings).add(list(validator.iter_errors(dict(values))))
    except (jsonschema.SchemaError, referencing.exceptions.Unresolvable, RecursionError) as error:
        raise ConfigError(f"module {module!r}: its JSON Schema cannot be used: {type(error).__name__}") from None
    except _TooMany:
        raise ConfigError(f"module {module!r}: its JSON Schema takes too long: its references multiply") from None
    return findings.faults


class _TooMany(Exception):  # noqa: N818 - never seen outside
    """A check has followed ``MAX_REFERENCES``."""


def _read(schema_json: bytes, module: str) -> dict[str, Any]:
    if len(schema_json) > MAX_SCHEMA:
        raise ConfigError(
            f"module {module!r}: a JSON Schema of {len(schema_json)} bytes; at most {MAX_SCHEMA} are read"
        )
    try:
        return msgspec.json.decode(schema_json, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"module {module!r}: its JSON Schema cannot be read: {error}") from None


def _validator(jsonschema: Any, registry: Any, schema: dict[str, Any]) -> Validator:
    plain = jsonschema.Draft202012Validator
    followed = 0

    def reference(validator: Any, target: Any, instance: Any, parent: Any) -> Iterator[Any]:
        nonlocal followed
        followed += 1
        if followed > MAX_REFERENCES:
            raise _TooMany
        yield from plain.VALIDATORS["$ref"](validator, target, instance, parent) or ()

    kind = jsonschema.validators.extend(plain, {"$ref": reference})
    formats = jsonschema.FormatChecker(formats=())
    for name, type_ in FORMATS.items():
        formats.checks(name)(lambda value, type_=type_: _reads(value, type_))
    made: Validator = kind(schema, registry=registry, format_checker=formats)
    return made


def _reads(value: object, kind: Any) -> bool:
    if not isinstance(value, str):
        return True  # a format says nothing about other types
    try:
        msgspec.convert(value, kind)
    except (msgspec.ValidationError, ValueError):
        return False
    return True


class _Report:
    """Turns the validator's errors into findings."""

    def __init__(self, root: dict[str, Any], findings: Findings) -> None:
        self._root = root
        self._findings = findings
        self._told: set[tuple[str, str]] = set()

    def add(self, errors: list[ValidationError]) -> None:
        """Note what some errors mean."""
        for error in errors:
            self._findings.path = list(error.absolute_path)
            self._add(error)
            self._findings.path = []

    def _add(self, error: ValidationError) -> None:
        value: Any = error.instance
        schema: Any = error.schema
        rule: Any = error.validator_value
        path = list(error.absolute_schema_path)
        if path[-2:-1] == ["propertyNames"]:
            self._findings.path.append(value)
            self._wrong(value, f"a key that is {self.words({'type': 'string', **schema})}")
        elif error.validator == "required":
            for key in rule:
                if key not in value and self._first("missing", key):
                    self._findings.missing(key)
        elif error.validator == "additionalProperties" and rule is False:
            known = schema.get("properties", {})
            unused = [name for name in known if name not in value]
            for key in value:
                if key not in known:
                    self._findings.unknown(key, unused)
        elif error.validator in ("anyOf", "oneOf") and error.context:
            self._add_union(error, rule)
        else:
            self._wrong(value, self.words(schema))

    def _wrong(self, value: Any, expected: str) -> None:
        if self._first("wrong", ""):  # a value that breaks several rules is one fault: the words say them all
            self._findings.wrong(value, expected)

    def _first(self, what: str, key: str) -> bool:
        place = (what, path_of([*self._findings.path, key]))
        new = place not in self._told
        self._told.add(place)
        return new

    def _add_union(self, error: ValidationError, members: list[Any]) -> None:
        """Note what is wrong with a value in that member of a union which is meant; else, what all would take."""
        by_member: dict[int, list[ValidationError]] = {}
        for inner in error.context:
            if inner.relative_schema_path:  # a member that is just ``false`` has no place, and is never meant
                by_member.setdefault(int(inner.relative_schema_path[0]), []).append(inner)
        schema: Any = error.schema
        value: Any = error.instance
        discriminator = schema.get("discriminator")
        if isinstance(discriminator, dict) and isinstance(value, dict):
            key = str(discriminator.get("propertyName", ""))
            mapping = discriminator.get("mapping")
            mapping = mapping if isinstance(mapping, dict) else {}  # no rule of JSON Schema says what it must be
            target = mapping.get(str(value.get(key)))
            if target is None:
                self._add_tag(value, key, mapping)
                return
            by_member = {
                index: inner
                for index, inner in by_member.items()
                if isinstance(members[index], dict) and members[index].get("$ref") == target
            }
        meant = [inner for inner in by_member.values() if not any(_of_another_kind(fault) for fault in inner)]
        if len(meant) == 1:
            self.add(meant[0])
        else:
            self._wrong(value, alternatives(self.words(member) for member in members))

    def _add_tag(self, value: dict[str, Any], key: str, tags: Mapping[str, Any]) -> None:
        if key not in value:
            self._findings.missing(key)
            return
        self._findings.path.append(key)
        self._wrong(value[key], one_of(tags))

    def words(self, schema: Any, depth: int = 0) -> str:
        """Return what a schema expects, for people."""
        reference = schema.get("$ref") if isinstance(schema, dict) else None
        if isinstance(reference, str) and depth < MAX_CHAIN:
            target = self._root.get("$defs", {}).get(reference.removeprefix("#/$defs/"))
            return self.words(target, depth + 1)
        if not isinstance(schema, dict):
            return "something else"
        for union in ("anyOf", "oneOf"):
            if union in schema and depth < MAX_CHAIN:
                return alternatives(self.words(member, depth + 1) for member in schema[union])
        if "enum" in schema:
            return one_of(schema["enum"])
        if "const" in schema:
            return one_of([schema["const"]])
        return _described(schema)


def _of_another_kind(error: ValidationError) -> bool:
    """Return whether an error says that a member of a union was not meant, rather than what is wrong in it."""
    if error.relative_path:
        return False
    if error.context and error.validator in ("anyOf", "oneOf"):
        return all(_of_another_kind(inner) for inner in error.context)
    return error.validator in ("type", "enum", "const")


def _described(schema: dict[str, Any]) -> str:
    """Return what a schema without references and unions expects."""
    kinds = schema.get("type", "value")
    if schema.get("format") in EXAMPLES:
        return EXAMPLES[schema["format"]]
    words = alternatives(TYPES.get(kind, "a value") for kind in (kinds if isinstance(kinds, list) else [kinds]))
    if kinds == "array":
        if "prefixItems" in schema:
            return f"{words} of {len(schema['prefixItems'])} values"
        words = sized(words, schema.get("minItems"), schema.get("maxItems"), "values")
    elif kinds == "object":
        words = sized(words, schema.get("minProperties"), schema.get("maxProperties"), "entries")
    elif kinds == "string":
        words = sized(words, schema.get("minLength"), schema.get("maxLength"), "characters")
    bounds = [f"{sign} {schema[name]}" for name, sign in BOUNDS.items() if name in schema]
    words = " ".join([words, " and ".join(bounds)]) if bounds else words
    words += f", a multiple of {schema['multipleOf']}" if "multipleOf" in schema else ""
    words += f" that matches {schema['pattern']!r}" if "pattern" in schema else ""
    return f"{words} without repetitions" if schema.get("uniqueItems") else words
