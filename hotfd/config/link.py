"""One connection to a configuration server, from the subscriber's side."""

from __future__ import annotations

import asyncio
import socket
import ssl
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from hotfd.config import push
from hotfd.config.tls import split_address
from hotfd.errors import ConfigError, PushRefused

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from hotfd.config.threads import Crew

CONNECT_LIMIT: Final = 1.0
"""Seconds for one attempt to connect: the kernel sends its second SYN after one. A fresh attempt comes sooner."""

LEAST_CONNECT_LIMIT: Final = 0.25
"""Seconds for the same with a very short interval: machines that are busy take so long."""

GREETING_LIMIT: Final = 5.0
"""Seconds for TLS and for the server's welcome: far more than any takes, and short enough to try another one."""

LEAST_SILENCE: Final = 1.0
"""Seconds of silence that end no connection, however short the interval."""

BODY_LIMIT: Final = 10.0
"""Seconds of silence while a release is on its way: it comes as one message."""

FLUSH_LIMIT: Final = 1.0
"""Seconds for the last words of a subscriber that ends: a server that reads takes them at once."""

MAX_UNSENT: Final = 1 << 20
"""Bytes that a server leaves unread, above which the connection ends."""

LOOKUPS: Final = 10
"""Intervals between two questions who serves the modules. They are also how a server knows that we live."""

LOOK_UPS: Final = 4
"""Host names of one subscriber that are looked up at a time. Where a name server is away each takes some ten seconds."""

READ_SIZE: Final = 1 << 16
"""Bytes asked for per read."""


class Key(NamedTuple):
    """What a release is asked for by."""

    module: str
    version: int
    sha256: str


