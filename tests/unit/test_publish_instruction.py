"""Instructions: operation, then unset, then set."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hotfd.config.release import Instruction
from hotfd.errors import ConfigError
from hotfd.publish import dotted
from hotfd.publish.documents import Unreadable
from hotfd.publish.instruction import carry_out, carry_out_in_zones, read

NOW = {"hp": 10, "damage": {"sword": 5, "bow": 3, "two.handed": 9}}


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1, max_size=5))
def test_a_dotted_key_is_read_as_it_was_written(keys):
    assert dotted.parse(dotted.written(keys)) == tuple(keys)


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("a", ("a",)),
        ("a.b-c.d_1", ("a", "b-c", "d_1")),
        ('a."b.c"', ("a", "b.c")),
        ("a.'b.c'.d", ("a", "b.c", "d")),
        ('a . "b\\u00e9"', ("a", "bé")),
        ('""', ("",)),
    ],
)
def test_dotted_keys_are_those_of_toml(text, keys):
    assert dotted.parse(text) == keys


@pytest.mark.parametrize(
    "text", ["", ".", "a.", ".a", "a..b", "a b", 'a."b', "a = 1 #", 'a."\\q"', "a\nb", "ä", "a" * 2000]
)
def test_what_is_no_dotted_key_is_refused(text):
    with pytest.raises(ConfigError):
        dotted.parse(text)


@pytest.mark.parametrize(
    ("operation", "values"),
    [
        ("replace", {"damage": {"sword": 7}, "speed": 1}),
        ("merge", {"hp": 10, "damage": {"sword": 7, "bow": 3, "two.handed": 9}, "speed": 1}),
        ("keep", NOW),
    ],
)
def test_an_operation_takes_the_committed_values_or_those_in_force(operation, values):
    assert carry_out(Instruction(operation), {"damage": {"sword": 7}, "speed": 1}, NOW) == (values, [])


def test_keys_are_removed_first_and_then_set():
    instruction = Instruction("keep", ("damage",), {"damage.sword": 12, 'new."a.b".c': [1]})
    before = {"hp": 10, "damage": {"sword": 5, "bow": 3}}
    assert carry_out(instruction, None, before) == (
        {"hp": 10, "damage": {"sword": 12}, "new": {"a.b": {"c": [1]}}},
        [],
    )
    assert before == {"hp": 10, "damage": {"sword": 5, "bow": 3}}, "the values in force are not touched"


def test_what_cannot_be_carried_out_is_all_said():
    instruction = Instruction("keep", ("damage.sord", "hp.x", "nothing"), {"hp.a.b": 1, "ok": 2})
    _, faults = carry_out(instruction, None, NOW)
    assert [str(fault) for fault in faults] == [
        "instruction.toml: unset: damage.sord: no such key, so it cannot be unset; did you mean sword?",
        "instruction.toml: unset: hp is 10; expected a table",
        "instruction.toml: unset: nothing: no such key, so it cannot be unset",
        "instruction.toml: set: hp is 10; expected a table, for a.b to be set in it",
    ]


def test_one_key_is_set_with_and_without_quotes_around_it():
    with_quotes = read(b'[set]\n"damage.sword" = 12\n"a.\\"b.c\\"" = 1\n', values=False)
    without = read(b'[set]\ndamage.sword = 12\na."b.c" = 1\n', values=False)
    assert with_quotes == without
    assert carry_out(without, None, NOW)[0]["damage"] == {"sword": 12, "bow": 3, "two.handed": 9}


def test_without_a_word_values_replace_and_no_values_keep():
    assert read(b"", values=True).operation == "replace"
    assert read(b"", values=False).operation == "keep"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('operation = "add"', "operation is \"add\"; expected one of 'replace', 'merge', 'keep'"),
        ('operation = "merge"', "expected a file of values beside it"),
        ("unset = 'a'", "expected a list of dotted keys"),
        ("unset = ['a..b', 1]", "unset[1] is 1"),
        ("set = 1", "expected a table of dotted keys"),
        ("[set]\n'a..b' = 1", "expected keys joined by dots"),
        ("[set]\n'a.b' = 1\na.b = 2", "a.b is there twice"),
        ("sett = 1", "no such key; there are operation, unset and set"),
        ("set = 1 1", "this is no TOML"),
    ],
)
def test_an_instruction_that_is_none_says_why(text, said):
    with pytest.raises(Unreadable) as caught:
        read(text.encode(), values=False)
    assert said in str(caught.value)


def test_zones_are_replaced_or_laid_over_those_in_force():
    committed, now = {"eu-1": {"a": {"x": 1}}}, {"eu-1": {"a": {"y": 2}}, "us-1": {"b": 3}}
    assert carry_out_in_zones(Instruction(), committed, now) == committed
    merged = {"eu-1": {"a": {"x": 1, "y": 2}}, "us-1": {"b": 3}}
    assert carry_out_in_zones(Instruction("merge"), committed, now) == merged
    assert carry_out_in_zones(Instruction("keep"), committed, now) == merged
