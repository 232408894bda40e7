"""Properties of schemas: right values always build, and one wrong value is always found where it is."""

from __future__ import annotations

import copy
import dataclasses
import string
from typing import Annotated, Any, Literal

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from hotfd.config.findings import path_of
from hotfd.config.jsonschema import check_against
from hotfd.config.schema import Schema
from hotfd.errors import ReleaseRefused


class Leaf(msgspec.Struct, frozen=True, tag="leaf"):
    text: str
    number: Annotated[int, msgspec.Meta(ge=-5, le=5)]


class Branch(msgspec.Struct, frozen=True, tag="branch"):
    left: Leaf | Branch
    right: list[Leaf | Branch]


@dataclasses.dataclass(frozen=True)
class Everything:
    flag: bool
    share: float
    mode: Literal["a", "b"] | None
    table: dict[str, list[int]]
    triple: tuple[int, str, bool]
    tree: Leaf | Branch
    parts: list[Leaf]


SCHEMA = Schema.of(Everything)

small = st.integers(-5, 5)
keys = st.text(string.ascii_letters + "._-[", max_size=5)
leaves = st.fixed_dictionaries({"type": st.just("leaf"), "text": st.text(max_size=3), "number": small})
trees = st.recursive(
    leaves,
    lambda inner: st.fixed_dictionaries(
        {"type": st.just("branch"), "left": inner, "right": st.lists(inner, max_size=2)}
    ),
    max_leaves=5,
)
right = st.fixed_dictionaries(
    {
        "flag": st.booleans(),
        "share": st.floats(allow_nan=False, allow_infinity=False),
        "mode": st.sampled_from(["a", "b", None]),
        "table": st.dictionaries(keys, st.lists(small, max_size=3), max_size=3),
        "triple": st.tuples(small, st.text(max_size=3), st.booleans()).map(list),
        "tree": trees,
        "parts": st.lists(leaves, max_size=2),
    }
)

WRONG = {"nobody": ["wants", 1.5]}
"""A value that no field takes, but for those that are tables."""


def places(value: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Return the paths of all values inside one."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [here for key, item in inside for here in ((*path, key), *places(item, (*path, key)))]


def replaced(values: Any, path: tuple[str | int, ...], wrong: Any) -> Any:
    result = copy.deepcopy(values)
    parent = result
    for step in path[:-1]:
        parent = parent[step]
    parent[path[-1]] = wrong
    return result


def found(values: Any) -> tuple[list[str], list[str]]:
    """Return the paths of the faults: those of the server's check, and those of the check before publishing."""
    try:
        SCHEMA.build("m", values)
    except ReleaseRefused as refused:
        server = [fault.path for fault in refused.faults]
    else:
        server = []
    return server, [fault.path for fault in check_against(SCHEMA.json, "m", values)]


@settings(deadline=None)
@given(right)
def test_right_values_build_and_come_back(values: Any) -> None:
    before = copy.deepcopy(values)
    typed = SCHEMA.build("m", values)
    assert values == before
    assert SCHEMA.plain(typed) == values
    assert typed == msgspec.convert(values, Everything)
    assert check_against(SCHEMA.json, "m", values) == []


@settings(deadline=None)
@given(right, st.data())
def test_one_wrong_value_is_found_where_it_is(values: Any, data: st.DataObject) -> None:
    path = data.draw(st.sampled_from([place for place in places(values) if place[-1] != "type"]))
    # A table where a tagged one is expected lacks its tag, which is another fault than being none.
    tagged = path[-1] in ("tree", "left") or (len(path) > 1 and path[-2] in ("right", "parts"))
    wrong = 7.25 if tagged or path == ("table",) else WRONG
    server, publisher = found(replaced(values, path, wrong))
    assert server == [path_of(path)]
    assert publisher == [path_of(path)]


@settings(deadline=None)
@given(right, st.data())
def test_one_unknown_key_is_found_where_it_is(values: Any, data: st.DataObject) -> None:
    tables = [(), *(p for p in places(values) if p[-1] in ("tree", "left") or (p[0] == "parts" and len(p) == 2))]
    path = data.draw(st.sampled_from(tables))
    server, publisher = found(replaced(values, (*path, "zzz"), 1))
    assert server == publisher == [path_of([*path, "zzz"])]


@settings(deadline=None)
@given(right, st.data())
def test_one_missing_key_is_found_where_it_is(values: Any, data: st.DataObject) -> None:
    fields = [p for p in places(values) if len(p) == 1 or p[-1] in ("text", "number", "left", "right", "type")]
    path = data.draw(st.sampled_from([p for p in fields if p[0] != "table" or len(p) == 1]))
    broken = copy.deepcopy(values)
    parent = broken
    for step in path[:-1]:
        parent = parent[step]
    del parent[path[-1]]
    server, publisher = found(broken)
    assert server == publisher == [path_of(path)]
