"""RESP2 and RESP3, the protocol of Redis: the framing, what a frame says, and how to write one.

redis.io/docs/latest/develop/reference/protocol-spec
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, Union

from hotfd import _core
from hotfd.errors import FramingError
from hotfd.framing.base import DEFAULT_MAX_SIZE, NativeFraming

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable

_CRLF = b"\r\n"
_LENGTH = re.compile(rb"0|[1-9][0-9]*")
_INTEGER = re.compile(rb"[+-]?[0-9]+")
_DOUBLE = re.compile(rb"[+-]?(?:[0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?|inf)|nan")


class Resp(NativeFraming):
    """RESP frames; each is delivered whole, and :func:`parse` or :func:`command` says what it means.

    Args:
        inline: a frame that begins with no RESP type is a line, ended by a newline: what a person types to a
            server. :func:`command` reads both.
        max_size: bytes of the whole frame.

    Raises:
        ValueError: ``max_size`` is out of range.
    """

    name = "resp"

    def __init__(self, *, inline: bool = True, max_size: int = DEFAULT_MAX_SIZE) -> None:
        flags = _core.FLAG_INLINE if inline else 0
        super().__init__(_core.FramingSpec(_core.KIND_RESP, max_size, flags=flags))
        self.inline = inline

    def spec(self) -> str:
        """Return the canonical text."""
        return f"resp(inline={self.inline:d})"

    def encode(self, payload: bytes) -> bytes:
        """Return ``payload``, which is one whole frame, as the functions below write it.

        Raises:
            ValueError: it is not exactly one frame, or larger than ``max_size``.
        """
        if not self._compiled.is_whole(payload):
            self._check_size(payload)
            self._check_whole(payload)
        return payload


@dataclass(frozen=True, slots=True)
class ErrorReply:
    """An error as a value: ``-ERR unknown command`` has the message ``ERR unknown command``."""

    message: str


class Verbatim(NamedTuple):
    """A verbatim string: three letters of format (``txt``, ``mkd``), and the bytes."""

    format: str
    text: bytes


Value: TypeAlias = Union[
    bool, int, float, str, bytes, ErrorReply, Verbatim, "list[Value]", "dict[Hashable, Value]", None
]
"""What a frame can mean. Simple strings are str, bulk strings bytes; sets and pushes are lists, in the order of
the wire; a key of a map that is itself a list or a map becomes a tuple. Attributes are left out."""


def parse(frame: bytes) -> Value:
    """Return what one whole RESP frame means.

    Raises:
        FramingError: ``frame`` is not exactly one well-formed frame, or nests deeper than a scanner allows.
    """
    value, end = _value(frame, 0, 0)
    if end != len(frame):
        raise FramingError("bytes follow the RESP frame")
    return value


def command(frame: bytes) -> list[bytes]:
    """Return the words of a client's request: an array of bulk strings, or an inline line.

    An empty list stands for an empty array or an empty line, which servers ignore.

    Raises:
        FramingError: it is neither, or a quote in the line is not closed.
    """
    words = _core.resp_words(frame)
    if words is not None:
        return words
    if not frame.startswith(b"*"):
        return _inline(frame)
    value = parse(frame)
    if value is None:
        return []
    if isinstance(value, list):
        found = [word for word in value if isinstance(word, bytes)]
        if len(found) == len(value):
            return found
    raise FramingError("a command is an array of bulk strings")


# ---------------------------------------------------------------- reading


def _line(frame: bytes, at: int) -> tuple[bytes, int]:
    """Return what is between the type at ``at`` and CRLF, and where the line ends."""
    stop = frame.find(_CRLF, at)
    if stop < 0:
        raise FramingError("the RESP frame is incomplete")
    text = frame[at + 1 : stop]
    if b"\r" in text or b"\n" in text:
        raise FramingError("there is a CR or LF inside a RESP line")
    return text, stop + 2


def _matching(pattern: re.Pattern[bytes], text: bytes) -> bytes:
    if pattern.fullmatch(text) is None:
        raise FramingError("there is no number where RESP needs one")
    return text


def _integer(text: bytes) -> int:
    try:
        return int(_matching(_INTEGER, text))
    except ValueError as error:  # more digits than the interpreter converts
        raise FramingError("a RESP number is too long") from error


def _null(text: bytes) -> None:
    if text:
        raise FramingError("a RESP null has no content")


def _boolean(text: bytes) -> bool:
    if text not in (b"t", b"f"):
        raise FramingError("a RESP boolean is t or f")
    return text == b"t"


def _text(text: bytes) -> str:
    return text.decode("utf-8", "surrogateescape")


_LINE_TYPES: dict[int, Callable[[bytes], Value]] = {
    ord("+"): _text,
    ord("-"): lambda text: ErrorReply(_text(text)),
    ord(":"): _integer,
    ord("("): _integer,
    ord(","): lambda text: float(_matching(_DOUBLE, text)),
    ord("_"): _null,
    ord("#"): _boolean,
}
_BULK_TYPES = frozenset(b"$!=")
_AGGREGATE_TYPES = frozenset(b"*~>%|")


def _value(frame: bytes, at: int, depth: int) -> tuple[Value, int]:
    """Return the value at ``at`` and where it ends; ``depth`` aggregates are around it."""
    while True:
        if at >= len(frame):
            raise FramingError("the RESP frame is incomplete")
        kind = frame[at]
        text, end = _line(frame, at)
        if kind in _LINE_TYPES:
            return _LINE_TYPES[kind](text), end
        if kind in _BULK_TYPES:
            return _bulk(frame, kind, text, end)
        if kind not in _AGGREGATE_TYPES:
            raise FramingError("no RESP value begins with this byte")
        if kind != ord("|"):
            return _aggregate(frame, kind, text, end, depth)
        _, at = _aggregate(frame, kind, text, end, depth)  # an attribute: the value itself follows


def _bulk(frame: bytes, kind: int, text: bytes, at: int) -> tuple[Value, int]:
    if text == b"-1" and kind == ord("$"):
        return None, at
    end = at + int(_matching(_LENGTH, text[:20]))  # 20 digits are beyond any frame
    if frame[end : end + 2] != _CRLF:
        raise FramingError("a RESP string does not end where its length says")
    content = frame[at:end]
    if kind == ord("!"):
        return ErrorReply(_text(content)), end + 2
    if kind == ord("="):
        if content[3:4] != b":":
            raise FramingError("a RESP verbatim string begins with three letters and a colon")
        return Verbatim(_text(content[:3]), content[4:]), end + 2
    return content, end + 2


def _aggregate(frame: bytes, kind: int, text: bytes, at: int, depth: int) -> tuple[Value, int]:
    if text == b"-1" and kind == ord("*"):
        return None, at
    count = int(_matching(_LENGTH, text[:20]))
    paired = kind in b"%|"
    items: list[Value] = []
    if count and depth >= _core.RESP_DEPTH:
        raise FramingError(f"RESP values are nested deeper than {_core.RESP_DEPTH}")
    for _ in range(2 * count if paired else count):
        item, at = _value(frame, at, depth + 1)
        items.append(item)
    if paired:
        return {_hashable(key): value for key, value in zip(items[::2], items[1::2], strict=True)}, at
    return items, at


def _hashable(value: Value) -> Hashable:
    if isinstance(value, list):
        return tuple(_hashable(item) for item in value)
    if isinstance(value, dict):
        return tuple((key, _hashable(item)) for key, item in value.items())
    return value


_ESCAPES = {ord("n"): b"\n", ord("r"): b"\r", ord("t"): b"\t", ord("b"): b"\b", ord("a"): b"\a"}
_HEX_ESCAPE = re.compile(rb"\\x([0-9a-fA-F]{2})")
_SPACE = frozenset(b" \t\n\r\v\f")


def _inline(line: bytes) -> list[bytes]:
    """Split a typed line into words, with quotes as Redis understands them."""
    if not line.endswith(b"\n"):
        raise FramingError("an inline command ends with a newline")
    if line[0] in _LINE_TYPES or line[0] in _BULK_TYPES or line[0] in _AGGREGATE_TYPES:
        raise FramingError("a command is an array of bulk strings, or a line")
    if b'"' not in line and b"'" not in line:
        return line.split()
    words: list[bytes] = []
    at = 0
    while True:
        while at < len(line) and line[at] in _SPACE:
            at += 1
        if at == len(line):
            return words
        word, at = _word(line, at)
        words.append(word)


def _word(line: bytes, at: int) -> tuple[bytes, int]:
    word = bytearray()
    while line[at] not in _SPACE:  # the newline at the end stops it
        if line[at] in b"\"'":
            at = _quoted(line, at, word)
            break
        word.append(line[at])
        at += 1
    return bytes(word), at


def _quoted(line: bytes, at: int, word: bytearray) -> int:
    """Append what is between the quote at ``at`` and its partner; return where the word goes on."""
    quote = line[at]
    at += 1
    while at < len(line) and line[at] != quote:
        if line[at] != ord("\\") or at + 1 == len(line):
            word.append(line[at])
            at += 1
        elif quote == ord("'"):
            escaped = line[at + 1] == quote
            word.append(line[at + 1] if escaped else line[at])
            at += 2 if escaped else 1
        elif match := _HEX_ESCAPE.match(line, at):
            word.append(int(match[1], 16))
            at = match.end()
        else:
            word += _ESCAPES.get(line[at + 1], line[at + 1 : at + 2])
            at += 2
    if at + 1 >= len(line) or line[at + 1] not in _SPACE:
        raise FramingError("the quotes of an inline command are not balanced")
    return at + 1


# ---------------------------------------------------------------- writing


def _one_line(kind: bytes, text: str | bytes) -> bytes:
    content = text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text
    if b"\r" in content or b"\n" in content:
        raise ValueError("a simple string or error cannot contain CR or LF; send it as a bulk string")
    return kind + content + _CRLF


def simple(text: str | bytes) -> bytes:
    """Return a simple string, ``+OK``. Raises ``ValueError`` for CR or LF in it."""
    return _one_line(b"+", text)


def error(text: str | bytes) -> bytes:
    """Return an error, ``-ERR no such key``. Raises ``ValueError`` for CR or LF in it."""
    return _one_line(b"-", text)


def integer(value: int) -> bytes:
    """Return an integer, ``:42``."""
    return b":%d\r\n" % value


def bulk(content: bytes) -> bytes:
    """Return a bulk string of any bytes."""
    return b"$%d\r\n%b\r\n" % (len(content), content)


def array(frames: Iterable[bytes]) -> bytes:
    """Return an array of values that are encoded already."""
    parts = list(frames)
    return b"*%d\r\n%b" % (len(parts), b"".join(parts))


def mapping(pairs: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return a map (RESP3) of keys and values that are encoded already."""
    parts = [part for pair in pairs for part in pair]
    return b"%%%d\r\n%b" % (len(parts) // 2, b"".join(parts))


def null() -> bytes:
    """Return the null of RESP3."""
    return b"_\r\n"


def null_bulk() -> bytes:
    """Return the null bulk string of RESP2: no such value."""
    return b"$-1\r\n"


def null_array() -> bytes:
    """Return the null array of RESP2: no such list."""
    return b"*-1\r\n"


def request(*words: bytes) -> bytes:
    """Return a client's command, an array of bulk strings."""
    return array(map(bulk, words))
