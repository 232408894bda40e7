"""A store as a source: for servers that read the store themselves, and for configuration servers.

Whoever brings reports into the store also ends canaries: a report that a canary was refused takes it back, with no
person in between.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from hotfd.config import rollout
from hotfd.config.store import INTERVAL
from hotfd.errors import ConfigError, Conflict, StoreError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Mapping, Sequence

    from hotfd.config.release import Head, Sealed
    from hotfd.config.store import Acknowledgement, Store

_FAILED: Final = ("refused", "quarantined")

_TRIES: Final = 100
"""Conflicts in a row before a halt is given up: each means that somebody else has changed the module in between."""


class StoreSource:
    """A store that a server reads itself.

    Args:
        store: the store; the source closes it.
        interval: seconds between two looks at it.
    """

    def __init__(self, store: Store, interval: float = INTERVAL) -> None:
        self._store = store
        self._interval = interval
        self.url = store.url

    def heads(self, modules: Collection[str]) -> AsyncIterator[dict[str, Head]]:
        """Yield what is in force: at first, at every change, and about every interval."""
        return self._store.watch(modules, self._interval)

    @property
    def silent(self) -> Collection[str]:
        """None: a store speaks of all modules, or of none."""
        return ()

    async def release(self, module: str, version: int, sha256: str) -> Sealed:
        """Return a release, checked against its digest."""
        return await self._store.release(module, version, sha256)

    async def report(self, reports: Sequence[Acknowledgement]) -> None:
        """Tell what this server has made of the newest releases; ends a canary that it has refused."""
        await note(self._store, reports)

    async def declare(self, schemas: Mapping[str, tuple[str, bytes]]) -> None:
        """Tell by module the id and the JSON Schema that this server checks releases against."""
        for module, (schema_id, schema) in schemas.items():
            await self._store.declare(module, schema_id, schema)

    @property
    def contact(self) -> str:
        """The store's URL."""
        return self.url

    async def aclose(self) -> None:
        """Close the store. Idempotent."""
        await self._store.aclose()


async def note(store: Store, reports: Sequence[Acknowledgement]) -> None:
    """Keep reports in a store, and take a canary back that one of them refuses.

    Args:
        store: the store.
        reports: of any servers and modules.

    Raises:
        StoreError: they could not be kept, or the canary not be taken back.
    """
    failure: ConfigError | None = None
    try:
        await store.acknowledge(reports)
    except ConfigError as error:
        failure = error  # for those who read reports: that servers refuse a canary must reach the other servers anyway
    for report in reports:
        if report.state in _FAILED:
            await _halt(store, report)
    if failure is not None:
        raise failure


async def _halt(store: Store, report: Acknowledgement) -> None:
    why = f"{report.state}: {report.faults[0]}" if report.faults else report.state
    for _ in range(_TRIES):
        head = (await store.heads([report.module])).get(report.module)
        step = None if head is None else rollout.halt(head, report.version, by=report.server, reason=why)
        if step is None:
            return  # it is no canary any more, or never was one
        try:
            await store.commit([step])
        except Conflict:
            continue
        return
    raise StoreError(
        f"module {report.module!r}: the canary {report.version} could not be halted: it changes all the time"
    )
