"""Configurations that are pydantic models. Imported only when there is one: hotfd does not need pydantic."""

from __future__ import annotations

import dataclasses
import typing
from typing import TYPE_CHECKING, Any, Final

import msgspec

from hotfd.config.findings import alternatives, path_of
from hotfd.config.frozen import owned
from hotfd.config.hints import classes, fields_of, is_model, parts
from hotfd.errors import ConfigError

try:
    import pydantic
except ImportError as error:  # pragma: no cover - a class that looks like a model, without pydantic
    raise ConfigError(f"pydantic models need pydantic: {error}") from None

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hotfd.config.findings import Findings, Step

OLDEST: Final = (2, 12)
"""The first version of pydantic that refuses unknown keys when it is told to, whatever the models say."""

NOT_JSON: Final = (bytes, bytearray, memoryview, complex)
"""Types that pydantic knows, and JSON cannot bring."""

UNKNOWN: Final = ("extra_forbidden", "unexpected_keyword_argument")
"""pydantic's names for keys that it does not know: in models, in dataclasses."""

WORDS: Final = {
    "Input should be a valid boolean": "true or false",
    "Input should be a valid integer": "an integer",
    "Input should be a valid number": "a number",
    "Input should be a valid string": "a string",
    "Input should be a valid array": "a list",
    "Input should be a valid dictionary": "a table",
    "Input should be an object": "a table",
    "Input should be None": "null",
    "Input should be ": "",
    "Value error, ": "values that are accepted: ",
    "Assertion failed, ": "values that are accepted: ",
}
"""How pydantic's messages begin, and what stands there instead."""


class Model:
    """A pydantic model as the kind of a :class:`~hotfd.config.schema.Schema`.

    pydantic checks the values as JSON and strictly: no string is taken for a number. The models' own ``strict``
    and ``extra`` settings do not change that. It checks in one step, for which other threads wait: 1 to 3 ms with 2,000
    keys. A Struct or a dataclass is the better choice for much larger releases.

    Raises:
        ConfigError: a class is not frozen, or has fields that JSON cannot bring; pydantic is too old.
    """

    def __init__(self, type: Any) -> None:
        if tuple(int(part) for part in pydantic.VERSION.split(".")[:2]) < OLDEST:
            raise ConfigError(f"pydantic {pydantic.VERSION} is too old: install pydantic>=2.12")
        _check(type)
        self._type = type
        try:
            self._schema = type.model_json_schema(mode="validation", by_alias=True)
        except pydantic.errors.PydanticUserError as error:
            raise ConfigError(f"{type.__qualname__} has a field that JSON cannot bring: {error.message}") from None

    def build(self, value: Any, findings: Findings) -> Any:
        """Return the model of plain values, frozen to the bottom; or None, with faults noted."""
        try:
            made = self._type.model_validate_json(msgspec.json.encode(value), strict=True, extra="forbid")
        except pydantic.ValidationError as error:
            self._report(error, value, findings)
            return None
        return owned(made)

    def plain(self, value: Any) -> Any:
        """Return the plain values of a model."""
        return value.model_dump(mode="json", by_alias=True)

    def json_schema(self) -> dict[str, Any]:
        """Return the JSON Schema of the model."""
        return typing.cast("dict[str, Any]", self._schema)

    def _report(self, error: pydantic.ValidationError, values: Any, findings: Findings) -> None:
        """Note the faults that pydantic has found; of a union it tells one for each member."""
        wrong: dict[str, tuple[list[Step], Any, list[str]]] = {}
        for line in error.errors(include_url=False, include_context=False, include_input=False):
            findings.rest()
            steps, value = located(line["loc"], values)
            if line["type"] == "missing":
                findings.path = steps
                findings.missing(str(line["loc"][-1]))
            elif line["type"] in UNKNOWN:
                key = str(steps.pop())
                findings.path = steps
                findings.unknown(key, names_at(self._schema, steps))
            else:
                wrong.setdefault(path_of(steps), (steps, value, []))[2].append(_words(line))
        for steps, value, words in wrong.values():
            findings.path = steps
            findings.wrong(value, alternatives(words))
        findings.path = []


def located(loc: Sequence[Any], values: Any) -> tuple[list[Step], Any]:
    """Return the path and the value that a location of pydantic's means.

    A location also names members of unions, validators and keys (``("mode", "int")``, ``("a", "x", "[key]")``), which
    are no places among the values: those are left out.
    """
    steps: list[Step] = []
    for step in loc:
        if isinstance(values, list):
            there = isinstance(step, int) and step < len(values)
        else:
            there = isinstance(values, dict) and step in values
        if there:
            steps.append(step)
            values = values[step]
    return steps, values


def names_at(schema: dict[str, Any], steps: Sequence[Step]) -> list[str]:
    """Return the keys that a JSON Schema declares for the tables at a place."""
    places = _resolved(schema, [schema])
    for step in steps:
        below: list[Any] = []
        for place in places:
            if isinstance(step, int):
                below += [place.get("items")]
            else:
                below += [place.get("properties", {}).get(step), place.get("additionalProperties")]
        places = _resolved(schema, below)
    return sorted({name for place in places for name in place.get("properties", ())})


def _resolved(root: dict[str, Any], schemas: list[Any]) -> list[dict[str, Any]]:
    """Return schemas with references and unions replaced by what they stand for."""
    found: list[dict[str, Any]] = []
    pending = [schema for schema in schemas if isinstance(schema, dict)]
    while pending:
        schema = pending.pop()
        if any(schema is known for known in found):
            continue
        found.append(schema)
        reference = schema.get("$ref", "")
        if reference.startswith("#/$defs/"):
            pending.append(root["$defs"][reference.removeprefix("#/$defs/")])
        for union in ("anyOf", "oneOf", "allOf"):
            pending += schema.get(union, [])
    return found


def _words(line: Any) -> str:
    """Return what pydantic expected, in the words that hotfd uses."""
    message = line["msg"]
    for beginning, instead in WORDS.items():
        if message.startswith(beginning):
            return str(instead + (message.removeprefix(beginning) if beginning.endswith(" ") else ""))
    return str(message)


def _check(model: type) -> None:
    """Raise ConfigError when a model, or a class in it, cannot be a configuration."""
    for kind in classes(model):
        name = kind.__qualname__
        if is_model(kind):
            if not kind.model_config.get("frozen"):
                raise ConfigError(
                    f"{name} is not frozen, so it could change under a session: model_config = ConfigDict(frozen=True)"
                )
            if kind.model_config.get("extra") == "allow":
                raise ConfigError(f"{name} has extra='allow', so a mistyped key would be taken: leave it out")
        elif not dataclasses.is_dataclass(kind):
            raise ConfigError(f"{name} is a Struct inside a pydantic model; make both pydantic models, or neither")
        elif not kind.__dataclass_params__.frozen:  # type: ignore[attr-defined]
            raise ConfigError(f"{name} is not frozen, so it could change under a session: @dataclass(frozen=True)")
        for field in fields_of(kind):
            if any(hint.bare in NOT_JSON for hint in parts(field.annotation)):
                raise ConfigError(f"{name}.{field.name} is of a type that JSON cannot bring; take str")
