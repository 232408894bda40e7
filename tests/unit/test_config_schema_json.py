"""Values checked against a declared JSON Schema: what a server would say, without its code."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import re
import sys
import uuid
from decimal import Decimal
from typing import Annotated, Any, Literal

import msgspec
import pydantic
import pytest

from hotfd.config.jsonschema import MAX_SCHEMA, check_against
from hotfd.config.schema import Schema
from hotfd.errors import ConfigError, Fault, ReleaseRefused

pytest.importorskip("jsonschema")


class Cat(msgspec.Struct, frozen=True, tag="cat"):
    lives: int = 9


class Dog(msgspec.Struct, frozen=True, tag="dog"):
    name: str


class Limits(msgspec.Struct, frozen=True):
    size: Annotated[int, msgspec.Meta(ge=0, lt=100)]
    tags: list[str] = msgspec.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Rules:
    damage: int
    speed: float = 1.0
    on: bool = True
    title: Annotated[str, msgspec.Meta(min_length=1, max_length=5, pattern="^[a-z]+$")] = "a"
    mode: Literal["slow", "fast"] = "slow"
    limits: Limits | None = None
    levels: dict[str, Limits] = dataclasses.field(default_factory=dict)
    short: dict[Annotated[str, msgspec.Meta(max_length=2)], int] = dataclasses.field(default_factory=dict)
    pet: Cat | Dog | None = None
    either: int | list[int] | None = None
    point: tuple[int, float] = (0, 0.0)
    few: Annotated[list[int], msgspec.Meta(min_length=1, max_length=2)] = dataclasses.field(default_factory=lambda: [1])
    when: dt.datetime | None = None
    day: dt.date | None = None
    length: dt.timedelta = dt.timedelta(1)
    key: uuid.UUID | None = None
    price: Decimal = Decimal(1)


RULES = Schema.of(Rules)


def check(values: dict[str, Any], schema: bytes = RULES.json) -> list[Fault]:
    return check_against(schema, "game", values)


def told_by_the_server(values: dict[str, Any]) -> list[Fault]:
    try:
        RULES.build("game", values)
    except ReleaseRefused as refused:
        return refused.faults
    return []


GOOD: list[dict[str, Any]] = [
    {},
    {"limits": {"size": 1, "tags": ["x"]}, "levels": {"a": {"size": 2}}, "pet": {"type": "dog", "name": "Rex"}},
    {"either": [1], "point": [1, 2], "when": "2026-01-31T12:00:00", "day": "2026-01-31", "length": "P1D"},
    {"key": "00000000-0000-0000-0000-000000000001", "price": 1.5, "limits": None, "either": None, "pet": None},
]

BAD: list[dict[str, Any]] = [
    {"damage": "3"},
    {"damage": True},
    {"speed": "1"},
    {"on": 1},
    {"title": 5},
    {"title": "ABCDEFG"},
    {"mode": "x"},
    {"limits": {"size": 100}},
    {"limits": {}},
    {"limits": {"size": 1, "tag": []}},
    {"limits": 5},
    {"levels": {"a.b": {"size": -1}}},
    {"pet": {"type": "cow"}},
    {"pet": {"lives": 3}},
    {"pet": {"type": "dog", "name": 1}},
    {"pet": 5},
    {"either": "x"},
    {"either": [1, "x"]},
    {"point": [1]},
    {"point": [1, "x"]},
    {"few": []},
    {"day": "31.1.2026"},
    {"length": "an hour"},
    {"key": "x"},
    {"price": "dear"},
    {"sped": 1},
    {"damage": "x", "speed": None, "limits": {"size": "x", "more": 1}, "more": 2},
]


@pytest.mark.parametrize("values", GOOD)
def test_right_values_have_no_faults(values: dict[str, Any]) -> None:
    assert told_by_the_server({"damage": 1, **values}) == []
    assert check({"damage": 1, **values}) == []


@pytest.mark.parametrize("values", BAD)
def test_the_faults_are_those_that_the_server_would_tell(values: dict[str, Any]) -> None:
    values = {"damage": 1, **values}
    expected = told_by_the_server(values)
    assert expected
    found = check(values)
    places = [(fault.path, fault.value) for fault in found]
    assert sorted(places) == sorted((fault.path, fault.value) for fault in expected)
    assert wanted(found) == wanted(expected)


def wanted(faults: list[Fault]) -> dict[str, set[str]]:
    """Return by path which kinds of values are expected; that null would do as well, only one of both may say."""
    return {fault.path: set(re.split(", | or ", fault.expected)) - {"null"} for fault in faults}


def test_a_missing_key_and_its_misspelling_are_told() -> None:
    assert check({"damge": 1}) == [
        Fault("damge", "", "no such key; did you mean 'damage'?"),
        Fault("damage", "", "a value: the key is missing"),
    ]


def test_a_key_that_breaks_a_rule_is_told_at_its_place() -> None:
    assert check({"damage": 1, "short": {"long": 1}}) == [
        Fault("short.long", '"long"', "a key that is a string of at most 2 characters")
    ]


def test_the_schema_of_a_pydantic_model_is_understood() -> None:
    frozen = pydantic.ConfigDict(frozen=True)
    part = pydantic.create_model("Part", __config__=frozen, size=(Annotated[int, pydantic.Field(ge=0)], 1))
    whole = pydantic.create_model("Whole", __config__=frozen, part=(part | None, None), name=(str, ...))
    schema: Schema[Any] = Schema.of(whole)
    assert check({"name": "x", "part": {"size": 1}}, schema.json) == []
    assert sorted(check({"part": {"size": -1, "sise": 1}}, schema.json)) == [
        Fault("name", "", "a value: the key is missing"),
        Fault("part.sise", "", "no such key"),
        Fault("part.size", "-1", "an integer >= 0"),
    ]


class TestSchemasThatMeanHarm:
    def refused(self, schema: Any, message: str, values: dict[str, Any] | None = None) -> None:
        data = schema if isinstance(schema, bytes) else json.dumps(schema).encode()
        with pytest.raises(ConfigError, match=message):
            check(values or {"a": {}}, data)

    def test_nothing_is_fetched(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def fetch(*_args: object, **_kwargs: object) -> None:
            raise AssertionError("something was fetched")

        monkeypatch.setattr("urllib.request.urlopen", fetch)
        monkeypatch.setattr("builtins.open", fetch)
        for target in ("http://127.0.0.1:9/schema.json", "file:///etc/passwd", "other.json"):
            self.refused({"$ref": target}, "cannot be used")

    def test_what_is_no_schema_is_refused(self) -> None:
        self.refused(b"not json", "cannot be read")
        self.refused([1], "cannot be read")
        self.refused({"type": 5}, "cannot be used: SchemaError")
        self.refused({"$ref": "#/nowhere"}, "cannot be used")
        self.refused(b" " * (MAX_SCHEMA + 1), "at most")
        self.refused(b'{"a":' * 100_000, "cannot be read")

    def test_references_that_never_end_end(self) -> None:
        self.refused({"$ref": "#"}, "cannot be used: RecursionError")

    def test_references_that_multiply_are_given_up(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("hotfd.config.jsonschema.MAX_REFERENCES", 1000)
        doubling = {f"d{i}": {"allOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 4} for i in range(20)}
        self.refused({"$ref": "#/$defs/d0", "$defs": {**doubling, "d20": {}}}, "takes too long")


def test_without_the_extra_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jsonschema", None)
    with pytest.raises(ConfigError, match=r"pip install 'hotfd\[config\]'"):
        check({})
