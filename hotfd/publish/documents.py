"""Files of values: TOML, JSON and YAML, into tables that every server reads the same way.

What is read is what JSON can hold: text, numbers, booleans, null, lists and tables. Dates become text (ISO 8601). A
file is somebody's input: its size, its depth, and the number of its values are bounded, keys that are there twice are
a fault rather than a matter of which one wins, and aliases of YAML may not grow to more than was written.
"""

from __future__ import annotations

import datetime as dt
import json
import math
import re
import tomllib
from typing import TYPE_CHECKING, Any, Final

from hotfd.errors import ConfigError, Fault
from hotfd.publish.faults import MAX_FAULTS, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from hotfd.config.release import Values

MAX_FILE: Final = 1 << 20
"""Bytes of a file: what a whole release may have. It is checked before the file is read."""

MAX_DEPTH: Final = 64
"""Tables and lists within each other: far more than people write, and far below what recursion bears."""

MAX_NODES: Final = 100_000
"""Values of a file, those that an alias repeats counted each time: a megabyte of one-letter keys has as many."""

MIN_INTEGER: Final = -(1 << 63)
MAX_INTEGER: Final = (1 << 63) - 1
"""Integers that TOML promises, and that every reader of JSON in use here keeps."""

SUFFIXES: Final = (".toml", ".json", ".yaml", ".yml")
"""Of files of values."""

_LONG_KEY: Final = re.compile(
    rf"""(?:^|[{{,\[])[ \t]*(?:(?:[A-Za-z0-9_-]+|"[^"\n]*"|'[^'\n]*')[ \t]*\.[ \t]*){{{MAX_DEPTH}}}""", re.MULTILINE
)
"""A dotted key of more parts than there may be levels: the parser takes time with the square of their number."""


class Unreadable(ConfigError):  # noqa: N818 - reads as the condition
    """A file cannot be read as values.

    Args:
        faults: why, each with the file's name.
    """

    def __init__(self, faults: list[Fault]) -> None:
        super().__init__("; ".join(str(fault) for fault in faults))
        self.faults = faults


def parse(name: str, data: bytes, suffix: str | None = None) -> Values:
    """Read a file of values.

    Args:
        name: the file's name, for the faults; its suffix, one of :data:`SUFFIXES`, says what it is.
        data: what is in it.
        suffix: what it is, when its name does not say so.

    Raises:
        Unreadable: it is not what its name says, or holds what a release cannot; says where, as exactly as is known.
    """
    if len(data) > MAX_FILE:
        raise Unreadable([too_large(name, len(data))])
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise Unreadable([Fault(at(name, line), "", "the file must be text in UTF-8")]) from None
    try:
        value = _PARSERS[suffix or name[name.rindex(".") :]](name, text)
    except RecursionError:
        raise Unreadable([_too_deep(name)]) from None
    if value is None:
        value = {}  # an empty YAML file
    if not isinstance(value, dict):
        raise Unreadable([Fault(name, shown(value), "a table of keys and values")])
    return _Plain(name).table(value)


def at(name: str, line: int | None = None, column: int | None = None) -> str:
    """Return a place in a file as compilers write it, so that editors find it."""
    return ":".join([name, *(str(number) for number in (line, column) if number is not None)])


def too_large(name: str, size: int) -> Fault:
    """Return the fault of a file that is not even read."""
    return Fault(name, "", f"the file has {size} bytes; at most {MAX_FILE} are possible")


def _too_deep(name: str) -> Fault:
    return Fault(name, "", f"tables and lists are more than {MAX_DEPTH} levels deep")


def _toml(name: str, text: str) -> Any:
    if _LONG_KEY.search(text):
        raise Unreadable([Fault(name, "", f"a dotted key has more than {MAX_DEPTH} parts")])
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        problem, line, column = str(error), None, None
        if found := re.fullmatch(r"(.*) \(at line (\d+), column (\d+)\)", problem, re.DOTALL):
            problem, line, column = found[1], int(found[2]), int(found[3])
        raise Unreadable([Fault(at(name, line, column), "", f"this is no TOML: {_begun_small(problem)}")]) from None
    except ValueError as error:  # a date that there is not, or an integer of thousands of digits
        raise Unreadable([Fault(name, "", f"this is no TOML: {error}")]) from None


