"""Requests to an etcd cluster, each answered by whichever member can: etcd's JSON gateway (``/v3/...``) over HTTP.

Everything that is asked here may be asked twice: a range changes nothing, a put of the same value changes nothing
that counts, and a transaction compares first. So a request to which a member gives no answer in time goes to the next
one, although the first may still carry it out; who sends a transaction has to tell his own success in the past from
somebody else's (:meth:`hotfd.config.etcd.EtcdStore.commit`).
"""

from __future__ import annotations

import asyncio
import io
import os
import random
import ssl
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, TypeVar

import aiohttp
import msgspec

from hotfd.config.etcd_messages import (
    FINAL,
    INVALID_ARGUMENT,
    RESOURCE_EXHAUSTED,
    Comparison,
    LeaseAnswer,
    Operation,
    Pair,
    RangeAnswer,
    TransactionAnswer,
    Trouble,
    WatchAnswer,
    WatchResult,
)
from hotfd.errors import ConfigError, StoreError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Sequence

    from hotfd.config.etcd_address import Address

CONNECT: Final = 1.0
"""Seconds for a connection, TLS included: members are near each other and near to whoever asks."""

REQUEST: Final = 3.0
"""Seconds for one member's answer: the time of an election (1 to 2 s by etcd's defaults), and of 1 MiB on its way."""

OPERATION: Final = 10.0
"""Seconds in which one of the members must have answered: a member that hangs, an election, and another try."""

PAUSE: Final = 0.2
"""Seconds, on average, between two rounds over all members: a cluster without a leader says so at once."""

MAX_ANSWER: Final = 64 << 20
"""Bytes of one answer: 100 reports with all their faults, in base64, or one release. What is more is not etcd's."""

PAGE: Final = 100
"""Keys of one range: reports have up to half a megabyte each."""

CHUNK: Final = 64 << 10
"""Bytes that are read at once from an answer."""

_ADVICE: Final = (
    "ca=FILE must have signed its certificate for this host, and cert=FILE and key=FILE be what it asks for"
)

_JSON: Final = {"Content-Type": "application/json", "Accept-Encoding": "identity"}

_GONE: Final = (aiohttp.ClientConnectorError, aiohttp.ClientResponseError)
"""Nobody is there, or somebody who does not speak HTTP: waiting does not help."""

_UNREADABLE: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)

_encoder = msgspec.json.Encoder()
_trouble_decoder = msgspec.json.Decoder(Trouble, strict=False)
_Answer = TypeVar("_Answer", RangeAnswer, TransactionAnswer, LeaseAnswer, WatchAnswer)


class Refusal(StoreError):  # noqa: N818 - reads as the outcome
    """etcd has understood a request, and does not carry it out; nothing has changed.

    Args:
        code: gRPC's code.
        detail: what happened and what to do.
    """

    def __init__(self, code: int, detail: str) -> None:
        super().__init__(detail)
        self.code = code


class _Elsewhere(Exception):  # noqa: N818 - no error of ours
    """A member cannot answer; another one might. ``gone``: there is no etcd at that address, for now."""

    def __init__(self, detail: str, *, gone: bool = False) -> None:
        super().__init__(detail)
        self.gone = gone


