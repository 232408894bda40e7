"""A store that is written in memory only: what would be published is published there, and nowhere else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from hotfd.errors import Conflict, StoreError

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from hotfd.config.release import Event, Head, Sealed
    from hotfd.config.rollout import Step


class Releases(Protocol):
    """What publishing needs of a store (:class:`hotfd.config.store.Store`)."""

    async def heads(self, modules: Collection[str] | None = None) -> dict[str, Head]:
        """Return the heads of these modules, or of all."""
        ...

    async def release(self, module: str, version: int, sha256: str | None = None) -> Sealed:
        """Return a release."""
        ...

    async def commit(self, steps: Sequence[Step]) -> None:
        """Carry steps out, all or none."""
        ...

    async def history(self, module: str, *, limit: int = 50, before: int | None = None) -> list[Event]:
        """Return the newest events, newest first."""
        ...

    async def schemas(self, module: str) -> dict[str, bytes]:
        """Return the JSON Schemas that servers have declared, by id."""
        ...


class Rehearsal:
    """A store that looks like another one, and keeps to itself what is written.

    Args:
        behind: the other one; None for one that is empty.
    """

    def __init__(self, behind: Releases | None = None) -> None:
        self._behind = behind
        self._heads: dict[str, Head] = {}
        self._events: dict[str, list[Event]] = {}
        self._releases: dict[tuple[str, int], Sealed] = {}

    async def heads(self, modules: Collection[str] | None = None) -> dict[str, Head]:
        """Return the heads of the store behind, and those written here over them."""
        behind = await self._behind.heads(modules) if self._behind is not None else {}
        own = {module: head for module, head in self._heads.items() if modules is None or module in modules}
        return behind | own

    async def release(self, module: str, version: int, sha256: str | None = None) -> Sealed:
        """Return a release, written here or there."""
        own = self._releases.get((module, version))
        if own is not None and sha256 in {None, own.sha256}:
            return own
        if self._behind is None:
            raise StoreError(f"module {module!r} has no release {version}")
        return await self._behind.release(module, version, sha256)

    async def commit(self, steps: Sequence[Step]) -> None:
        """Keep what would be written."""
        heads = await self.heads([step.head.module for step in steps])
        for step in steps:
            head = heads.get(step.head.module)
            if (head.sequence if head is not None else 0) != step.expect:
                raise Conflict(f"module {step.head.module!r} has changed meanwhile")
        for step in steps:
            self._heads[step.head.module] = step.head
            self._events.setdefault(step.head.module, []).insert(0, step.event)
            if step.release is not None:
                self._releases[step.head.module, step.release.release.version] = step.release

    async def history(self, module: str, *, limit: int = 50, before: int | None = None) -> list[Event]:
        """Return the newest events, those that would have happened first."""
        own = [event for event in self._events.get(module, []) if before is None or event.sequence < before][:limit]
        if self._behind is None or len(own) == limit:
            return own
        return own + await self._behind.history(module, limit=limit - len(own), before=before)

    async def schemas(self, module: str) -> dict[str, bytes]:
        """Return the schemas of the store behind."""
        return await self._behind.schemas(module) if self._behind is not None else {}
