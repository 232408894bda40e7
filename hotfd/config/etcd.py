"""The store in an etcd cluster: ``etcd://HOST:PORT,.../PREFIX?ca=FILE&cert=FILE&key=FILE``.

Keys, below the prefix::

    heads/MODULE                      the head: the only key that decides what is in force
    events/MODULE/SEQUENCE            the history, without a hole
    releases/MODULE/VERSION/SHA256    sealed releases; what is at such a key never changes
    reports/MODULE/SERVER             what servers report; of a lease
    schemas/MODULE/ID                 schemas that servers declare; of a lease
    addresses/ADDRESS                 the modules that a configuration server serves; of a lease

A commit puts its releases first, each under its own digest, and then changes heads and history in one transaction,
which compares the heads. So a release is there before anything names it, two publishers cannot spoil each other's,
and one of any number of them always succeeds.

A transaction that gets no answer may have been carried out, and may still be: it is sent again as it is. It is carried
out once only, since it changes what it compares; and if the first one was, the history holds its events to the byte.
"""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final

import msgspec

from hotfd.config.etcd_address import parse
from hotfd.config.etcd_gateway import PAGE, REQUEST, Gateway
from hotfd.config.etcd_messages import delete, end_of, get, key_of, put, read, unchanged
from hotfd.config.etcd_servers import Servers
from hotfd.config.etcd_watch import Doorbell
from hotfd.config.forward import Forward
from hotfd.config.outage import Outage
from hotfd.config.release import (
    MAX_MODULES,
    MAX_VERSION,
    Event,
    Head,
    Sealed,
    check_name,
    decode_head,
    encode_head,
    unseal,
)
from hotfd.config.rollout import check_follows
from hotfd.config.store import INTERVAL, Acknowledgement
from hotfd.errors import ConfigError, Conflict, StoreError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Iterable, Sequence

    from hotfd.config.etcd_messages import Operation, Pair
    from hotfd.config.rollout import Step

MAX_LOOKS: Final = 100
"""Heads that are looked up one by one, in one transaction (etcd takes 128 operations); more than that: all of them."""

MAX_HISTORY: Final = 10_000
"""Events of one answer: they are held in memory."""

_encoder = msgspec.json.Encoder(order="sorted")
_event_decoder = msgspec.json.Decoder(Event)


