"""The store in a directory: ``dir:PATH``. Files are the truth; see :mod:`hotfd.config.directory_files`.

Everything that touches the disk runs in threads: a disk that hangs must not hold a server up.
"""

from __future__ import annotations

import asyncio
import logging
import os
from typing import TYPE_CHECKING, Final, TypeVar

from hotfd import log
from hotfd.config import rollout
from hotfd.config.directory_files import HEADS, LEDGER, LOCK_WAIT, StoreDirectory
from hotfd.config.directory_ledger import Ledger
from hotfd.config.directory_watch import Bell
from hotfd.config.forward import Forward
from hotfd.config.release import Track, check_name
from hotfd.config.store import INTERVAL
from hotfd.errors import Conflict, StoreError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence

    from hotfd.config.release import Event, Head, Sealed
    from hotfd.config.rollout import Step
    from hotfd.config.store import Acknowledgement

T = TypeVar("T")

_OF_A_RELEASE: Final = ("published", "canary", "rolled-back")
"""Changes whose event tells of their release; the others end what an earlier event has told of."""


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
        self._bells: set[Bell] = set()
        self._said = False
        self.url = f"dir:{self._path}"

    # -- releases ------------------------------------------------------------------------------------

    async def heads(self, modules: Collection[str] | None = None) -> dict[str, Head]:
        """Return the heads of these modules, or of all."""
        return await asyncio.to_thread(self.read_heads, _checked(modules))

    async def release(self, module: str, version: int, sha256: str | None = None) -> Sealed:
        """Return a release, checked against its digest; without one, against that in the heads or the history."""
        return await asyncio.to_thread(self._release, check_name(module), version, sha256)

    async def commit(self, steps: Sequence[Step]) -> None:
        """Carry steps of different modules out, all or none."""
        await asyncio.to_thread(self.write, list(steps))

    async def history(self, module: str, *, limit: int = 50, before: int | None = None) -> list[Event]:
        """Return the newest events, newest first; with ``before`` those with a smaller sequence."""
        return await asyncio.to_thread(self._history, check_name(module), limit, before)

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
                    found = await asyncio.to_thread(self._look, bell, wanted)
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
        if not await asyncio.to_thread(self._note, list(reports)):
            self._say_read_only()

    async def acknowledgements(self, module: str) -> list[Acknowledgement]:
        """Return the last report of each server that has reported within a day."""
        return await asyncio.to_thread(self._read, Ledger.reports, check_name(module))

    async def declare(self, module: str, schema_id: str, schema: bytes) -> None:
        """Keep a schema, where this user may write the store."""
        if not await asyncio.to_thread(self._declare, check_name(module), schema_id, schema):
            self._say_read_only()

    async def schemas(self, module: str) -> dict[str, bytes]:
        """Return the schemas that were declared within a day, by id."""
        return await asyncio.to_thread(self._read, Ledger.schemas, check_name(module))

    async def register(self, address: str, modules: Sequence[str], ttl: float) -> None:
        """Say that a configuration server serves these modules, and no others, at an address."""
        names = [check_name(module) for module in modules]
        await asyncio.to_thread(self._register, address, names, ttl)

    async def unregister(self, address: str) -> None:
        """Take that back."""
        await asyncio.to_thread(self._register, address, [], 0.0)

    async def addresses(self, module: str) -> list[str]:
        """Return where configuration servers serve a module now, sorted."""
        return await asyncio.to_thread(self._read, Ledger.addresses, check_name(module))

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
            _check_follows(heads.get(step.head.module), step)
        for step in steps:
            if step.release is not None:
                directory.write_release(step.release)
        if not directory.prepare_ledger():
            raise StoreError(f"{self._path}/{LEDGER} cannot be written by this user; see its owner, group and mode")
        ledger = self._ledger()
        ledger.append([*_missing(directory, ledger, heads), *(step.event for step in steps)])
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
                sha256 = self._digest(head, version)
            return directory.release(module, version, sha256)

    def _digest(self, head: Head, version: int) -> str | None:
        for track in (head.stable, head.canary):
            if track is not None and track.version == version:
                return track.sha256
        try:
            return self._ledger().digest(head.module, version, head.sequence)
        except StoreError:
            return None  # without the ledger releases can be read, too

    def _history(self, module: str, limit: int, before: int | None) -> list[Event]:
        with self._open() as directory:
            head = directory.heads().get(module)
            if head is None or limit < 1:
                return []
            below = head.sequence + 1 if before is None else min(before, head.sequence + 1)
            events = self._ledger().events(module, below, limit)
            if below > head.sequence and (not events or not _is_event_of(events[0], head)):
                own = _event_of(directory, head)  # the ledger was lost, or restored
                events = [own, *(event for event in events if event.sequence < head.sequence)][:limit]
        return events

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


class Outage:
    """Logs once that a store cannot be read, and once that it can again.

    Args:
        url: the store.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._on = False

    def goes_on(self, error: StoreError) -> None:
        """Say that the store cannot be read."""
        if not self._on:
            self._on = True
            log.event(logging.WARNING, "config-store-unreachable", store=self._url, detail=error)

    def is_over(self) -> None:
        """Say that it was read."""
        if self._on:
            self._on = False
            log.event(logging.INFO, "config-store-reached", store=self._url)


def _checked(modules: Collection[str] | None) -> set[str] | None:
    return None if modules is None else {check_name(module) for module in modules}


def _only(heads: dict[str, Head], modules: Collection[str] | None) -> dict[str, Head]:
    return heads if modules is None else {name: heads[name] for name in sorted(modules) if name in heads}


def _check_follows(head: Head | None, step: Step) -> None:
    """Check that a step can be carried out after a head."""
    module, sequence = step.head.module, 0 if head is None else head.sequence
    if sequence != step.expect:
        raise Conflict(
            f"module {module!r} was changed meanwhile (its sequence is {sequence}, not {step.expect}); look again"
        )
    last = 0 if head is None else head.last
    if step.head.sequence != step.expect + 1 or step.event.sequence != step.head.sequence:
        raise ValueError(f"the head of {module!r} with sequence {step.head.sequence} does not follow {step.expect}")
    if step.release is not None and step.release.release.version <= last:
        raise ValueError(f"release {step.release.release.version} of {module!r} was given already")


def _missing(directory: StoreDirectory, ledger: Ledger, heads: Mapping[str, Head]) -> list[Event]:
    """Return the last event of each module whose ledger has another one, or none: it was lost, or restored."""
    lacking = ledger.lacking([(head.module, head.sequence, head.time) for head in heads.values()])
    return [_event_of(directory, heads[module]) for module in lacking]


def _is_event_of(event: Event, head: Head) -> bool:
    return (event.sequence, event.change, event.time) == (head.sequence, head.change, head.time)


def _event_of(directory: StoreDirectory, head: Head) -> Event:
    """Return the event of a head, as :mod:`hotfd.config.rollout` has made it.

    What an abort ended is not in its head: it is the last version, since while a canary goes on none is given.
    """
    track = head.canary if head.change == "canary" else head.stable
    version = head.last if track is None or head.change in ("aborted", "halted") else track.version
    sealed = directory.release(head.module, version, None)
    release = sealed.release if head.change in _OF_A_RELEASE else None
    return rollout.event_of(head, Track(version, sealed.sha256), release)