def _json(name: str, text: str) -> Any:
    def table(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) != len(pairs):
            raise Unreadable([Fault(name, "", f"the key {shown(_repeated(pairs))} is there twice in one table")])
        return result

    def constant(word: str) -> Any:
        raise Unreadable([Fault(name, "", f"{word} is no number that JSON has")])

    try:
        return json.loads(text, object_pairs_hook=table, parse_constant=constant)
    except json.JSONDecodeError as error:
        place = at(name, error.lineno, error.colno)
        raise Unreadable([Fault(place, "", f"this is no JSON: {_begun_small(error.msg)}")]) from None
    except ValueError as error:  # an integer of thousands of digits
        raise Unreadable([Fault(name, "", f"this is no JSON: {error}")]) from None


def _yaml(name: str, text: str) -> Any:
    try:
        import yaml

        from hotfd.publish import yamls
    except ImportError:
        raise Unreadable(
            [Fault(name, "", "YAML cannot be read here: install it with pip install 'hotfd[config]', or write TOML")]
        ) from None
    try:
        return yamls.load(text, MAX_DEPTH, MAX_NODES)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = at(name, mark.line + 1, mark.column + 1) if mark is not None else name
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "it cannot be read"
        raise Unreadable([Fault(place, "", f"this is no YAML: {_begun_small(str(problem))}")]) from None
    except ValueError as error:  # a date that there is not
        raise Unreadable([Fault(name, "", f"this is no YAML: {error}")]) from None
    except (ArithmeticError, AttributeError, LookupError, TypeError):
        # What PyYAML raises where a tag says that something is a date, a number or a truth value, and it is none.
        raise Unreadable(
            [Fault(name, "", "this is no YAML: a date, a number or a truth value cannot be read")]
        ) from None


_PARSERS: Final[dict[str, Callable[[str, str], Any]]] = {
    ".toml": _toml,
    ".json": _json,
    ".yaml": _yaml,
    ".yml": _yaml,
}


def _repeated(pairs: list[tuple[str, Any]]) -> str:
    seen: set[str] = set()
    for key, _ in pairs:
        if key in seen:
            return key
        seen.add(key)
    return ""


def _begun_small(text: str) -> str:
    return text[:1].lower() + text[1:]


class _Plain:
    """Makes plain values of what a parser gave, and finds what a release cannot hold."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._nodes = 0
        self._faults: list[Fault] = []

    def table(self, value: dict[Any, Any]) -> Values:
        result: Values = self._value(value, "", 0)
        if self._faults:
            raise Unreadable(self._faults)
        return result

    def _value(self, value: Any, path: str, depth: int) -> Any:
        self._nodes += 1
        if depth > MAX_DEPTH:
            raise Unreadable([*self._faults, _too_deep(self._name)])
        if self._nodes > MAX_NODES:
            raise Unreadable([*self._faults, Fault(self._name, "", f"there are more than {MAX_NODES} values")])
        match value:
            case dict():
                return {
                    key: self._value(item, self._below(path, key), depth + 1) for key, item in self._keys(value, path)
                }
            case list():
                return [self._value(item, f"{path}[{index}]", depth + 1) for index, item in enumerate(value)]
            case bool() | None:
                return value
            case dt.date() | dt.time():  # a datetime is a date
                return value.isoformat()
            case int() if not MIN_INTEGER <= value <= MAX_INTEGER:
                self._fault(path, "...", "an integer of at most 64 bits; write larger ones as text")
            case float() if not math.isfinite(value):
                self._fault(path, str(value), "a finite number")
            case str() if not _is_text(value):
                self._fault(path, shown(value), "text; half a character (a lone surrogate) is none")
            case int() | float() | str():
                return value
            case _:
                self._fault(path, "", f"a {type(value).__name__} is nothing that a release can hold")
        return None

    def _keys(self, value: dict[Any, Any], path: str) -> Iterator[tuple[str, Any]]:
        for key, item in value.items():
            if isinstance(key, str) and _is_text(key):
                yield key, item
            else:
                self._fault(path, "", f"the key {shown(key)} is no text; put it in quotes")

    def _below(self, path: str, key: str) -> str:
        return f"{path}.{key}" if path else key

    def _fault(self, path: str, value: str, expected: str) -> None:
        self._faults.append(Fault(f"{self._name}: {path}" if path else self._name, value, expected))
        if len(self._faults) >= MAX_FAULTS:
            raise Unreadable(self._faults)


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
