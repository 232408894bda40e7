"""The store in a directory: ``dir:PATH``. Files are the truth; see :mod:`hotfd.config.directory_files`.

Everything that touches the disk runs in threads of its own: a disk that hangs must not hold a server up, nor keep it
from its end.
"""

from __future__ import annotations

import asyncio
import logging
import os
from typing import TYPE_CHECKING, Final, TypeVar

from hotfd import log
from hotfd.config import rollout
from hotfd.config.directory_files import HEADS, LEDGER, LOCK_WAIT, StoreDirectory
from hotfd.config.directory_history import History
from hotfd.config.directory_ledger import Ledger
from hotfd.config.directory_watch import Bell
from hotfd.config.forward import Forward
from hotfd.config.outage import Outage
from hotfd.config.release import check_name
from hotfd.config.store import INTERVAL
from hotfd.config.threads import Crew
from hotfd.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection, Sequence

    from hotfd.config.release import Event, Head, Sealed
    from hotfd.config.rollout import Step
    from hotfd.config.store import Acknowledgement

THREADS: Final = 16
"""Calls at a time: more than a disk does at once. When it hangs there are so many threads, and not one for each try."""

T = TypeVar("T")


class DirectoryStore:
    """A store in a directory.

    It holds nothing open between two calls, so that the directory may be moved, mounted and restored meanwhile.

    Args:
        path: the directory.
        create: make it when it is missing at the first use.
        lock_wait: seconds that a commit waits for another one.
    """

    def __init__(self, path: str, *, create: bool = False, lock_wait: float = LOCK_WAIT) -> None:
        self._path = os.path.abspath(path)
        self._create = create
        self._lock_wait = lock_wait
        self._crew = Crew(THREADS)
        self._bells: set[Bell] = set()
        self._said = False
        self.url = f"dir:{self._path}"

    # -- releases ------------------------------------------------------------------------------------

    async def heads(self, modules: Collection[str] | None = None) -> dict[str, Head]:
        """Return the heads of these modules, or of all."""
        return await self._crew.run(self.read_heads, _checked(modules))

    async def release(self, module: str, version: int, sha256: str | None = None) -> Sealed:
        """Return a release, checked against its digest; without one, against that in the heads or the history."""
        return await self._crew.run(self._release, check_name(module), version, sha256)

    async def commit(self, steps: Sequence[Step]) -> None:
        """Carry steps of different modules out, all or none."""
        await self._crew.run(self.write, list(steps))

    async def history(self, module: str, *, limit: int = 50, before: int | None = None) -> list[Event]:
        """Return the newest events, newest first; with ``before`` those with a smaller sequence."""
        return await self._crew.run(self._history, check_name(module), limit, before)

    async def watch(self, modules: Collection[str], interval: float = INTERVAL) -> AsyncIterator[dict[str, Head]]:
        """Yield the heads of these modules: at once, at each change, and every ``interval`` seconds."""
        wanted = _checked(modules)
        forward, outage = Forward(self.url), Outage(self.url)
        loop = asyncio.get_running_loop()
        shown: dict[str, Head] | None = None
        due = 0.0
        bell = Bell(self._path, HEADS)
        self._bells.add(bell)
        try:
            while not bell.closed:
                try:
                    found = await self._crew.run(self._look, bell, wanted)
                except StoreError as error:
                    outage.goes_on(error)
                else:
                    outage.is_over()
                    heads = forward.take(found)
                    if heads != shown or loop.time() >= due:
                        shown, due = heads, loop.time() + interval
                        yield dict(heads)
                left = due - loop.time()
                await bell.wait(left if left > 0 else interval)
        finally:
            self._bells.discard(bell)
            bell.close()

    # -- what servers say ----------------------------------------------------------------------------

    async def acknowledge(self, reports: Sequence[Acknowledgement]) -> None:
        """Note what servers report. Where this user may not write the store nothing is kept; this is logged once."""
        for report in reports:
            check_name(report.module)
        if not await self._crew.run(self._note, list(reports)):
            self._say_read_only()

    async def acknowledgements(self, module: str) -> list[Acknowledgement]:
        """Return the last report of each server that has reported within a day."""
        return await self._crew.run(self._read, Ledger.reports, check_name(module))

    async def declare(self, module: str, schema_id: str, schema: bytes) -> None:
        """Keep a schema, where this user may write the store."""
        if not await self._crew.run(self._declare, check_name(module), schema_id, schema):
            self._say_read_only()

    async def schemas(self, module: str) -> dict[str, bytes]:
        """Return the schemas that were declared within a day, by id."""
        return await self._crew.run(self._read, Ledger.schemas, check_name(module))

    async def register(self, address: str, modules: Sequence[str], ttl: float) -> None:
        """Say that a configuration server serves these modules, and no others, at an address."""
        names = [check_name(module) for module in modules]
        await self._crew.run(self._register, address, names, ttl)

    async def unregister(self, address: str) -> None:
        """Take that back."""
        await self._crew.run(self._register, address, [], 0.0)

    async def addresses(self, module: str) -> list[str]:
        """Return where configuration servers serve a module now, sorted."""
        return await self._crew.run(self._read, Ledger.addresses, check_name(module))

    async def aclose(self) -> None:
        """End what watches. Idempotent."""
        for bell in list(self._bells):
            bell.close()

    # -- the same, blocking --------------------------------------------------------------------------

    def read_heads(self, modules: Collection[str] | None = None) -> dict[str, Head]:
        """Return heads, as :meth:`heads`; blocking."""
        with self._open() as directory:
            return _only(directory.heads(), modules)

    def write(self, steps: Sequence[Step]) -> None:
        """Carry steps out, as :meth:`commit`; blocking."""
        by_module = {step.head.module: step for step in steps}
        if len(by_module) < len(steps):
            raise ValueError("two steps of one commit change the same module")
        if not steps:
            return
        with self._open() as directory:
            directory.check_store()
            with directory.locked(self._lock_wait):
                self._carry_out(directory, steps)

    def _carry_out(self, directory: StoreDirectory, steps: Sequence[Step]) -> None:
        heads = directory.heads()
        for step in steps:
            rollout.check_follows(heads.get(step.head.module), step)
        for step in steps:
            if step.release is not None:
                directory.write_release(step.release)
        History(directory, self._ledger()).record(heads, [step.event for step in steps])
        directory.write_heads({**heads, **{step.head.module: step.head for step in steps}})

    def _open(self) -> StoreDirectory:
        directory = StoreDirectory.open(self._path, create=self._create)
        self._create = False  # one that disappears afterwards is missing, and not an empty one
        return directory

    def _ledger(self) -> Ledger:
        return Ledger(os.path.join(self._path, LEDGER))

    def _look(self, bell: Bell, modules: Collection[str] | None) -> dict[str, Head]:
        with self._open() as directory:
            bell.arm(directory.descriptor)  # before the look, so that nothing is missed between the two
            return _only(directory.heads(), modules)

    def _release(self, module: str, version: int, sha256: str | None) -> Sealed:
        with self._open() as directory:
            head = directory.heads().get(module)
            if head is None or not 1 <= version <= head.last:
                raise StoreError(f"module {module!r}: {self._path} has no release {version}")
            if sha256 is None:
                sha256 = self._digest(directory, head, version)
            return directory.release(module, version, sha256)

    def _digest(self, directory: StoreDirectory, head: Head, version: int) -> str | None:
        for track in (head.stable, head.canary):
            if track is not None and track.version == version:
                return track.sha256
        return History(directory, self._ledger()).digest(head, version)

    def _history(self, module: str, limit: int, before: int | None) -> list[Event]:
        with self._open() as directory:
            head = directory.heads().get(module)
            if head is None or limit < 1:
                return []
            below = head.sequence + 1 if before is None else min(before, head.sequence + 1)
            return History(directory, self._ledger()).events(head, below, limit)

    def _read(self, function: Callable[[Ledger, str], T], module: str) -> T:
        with self._open() as directory:
            directory.check_store()
        return function(self._ledger(), module)

    def _note(self, reports: Sequence[Acknowledgement]) -> bool:
        with self._open() as directory:
            writable = directory.prepare_ledger()
        if writable and reports:
            self._ledger().note(reports)
        return writable

    def _declare(self, module: str, schema_id: str, schema: bytes) -> bool:
        with self._open() as directory:
            writable = directory.prepare_ledger()
        if writable:
            self._ledger().declare(module, schema_id, schema)
        return writable

    def _register(self, address: str, modules: Sequence[str], ttl: float) -> None:
        with self._open() as directory:
            if not directory.prepare_ledger():
                raise StoreError(f"{self._path}/{LEDGER} cannot be written by this user; see its owner, group and mode")
        self._ledger().register(address, modules, ttl)

    def _say_read_only(self) -> None:
        if not self._said:
            self._said = True
            log.event(logging.WARNING, "config-store-read-only", store=self.url, lost="acknowledgements, schemas")


def _checked(modules: Collection[str] | None) -> set[str] | None:
    return None if modules is None else {check_name(module) for module in modules}


def _only(heads: dict[str, Head], modules: Collection[str] | None) -> dict[str, Head]:
    return heads if modules is None else {name: heads[name] for name in sorted(modules) if name in heads}
