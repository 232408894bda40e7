"""Turns valid input into hostile input: seeded, at the level of bytes and at the level of what they encode.

A mutation of the encoded tree gets past the decoder's outer checks, to where the fields are read; a mutation of the
bytes breaks the encoding itself. Both are needed, and each input is made by one of them, or by one after the other.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from random import Random
from typing import Any, Final

import msgspec

MAX_INPUT: Final = 1 << 17
"""Bytes of an input: twice the largest packet, so that limits are crossed, and small enough to make thousands."""

NUMBERS: Final = (0, 1, 2, 7, 8, 10, 13, 16, 31, 32, 64, 100, 127, 128, 191, 192, 224, 250, 251, 254, 255)
"""Bytes at which something begins or ends: lengths, ends of line, MessagePack's tags, UTF-8, Telnet."""

HOSTILE_BYTES: Final = (
    b"\xdd\xff\xff\xff\xff",  # MessagePack: an array, a map, bytes and text of 4 Gi
    b"\xdf\xff\xff\xff\xff",
    b"\xc6\xff\xff\xff\xff",
    b"\xdb\xff\xff\xff\xff",
    b"\xc1",  # never used
    b"\x81\x80\x01",  # a map with a map as its key
    b"\xc7\x0c\xff" + b"\xff" * 12,  # a time that there is not
    b"\xca\x7f\xc0\x00\x00",  # NaN
    b"\xcb\x7f\xf0\x00\x00\x00\x00\x00\x00",  # infinity
    b"\xff\xff\xff\xff",
    b"\x00\x00\x00\x00",
    b"\xed\xa0\x80",  # half a character, in UTF-8 that is none
    b"\xf4\x90\x80\x80",
    b"\xe2\x80\xae",
    b"\xef\xbb\xbf",
    b"\r\n",
    b"\0",
)

HOSTILE_VALUES: Final[tuple[Any, ...]] = (
    None, True, False, 0, 1, -1, 2**31 - 1, 2**31, 2**62 - 1, 2**62, 2**63 - 1, 2**63, 2**64 - 1, -(2**63),
    0.0, -0.0, 1e308, -1e308, 5e-324, float("nan"), float("inf"), float("-inf"),
    "", "\0", "a" * 256, "a" * 2000, "\u202e", "\U0010ffff", "../../../etc/passwd", "%s%n", "1e999",
    [], {}, [[]], [None], {"": None}, {"type": []}, [0] * 5000,
)  # fmt: skip
"""In place of any value. Text that no encoder writes (lone surrogates) comes from mutations of the bytes."""

DEPTHS: Final = (70, 200, 1200)
"""Levels of nesting: above this project's limits, below and above Python's and the decoders' own."""