class EtcdStore:
    """A store in an etcd cluster; it belongs to the event loop on which it is first used.

    Args:
        url: the cluster; see :func:`hotfd.config.etcd_address.parse`.

    Raises:
        ConfigError: the URL is none, or names files that cannot be used.

    Attributes:
        url: as it was given; there are no secrets in it.
    """

    def __init__(self, url: str) -> None:
        address = parse(url)
        self.url = url
        self._gateway = Gateway(address)
        self._prefix = address.prefix
        self._servers = Servers(self._gateway, address)
        self._bells: set[Doorbell] = set()
        self._closed = False

    async def heads(self, modules: Collection[str] | None = None) -> dict[str, Head]:
        """Return the heads of these modules, or of all."""
        return (await self._look(modules))[0]

    async def release(self, module: str, version: int, sha256: str | None = None) -> Sealed:
        """Return a release, checked against its digest."""
        check_name(module)
        what = f"{self.url}: version {version} of module {module!r}"
        if sha256 is None and 0 < version < MAX_VERSION:
            sha256 = await self._published_digest(module, version)
        if sha256 is None:
            raise StoreError(f"{what} was never published; see: hotfd config history {module}")
        key = self._release_key(module, version, sha256)
        found = (await self._gateway.range(key)).kvs
        if not found:
            raise StoreError(f"{what} with the digest {sha256[:12]}... is not there")
        sealed = read(what, partial(unseal, sha256=sha256), found[0].value)
        if (sealed.release.module, sealed.release.version) != (module, version):
            raise StoreError(f"{what} is another one: {sealed.release.module!r} {sealed.release.version}")
        return sealed

    async def commit(self, steps: Sequence[Step]) -> None:
        """Carry steps of different modules out, all or none.

        Raises:
            Conflict: a head is not as expected; nothing was changed.
            StoreError: etcd refused, or no member has answered. In the second case the steps may have been carried
                out, or may still be.
        """
        modules = [check_name(step.head.module) for step in steps]
        if len(set(modules)) < len(modules):
            raise ValueError("two steps of one module; a commit has one for each")
        if len(modules) > MAX_MODULES:
            raise ConfigError(f"{len(modules)} modules are to be published at once; at most {MAX_MODULES} can be")
        if not steps:
            return
        compare = []
        for step, pairs in zip(steps, await self._pairs(modules), strict=True):
            _check_follows(step, pairs)
            compare.append(unchanged(self._key("heads", step.head.module), pairs[0].mod_revision if pairs else 0))
        for step in steps:
            if step.release is not None:
                key = self._release_key(step.head.module, step.release.release.version, step.release.sha256)
                await self._gateway.transact([unchanged(key, 0)], [put(key, step.release.data)])
        events = [_encoder.encode(step.event) for step in steps]
        success: list[Operation] = []
        failure: list[Operation] = []
        for step, event in zip(steps, events, strict=True):
            head, line = self._key("heads", step.head.module), self._event_key(step.head.module, step.head.sequence)
            success += put(head, encode_head(step.head)), put(line, event)
            failure += get(head), get(line)
        answer = await self._gateway.transact(compare, success, failure)
        if not answer.succeeded:
            found = answer.found()
            if [pairs[0].value if pairs else None for pairs in found[1::2]] != events:
                await self._take_back(steps, found[::2])
                for step, pairs in zip(steps, found[::2], strict=True):
                    _check_follows(step, pairs)
                raise Conflict(f"{self.url}: the heads have changed meanwhile; look again, and decide anew")
        await self._tidy(steps)

    async def history(self, module: str, *, limit: int = 50, before: int | None = None) -> list[Event]:
        """Return the newest events, newest first; with ``before`` those with a smaller sequence."""
        limit = min(limit, MAX_HISTORY)
        head = (await self.heads([module])).get(module)
        end = min(before or MAX_VERSION, head.sequence + 1 if head is not None else 1)
        found: list[Event] = []
        while end > 1 and len(found) < limit:
            start = max(1, end - min(PAGE, limit - len(found)))
            found += reversed(await self._events(module, start, end))
            end = start
        return found

    async def watch(self, modules: Collection[str], interval: float = INTERVAL) -> AsyncIterator[dict[str, Head]]:
        """Yield the heads of these modules: at once, whenever one has changed, and about every ``interval`` seconds.

        A member that does not answer for an interval is left for another one. A head never has a smaller sequence
        than it was yielded with before.
        """
        for module in modules:
            check_name(module)
        forward, outage = Forward(self.url), Outage(self.url)
        bell = Doorbell(self._gateway, self._key("heads", ""), modules)
        self._bells.add(bell)
        shown: dict[str, Head] | None = None
        rang = True
        try:
            while not self._closed:
                bell.forget()
                try:
                    found, revision = await self._look(modules)
                except StoreError as error:
                    if self._closed:
                        return
                    outage.goes_on(error)
                    await bell.wait(_about(interval))
                    continue
                outage.is_over()
                heads = forward.take(found)
                if heads != shown and not rang:
                    await bell.hang_up()  # it is deaf: it should have told this
                shown = heads
                yield dict(heads)
                if self._closed:
                    return
                await bell.listen(revision)
                rang = await bell.wait(_about(interval))
        finally:
            self._bells.discard(bell)
            await bell.hang_up()

    async def acknowledge(self, reports: Sequence[Acknowledgement]) -> None:
        """Note what servers report; a newer report of the same server and module replaces an older one."""
        await self._servers.acknowledge(reports)

    async def acknowledgements(self, module: str) -> list[Acknowledgement]:
        """Return the last report of each server that has reported within a day; what cannot be read is left out."""
        return await self._servers.acknowledgements(module)

    async def declare(self, module: str, schema_id: str, schema: bytes) -> None:
        """Keep the JSON Schema that a server checks a module's releases against."""
        await self._servers.declare(module, schema_id, schema)

    async def schemas(self, module: str) -> dict[str, bytes]:
        """Return the JSON Schemas that were declared for a module within a day, by id."""
        return await self._servers.schemas(module)

    async def register(self, address: str, modules: Sequence[str], ttl: float) -> None:
        """Say that a configuration server serves these modules, and no others, at an address.

        Args:
            address: its address.
            modules: the modules, all of them.
            ttl: seconds; etcd rounds them up, to at least one and a half times its election timeout.
        """
        await self._servers.register(address, modules, ttl)

    async def unregister(self, address: str) -> None:
        """Take that back."""
        await self._servers.unregister(address)

    async def addresses(self, module: str) -> list[str]:
        """Return where configuration servers serve a module now, sorted."""
        return await self._servers.addresses(module)

    async def aclose(self) -> None:
        """Let go of everything; watches end. Idempotent."""
        self._closed = True
        for bell in list(self._bells):
            await bell.hang_up()
            bell.ring()
        await self._gateway.aclose()

    def _key(self, *parts: str) -> bytes:
        return key_of(self._prefix, *parts)

    def _release_key(self, module: str, version: int, sha256: str) -> bytes:
        return self._key("releases", module, f"{version:016d}", sha256)

    def _event_key(self, module: str, sequence: int) -> bytes:
        return self._key("events", module, f"{sequence:016d}")  # as many digits as MAX_VERSION has

    async def _pairs(self, modules: Iterable[str]) -> list[list[Pair]]:
        """Return by module its head's key, or an empty list; all of them at one time."""
        looks = [get(self._key("heads", check_name(module))) for module in modules]
        return (await self._gateway.transact(success=looks)).found()

    async def _look(self, modules: Collection[str] | None) -> tuple[dict[str, Head], int]:
        """Return the heads of these modules, or of all, and etcd's revision then."""
        if modules is not None and 0 < len(modules) <= MAX_LOOKS:
            looks = [get(self._key("heads", check_name(module))) for module in dict.fromkeys(modules)]
            answer = await self._gateway.transact(success=looks)
            pairs, revision = [pair for pairs in answer.found() for pair in pairs], answer.header.revision
        else:
            below = self._key("heads", "")
            pairs, revision = await self._gateway.scan(below, end_of(below))
        heads: dict[str, Head] = {}
        for pair in pairs:
            what = f"{self.url}: {pair.key.decode(errors='replace')}"
            head = read(what, decode_head, pair.value)
            if pair.key != self._key("heads", head.module):
                raise StoreError(f"{what} cannot be read: it is the head of module {head.module!r}")
            if modules is None or head.module in modules:
                heads[head.module] = head
        return heads, revision

    async def _events(self, module: str, start: int, end: int) -> list[Event]:
        """Return the first of the events from one sequence to before another, in their order."""
        found = await self._gateway.range(self._event_key(module, start), self._event_key(module, end), limit=PAGE)
        what = f"{self.url}: the history of module {module!r}"
        return [read(what, _event_decoder.decode, pair.value) for pair in found.kvs]

    async def _published_digest(self, module: str, version: int) -> str | None:
        """Look a version up in the history: at its key there may be what somebody failed to publish, too.

        No version is published by an event with a smaller sequence, since each has one of its own.
        """
        start = version
        while events := await self._events(module, start, MAX_VERSION):
            for event in events:
                if event.version == version:
                    return event.sha256
            start = events[-1].sequence + 1
        return None

    async def _take_back(self, steps: Sequence[Step], heads: Sequence[Sequence[Pair]]) -> None:
        """Delete the releases of a commit that came too late, where their versions are somebody else's now."""
        late: list[Operation] = []
        for step, pairs in zip(steps, heads, strict=True):
            if step.release is None or not pairs:
                continue
            head = read(f"{self.url}: a head", decode_head, pairs[0].value)
            version = step.release.release.version
            given = {track.sha256 for track in (head.stable, head.canary) if track and track.version == version}
            if given and step.release.sha256 not in given:
                late.append(delete(self._release_key(step.head.module, version, step.release.sha256)))
        await self._clear_away(late)

    async def _tidy(self, steps: Sequence[Step]) -> None:
        """Delete what others have put for the versions that are published now; nobody can publish that any more."""
        others: list[Operation] = []
        for step in steps:
            if step.release is not None:
                version = step.release.release.version
                own = self._release_key(step.head.module, version, step.release.sha256)
                first = self._release_key(step.head.module, version, "")
                others += delete(first, own), delete(own + b"\0", end_of(first))
        await self._clear_away(others)

    async def _clear_away(self, deletions: Sequence[Operation]) -> None:
        # Nothing depends on it, and who publishes shall not wait for it: what stays takes some room.
        if deletions:
            with suppress(StoreError, TimeoutError):
                async with asyncio.timeout(REQUEST):
                    await self._gateway.transact(success=deletions)


def _check_follows(step: Step, pairs: Sequence[Pair]) -> None:
    """Check that a module's head, at its key or not there, is the one that a step expects."""
    what = f"the head of module {step.head.module!r}"
    check_follows(read(what, decode_head, pairs[0].value) if pairs else None, step)


def _about(interval: float) -> float:
    """Return an interval that differs a little each time: watchers that began at once must not all look at once."""
    return interval * random.uniform(0.9, 1.1)  # noqa: S311 - no secret
