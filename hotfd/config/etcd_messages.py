"""What is said to etcd's JSON gateway, and what it answers: requests are dictionaries, answers are typed.

Bytes are base64, and 64-bit integers are strings there; fields that are zero are left out (the JSON mapping of
Protocol Buffers 3). msgspec reads and writes all of that by itself. The fields are those of etcd's
``api/etcdserverpb/rpc.proto``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec

from hotfd.errors import ConfigError, StoreError

if TYPE_CHECKING:
    from collections.abc import Callable

_T = TypeVar("_T")

Operation = dict[str, Any]
Comparison = dict[str, Any]


class Header(msgspec.Struct, frozen=True):
    """What begins every answer; ``revision`` grows with every change of the whole cluster."""

    revision: int = 0


class Pair(msgspec.Struct, frozen=True):
    """A key with its value; ``mod_revision`` is that of its last change, and 0 stands for a key that is not there."""

    key: bytes
    value: bytes = b""
    mod_revision: int = 0


class RangeAnswer(msgspec.Struct, frozen=True):
    """The keys of a range; ``more`` when a limit has cut them short."""

    header: Header = Header()
    kvs: list[Pair] = []
    more: bool = False


class OperationAnswer(msgspec.Struct, frozen=True):
    """What one operation of a transaction has found."""

    response_range: RangeAnswer = RangeAnswer()


class TransactionAnswer(msgspec.Struct, frozen=True):
    """Which branch of a transaction was carried out, and what its operations have found, in their order."""

    header: Header = Header()
    succeeded: bool = False
    responses: list[OperationAnswer] = []

    def found(self) -> list[list[Pair]]:
        """Return by operation the keys that it has found."""
        return [response.response_range.kvs for response in self.responses]


class LeaseAnswer(msgspec.Struct, frozen=True):
    """A lease that was granted."""

    ID: int


class Change(msgspec.Struct, frozen=True):
    """A key that was put or deleted."""

    kv: Pair


class WatchResult(msgspec.Struct, frozen=True):
    """What a watch says; after ``canceled`` it says nothing more."""

    canceled: bool = False
    compact_revision: int = 0
    cancel_reason: str = ""
    events: list[Change] = []


class Trouble(msgspec.Struct, frozen=True):
    """Why a request was not carried out; ``code`` is one of gRPC's."""

    message: str = ""
    code: int = 2


class StreamTrouble(msgspec.Struct, frozen=True):
    """The same within a stream, where the gateway names the fields otherwise."""

    message: str = ""


class WatchAnswer(msgspec.Struct, frozen=True):
    """One message of a watch's stream."""

    result: WatchResult | None = None
    error: StreamTrouble | None = None


INVALID_ARGUMENT: Final = 3
NOT_FOUND: Final = 5
RESOURCE_EXHAUSTED: Final = 8
"""Codes of gRPC (``google.golang.org/grpc/codes``) that tell what to do."""

FINAL: Final = {INVALID_ARGUMENT, NOT_FOUND, 6, 7, RESOURCE_EXHAUSTED, 9, 11, 12, 15, 16}
"""Codes with which another member would answer the same. All others say that this one cannot at the moment."""


def key_of(prefix: str, *parts: str) -> bytes:
    """Return a key; with an empty last part, what keys begin with."""
    return "/".join((prefix, *parts)).encode()


def end_of(prefix: bytes) -> bytes:
    """Return the first key behind all that begin with a prefix, which ends with a slash."""
    assert prefix.endswith(b"/")
    return prefix[:-1] + b"0"


def get(key: bytes, end: bytes = b"", *, limit: int = 0) -> Operation:
    """Look a key up, or those from ``key`` to before ``end`` in their order; a limit of 0 is none."""
    return {"request_range": {"key": key, "range_end": end, "limit": limit}}


def put(key: bytes, value: bytes, lease: int = 0) -> Operation:
    """Put a value; it goes when its lease ends, if it has one."""
    return {"request_put": {"key": key, "value": value, "lease": lease}}


def delete(key: bytes, end: bytes = b"") -> Operation:
    """Delete a key, or those from ``key`` to before ``end``."""
    return {"request_delete_range": {"key": key, "range_end": end}}


def unchanged(key: bytes, revision: int) -> Comparison:
    """Ask that a key was last changed at a revision; 0 asks that there is none."""
    return {"key": key, "target": "MOD", "result": "EQUAL", "mod_revision": revision}


def read(what: str, decode: Callable[[bytes], _T], data: bytes) -> _T:
    """Decode a value.

    Args:
        what: what it should be, for the error.
        decode: does it.
        data: the value.

    Raises:
        StoreError: it is something else.
    """
    try:
        return decode(data)
    except (ConfigError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise StoreError(f"{what} cannot be read: {error}") from None
