"""Going back, and what is different between two releases."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hotfd.config.release import Event, Release
from hotfd.publish.differences import Difference, between, differences, leaves
from hotfd.publish.dotted import parse
from hotfd.publish.undo import again, before
from tests.unit.config_reports import DIGEST, NOW


def events(*changes):
    """Return a history, newest first, from changes such as ``("rolled-back", 4, 2)`` in the order in which they came."""
    each = [
        Event("arena", at, change, version, DIGEST, "anna", NOW, restores=restores[0] if restores else 0)
        for at, (change, version, *restores) in enumerate(changes, 1)
    ]
    return each[::-1]


ONE, TWO, THREE = ("published", 1), ("published", 2), ("published", 3)


@pytest.mark.parametrize(
    ("history", "version"),
    [
        ([], None),
        ([ONE], None),
        ([ONE, TWO, THREE], 2),
        ([ONE, TWO, THREE, ("rolled-back", 4, 2)], 1),
        ([ONE, TWO, THREE, ("rolled-back", 4, 2), ("rolled-back", 5, 1)], None),
        ([ONE, TWO, THREE, ("rolled-back", 4, 2), ("rolled-back", 5, 3)], 2),
        ([ONE, TWO, ("rolled-back", 3, 1), ("published", 4)], 1),
        ([ONE, TWO, ("canary", 3)], 1),
        ([ONE, TWO, ("canary", 3), ("aborted", 3)], 1),
        ([ONE, TWO, ("canary", 3), ("halted", 3)], 1),
        ([ONE, TWO, ("canary", 3), ("promoted", 3)], 2),
        ([("rolled-back", 90, 80), ("published", 91)], 80),
    ],
)
def test_going_back_leads_to_what_was_in_force_before_as_undo_does(history, version):
    assert before(events(*history)) == version


def release(version, values=None, zones=None, **fields):
    return Release(
        "arena", version, f"r{version}", "anna", NOW, values or {}, zones or {}, origin=f"o{version}", **fields
    )


def test_values_that_are_published_again_are_those_of_then_and_what_was_committed_since_is_done_with():
    old, last = release(2, {"a": 1}, {"eu": {"a": 2}}, schema="s2"), release(5, {"a": 9}, note="worse")
    new = again(old, last, version=6, by="bert@ops", time=NOW + 1)
    assert (new.version, new.values, new.zones, new.schema) == (6, {"a": 1}, {"eu": {"a": 2}}, "s2")
    assert (new.revision, new.origin) == ("r5", "o5"), "so that what is published by itself does not publish it again"
    assert (new.author, new.time, new.restores, new.note) == ("bert@ops", NOW + 1, 2, "the values of version 2")


def test_values_that_were_gone_back_to_before_are_known_by_their_first_version():
    assert again(release(4, restores=2), release(5), version=6, by="x", time=NOW).restores == 2


def test_differences_are_told_by_key():
    old = {
        "damage": {"sword": 10, "two.handed": 3},
        "gone": {"a": 1},
        "on": True,
        "one": 1,
        "list": [1],
        "same": {"x": []},
    }
    new = {"damage": {"sword": 12, "two.handed": 3}, "on": 1, "one": 1.0, "list": [1, 2], "same": {"x": []}, "new": {}}
    assert differences(old, new) == [
        Difference("damage.sword", "changed", 10, 12),
        Difference("gone.a", "removed", 1, None),
        Difference("list", "changed", [1], [1, 2]),
        Difference("new", "added", None, {}),
        Difference("on", "changed", True, 1),
        Difference("one", "changed", 1, 1.0),
    ]


def test_a_value_that_becomes_a_table_is_one_difference():
    assert differences({"a": 1}, {"a": {"b": 1}}) == [Difference("a", "changed", 1, {"b": 1})]


def test_differences_of_zones_are_told_apart_and_in_a_zone_its_values_are_compared():
    old = release(1, {"a": 1, "b": 1}, {"eu": {"a": 2}, "us": {"b": 2}})
    new = release(2, {"a": 3, "b": 1}, {"eu": {"a": 2}, "asia": {"b": 5}})
    assert list(between(old, new)) == ["", "asia", "us"]
    assert between(old, new)["us"] == [Difference("b", "removed", 2, None)]
    assert between(old, new, "eu") == {}, "the zone's own value covers what is different"
    assert between(old, new, "us") == {"": [Difference("a", "changed", 1, 3), Difference("b", "changed", 2, 1)]}


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
tables = st.dictionaries(st.text(max_size=3), plain, max_size=4)


@given(tables, tables)
def test_the_differences_lead_from_the_one_to_the_other(old, new):
    found = dict(leaves(old))
    for row in differences(old, new):
        if row.kind != "added":
            _remove(found, row.key)
        if row.kind != "removed":
            found.update(leaves(_nested(row.key, row.new)))
    there = {name: value for name, value in found.items() if value != {}}
    assert there == {name: value for name, value in leaves(new) if value != {}}


@given(tables)
def test_nothing_is_different_from_itself(values):
    assert differences(values, values) == []


def _remove(found, key):
    """Remove a key, and what is below it."""
    path = parse(key)
    for name in [name for name in found if parse(name)[: len(path)] == path]:
        del found[name]


def _nested(key, value):
    *above, last = parse(key)
    values = {last: value}
    for name in reversed(above):
        values = {name: values}
    return values
