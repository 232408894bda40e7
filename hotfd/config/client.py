"""A source that is fed by configuration servers: ``hotfd://HOST:PORT,...``.

It holds connections to two servers at once when there are two. :mod:`hotfd.config.servers` decides to which, and
:mod:`hotfd.config.link` is one of them; here they are kept, and asked.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qsl

from hotfd import log
from hotfd.config import push
from hotfd.config.link import LOOK_UPS, Key, Link
from hotfd.config.release import check_name, unseal
from hotfd.config.servers import Servers
from hotfd.config.store import INTERVAL
from hotfd.config.threads import Crew, aside
from hotfd.config.tls import client_context, is_local, trouble_of
from hotfd.errors import ConfigError, PushRefused

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Mapping, Sequence

    from hotfd.config.release import Head, Sealed
    from hotfd.config.source import Identity
    from hotfd.config.store import Acknowledgement

SCHEME: Final = "hotfd://"

RELEASE_LIMIT: Final = 10.0
"""Seconds that one server has for a release: the largest, over a line of one megabit a second."""

REPORTS_AT_ONCE: Final = 8
"""Reports in one message: the largest of them fit one request."""

PACE: Final = 20
"""Messages with reports in an interval, at most; what comes sooner is sent together."""

OPTIONS: Final = ("ca", "cert", "key")


@dataclass(frozen=True, slots=True)
class _Place:
    """What a URL of configuration servers says."""

    seeds: tuple[str, ...]
    tls: ssl.SSLContext | None


def _parse(url: str) -> _Place:
    """Read ``hotfd://HOST:PORT,...[?ca=FILE&cert=FILE&key=FILE]``.

    Raises:
        ConfigError: it is none, a file cannot be read, or other machines would be reached without TLS.
    """
    rest, _, query = url.removeprefix(SCHEME).partition("?")
    seeds = tuple(dict.fromkeys(filter(None, rest.rstrip("/").split(","))))
    if not url.startswith(SCHEME) or not seeds:
        raise ConfigError(f"{url!r} names no configuration servers; give hotfd://HOST:PORT,HOST:PORT")
    if len(seeds) > push.MAX_ADDRESSES:
        raise ConfigError(
            f"{len(seeds)} configuration servers; give at most {push.MAX_ADDRESSES}, they know the others"
        )
    options = dict(parse_qsl(query, keep_blank_values=True))
    if unknown := sorted(options.keys() - set(OPTIONS)):
        raise ConfigError(f"{url!r}: there is no option {unknown[0]!r}; there are {', '.join(OPTIONS)}")
    if "key" in options and "cert" not in options:
        raise ConfigError(f"{url!r}: a private key needs its certificate; give cert=FILE too")
    try:
        exposed = [seed for seed in seeds if not is_local(seed)]
    except ValueError as error:
        raise ConfigError(f"{url!r}: {error}") from None
    if not options:
        if exposed:
            raise ConfigError(
                f"{exposed[0]} is on another machine, and is reached with TLS only; give the authority that its "
                "certificate comes from, and this side's certificate: ?ca=FILE&cert=FILE&key=FILE"
            )
        return _Place(seeds, None)
    if any(seed.startswith("unix:") for seed in seeds):
        raise ConfigError(f"{url!r}: no certificate is for a Unix socket; leave the options out, or use HOST:PORT")
    return _Place(seeds, client_context(options.get("ca"), options.get("cert"), options.get("key")))


class ServersSource:
    """A source that is fed by configuration servers; see :class:`hotfd.config.source.Source`.

    Args:
        url: ``hotfd://HOST:PORT,...[?ca=FILE&cert=FILE&key=FILE]``. The addresses are where it begins; it learns of
            the other servers from them. With an option there is TLS, without one there is none.
        identity: who follows.
        interval: seconds; within one of them it is current again after a partition.

    Raises:
        ConfigError: the URL is none, a file cannot be read, or other machines would be reached without TLS.
    """

    def __init__(self, url: str, identity: Identity, interval: float = INTERVAL) -> None:
        self.url = url
        self._place = _parse(url)
        self._identity = identity
        self._interval = interval
        self._servers: Servers | None = None
        self._links: dict[str, Link] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._keeper: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self._beat = asyncio.Event()
        self._reports: dict[str, Acknowledgement] = {}
        self._schemas: dict[str, tuple[str, bytes]] = {}
        self._untold: dict[tuple[str, str], None] = {}  # ("report" or "schema", module), in order
        self._told: dict[tuple[str, str], str] = {}  # the same: to which address it went
        self._pause: asyncio.TimerHandle | None = None
        self._troubles: dict[str, str] = {}
        self._patience: asyncio.TimerHandle | None = None
        self._closed = False
        self._names = Crew(LOOK_UPS)

    # -- the source --------------------------------------------------------------------------------------

    async def heads(self, modules: Collection[str]) -> AsyncIterator[dict[str, Head]]:
        """Yield what is in force: at first, at every change, and at every sign of life of a server.

        In the first interval only when servers have spoken of all modules, so that what was published together is told
        together; after that the modules whose servers are away do not hold the others up.
        """
        await self._follow(modules)
        while True:
            await self._beat.wait()
            self._beat.clear()
            if self._closed:
                raise ConfigError("the source is closed")
            if self._keeper is not None and self._keeper.done():
                self._keeper.result()  # it never ends by itself: this raises what ended it
            assert self._servers is not None
            if not self.silent or (self._patience is None and len(self.silent) < len(self._servers.modules)):
                yield self._servers.heads

    @property
    def silent(self) -> Collection[str]:
        """The modules of which no server has spoken: theirs are away, or cannot read what is in force."""
        return self._servers.silent if self._servers is not None else ()

    async def release(self, module: str, version: int, sha256: str) -> Sealed:
        """Return a release: from the server that has announced it, or else from the others."""
        trouble = "no configuration server can be reached"
        for address in self._servers.serving(module) if self._servers is not None else []:
            link = self._links.get(address)
            if link is None:
                continue
            try:
                async with asyncio.timeout(RELEASE_LIMIT):
                    data = await link.want(Key(module, version, sha256))
                sealed = await aside(unseal, data, sha256)
            except TimeoutError:
                trouble = f"{address} did not send it within {RELEASE_LIMIT:g} s"
                continue
            except ConfigError as error:
                trouble = f"{address}: {error}"
                continue
            if (sealed.release.module, sealed.release.version) == (module, version):
                return sealed
            trouble = f"{address} has sent another one"
        raise ConfigError(f"version {version} of module {module!r} cannot be had: {trouble}")

    async def report(self, reports: Sequence[Acknowledgement]) -> None:
        """Tell one server what became of releases. What it was told is told again to another when it goes."""
        for report in reports:
            self._reports[report.module] = push.bounded(report)
            self._untold[("report", report.module)] = None
        self._tell_soon()

    async def declare(self, schemas: Mapping[str, tuple[str, bytes]]) -> None:
        """Tell one server the schemas; one that is larger than ``push.MAX_SCHEMA`` is kept back, and logged."""
        for module, (schema_id, schema) in schemas.items():
            if len(schema) > push.MAX_SCHEMA:
                log.event(logging.WARNING, "config-schema-too-large", module=module, bytes=len(schema))
                continue
            self._schemas[module] = schema_id, schema
            self._untold[("schema", module)] = None
        self._tell_soon()

    @property
    def contact(self) -> str:
        """The servers that are held now."""
        return ", ".join(self._servers.welcoming) if self._servers is not None else ""

    async def aclose(self) -> None:
        """End all connections. Idempotent."""
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
            self._tell()
        for link in list(self._links.values()):
            await link.flushed()  # the last words of a server that ends
        self._closed = True
        await self._let_go()
        self._beat.set()

    # -- connections -------------------------------------------------------------------------------------

    async def _follow(self, modules: Collection[str]) -> None:
        """Begin with these modules; what was begun with others is ended."""
        wanted = sorted({check_name(module) for module in modules})
        if self._closed:
            raise ConfigError("the source is closed")
        await self._let_go()
        self._servers = Servers(self._place.seeds, wanted, self._interval, local=self._place.tls is None)
        self._beat.clear()
        self._patience = asyncio.get_running_loop().call_later(self._interval, self._impatient)
        self._keeper = asyncio.create_task(self._keep(self._servers), name="config-servers")
        self._keeper.add_done_callback(lambda _: self._beat.set())

    def _impatient(self) -> None:
        self._patience = None
        self._beat.set()

    async def _let_go(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.cancel()
            with suppress(asyncio.CancelledError):
                await asyncio.wait([keeper])

    async def _keep(self, servers: Servers) -> None:
        """Hold the connections that are wanted, until this is cancelled."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                self._changed.clear()
                for address in servers.wanted(loop.time()):
                    task = asyncio.create_task(self._hold(servers, address), name=f"config-server-{address}")
                    self._tasks[address] = task
                with suppress(TimeoutError):
                    async with asyncio.timeout_at(servers.next_try(loop.time())):
                        await self._changed.wait()
        finally:
            tasks = list(self._tasks.values())
            for task in tasks:
                task.cancel()
            if tasks:
                await asyncio.wait(tasks)

    async def _hold(self, servers: Servers, address: str) -> None:
        """Connect to a server, and listen to it until the connection ends."""
        link = Link(address, self._place.tls, self._interval, self._names)
        code, trouble = "", "closed by the server"
        try:
            await link.open(self._subscription(servers), servers.failures(address))
            self._links[address] = link
            async for answer in link.answers():
                if not self._answered(servers, link, answer):
                    trouble = ""
                    break
        except PushRefused as refusal:
            code, trouble = refusal.code, str(refusal)
        except TimeoutError as error:
            trouble = str(error) or "no answer in time"
        except ssl.SSLError as error:
            code, trouble = trouble_of(error)
        except (OSError, ConfigError, EOFError) as error:
            trouble = str(error) or type(error).__name__
        finally:
            link.close()
            self._links.pop(address, None)
            self._tasks.pop(address, None)
            lost = address in servers.welcoming
            servers.ended(address, asyncio.get_running_loop().time(), code)
            self._take_back(address)
            self._changed.set()
        self._note_trouble(address, trouble, lost=lost)

    def _subscription(self, servers: Servers) -> push.Subscribe:
        who = self._identity
        return push.Subscribe(
            push.PROTOCOL, who.server, who.service, who.zone, who.host, who.pid, who.generation,
            servers.modules, servers.have,
        )  # fmt: skip

    def _answered(self, servers: Servers, link: Link, answer: push.Answer) -> bool:
        """Take what a server has said; False ends the connection."""
        match answer:
            case push.Addresses():
                for unsafe in servers.learn(answer.addresses):
                    self._note_trouble(
                        unsafe, "on another machine, and there is no TLS: give ?ca=FILE&cert=FILE&key=FILE"
                    )
                self._changed.set()
            case push.Welcome():
                link.taken_on(answer)
                useful = servers.welcomed(link.address, answer.server, answer.modules)
                self._changed.set()
                if not useful:
                    return False
                if self._troubles.pop(link.address, None) is not None:
                    log.event(logging.INFO, "config-server-back", address=link.address)
                self._tell_soon()
            case push.Digest():
                servers.digest(link.address, answer.heads, answer.silent)
                self._beat.set()
            case push.Refused():
                raise PushRefused(answer.code, answer.text)
            case _:
                link.delivered(answer)
        return True

    def _note_trouble(self, address: str, trouble: str, *, lost: bool = False) -> None:
        """Log why a server is not held: once, until it is held again or the reason is another."""
        if trouble and self._troubles.get(address) != trouble:
            self._troubles[address] = trouble
            while len(self._troubles) > push.MAX_ADDRESSES:
                del self._troubles[next(iter(self._troubles))]
            event = "config-server-lost" if lost else "config-server-unusable"
            log.event(logging.WARNING, event, address=address, reason=trouble)

    # -- what servers are told ---------------------------------------------------------------------------

    def _tell_soon(self) -> None:
        """Send what was not told yet, unless something was sent a moment ago: then in a moment."""
        if self._pause is None and self._untold and not self._closed:
            self._tell()
            self._pause = asyncio.get_running_loop().call_later(self._interval / PACE, self._paused)

    def _paused(self) -> None:
        self._pause = None
        self._tell_soon()

    def _tell(self) -> None:
        """Send what was not told yet, each to the first server that serves its module; the rest waits for one."""
        reports: dict[Link, list[Acknowledgement]] = {}
        for kind, module in list(self._untold):
            address = next(iter(self._welcoming(module)), None)
            if address is None:
                continue
            del self._untold[(kind, module)]
            self._told[(kind, module)] = address
            if kind == "report":
                reports.setdefault(self._links[address], []).append(self._reports[module])
            else:
                schema_id, schema = self._schemas[module]
                self._links[address].send(push.Declare(module, schema_id, schema))
        for link, found in reports.items():
            for at in range(0, len(found), REPORTS_AT_ONCE):
                link.send(push.Report(tuple(found[at : at + REPORTS_AT_ONCE])))

    def _welcoming(self, module: str) -> list[str]:
        return [address for address in self._servers.serving(module) if address in self._links] if self._servers else []

    def _take_back(self, address: str) -> None:
        """What a server was told that has gone may be lost with it: another one is told again."""
        for what in [what for what, told in self._told.items() if told == address]:
            del self._told[what]
            self._untold[what] = None
        if self._servers is not None and self._servers.welcoming:
            self._tell_soon()
