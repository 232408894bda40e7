"""Live fields: which there are, and how a running session's value follows the newest."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, Generic, NewType, TypeVar

import msgspec
import pydantic
import pytest

import hotfd
from hotfd.config.schema import Schema
from hotfd.errors import ConfigError

T = TypeVar("T")
Switch = NewType("Switch", bool)


class Shop(msgspec.Struct, frozen=True, rename="camel"):
    is_open: Annotated[bool, hotfd.Live] = True
    price: int = 1


@dataclasses.dataclass(frozen=True, slots=True)
class Notice:
    text: Annotated[str, hotfd.Live] = ""
    size: int = 1


class Red(msgspec.Struct, frozen=True, tag="red"):
    hue: Annotated[int, hotfd.Live] = 0


class Blue(msgspec.Struct, frozen=True, tag="blue"):
    depth: Annotated[int, hotfd.Live] = 0


@dataclasses.dataclass(frozen=True)
class Rules:
    enabled: Annotated[Switch, hotfd.Live] = Switch(True)
    damage: int = 10
    shop: Shop = Shop()  # noqa: RUF009 - frozen
    notice: Notice | None = None
    colour: Red | Blue = Red()  # noqa: RUF009 - frozen
    words: Annotated[list[str], hotfd.Live] = dataclasses.field(default_factory=list)


SCHEMA = Schema.of(Rules)


def rules(**values: Any) -> Rules:
    return SCHEMA.build("game", values)


def test_the_paths_of_live_fields_are_those_of_the_values() -> None:
    assert SCHEMA.live == ("colour.depth", "colour.hue", "enabled", "notice.text", "shop.isOpen", "words")
    assert Schema.of(dataclasses.make_dataclass("Still", [("x", int)], frozen=True)).live == ()


def test_live_fields_follow_and_others_stay() -> None:
    held = rules(damage=1, notice={"text": "old", "size": 1})
    SCHEMA.follow(
        held,
        rules(
            enabled=False,
            damage=2,
            shop={"isOpen": False, "price": 9},
            notice={"text": "new", "size": 9},
            colour={"type": "red", "hue": 5},
            words=["x"],
        ),
    )
    assert held == rules(
        enabled=False,
        damage=1,
        shop={"isOpen": False},
        notice={"text": "new", "size": 1},
        colour={"type": "red", "hue": 5},
        words=["x"],
    )


def test_following_twice_is_following_once() -> None:
    held, newest = rules(), rules(enabled=False, words=["x"])
    SCHEMA.follow(held, newest)
    SCHEMA.follow(held, newest)
    assert (held.enabled, held.words) == (False, ["x"])
    SCHEMA.follow(newest, newest)
    assert newest == rules(enabled=False, words=["x"])


@pytest.mark.parametrize(
    ("mine", "other"),
    [({}, {"notice": {"text": "new"}}), ({"notice": {"text": "old"}}, {})],
)
def test_a_part_that_one_side_lacks_is_left_alone(mine: dict[str, Any], other: dict[str, Any]) -> None:
    held = rules(**mine)
    SCHEMA.follow(held, rules(**other))
    assert held == rules(**mine)


def test_a_part_of_another_class_is_left_alone() -> None:
    held = rules(colour={"type": "red", "hue": 1})
    SCHEMA.follow(held, rules(colour={"type": "blue", "depth": 7}))
    assert held.colour == Red(1)


def test_what_follows_in_one_value_changes_no_other_and_no_default() -> None:
    held, bystander = rules(), rules()
    SCHEMA.follow(held, rules(shop={"isOpen": False}))
    assert bystander.shop.is_open
    assert Rules.shop.is_open
    assert rules().shop.is_open


def test_pydantic_models_have_live_fields_too() -> None:
    frozen = pydantic.ConfigDict(frozen=True)
    inner = pydantic.create_model("Inner", __config__=frozen, on=(Annotated[bool, hotfd.Live], True), size=(int, 1))
    outer = pydantic.create_model(
        "Outer",
        __config__=frozen,
        inner=(inner | None, inner()),
        level=(Annotated[int, hotfd.Live, pydantic.Field(alias="lv", ge=0)], 1),
    )
    schema: Schema[Any] = Schema.of(outer)
    assert schema.live == ("inner.on", "lv")
    held = schema.build("m", {"inner": {"size": 2}})
    schema.follow(held, schema.build("m", {"inner": {"on": False, "size": 3}, "lv": 7}))
    assert schema.plain(held) == {"inner": {"on": False, "size": 2}, "lv": 7}
    assert schema.plain(schema.build("m", {})) == {"inner": {"on": True, "size": 1}, "lv": 1}


class Box(msgspec.Struct, Generic[T], frozen=True):
    item: T


class Chain(msgspec.Struct, frozen=True):
    on: Annotated[bool, hotfd.Live] = True
    next: Chain | None = None


def test_live_fields_are_found_through_generic_classes() -> None:
    holder: Any = dataclasses.make_dataclass("Holder", [("box", Box[Shop])], frozen=True)
    schema = Schema.of(holder)
    assert schema.live == ("box.item.isOpen",)
    held = schema.build("m", {"box": {"item": {}}})
    schema.follow(held, schema.build("m", {"box": {"item": {"isOpen": False}}}))
    assert held.box.item == Shop(is_open=False)


@pytest.mark.parametrize(
    ("annotation", "message"),
    [
        (list[Shop], "inside a container"),
        (dict[str, Shop], "inside a container"),
        (tuple[int, Shop] | None, "inside a container"),
        (list[Annotated[int, hotfd.Live]], "inside a container"),
        (dict[str, list[Box[Shop]]], "inside a container"),
        (Annotated[int, hotfd.Live] | None, "the whole field must be marked"),
        (Chain, "contains itself"),
    ],
)
def test_a_marker_where_nothing_can_follow_is_an_error(annotation: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Schema.of(dataclasses.make_dataclass("Holder", [("part", annotation)], frozen=True))
