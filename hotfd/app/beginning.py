"""How a server comes to its first releases: from its source, from what it has kept on disk, or from the program itself."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Final

from hotfd import log
from hotfd.config.slots import Staged
from hotfd.config.threads import aside
from hotfd.errors import ConfigError, ReleaseRefused

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from hotfd.config.cache import Kept
    from hotfd.config.follow import Follower
    from hotfd.config.intake import Verdict
    from hotfd.config.release import Head
    from hotfd.config.slots import Slots
    from hotfd.config.snapshots import Compiled

PATIENCE: Final = (2.0, 2.0, 10.0)
"""A source is waited for so many intervals, at least and at most so many seconds, before a server starts without it."""


class Beginning:
    """How a server comes to the first releases of modules of which it was handed none.

    Args:
        slots: the server's.
        followers: by module, who follows its source.
        kept: by module, what was on disk.
        heard: set whenever a source has said something, and that was worked through.

    Attributes:
        kept: by module, the releases from disk that the server has begun with.
        own: the modules that it has begun with the program's own value of.
    """

    def __init__(
        self, slots: Slots, followers: Mapping[str, Follower], kept: Mapping[str, Kept], heard: asyncio.Event
    ) -> None:
        self.kept: dict[str, Compiled] = {}
        self._slots = slots
        self._followers = followers
        self._on_disk = dict(kept)
        self._heard = heard
        self._names: Sequence[str] = ()
        self._end = 0.0
        self.own: set[str] = set()

    async def find(self, names: Sequence[str], end: float) -> None:
        """Stage a release of each module, or let the program's own value hold; use them for the first time.

        Args:
            names: the modules.
            end: when to give up at the latest, by the monotonic clock.

        Raises:
            ConfigError: a module has none; the message says what to do.
        """
        self._names, self._end = names, end
        begun = time.monotonic()
        intervals, least, most = PATIENCE
        longest = max(self._slots.config(name).interval for name in names)
        patience = min(max(intervals * longest, least), most)
        await self._hear(self._names, min(begun + patience, end))
        lacking = [name for name in self._names if not await self._settle(name)]
        if any(self._verdict(name) is None for name in lacking):
            await self._hear(lacking, end)  # it cannot start without its source: then it waits as long as it may
            lacking = [name for name in lacking if not await self._settle(name)]
        if not lacking and not self._start():
            lacking = [name for name in self._names if not self._begun(name) and not await self._take_kept(name)]
            if not lacking and not self._start():
                lacking = [name for name in self._names if not self._begun(name)]
        if lacking:
            raise ConfigError("; ".join(self._advice(name, time.monotonic() - begun) for name in lacking))

    async def _hear(self, names: Sequence[str], end: float) -> None:
        await self._until(lambda: all(self._verdict(name) is not None for name in names), end)

    async def _until(self, reached: Callable[[], bool], end: float) -> None:
        """Wait until something is so that depends on what the sources say, but no longer than to a time."""
        while not reached() and (left := end - time.monotonic()) > 0:
            self._heard.clear()
            try:
                async with asyncio.timeout(left):
                    await self._heard.wait()
            except TimeoutError:
                return

    def _verdict(self, name: str) -> Verdict | None:
        return self._followers[name].intake.verdict(name)

    def _start(self) -> bool:
        """Use what is staged; False when a module has none then that it may begin with."""
        return self._slots.start() and all(self._begun(name) for name in self._names)

    def _begun(self, name: str) -> bool:
        running = self._slots.running
        compiled = running.compiled.get(name) if running is not None else self._slots.staged(name)
        if compiled is None:
            return name in self.own
        return compiled.version > 0 or name in self.own

    async def _settle(self, name: str) -> bool:
        """Find a release for a module: the source's, the one that is kept, or the program's own."""
        verdict = self._verdict(name)
        if self._slots.newest(name) is not None or await self._take_kept(name):
            return True
        unknown = verdict is None and self._slots.head(name) is None
        if (verdict == "none" or unknown) and self._slots.initial(name) is not None:
            self.own.add(name)
            reason = "the source has no release" if verdict == "none" else "the source cannot be reached"
            log.event(logging.WARNING, "config-initial", module=name, reason=reason)
            return True
        return False

    async def _take_kept(self, name: str) -> bool:
        """Stage what is kept of a module; False when there is nothing, or it cannot be used. It is tried once."""
        kept = self._on_disk.pop(name, None)
        head = self._slots.head(name)
        if kept is None or head is None or kept.sealed.sha256 in self._slots.quarantined(name):
            return False
        version = kept.sealed.release.version
        try:
            async with asyncio.timeout(max(0.0, self._end - time.monotonic())):
                compiled = await aside(self._slots.config(name).compile, kept.sealed)
        except ReleaseRefused as refusal:
            reason, problem = f"this program refuses version {version}: {len(refusal.faults)} faults", None
        except TimeoutError:
            reason, problem = f"the program took too long to check version {version}", None
        except Exception as error:  # noqa: BLE001 - the program's own; what cannot be checked is not used
            reason, problem = f"the check of version {version} failed with {type(error).__name__}", error
        else:
            self._stage(name, kept, head, compiled)
            return True
        log.event(logging.WARNING, "config-cache-unusable", module=name, reason=reason, exc_info=problem)
        return False

    def _stage(self, name: str, kept: Kept, head: Head, compiled: Compiled) -> None:
        """Stage what was kept, unless the source has brought something meanwhile."""
        if (newest := self._slots.newest(name)) is None or not newest.version:
            compiled = self._slots.know(compiled)
            self._slots.stage([Staged(head, compiled, self._slots.canary(name))])
            self.kept[name] = compiled
            age = max(0.0, time.time() - kept.head.time)
            log.event(
                logging.WARNING,
                "config-cold-start",
                module=name,
                version=compiled.version,
                published=f"{_in_words(age)} ago",
                source=self._verdict(name) or "away",
            )

    def _advice(self, name: str, waited: float) -> str:
        follower = self._followers[name]
        url, verdict, refusal = follower.source.url, self._verdict(name), follower.intake.refusal(name)
        if verdict == "none":
            return (
                f"module {name!r}: {url} has no release of it yet; publish one with 'hotfd config publish', or give its "
                "hotfd.Config an initial value"
            )
        if refusal is not None:
            return (
                f"module {name!r}: version {refusal.version} cannot be used ({refusal.expected}), and no earlier one is "
                f"kept here; publish one that fits, or take the last one back with 'hotfd config rollback {name}'"
            )
        if verdict == "older":
            return (
                f"module {name!r}: {url} has only what is older than what this service knew; publish again, or remove "
                f"{follower.intake.where(name)} to go back"
            )
        return (
            f"module {name!r}: {url} did not answer within {waited:.0f} s, and no usable release is kept in "
            f"{follower.intake.where(name)}; see the log for the reason"
        )


def _in_words(seconds: float) -> str:
    """Return a time in the largest unit of which there are two."""
    for unit, name in ((86_400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds:.0f} seconds"