class Gateway:
    """A cluster. It belongs to the event loop on which it is first used.

    Args:
        address: where it is.

    Raises:
        ConfigError: the address names files that cannot be used.

    Attributes:
        endpoint: the member that is asked first; when one does not answer it is the next one's turn.
    """

    def __init__(self, address: Address) -> None:
        self._address = address
        # Many that start at once, each with the same list, must not all ask the first member of it.
        self._endpoints = random.sample(address.endpoints, len(address.endpoints))
        self.endpoint = self._endpoints[0]
        self._tls = address.context() if address.tls else None
        self._session: aiohttp.ClientSession | None = None
        self._closed = False

    async def range(self, key: bytes, end: bytes = b"", *, limit: int = PAGE, revision: int = 0) -> RangeAnswer:
        """Return a key, or those from ``key`` to before ``end``, as the whole cluster has agreed on them.

        Args:
            key: the first key.
            end: the first one that is not wanted; empty for ``key`` alone.
            limit: how many at most.
            revision: as they were then; 0 for now.

        Raises:
            StoreError: no member could answer.
        """
        body = {"key": key, "range_end": end, "limit": limit, "revision": revision}
        return await self._call("kv/range", body, RangeAnswer)

    async def scan(self, key: bytes, end: bytes) -> tuple[list[Pair], int]:
        """Return all keys from ``key`` to before ``end`` as they are at one time, and the cluster's revision then.

        Raises:
            StoreError: no member could answer.
        """
        found: list[Pair] = []
        revision = 0
        while True:
            answer = await self.range(key, end, revision=revision)
            revision = revision or answer.header.revision
            found += answer.kvs
            if not answer.more:
                return found, revision
            key = answer.kvs[-1].key + b"\0"

    async def transact(
        self,
        compare: Sequence[Comparison] = (),
        success: Sequence[Operation] = (),
        failure: Sequence[Operation] = (),
    ) -> TransactionAnswer:
        """Carry out one branch of a transaction as a whole; at most 128 comparisons and operations (etcd's default).

        Raises:
            StoreError: no member could answer. One of them may have carried it out, or may still do so.
        """
        body = {"compare": compare, "success": success, "failure": failure}
        return await self._call("kv/txn", body, TransactionAnswer)

    async def grant(self, seconds: int) -> int:
        """Return a new lease: what was put with it goes when it ends.

        Raises:
            StoreError: no member could answer.
        """
        return (await self._call("lease/grant", {"TTL": seconds}, LeaseAnswer)).ID

    async def watch(self, endpoint: str, key: bytes, end: bytes, revision: int) -> AsyncGenerator[WatchResult, None]:
        """Yield what one member says of changes between ``key`` and ``end``, from a revision on, until it ends.

        A member that loses its leader ends the stream. One that hangs does not: whoever watches needs another sign of
        life.

        Raises:
            StoreError: the member could not be reached, or ended the stream.
        """
        body = {"create_request": {"key": key, "range_end": end, "start_revision": revision}}
        # A connection of its own, that goes with it: streams must not use up those that requests wait for.
        try:
            async with self._new_session() as session:
                # Without this header a member that is cut off from the others would keep silent for ever.
                headers = {**_JSON, "Grpc-Metadata-hasleader": "true"}
                async with asyncio.timeout(REQUEST):
                    reply = await self._post(session, endpoint, "watch", _encoder.encode(body), headers)
                try:
                    if reply.status != 200:
                        raise _elsewhere(reply.status, await _whole(reply.content))
                    async for line in _lines(reply.content):
                        answer = _decoded(line, WatchAnswer)
                        if answer.error is not None:
                            raise _Elsewhere(answer.error.message)
                        if answer.result is not None:
                            yield answer.result
                finally:
                    # At once: TLS would wait for a member's goodbye, and that one may be the reason to leave.
                    if reply.connection is not None and reply.connection.transport is not None:
                        reply.connection.transport.abort()
                    reply.close()
        except (aiohttp.ClientError, OSError, _Elsewhere) as error:
            raise StoreError(f"{endpoint}: {self._explained(error)}") from None

    async def aclose(self) -> None:
        """Close all connections. Idempotent; what is asked later is refused."""
        self._closed = True
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _call(self, path: str, body: dict[str, Any], answer: type[_Answer]) -> _Answer:
        data = _encoder.encode(body)
        troubles: dict[str, str] = {}
        now = asyncio.get_running_loop().time
        deadline = now() + OPERATION
        while now() < deadline:
            gone = 0
            for endpoint in self._in_turn():
                if (left := deadline - now()) <= 0.0:
                    break
                try:
                    return await self._ask(endpoint, path, data, answer, min(REQUEST, left))
                except _Elsewhere as trouble:
                    troubles[endpoint] = str(trouble)
                    gone += trouble.gone
            if gone == len(self._endpoints):
                break  # no election brings back what does not run
            await asyncio.sleep(PAUSE * random.uniform(0.5, 1.5))  # noqa: S311 - no secret
        said = "; ".join(f"{endpoint}: {trouble}" for endpoint, trouble in troubles.items())
        raise StoreError(f"{self._address.url}: no member of the cluster has answered ({said})")

    def _in_turn(self) -> list[str]:
        at = self._endpoints.index(self.endpoint)
        return self._endpoints[at:] + self._endpoints[:at]

    async def _ask(self, endpoint: str, path: str, data: bytes, answer: type[_Answer], limit: float) -> _Answer:
        if self._closed:
            raise StoreError(f"{self._address.url}: the store is closed")
        if self._session is None:
            self._session = self._new_session()
        try:
            async with asyncio.timeout(limit):
                async with await self._post(self._session, endpoint, path, data, _JSON) as reply:
                    content = await _whole(reply.content)
            if reply.status != 200:
                raise _refusal(self._address.url, reply.status, content, len(data))
            result = _decoded(content, answer)
        except (aiohttp.ClientError, OSError, _Elsewhere) as error:
            if self.endpoint == endpoint:  # unless another request has found a better one meanwhile
                following = self._endpoints.index(endpoint) + 1
                self.endpoint = self._endpoints[following % len(self._endpoints)]
            if isinstance(error, _Elsewhere):
                raise
            gone = isinstance(error, _GONE) or _is_about_tls(error)
            raise _Elsewhere(self._explained(error), gone=gone) from None
        return result

    def _new_session(self) -> aiohttp.ClientSession:
        limits = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT)
        return aiohttp.ClientSession(timeout=limits, cookie_jar=aiohttp.DummyCookieJar(), read_bufsize=CHUNK)

    async def _post(
        self, session: aiohttp.ClientSession, endpoint: str, path: str, data: bytes, headers: dict[str, str]
    ) -> aiohttp.ClientResponse:
        # A redirection is no answer of etcd's, and might lead to a place without TLS.
        return await session.post(
            f"{endpoint}/v3/{path}",
            data=io.BytesIO(data),  # which is sent piece by piece, whereas bytes are sent in one go
            headers=headers,
            allow_redirects=False,
            ssl=self._tls if self._tls is not None else True,
        )

    def _explained(self, error: Exception) -> str:
        """Say what is wrong with a connection; certificates that may be old ones are read again for the next."""
        if isinstance(error, TimeoutError):
            return "no answer in time"
        if isinstance(error, aiohttp.ClientResponseError):
            return "what it answers is no HTTP"
        if not _is_about_tls(error):
            cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
            number = getattr(cause, "errno", None) or 0
            if isinstance(cause, aiohttp.ServerDisconnectedError | ConnectionResetError):
                other = "if it speaks TLS, give ca=FILE" if self._tls is None else "perhaps it does not speak TLS"
                return f"it has closed the connection; {other}"
            return os.strerror(number) if number > 0 else str(cause) or type(cause).__name__
        with suppress(ConfigError):  # half of a renewed pair, perhaps: the old ones are as good as before
            self._tls = self._address.context()
        return f"TLS fails ({_cause(error)}); {_ADVICE}"