class Link:
    """A connection to a configuration server.

    Args:
        address: of the server.
        tls: the context; None for none.
        interval: the subscriber's, in seconds; it bounds the attempt to connect. What counts for silence is the
            server's.
        names: looks host names up, which may take long where a name server is away.
    """

    def __init__(self, address: str, tls: ssl.SSLContext | None, interval: float, names: Crew) -> None:
        self.address = address
        self._tls = tls
        self._interval = interval
        self._names = names
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._splitter = push.Splitter(push.MAX_ANSWER)
        self._wanted: dict[Key, list[asyncio.Future[bytes]]] = {}
        self._lookup: push.Lookup | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._welcome: push.Welcome | None = None

    async def open(self, subscription: push.Subscribe, attempt: int) -> None:
        """Connect, and subscribe.

        Args:
            subscription: what is said first.
            attempt: how many have failed before: each tries the next of a host's addresses.

        Raises:
            OSError, TimeoutError: there is no connection, or TLS has failed.
        """
        limit = max(LEAST_CONNECT_LIMIT, min(CONNECT_LIMIT, self._interval / 4))
        try:
            async with asyncio.timeout(limit):
                sock = await _connected(self.address, attempt, self._names)
        except TimeoutError:
            raise TimeoutError(f"no connection within {limit:g} s") from None
        try:
            await self._open_on(sock)
        except BaseException:
            sock.close()
            raise
        self._lookup = push.Lookup(subscription.modules)
        self.send(subscription)

    async def _open_on(self, sock: socket.socket) -> None:
        options: dict[str, Any] = {}
        if self._tls is not None:
            options["ssl"] = self._tls
            options["server_hostname"] = split_address(self.address)[0].partition("%")[0]
            options["ssl_handshake_timeout"] = GREETING_LIMIT
        self._reader, self._writer = await asyncio.open_connection(sock=sock, **options)

    def send(self, message: push.Request) -> None:
        """Send a message; a server that does not read is given up."""
        if self._writer is None or self._writer.is_closing():
            return
        self._writer.write(push.frame(message))
        if self._writer.transport.get_write_buffer_size() > MAX_UNSENT:
            self._writer.transport.abort()

    async def answers(self) -> AsyncIterator[push.Answer]:
        """Yield what the server says, until it ends the connection.

        Raises:
            OSError: the connection is lost.
            TimeoutError: the server is silent.
            PushRefused: it says what is no message.
        """
        assert self._reader is not None
        loop = asyncio.get_running_loop()
        heard = loop.time()
        while True:
            limit = self._patience()
            try:
                async with asyncio.timeout_at(heard + limit):
                    data = await self._reader.read(READ_SIZE)
            except TimeoutError:
                raise TimeoutError(f"silent for {limit:g} s") from None
            if not data:
                return
            for payload in self._splitter.feed(data):
                heard = loop.time()
                yield push.read_answer(payload)

    def _patience(self) -> float:
        """Return the seconds of silence after which the server counts as lost."""
        if self._welcome is None:
            return GREETING_LIMIT
        silence = max(LEAST_SILENCE, 2 * self._welcome.interval)
        return max(silence, BODY_LIMIT) if self._wanted else silence

    def taken_on(self, welcome: push.Welcome) -> None:
        """Note the server's welcome, and begin to ask who serves the modules."""
        if self._welcome is not None:
            raise PushRefused("malformed", "the server has welcomed twice")
        self._welcome = welcome
        self._ask_later()

    def _ask_later(self) -> None:
        assert self._welcome is not None
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(LOOKUPS * self._welcome.interval, self._ask)

    def _ask(self) -> None:
        assert self._lookup is not None
        self.send(self._lookup)
        self._ask_later()

    async def want(self, key: Key) -> bytes:
        """Ask for a release, and return it as it came.

        Raises:
            ConfigError: the server does not have it, or the connection has ended.
        """
        waiting = self._wanted.setdefault(key, [])
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        waiting.append(future)
        if len(waiting) == 1:
            self.send(push.Want(*key))
        try:
            return await future
        finally:
            waiting.remove(future)
            if not waiting and self._wanted.get(key) is waiting:
                del self._wanted[key]

    def delivered(self, answer: push.Answer) -> None:
        """Take the answer to :meth:`want`; one that nobody waits for any more is dropped."""
        assert isinstance(answer, push.Body | push.Unavailable)
        for future in self._wanted.pop(Key(answer.module, answer.version, answer.sha256), []):
            if future.done():
                continue
            if isinstance(answer, push.Body):
                future.set_result(answer.data)
            else:
                future.set_exception(ConfigError(answer.text))

    async def flushed(self) -> None:
        """Wait until everything that was said is in the kernel; not for long, and never with an error."""
        if self._writer is None:
            return
        with suppress(TimeoutError, OSError):
            async with asyncio.timeout(FLUSH_LIMIT):
                self._writer.transport.set_write_buffer_limits(0)  # so that drain waits for the last byte
                await self._writer.drain()
                await asyncio.sleep(0)  # uvloop gives to the kernel what was written when a turn of the loop ends

    def close(self) -> None:
        """End the connection at once; who waits for a release learns that."""
        if self._timer is not None:
            self._timer.cancel()
        wanted, self._wanted = self._wanted, {}
        for futures in wanted.values():
            for future in futures:
                if not future.done():
                    future.set_exception(ConfigError("the connection has ended"))
        if self._writer is not None:
            self._writer.transport.abort()


async def _connected(address: str, attempt: int, names: Crew) -> socket.socket:
    """Return a connected socket, which the caller owns."""
    loop = asyncio.get_running_loop()
    where: Any
    if address.startswith("unix:"):
        family, where = int(socket.AF_UNIX), address.removeprefix("unix:")
    else:
        host, port = split_address(address)
        found = await _looked_up(host, port, names)
        family, _, _, _, where = found[attempt % len(found)]
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        await loop.sock_connect(sock, where)
    except BaseException:
        sock.close()
        raise
    return sock


async def _looked_up(host: str, port: int, names: Crew) -> list[tuple[Any, ...]]:
    """Return the addresses of a host: of a number at once, of a name as soon as that is looked up."""
    try:
        numeric = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV  # so that nobody is asked, getaddrinfo(3)
        return [*socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=numeric)]
    except socket.gaierror:
        # Not in the loop's executor, which is the program's: look-ups that hang would keep all of its threads.
        return [*await names.run(_name, host, port)]


def _name(host: str, port: int) -> list[tuple[Any, ...]]:
    return [*socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
