r"""The control protocol's lines: one JSON object a line, either way.

::

    server  {"hotfd": 1, "pid": 4711, "start_time": 81234, "generation": 3}     greeting, once
    client  {"type": "status"}                                                  request
    server  {"event": "progress", "moved": 10, "total": 99}                     any number of events
    server  {"event": "lost", "count": 3}                                       so many were not read in time
    server  {"result": {...}}  or  {"error": {"code": "...", "message": "..."}}  the answer
"""

from __future__ import annotations

from typing import Any

import msgspec
import orjson

PROTOCOL = 1
"""Version of this protocol, in the greeting; a client refuses another one."""

MAX_REQUEST = 64 * 1024
"""Longest request in bytes. A request is a name, some numbers and perhaps a command line; four times
the largest command line seen in practice, and what 64 clients may make the server hold is 4 MiB."""

MAX_ANSWER = 16 * 1024 * 1024
"""Longest line in bytes that a client takes from a server: a status that lists 100,000 sessions fits."""


class LineTooLong(ValueError):  # noqa: N818 - reads as the condition
    """More bytes than the limit came without an end of line."""


class LineBuffer:
    """Splits a byte stream into lines, and looks at each byte once.

    Args:
        limit: longest line in bytes, its end not counted.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._data = bytearray()
        self._seen = 0

    def __len__(self) -> int:
        """Bytes that are held and not taken yet."""
        return len(self._data)

    def feed(self, data: bytes) -> None:
        """Append what was received."""
        self._data += data

    def take(self) -> bytes | None:
        """Return the next whole line without its end, or None when there is none yet.

        Raises:
            LineTooLong: the line, whole or not, is longer than the limit.
        """
        end = self._data.find(b"\n", self._seen)
        if (len(self._data) if end < 0 else end) > self._limit:
            raise LineTooLong(f"a line is longer than {self._limit} bytes")
        if end < 0:
            self._seen = len(self._data)
            return None
        line = bytes(self._data[:end])
        del self._data[: end + 1]
        self._seen = 0
        return line


def encode(message: object) -> bytes:
    """Return ``message`` (a dict, or a msgspec Struct within one) as one line.

    Raises:
        TypeError: a value has no JSON form.
        ValueError: as above, for a value whose type has one (a recursive list).
    """
    try:
        return msgspec.json.encode(message) + b"\n"
    except RecursionError as exc:
        raise ValueError("the message is nested too deeply") from exc


def decode(line: bytes) -> dict[str, Any]:
    """Return the object that ``line`` holds.

    Raises:
        ValueError: the line is no JSON, or no object.
    """
    message = orjson.loads(line)
    if not isinstance(message, dict):
        raise ValueError("a line must hold a JSON object")  # noqa: TRY004 - one exception for bad input
    return message
