"""The handler of a subscriber's connection.

It is the only one that writes to the connection, so a subscriber that does not read holds up nobody but itself: what
it has to be told becomes one notice in a queue with room for one.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Final

from hotfd import log
from hotfd.config import push
from hotfd.config.link import GREETING_LIMIT, LOOKUPS, Key
from hotfd.distribution.tunnel import Clear, Encrypted, Tunnel
from hotfd.errors import ConfigError, ConnectionClosed, FramingError, PushRefused

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from hotfd.distribution.relay import Relay
    from hotfd.distribution.subscriber import Subscriber
    from hotfd.framing import Framing
    from hotfd.server.connection import Connection

SEND_LIMIT: Final = 10.0
"""Seconds in which a subscriber must have read most of what it is sent; it gives up itself after as many."""

SMALL: Final = 1 << 16
"""Bytes of a release that may be on its way to any number of subscribers: as much is unsent before a send waits."""

MAX_LARGE: Final = 64
"""Larger releases that are on their way at once: at most as many MiB are unsent."""

QUIET: Final = 4 * LOOKUPS
"""Intervals without a word after which a subscriber counts as gone; it asks something four times in these."""

LEAST_QUIET: Final = 30.0
"""Seconds for the same, however short the interval."""

REPEATED: Final = 60.0
"""Seconds for which the same refusal of the same host is not logged again: who is refused comes again and again."""

MAX_REFUSALS: Final = 1024
"""Refusals that are known to be logged."""

SPARE: Final = 1000
"""Connections beside those of subscribers: they are given the time to be refused with a reason."""


class Attendant:
    """Serves subscribers.

    Args:
        relay: what there is to say, and who is told what they say.
        tls: the context, or None for connections without TLS.
        identity: returns an id of the configuration server.
        limit: how many subscribers there may be.
    """

    def __init__(self, relay: Relay, tls: ssl.SSLContext | None, identity: Callable[[], str], limit: int) -> None:
        self._relay = relay
        self._tls = tls
        self._identity = identity
        self._limit = limit
        self._visitors = 0
        self._refusals: dict[tuple[str, str], float] = {}  # by host and reason: when it was logged
        self._large = asyncio.Semaphore(MAX_LARGE)
        self._quiet = max(LEAST_QUIET, QUIET * relay.interval)

    @property
    def framing(self) -> Framing:
        """What the server has to take for a frame."""
        return Clear.framing if self._tls is None else Encrypted.framing

    async def serve(self, conn: Connection[Subscriber]) -> None:
        """Serve one connection: the handler."""
        if conn.resumed and (self._tls is not None or not conn.state.still(self._relay.knowledge.modules)):
            return  # its keys are in the process before, or that served others of its modules: it connects again
        if self._visitors >= self._limit + SPARE:
            conn.abort()
            return
        self._visitors += 1
        try:
            await self._converse(conn, Clear() if self._tls is None else Encrypted(self._tls))
        except EOFError:
            pass
        finally:
            self._visitors -= 1
            self._relay.leave(conn.id)

    async def _converse(self, conn: Connection[Subscriber], tunnel: Tunnel) -> None:
        notices: asyncio.Queue[None] = asyncio.Queue(1)
        if conn.state.modules:
            self._attend(conn, notices)
            await self._send_wanted(conn, tunnel)
        else:
            conn.call_later(GREETING_LIMIT, conn.abort, name="greeting")
        try:
            async for source, value in conn.merge(notices):
                if source is notices:
                    await self._write(conn, tunnel, self._relay.digest(conn.state))
                    continue
                messages = tunnel.receive(value)
                if beside := tunnel.pending():
                    await self._put(conn, beside)
                for message in messages:
                    await self._answer(conn, tunnel, notices, push.read_request(message))
        except FramingError:
            await self._refuse(conn, tunnel, tunnel.nonsense())
        except PushRefused as refusal:
            await self._refuse(conn, tunnel, refusal)

    def _attend(self, conn: Connection[Subscriber], notices: asyncio.Queue[None]) -> None:
        conn.call_later(self._quiet, self._too_quiet, conn, name="quiet")
        self._relay.attend(conn.id, conn.state.modules, notices)
        heads, told = self._relay.knowledge.heads, conn.state.told
        if any(module in heads and heads[module].sequence > told.get(module, 0) for module in conn.state.modules):
            notices.put_nowait(None)  # news that came while it was on its way between two processes

    def _too_quiet(self, conn: Connection[Subscriber]) -> None:
        log.event(logging.INFO, "config-subscriber-silent", connection=conn.id, seconds=self._quiet)
        conn.abort()

    async def _answer(
        self,
        conn: Connection[Subscriber],
        tunnel: Tunnel,
        notices: asyncio.Queue[None],
        message: push.Request,
    ) -> None:
        conn.state.hear(message, time.monotonic(), self._relay.interval)
        match message:
            case push.Subscribe():
                await self._subscribe(conn, tunnel, notices, message)
            case push.Lookup():
                await self._send(conn, tunnel, await self._relay.lookups.served(message.modules))
            case push.Want():
                await self._send_wanted(conn, tunnel)
            case push.Report():
                self._relay.note(message.reports)
            case push.Declare():
                self._relay.declare(message.module, message.schema_id, message.schema)
        if conn.state.modules:
            conn.call_later(self._quiet, self._too_quiet, conn, name="quiet")

    async def _subscribe(
        self,
        conn: Connection[Subscriber],
        tunnel: Tunnel,
        notices: asyncio.Queue[None],
        message: push.Subscribe,
    ) -> None:
        if self._relay.subscribers >= self._limit:
            raise PushRefused("too-many", f"{self._limit} subscribers are served here; start another server")
        await self._send(conn, tunnel, await self._relay.lookups.served(message.modules))
        conn.state.admit(self._relay.knowledge.modules, message.modules)
        if not self._relay.knowledge.ready:
            conn.state.modules = []
            raise PushRefused("not-ready", "the store could not be read yet")
        if (timer := conn.timers.get("greeting")) is not None:
            timer.cancel()
        welcome = push.Welcome(self._identity(), tuple(conn.state.modules), self._relay.interval)
        await self._send(conn, tunnel, welcome)
        await self._write(conn, tunnel, self._relay.digest(conn.state))
        self._attend(conn, notices)

    async def _send_wanted(self, conn: Connection[Subscriber], tunnel: Tunnel) -> None:
        """Send what the subscriber wants. What it has not got when it moves, the next process sends."""
        wanted = conn.state.wanted
        while wanted:
            key = Key(*wanted[0])
            try:
                answer: push.Answer = push.Body(*key, await self._relay.body(key))
            except ConfigError as error:
                answer = push.Unavailable(*key, str(error)[:1000])
            if isinstance(answer, push.Body) and len(answer.data) > SMALL:
                await conn.wait(self._large.acquire())
                try:
                    await self._send(conn, tunnel, answer)
                finally:
                    self._large.release()
            else:
                await self._send(conn, tunnel, answer)
            del wanted[0]

    async def _refuse(self, conn: Connection[Subscriber], tunnel: Tunnel, refusal: PushRefused) -> None:
        log.event(
            logging.WARNING if self._is_news(conn, refusal) else logging.DEBUG, "config-subscriber-refused",
            connection=conn.id, peer=conn.peername, code=refusal.code, reason=refusal.detail,
        )  # fmt: skip
        if last := tunnel.last(push.frame(push.Refused(refusal.code, refusal.detail[:1000]))):
            await self._put(conn, last)

    def _is_news(self, conn: Connection[Subscriber], refusal: PushRefused) -> bool:
        """Return whether this host was not refused for the same reason a moment ago."""
        host = conn.peername[0] if isinstance(conn.peername, tuple) else conn.peername
        key, now = (str(host), str(refusal)), time.monotonic()
        if now - self._refusals.get(key, -REPEATED) < REPEATED:
            return False
        self._refusals.pop(key, None)  # so that the order is that of the times
        self._refusals[key] = now
        while len(self._refusals) > MAX_REFUSALS:
            del self._refusals[next(iter(self._refusals))]
        return True

    async def _send(self, conn: Connection[Subscriber], tunnel: Tunnel, message: push.Answer) -> None:
        await self._write(conn, tunnel, push.frame(message))

    async def _write(self, conn: Connection[Subscriber], tunnel: Tunnel, data: bytes) -> None:
        await self._put(conn, tunnel.wrap(data))

    async def _put(self, conn: Connection[Subscriber], data: bytes) -> None:
        try:
            async with asyncio.timeout(SEND_LIMIT):
                await conn.write(data)
        except TimeoutError:
            log.event(logging.WARNING, "config-subscriber-slow", connection=conn.id, peer=conn.peername)
            conn.abort()
            raise ConnectionClosed("a subscriber that does not read") from None
