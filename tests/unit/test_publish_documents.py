"""Files of values: what can be read reads the same in every format; what cannot says where."""

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hotfd.publish.documents import MAX_DEPTH, MAX_FILE, Unreadable, parse

VALUES = {"name": "north", "size": 3, "rate": 0.5, "open": True, "tags": ["a", "b"], "room": {"seats": 4}}

plain = st.recursive(
    st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


def fault(name, text):
    data = text if isinstance(text, bytes) else text.encode()
    with pytest.raises(Unreadable) as caught:
        parse(name, data)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "config.toml",
            'name = "north"\nsize = 3\nrate = 0.5\nopen = true\ntags = ["a", "b"]\n[room]\nseats = 4\n',
        ),
        ("config.json", json.dumps(VALUES)),
        ("config.yaml", "name: north\nsize: 3\nrate: 0.5\nopen: true\ntags: [a, b]\nroom: {seats: 4}\n"),
        ("config.yml", "name: &n north\nsize: 3\nrate: 0.5\nopen: true\ntags:\n- a\n- b\nroom:\n  seats: 4\n"),
    ],
)
def test_the_same_values_come_of_every_format(name, text):
    assert parse(name, text.encode()) == VALUES


@given(st.dictionaries(st.text(), plain, max_size=5))
def test_what_json_holds_comes_as_it_is(values):
    assert parse("config.json", json.dumps(values).encode()) == values


@pytest.mark.parametrize("suffix", ["toml", "json", "yaml"])
@given(data=st.binary(max_size=40) | st.text("[]{}:-,.&*!<'\"\n \tab1~?|>#=", max_size=40).map(str.encode))
def test_whatever_is_in_a_file_it_is_read_or_refused(suffix, data):
    try:
        assert isinstance(parse(f"config.{suffix}", data), dict)
    except Unreadable as error:
        assert error.faults


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("m/config.toml", "a = 1\nb = = 2\n", "m/config.toml:2:5: this is no TOML: invalid value"),
        ("m/config.json", '{"a": 1,\n "b": }', "m/config.json:2:7: this is no JSON: expecting value"),
        ("m/config.yaml", "a: 1\nb: [1, 2\n", "m/config.yaml:3:1: this is no YAML"),
        ("config.toml", "a = 1\na = 2\n", "annot overwrite"),
        ("config.json", '{"a": {"x": 1, "x": 2}}', 'the key "x" is there twice'),
        ("config.yaml", "a:\n  x: 1\n  x: 2\n", "config.yaml:3:3: this is no YAML: the key 'x' is there twice"),
        ("config.yaml", "a: &a {x: 1}\nb: {<<: *a}\n", "merge keys"),
        ("config.yaml", "a: 1\n---\nb: 2\n", "another document"),
        ("config.yaml", "a: !!python/object/apply:os.system [true]\n", "this is no YAML"),
        ("config.yaml", "a: !!binary aGFsbG8=\n", "a bytes is nothing"),
        ("config.yaml", "5: 1\n", "the key 5 is no text"),
        ("config.yaml", "a: !!int ''\n", "this is no YAML"),
        ("config.yaml", "a: !!bool maybe\n", "this is no YAML"),
        ("config.yaml", "a: 2026-02-30\n", "day is out of range"),
        ("config.yaml", "b: 1\na: 1" + ":1" * 400_000, "config.yaml:2:4: this is no YAML: an integer has more than"),
        ("config.yaml", "a: .nan\n", "config.yaml: a is nan; expected a finite number"),
        ("config.toml", "a = [1.0, inf]\n", "config.toml: a[1] is inf; expected a finite number"),
        ("config.json", '{"a": NaN}', "NaN is no number"),
        ("config.json", '{"a": 1e999}', "a finite number"),
        ("config.toml", "a.b = 9223372036854775808\n", "a.b is ...; expected an integer of at most 64 bits"),
        ("config.json", '{"a": ' + "9" * 5000 + "}", "this is no JSON"),
        ("config.json", '{"a": "\\ud800"}', "half a character"),
        ("config.json", "[1, 2]", "config.json is [1, 2]; expected a table"),
        ("config.yaml", "just words", "expected a table"),
        ("config.toml", b"a = 1\nb = '\xff'\n", "config.toml:2: the file must be text in UTF-8"),
    ],
)
def test_what_cannot_be_read_says_where_and_why(name, text, said):
    assert said in fault(name, text)


def test_every_fault_of_a_file_is_found_at_once():
    said = fault("config.toml", "a = nan\nb = 99999999999999999999\n[c]\nd = [1, inf]\n")
    assert [path in said for path in ("config.toml: a ", "config.toml: b ", "config.toml: c.d[1]")] == [True] * 3


def test_dates_become_text():
    assert parse("config.toml", b"a = 2026-03-01T10:00:00Z\nb = 07:30:00\n") == {
        "a": "2026-03-01T10:00:00+00:00",
        "b": "07:30:00",
    }
    assert parse("config.yaml", b"a: 2026-03-01\n") == {"a": "2026-03-01"}


def test_an_empty_file_holds_no_values():
    assert parse("config.toml", b"") == parse("config.yaml", b"") == parse("config.yaml", b"# nothing\n") == {}


def test_a_file_with_a_byte_order_mark_is_read():
    assert parse("config.json", b'\xef\xbb\xbf{"a": 1}') == {"a": 1}


@pytest.mark.parametrize(
    ("name", "opening", "closing"),
    [("config.json", '{"a":' + "[", "]"), ("config.toml", "a = [", "]"), ("config.yaml", "a: [", "]")],
)
@pytest.mark.parametrize("depth", [MAX_DEPTH + 1, 100_000])
def test_what_is_too_deep_is_refused(name, opening, closing, depth):
    assert fault(name, opening + "[" * depth + closing * depth)


def test_aliases_may_repeat_but_not_multiply():
    assert parse("config.yaml", b"a: &x [1, 2]\nb: *x\n") == {"a": [1, 2], "b": [1, 2]}
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12)
    )
    assert "more than" in fault("config.yaml", bomb)
    assert "levels" in fault("config.yaml", "a: &a [*a]\n")


def test_a_file_that_is_too_large_is_not_parsed():
    assert f"at most {MAX_FILE}" in fault("config.toml", b"=" * (MAX_FILE + 1))


def test_a_dotted_key_of_a_megabyte_costs_no_more_than_a_file_of_that_size():
    ordinary = "a = [" + "1," * 400_000 + "]\n"
    before = time.process_time()
    with pytest.raises(Unreadable):  # more values than there may be
        parse("config.toml", ordinary.encode())
    usual = time.process_time() - before
    for hostile in (".".join(["a"] * 400_000) + " = 1\n", "x = {" + ".".join(['"a"'] * 200_000) + " = 1}\n"):
        before = time.process_time()
        assert "parts" in fault("config.toml", hostile)
        assert time.process_time() - before < 20 * usual
