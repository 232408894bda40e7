"""Finding the release that an operator means."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from hotfd.errors import ConfigError

if TYPE_CHECKING:
    from hotfd.config.release import Head, Release
    from hotfd.config.store import Store

SEARCHED: Final = 1000
"""Changes of a module among which the one before is looked for: years of publishing once a day."""


async def release_of(store: Store, head: Head, version: int) -> Release:
    """Return a release by its version, checked against its digest where the head has that.

    Raises:
        ConfigError: there is none.
    """
    if not 1 <= version <= head.last:
        raise ConfigError(f"module {head.module!r} has no version {version}; the newest is {head.last}")
    tracks = {track.version: track.sha256 for track in (head.stable, head.canary) if track is not None}
    return (await store.release(head.module, version, tracks.get(version))).release


async def version_before(store: Store, module: str) -> int | None:
    """Return the version that was in force for all before the one that is; None when there was none."""
    from hotfd.publish.undo import before

    return before(await store.history(module, limit=SEARCHED))
