"""Configurations that are pydantic models: as strict and as frozen as the others."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
from decimal import Decimal
from typing import Annotated, Any, Literal

import msgspec
import pydantic
import pytest

from hotfd.config.models import located, names_at
from hotfd.config.schema import Schema
from hotfd.errors import ConfigError, Fault, ReleaseRefused

FROZEN = pydantic.ConfigDict(frozen=True)


class Part(pydantic.BaseModel):
    model_config = FROZEN
    size: int = 1
    tags: list[str] = []


@dataclasses.dataclass(frozen=True)
class Point:
    x: int = 0


class Cat(pydantic.BaseModel):
    model_config = FROZEN
    kind: Literal["cat"]
    lives: int = 9


class Dog(pydantic.BaseModel):
    model_config = FROZEN
    kind: Literal["dog"]
    name: str


class Rules(pydantic.BaseModel):
    model_config = FROZEN
    damage: Annotated[int, pydantic.Field(ge=0, alias="dmg")]
    speed: float = 1.0
    part: Part | None = Part(tags=["a"])
    parts: list[Part] = []
    table: dict[int, list[int]] = {}
    either: int | str = 1
    when: dt.datetime | None = None
    price: Decimal = Decimal(1)
    point: Point = Point()
    pet: Annotated[Cat | Dog, pydantic.Field(discriminator="kind")] | None = None

    @pydantic.model_validator(mode="after")
    def not_thirteen(self) -> Rules:
        if self.damage == 13:
            raise ValueError("damage brings bad luck")
        return self


SCHEMA = Schema.of(Rules)


def faults_of(values: dict[str, Any]) -> list[Fault]:
    with pytest.raises(ReleaseRefused) as refused:
        SCHEMA.build("game", values)
    return refused.value.faults


def test_values_become_the_model() -> None:
    values = {
        "dmg": 3,
        "speed": 2,
        "table": {"1": [2]},
        "when": "2026-01-31T12:00:00Z",
        "price": "1.5",
        "pet": {"kind": "dog", "name": "Rex"},
    }
    rules = SCHEMA.build("game", values)
    assert rules == Rules(
        dmg=3,
        speed=2.0,
        table={1: [2]},
        when=dt.datetime(2026, 1, 31, 12, tzinfo=dt.UTC),
        price=Decimal("1.5"),
        pet=Dog(kind="dog", name="Rex"),
    )
    assert SCHEMA.build("game", SCHEMA.plain(rules)) == rules
    assert json.loads(json.dumps(SCHEMA.plain(rules)))["dmg"] == 3


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"dmg": "1"}, ("dmg", '"1"', "an integer")),
        ({"dmg": True}, ("dmg", "true", "an integer")),
        ({"dmg": -1}, ("dmg", "-1", "greater than or equal to 0")),
        ({"speed": "1"}, ("speed", '"1"', "a number")),
        ({"part": {"size": None}}, ("part.size", "null", "an integer")),
        ({"part": {"siz": 1}}, ("part.siz", "", "no such key; did you mean 'size'?")),
        ({"parts": [{}, {"tags": [1]}]}, ("parts[1].tags[0]", "1", "a string")),
        ({"table": {"x": []}}, ("table.x", "[]", "an integer")),
        ({"table": {"1": ["x"]}}, ("table.1[0]", '"x"', "an integer")),
        ({"either": 1.5}, ("either", "1.5", "an integer or a string")),
        ({"point": {"y": 1}}, ("point.y", "", "no such key; did you mean 'x'?")),
        ({"damage": 1}, ("damage", "", "no such key")),
        ({"pet": {"kind": "dog"}}, ("pet.name", "", "a value: the key is missing")),
    ],
)
def test_a_fault_says_where_it_is_and_what_would_be_right(values: dict[str, Any], expected: tuple[str, ...]) -> None:
    found = faults_of({"dmg": 1, **values})
    assert [(fault.path, fault.value) for fault in found] == [expected[:2]]
    assert found[0].expected.startswith(expected[2].partition(";")[0])


def test_all_faults_are_told_at_once() -> None:
    found = faults_of({"dgm": 1, "speed": "x", "part": {"size": "x", "more": 1}, "parts": [1, {"tags": 2}]})
    assert sorted(fault.path for fault in found) == [
        "dgm", "dmg", "part.more", "part.size", "parts[0]", "parts[1].tags", "speed",
    ]  # fmt: skip
    assert Fault("dmg", "", "a value: the key is missing") in found


def test_a_validator_of_the_model_refuses_the_release() -> None:
    assert faults_of({"dmg": 13}) == [Fault("", '{"dmg": 13}', "values that are accepted: damage brings bad luck")]


def test_nothing_in_a_built_model_can_be_changed() -> None:
    rules = SCHEMA.build("game", {"dmg": 1, "table": {"1": [2]}})
    assert rules.part is not None
    for change in (
        lambda: rules.table.update({}),
        lambda: rules.table[1].append(3),
        lambda: rules.part.tags.append("x"),  # type: ignore[union-attr]
        lambda: rules.parts.append(Part()),
    ):
        with pytest.raises(TypeError, match="read-only"):
            change()
    with pytest.raises(pydantic.ValidationError):
        rules.damage = 2  # type: ignore[misc]
    default = Rules.model_fields["part"].default
    assert type(default.tags) is list
    assert rules.part is not default


def test_declared_objects_take_no_other_keys_in_the_json_schema() -> None:
    schema = json.loads(SCHEMA.json)
    assert schema["additionalProperties"] is False
    assert schema["$defs"]["Part"]["additionalProperties"] is False
    assert Schema.of(Rules).id == SCHEMA.id


class Struct(msgspec.Struct, frozen=True):
    x: int = 1


def model(annotation: Any, **config: Any) -> Any:
    return pydantic.create_model("Holder", __config__={"frozen": True, **config}, part=(annotation, ...))


class OpenPart(pydantic.BaseModel):
    x: int = 1


@dataclasses.dataclass
class OpenData:
    x: int = 1


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (OpenPart, r"OpenPart is not frozen, .*ConfigDict\(frozen=True\)"),
        (model(list[OpenPart]), "OpenPart is not frozen"),
        (model(dict[str, OpenData]), r"OpenData is not frozen, .*@dataclass\(frozen=True\)"),
        (model(int, extra="allow"), "extra='allow'"),
        (model(bytes), r"Holder\.part is of a type that JSON cannot bring"),
        (model(list[complex]), r"Holder\.part is of a type"),
        (model(Schema, arbitrary_types_allowed=True), "JSON cannot bring"),
        (model(Struct, arbitrary_types_allowed=True), "Struct is a Struct inside a pydantic model"),
        (
            dataclasses.make_dataclass("Holder", [("part", Part)], frozen=True),
            r"Holder\.part is a pydantic model inside",
        ),
    ],
)
def test_a_class_that_cannot_be_is_named(kind: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Schema.of(kind)


def test_locations_become_places_among_the_values() -> None:
    values = {"mode": 1, "rows": [{"a": 2}]}
    assert located(("mode", "int"), values) == (["mode"], 1)
    assert located(("rows", 0, "function-after[x()]", "a"), values) == (["rows", 0, "a"], 2)
    assert located(("rows", 0, "missing"), values) == (["rows", 0], {"a": 2})


def test_the_keys_of_a_place_are_found_through_references_and_unions() -> None:
    schema = json.loads(SCHEMA.json)
    assert names_at(schema, ["part"]) == ["size", "tags"]
    assert names_at(schema, ["parts", 3]) == ["size", "tags"]
    assert names_at(schema, ["nowhere"]) == []
