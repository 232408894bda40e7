"""Dotted keys, as TOML writes them: ``damage.sword``, or ``damage."two.handed"`` where a key has a dot itself."""

from __future__ import annotations

import json
import re
import tomllib
from typing import TYPE_CHECKING, Any, Final

from hotfd.errors import ConfigError, Fault
from hotfd.publish.faults import shown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hotfd.config.release import Values

MAX_KEY: Final = 1024
"""Characters of a dotted key: what a release's instruction can hold."""

_BARE: Final = re.compile(r"[A-Za-z0-9_-]+")
_SEGMENT: Final = re.compile(
    r"""[ \t]*(?:(?P<bare>[A-Za-z0-9_-]+)|(?P<quoted>"(?:[^"\\\x00-\x1f]|\\.)*"|'[^'\x00-\x1f]*'))[ \t]*(?P<dot>\.|$)"""
)


def parse(text: str) -> tuple[str, ...]:
    """Return the keys that a dotted key stands for.

    Raises:
        ConfigError: it is none.
    """
    if len(text) > MAX_KEY:
        raise ConfigError(f"a dotted key has at most {MAX_KEY} characters")
    keys, position, last = [], 0, "."
    while last == ".":
        found = _SEGMENT.match(text, position)
        if found is None:
            raise ConfigError('keys joined by dots, such as a.b; a key with other characters in quotes: a."b.c"')
        keys.append(found["bare"] if found["bare"] is not None else _unquoted(found["quoted"]))
        position, last = found.end(), found["dot"]
    return tuple(keys)


def _unquoted(quoted: str) -> str:
    try:
        text = tomllib.loads(f"key = {quoted}")["key"]
    except tomllib.TOMLDecodeError:
        raise ConfigError("a key in quotes as TOML writes it") from None
    assert isinstance(text, str)
    return text


def written(keys: Sequence[str]) -> str:
    """Return the dotted key that stands for keys; :func:`parse` undoes it."""
    # A JSON string is a basic string of TOML, but for DEL, which JSON leaves as it is.
    quoted = (
        key if _BARE.fullmatch(key) else json.dumps(key, ensure_ascii=False).replace("\x7f", "\\u007f") for key in keys
    )
    return ".".join(quoted)


def without(values: Values, keys: Sequence[str]) -> Values | Fault:
    """Return the values without one key, or the fault that it is not there. The argument is not changed."""
    first, *rest = keys
    if first not in values:
        return _missing(values, first)
    if not rest:
        return {key: value for key, value in values.items() if key != first}
    inner = values[first]
    if not isinstance(inner, dict):
        return Fault(written([first]), shown(inner), "a table")
    below = without(inner, rest)
    return _outside(first, below) if isinstance(below, Fault) else values | {first: below}


def with_(values: Values, keys: Sequence[str], value: Any) -> Values | Fault:
    """Return the values with one key set, and the tables that lead to it made; or the fault that one is no table."""
    first, *rest = keys
    if not rest:
        return values | {first: value}
    inner = values.get(first, {})
    if not isinstance(inner, dict):
        return Fault(written([first]), shown(inner), f"a table, for {written(rest)} to be set in it")
    below = with_(inner, rest, value)
    return _outside(first, below) if isinstance(below, Fault) else values | {first: below}


def _outside(first: str, fault: Fault) -> Fault:
    return fault._replace(path=f"{written([first])}.{fault.path}")


def _missing(values: Values, key: str) -> Fault:
    import difflib

    close = difflib.get_close_matches(key, values, 1)
    hint = f"; did you mean {written(close)}?" if close else ""
    return Fault(written([key]), "", f"no such key, so it cannot be unset{hint}")