class Mutator:
    """Makes inputs.

    Args:
        random: the source of all choices, so that a seed is an input.
        seeds: valid inputs, which are also crossed with each other.
        tokens: words of the format, which are put in anywhere.
    """

    def __init__(self, random: Random, seeds: Sequence[bytes], tokens: Sequence[bytes] = ()) -> None:
        self._random = random
        self._seeds = seeds
        self._tokens = (*HOSTILE_BYTES, *tokens)

    def plain(self, data: bytes) -> bytes:
        """Return the bytes with one to six changes."""
        changed = bytearray(data)
        for _ in range(self._random.choice((1, 1, 2, 3, 6))):
            self._random.choice(_CHANGES)(self, changed)
            del changed[MAX_INPUT:]
        return bytes(changed)

    def tree(self, root: Any) -> Any:
        """Return a tree of lists, dicts and plain values with one to three changes; the argument may be changed."""
        for _ in range(self._random.choice((1, 1, 2, 3))):
            places: list[tuple[Any, Any]] = []
            _places(root, places)
            if not places:
                return self._value(root)
            self._replace(*self._random.choice(places))
        return root

    def msgpack(self, data: bytes, prefix: int = 0) -> bytes:
        """Return MessagePack with a change of what it says, behind a prefix of so many bytes."""
        try:
            tree = msgspec.msgpack.decode(data[prefix:])
            return data[:prefix] + msgspec.msgpack.encode(self.tree(tree))
        except (msgspec.MsgspecError, ValueError, TypeError, OverflowError, RecursionError):
            return self.plain(data)

    def json(self, data: bytes, prefix: int = 0) -> bytes:
        """Return JSON with a change of what it says."""
        try:
            tree = json.loads(data[prefix:])
            return data[:prefix] + json.dumps(self.tree(tree)).encode()
        except (ValueError, TypeError, RecursionError):
            return self.plain(data)

    def _replace(self, container: Any, key: Any) -> None:
        random = self._random
        match random.randrange(6):
            case 0:
                del container[key]
            case 1 if isinstance(container, list):
                container.insert(random.randrange(len(container) + 1), container[key])
            case 1:
                container[random.choice(("type", "", "x" * 300, "values", str(key)))] = container[key]
            case 2:
                others: list[tuple[Any, Any]] = []
                _places(container, others)
                above, below = random.choice(others)
                container[key] = above[below]
                if _contains(container[key], container):
                    container[key] = None
            case _:
                container[key] = self._value(container[key])

    def _value(self, value: Any) -> Any:
        random = self._random
        match random.randrange(8):
            case 0 if isinstance(value, int):
                return max(-(2**63), min(2**64 - 1, value + random.choice((-1, 1, 256, -value, 2**32))))
            case 0 if isinstance(value, str):
                return value * random.choice((2, 17, 1000))
            case 0 if isinstance(value, bytes):
                return self.plain(value)
            case 0 if isinstance(value, list) and value:
                return value * random.choice((2, 17, 300))
            case 1:
                return _nested(value, random.choice(DEPTHS))
            case 2 if isinstance(value, str):
                return value.encode()
            case 2 if isinstance(value, bytes):
                return value.decode("latin-1")
            case 3 if isinstance(value, bytes):
                return self.msgpack(value)  # what is inside of what
            case _:
                return random.choice(HOSTILE_VALUES)

    # -- changes of bytes --------------------------------------------------------------------------------

    def _at(self, data: bytearray) -> int:
        return self._random.randrange(len(data) + 1)

    def _flip(self, data: bytearray) -> None:
        if data:
            data[self._random.randrange(len(data))] ^= 1 << self._random.randrange(8)

    def _set(self, data: bytearray) -> None:
        if data:
            data[self._random.randrange(len(data))] = self._random.choice(NUMBERS)

    def _count(self, data: bytearray) -> None:
        if data:
            at = self._random.randrange(len(data))
            data[at] = (data[at] + self._random.choice((1, 255))) & 255

    def _cut(self, data: bytearray) -> None:
        at = self._at(data)
        del data[at : at + self._random.choice((1, 1, 2, 5, 40, len(data)))]

    def _insert(self, data: bytearray) -> None:
        at = self._at(data)
        data[at:at] = self._random.choice(self._tokens)

    def _overwrite(self, data: bytearray) -> None:
        at, token = self._at(data), self._random.choice(self._tokens)
        data[at : at + len(token)] = token

    def _repeat(self, data: bytearray) -> None:
        at = self._at(data)
        part = data[at : at + self._random.choice((1, 2, 4, 30))]
        if part:
            data[at:at] = part * min(self._random.choice((1, 2, 80, 5000)), MAX_INPUT // len(part))

    def _splice(self, data: bytearray) -> None:
        other = self._random.choice(self._seeds)
        begin = self._random.randrange(len(other) + 1)
        at = self._at(data)
        data[at : at + self._random.choice((0, 0, 8, len(data)))] = other[
            begin : begin + self._random.choice((4, 40, 4000))
        ]

    def _noise(self, data: bytearray) -> None:
        at = self._at(data)
        data[at:at] = self._random.randbytes(self._random.choice((1, 2, 4, 16, 100)))


_CHANGES: Final[tuple[Callable[[Mutator, bytearray], None], ...]] = (
    Mutator._flip,
    Mutator._set,
    Mutator._count,
    Mutator._cut,
    Mutator._insert,
    Mutator._overwrite,
    Mutator._repeat,
    Mutator._splice,
    Mutator._noise,
)


def _places(value: Any, found: list[tuple[Any, Any]]) -> None:
    """Note every place of a tree as its container and the key within."""
    waiting = [value]
    while waiting and len(found) < 20_000:
        container = waiting.pop()
        if isinstance(container, dict):
            keys: Any = list(container)
        elif isinstance(container, list):
            keys = range(len(container))
        else:
            continue
        for key in keys:
            found.append((container, key))
            waiting.append(container[key])


def _contains(tree: Any, container: Any) -> bool:
    if tree is container:
        return True
    found: list[tuple[Any, Any]] = []
    _places(tree, found)
    return any(above[key] is container for above, key in found)


def _nested(value: Any, depth: int) -> Any:
    for level in range(depth):
        value = [value] if level % 2 else {"a": value}
    return value
