"""What RESP frames mean, and how they are written."""

from __future__ import annotations

import math

import pytest

from hotfd import _core
from hotfd.errors import FramingError
from hotfd.framing import resp
from hotfd.framing.resp import ErrorReply, Verbatim


@pytest.mark.parametrize(
    ("frame", "value"),
    [
        (b"+OK\r\n", "OK"),
        (b"+\xc3\xa9\r\n", "é"),
        (b"-ERR no\r\n", ErrorReply("ERR no")),
        (b":-42\r\n", -42),
        (b":+1\r\n", 1),
        (b"(" + b"9" * 30 + b"\r\n", int("9" * 30)),
        (b",1.5e3\r\n", 1500.0),
        (b",10\r\n", 10.0),
        (b",-inf\r\n", -math.inf),
        (b"_\r\n", None),
        (b"#t\r\n", True),
        (b"#f\r\n", False),
        (b"$5\r\nhe\r\no\r\n", b"he\r\no"),
        (b"$0\r\n\r\n", b""),
        (b"$-1\r\n", None),
        (b"*-1\r\n", None),
        (b"!5\r\nERR x\r\n", ErrorReply("ERR x")),
        (b"=7\r\ntxt:a\r\n\r\n", Verbatim("txt", b"a\r\n")),
        (b"*0\r\n", []),
        (b"*2\r\n:1\r\n*1\r\n$1\r\nx\r\n", [1, [b"x"]]),
        (b"~2\r\n:2\r\n:1\r\n", [2, 1]),
        (b">2\r\n+message\r\n$1\r\nx\r\n", ["message", b"x"]),
        (b"%2\r\n+a\r\n:1\r\n+b\r\n*0\r\n", {"a": 1, "b": []}),
        (b"%1\r\n*2\r\n:1\r\n%1\r\n+k\r\n*1\r\n+v\r\n:3\r\n", {(1, (("k", ("v",)),)): 3}),
        (b"|1\r\n+ttl\r\n:60\r\n$1\r\nv\r\n", b"v"),
        (b"*1\r\n|1\r\n+ttl\r\n:60\r\n:1\r\n", [1]),
    ],
)
def test_a_frame_means_a_value(frame: bytes, value: object) -> None:
    assert resp.parse(frame) == value
    assert type(resp.parse(frame)) is type(value)


def test_not_a_number_is_a_double() -> None:
    value = resp.parse(b",nan\r\n")
    assert isinstance(value, float)
    assert math.isnan(value)


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"+OK",
        b"+OK\r\n+OK\r\n",
        b"+a\rb\r\n",
        b"+a\nb\r\n",
        b":1_000\r\n",
        b": 1\r\n",
        b":\r\n",
        b":" + b"9" * 5000 + b"\r\n",
        b",1_0\r\n",
        b",one\r\n",
        b"#x\r\n",
        b"_x\r\n",
        b"$3\r\nab\r\n",
        b"$3\r\nabcd\r\n",
        b"$x\r\n",
        b"$-2\r\n",
        b"$99999999999999999999999\r\n",
        b"=3\r\ntxt\r\n",
        b"!-1\r\n",
        b"%-1\r\n",
        b"%1\r\n:1\r\n",
        b"*1\r\n",
        b"*?\r\n",
        b"PING\r\n",
        b"*1\r\n" * (_core.RESP_DEPTH + 1) + b"+\r\n",
    ],
)
def test_what_is_not_one_well_formed_frame_is_a_framing_error(frame: bytes) -> None:
    with pytest.raises(FramingError):
        resp.parse(frame)


def test_values_nest_as_deep_as_scanners_allow() -> None:
    value = resp.parse(b"*1\r\n" * _core.RESP_DEPTH + b"+x\r\n")
    for _ in range(_core.RESP_DEPTH):
        assert isinstance(value, list)
        value = value[0]
    assert value == "x"


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (b"*1\r\n$4\r\nPING\r\n", [b"PING"]),
        (b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$0\r\n\r\n", [b"SET", b"k", b""]),
        (b"*2\r\n$3\r\nGET\r\n$4\r\na\r\nb\r\n", [b"GET", b"a\r\nb"]),
        (b"*1\r\n$8\r\n$1\r\nx\r\n\0\r\n", [b"$1\r\nx\r\n\0"]),
        (b"*0\r\n", []),
        (b"*-1\r\n", []),
        (b"PING\r\n", [b"PING"]),
        (b"  SET k\tv \n", [b"SET", b"k", b"v"]),
        (b"\r\n", []),
        (b"set \"a b\" 'c d'\n", [b"set", b"a b", b"c d"]),
        (b'"\\x41\\n\\r\\t\\b\\a\\"\\\\\\q\\xzz"\n', [b'A\n\r\t\b\a"\\qxzz']),
        (b"'it\\'s \\n'\n", [b"it's \\n"]),
        (b'pre"fix" ""\n', [b"prefix", b""]),
        (b'"" \n', [b""]),
    ],
)
def test_a_command_is_its_words(frame: bytes, words: list[bytes]) -> None:
    assert resp.command(frame) == words


@pytest.mark.parametrize("count", [426, 427, 428, 429, 5000])
def test_a_command_has_as_many_words_as_it_likes(count: int) -> None:
    words = [b""] * (count - 1) + [b"last"]
    assert resp.command(resp.request(*words)) == words


def test_more_words_than_there_is_room_for_and_then_none_is_a_framing_error() -> None:
    with pytest.raises(FramingError):
        resp.command(b"*100000\r\n" + b"$0\r\n\r\n" * 1000)


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"PING",
        b"+OK\r\n",
        b":1\r\n",
        b"$4\r\nPING\r\n",
        b"*1\r\n:1\r\n",
        b"*1\r\n$-1\r\n",
        b"*1\r\n$1\r\na",
        b"*1\r\n$1\r\na\r\nJUNK",
        b"*1\r\n$0\r\n",
        b"*2\r\n$1\r\na\r\n",
        b'"open\n',
        b"'open\n",
        b'"open\\\n',
        b'"a"b\n',
    ],
)
def test_what_is_no_command_is_a_framing_error(frame: bytes) -> None:
    with pytest.raises(FramingError):
        resp.command(frame)


def test_values_are_written_as_the_protocol_says() -> None:
    assert resp.simple("OK") == b"+OK\r\n"
    assert resp.error("ERR no") == b"-ERR no\r\n"
    assert resp.integer(-1) == b":-1\r\n"
    assert resp.bulk(b"a\r\n") == b"$3\r\na\r\n\r\n"
    assert resp.array([]) == b"*0\r\n"
    assert resp.array(frame for frame in (resp.null(), resp.null_bulk(), resp.null_array())) == (
        b"*3\r\n_\r\n$-1\r\n*-1\r\n"
    )
    assert resp.mapping([(resp.simple("k"), resp.integer(1))]) == b"%1\r\n+k\r\n:1\r\n"
    assert resp.request(b"GET", b"k") == b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n"


def test_text_that_is_no_utf_8_comes_back_as_it_went() -> None:
    text = resp.parse(b"+\xff\xfe\r\n")
    assert isinstance(text, str)
    assert resp.simple(text) == b"+\xff\xfe\r\n"


@pytest.mark.parametrize("text", ["a\nb", "a\rb", b"a\nb"])
def test_a_line_break_in_a_simple_string_or_error_is_refused(text: str | bytes) -> None:
    for write in (resp.simple, resp.error):
        with pytest.raises(ValueError, match="CR or LF"):
            write(text)
