"""What servers say to the store in etcd: reports, schemas, and where configuration servers are."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Final

import msgspec

from hotfd.config.etcd_gateway import Refusal
from hotfd.config.etcd_messages import NOT_FOUND, delete, end_of, get, key_of, put, unchanged
from hotfd.config.release import check_name
from hotfd.config.store import EXPIRY, MAX_SCHEMA, REMEMBERED, Acknowledgement
from hotfd.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from hotfd.config.etcd_address import Address
    from hotfd.config.etcd_gateway import Gateway
    from hotfd.config.etcd_messages import Pair

LEASE: Final = 26 * 3600
"""Seconds of the lease of reports and schemas: a day, an hour for which it is used, and an hour for clocks that differ."""

LEASE_USE: Final = 3600.0
"""Seconds after which another lease is taken: one for each report would be as many writes again."""

MAX_BATCH: Final = 100
"""Reports of one transaction (etcd takes 128 operations)."""

MAX_BATCH_SIZE: Final = 512 << 10
"""Bytes of reports in one transaction (etcd takes 1.5 MiB); a single one has at most half a megabyte itself."""

MAX_ROUNDS: Final = 10
"""Times that reports are compared and put: each time one has failed, somebody else has reported the same."""

MAX_DECLARED: Final = 1024
"""Schemas that are remembered as declared; more than that are declared again."""

_encoder = msgspec.json.Encoder()
_report_decoder = msgspec.json.Decoder(Acknowledgement)
_modules_decoder = msgspec.json.Decoder(list[str])


class Servers:
    """What servers say.

    Args:
        gateway: the cluster.
        address: where it is, and what keys begin with.
    """

    def __init__(self, gateway: Gateway, address: Address) -> None:
        self._gateway = gateway
        self._prefix = address.prefix
        self._url = address.url
        self._lease: tuple[int, float] | None = None
        self._declared: set[tuple[str, str, int]] = set()

    async def acknowledge(self, reports: Sequence[Acknowledgement]) -> None:
        """Note what servers report; a newer report of the same server and module replaces an older one."""
        newest: dict[bytes, Acknowledgement] = {}
        now = time.time()
        for report in reports:
            if report.time > now:  # a clock that is ahead must not keep a dead server alive
                report = msgspec.structs.replace(report, time=now)
            key = key_of(self._prefix, "reports", check_name(report.module), report.server)
            if key not in newest or newest[key].time <= report.time:
                newest[key] = report
        for batch in _batches((key, report, _encoder.encode(report)) for key, report in newest.items()):
            await self._note(batch)

    async def acknowledgements(self, module: str) -> list[Acknowledgement]:
        """Return the last report of each server that has reported within a day; what cannot be read is left out."""
        found = await self._below("reports", check_name(module))
        reports = [report for pair in found if (report := _report(pair)) is not None]
        return [report for report in reports if report.time > time.time() - REMEMBERED]

    async def declare(self, module: str, schema_id: str, schema: bytes) -> None:
        """Keep the JSON Schema that a server checks a module's releases against."""
        if len(schema) > MAX_SCHEMA:
            raise StoreError(f"module {module!r}: a schema of {len(schema)} bytes; at most {MAX_SCHEMA} are possible")
        key = key_of(self._prefix, "schemas", check_name(module), schema_id)
        for attempt in (1, 2):
            lease = await self._kept()
            if (module, schema_id, lease) in self._declared:
                return
            try:
                await self._gateway.transact(success=[put(key, schema, lease)])
            except Refusal as refusal:
                if refusal.code != NOT_FOUND or attempt == 2:
                    raise
                self._lease = None
                continue
            if len(self._declared) >= MAX_DECLARED:
                self._declared.clear()
            self._declared.add((module, schema_id, lease))
            return

    async def schemas(self, module: str) -> dict[str, bytes]:
        """Return the JSON Schemas that were declared for a module within a day, by id."""
        below = key_of(self._prefix, "schemas", check_name(module), "")
        found = await self._below("schemas", module)
        return {pair.key[len(below) :].decode(errors="replace"): pair.value for pair in found}

    async def register(self, address: str, modules: Sequence[str], ttl: float) -> None:
        """Say that a configuration server serves these modules, and no others, for so many seconds."""
        names = [check_name(module) for module in modules]
        lease = await self._gateway.grant(max(1, math.ceil(ttl)))
        await self._gateway.transact(
            success=[put(key_of(self._prefix, "addresses", address), _encoder.encode(names), lease)]
        )

    async def unregister(self, address: str) -> None:
        """Take that back."""
        await self._gateway.transact(success=[delete(key_of(self._prefix, "addresses", address))])

    async def addresses(self, module: str) -> list[str]:
        """Return where configuration servers serve a module now, sorted."""
        check_name(module)
        below = key_of(self._prefix, "addresses", "")
        found, _ = await self._gateway.scan(below, end_of(below))
        return sorted(pair.key[len(below) :].decode(errors="replace") for pair in found if module in _modules(pair))

    async def _kept(self) -> int:
        """Return a lease for what is told of for a day."""
        now = time.monotonic()
        if self._lease is None or now >= self._lease[1]:
            self._lease = await self._gateway.grant(LEASE), now + LEASE_USE
        return self._lease[0]

    async def _note(self, batch: Sequence[tuple[bytes, Acknowledgement, bytes]]) -> None:
        """Put reports, but for those of which there is a later one."""
        for _ in range(MAX_ROUNDS):
            lease = await self._kept()
            compare, puts = [], []
            there = (await self._gateway.transact(success=[get(key) for key, _, _ in batch])).found()
            for (key, report, data), pairs in zip(batch, there, strict=True):
                earlier = _report(pairs[0]) if pairs else None
                # One of the future was made by a clock that was ahead, which must not keep newer reports out.
                if earlier is None or not report.time < earlier.time <= time.time() + EXPIRY:
                    compare.append(unchanged(key, pairs[0].mod_revision if pairs else 0))
                    puts.append(put(key, data, lease))
            if not puts:
                return
            try:
                if (await self._gateway.transact(compare, puts)).succeeded:
                    return
            except Refusal as refusal:
                if refusal.code != NOT_FOUND:
                    raise
                self._lease = None  # it has ended: this host may have slept
        raise StoreError(f"{self._url}: reports cannot be put, since somebody else puts others of the same servers")

    async def _below(self, kind: str, module: str) -> list[Pair]:
        below = key_of(self._prefix, kind, module, "")
        return (await self._gateway.scan(below, end_of(below)))[0]


def _modules(pair: Pair) -> list[str]:
    try:
        return _modules_decoder.decode(pair.value)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return []  # one registration that cannot be read hides no other


def _report(pair: Pair) -> Acknowledgement | None:
    try:
        return _report_decoder.decode(pair.value)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def _batches(
    reports: Iterable[tuple[bytes, Acknowledgement, bytes]],
) -> Iterator[list[tuple[bytes, Acknowledgement, bytes]]]:
    batch: list[tuple[bytes, Acknowledgement, bytes]] = []
    size = 0
    for item in reports:
        if batch and (len(batch) == MAX_BATCH or size + len(item[2]) > MAX_BATCH_SIZE):
            yield batch
            batch, size = [], 0
        batch.append(item)
        size += len(item[2])
    if batch:
        yield batch