def _decoded(content: bytes, answer: type[_Answer]) -> _Answer:
    try:
        return msgspec.json.decode(content, type=answer, strict=False)
    except _UNREADABLE as error:
        raise _Elsewhere(f"what it answers is not etcd's: {error}", gone=True) from None


def _cause(error: BaseException) -> BaseException:
    """Return the fault of TLS behind an error of the HTTP library, or the error itself."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, ssl.SSLError):
            return seen
        seen = getattr(seen, "os_error", None) or getattr(seen, "certificate_error", None) or seen.__cause__
    return error


def _is_about_tls(error: BaseException) -> bool:
    return isinstance(error, aiohttp.ClientSSLError) or isinstance(_cause(error), ssl.SSLError)


async def _whole(content: aiohttp.StreamReader) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for part in content.iter_chunked(CHUNK):
        size += len(part)
        if size > MAX_ANSWER:
            raise _Elsewhere(f"an answer of more than {MAX_ANSWER} bytes", gone=True)
        parts.append(part)
    return b"".join(parts)


async def _lines(content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """Yield lines. Each message is one, whereas a chunk of HTTP holds a part of a message, or several."""
    rest = bytearray()
    async for part in content.iter_any():
        *lines, last = part.split(b"\n")
        for line in lines:
            whole = bytes(rest) + line
            rest.clear()
            if whole:
                yield whole
        rest += last
        if len(rest) > MAX_ANSWER:
            raise _Elsewhere(f"a message of more than {MAX_ANSWER} bytes", gone=True)


def _trouble(content: bytes) -> Trouble | None:
    try:
        return _trouble_decoder.decode(content)
    except _UNREADABLE:
        return None


def _elsewhere(status: int, content: bytes) -> _Elsewhere:
    trouble = _trouble(content)
    if trouble is not None and trouble.message:
        return _Elsewhere(trouble.message)
    return _Elsewhere(f"HTTP status {status}, which is not etcd's gateway (etcd 3.4 or newer is needed)", gone=True)


def _refusal(url: str, status: int, content: bytes, size: int) -> StoreError | _Elsewhere:
    """Return what an answer that is none comes to: for this member, or for good."""
    trouble = _trouble(content)
    if trouble is None or trouble.code not in FINAL or "too many requests" in trouble.message:
        return _elsewhere(status, content)
    said = trouble.message
    if "space exceeded" in said:
        said = (
            "etcd's database is full, and it takes nothing more; compact and defragment it or raise its "
            "--quota-backend-bytes, then: etcdctl alarm disarm"
        )
    elif trouble.code in (INVALID_ARGUMENT, RESOURCE_EXHAUSTED) and ("too large" in said or "larger than" in said):
        said = (
            f"etcd does not take a request of {size} bytes; divide the values into modules, or raise its "
            "--max-request-bytes (1.5 MiB unless set)"
        )
    elif "too many operations" in said:
        said = "etcd does not take that many changes at once; leave its --max-txn-ops at 128 or more"
    return Refusal(trouble.code, f"{url}: {said}")
