"""A server's reports to its source: what it has made of the newest releases, and what its sessions hold."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import msgspec

from hotfd import log
from hotfd.config.store import EXPIRY, Acknowledgement
from hotfd.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from hotfd.config.intake import Intake
    from hotfd.config.slots import Slots
    from hotfd.config.source import Identity, Source
    from hotfd.config.store import State

GAP: Final = 0.25
"""Seconds between two reports at least: a release that is staged and at once in force is one report, not two."""

REPORT_LIMIT: Final = 10.0
"""Seconds that a report may take: it is a line or two, and the next one says the same."""

FAREWELL_LIMIT: Final = 1.0
"""Seconds that the end of a server waits for its last report: nobody needs it to be right."""

RETRY: Final = (1.0, 30.0)
"""Seconds to the next try after a report did not get through: at first, and at most; it doubles."""

DECLARE: Final = 6 * 3600.0
"""Seconds after which the schemas are declared again, which a store keeps for a day."""

UNDECLARED: Final = 600.0
"""Seconds after which that is tried again when it failed."""

MAX_PINNED_SHOWN: Final = 256
"""Versions whose sessions are counted in a report, the newest: a server with more has been warned of them."""


class Reporter:
    """Reports for the modules of one source. What it reports is made when it is sent, so the newest is.

    Args:
        source: who is told.
        modules: of what.
        slots: the server's.
        intake: what the source has said.
        identity: who reports.
    """

    def __init__(
        self, source: Source, modules: Collection[str], slots: Slots, intake: Intake, identity: Identity
    ) -> None:
        self._source = source
        self._modules = list(modules)
        self._slots = slots
        self._intake = intake
        self._identity = identity
        self._due = asyncio.Event()
        self._heard = asyncio.Event()
        self._failing = False
        self._told = False
        self._ended = False
        self._sending = asyncio.Lock()
        self._declared = float("-inf")
        self.pinned: Callable[[], Mapping[str, Mapping[int, int]]] = dict

    def poke(self) -> None:
        """Something has changed that the source should know."""
        self._due.set()

    def alive(self) -> None:
        """The source has given a sign of life: what did not get through may now."""
        if self._failing:
            self._heard.set()

    async def run(self) -> None:
        """Report whatever changes, and that this server lives, until :meth:`farewell`."""
        pause = RETRY[0]
        while True:
            self._due.clear()
            try:
                async with self._sending:
                    if self._ended:
                        return
                    async with asyncio.timeout(REPORT_LIMIT):
                        await self._source.report(self.reports())
                    await self._declare()
            except (ConfigError, TimeoutError) as error:
                self._failed(str(error) or f"no answer within {REPORT_LIMIT:g} s", None)
            except Exception as error:  # noqa: BLE001 - a source that is broken must not end the reports for good
                self._failed(type(error).__name__, error)
            else:
                self._failing, self._told, pause = False, True, RETRY[0]
                await asyncio.sleep(GAP)
                await _within(self._due, EXPIRY / 3)
                continue
            self._heard.clear()
            await _within(self._heard, pause)
            pause = min(2 * pause, RETRY[1])

    async def farewell(self) -> None:
        """Tell that this server ends, so that nobody waits for its reports; if that fails, it is soon seen anyway."""
        self._ended = True
        with suppress(Exception):
            async with asyncio.timeout(FAREWELL_LIMIT), self._sending:  # a report on its way must not come after it
                if self._told and not self._failing:
                    reports = [msgspec.structs.replace(report, state="ended") for report in self.reports()]
                    await self._source.report(reports)

    def _failed(self, reason: str, error: BaseException | None) -> None:
        if not self._failing:
            log.event(logging.WARNING, "config-report-failed", source=self._source.url, reason=reason, exc_info=error)
        self._failing = True

    async def _declare(self) -> None:
        """Tell what releases are checked against; whoever publishes can do without, so that fails by itself."""
        if time.monotonic() - self._declared < DECLARE:
            return
        self._declared = time.monotonic()
        try:
            async with asyncio.timeout(REPORT_LIMIT):
                await self._source.declare(self._schemas())
        except (ConfigError, TimeoutError) as error:
            reason = str(error) or f"no answer within {REPORT_LIMIT:g} s"
            log.event(logging.WARNING, "config-schema-not-declared", source=self._source.url, reason=reason)
            self._declared += UNDECLARED - DECLARE

    def _schemas(self) -> dict[str, tuple[str, bytes]]:
        schemas = {name: self._slots.config(name).schema for name in self._modules}
        return {name: (schema.id, schema.json) for name, schema in schemas.items()}

    def reports(self) -> list[Acknowledgement]:
        """Return what is to be said of each module now."""
        pinned = self.pinned()
        return [self._report(name, pinned.get(name, {})) for name in self._modules]

    def _report(self, name: str, pinned: Mapping[int, int]) -> Acknowledgement:
        slots, identity = self._slots, self._identity
        head, running = slots.head(name), slots.running
        canary = slots.canary(name)
        state, version, faults = self._state(name)
        in_force = running.compiled[name].version if running is not None else 0
        if canary is not None and canary.used and slots.share(name) >= 1.0:
            in_force = canary.version
        return Acknowledgement(
            module=name,
            server=identity.server,
            service=identity.service,
            host=identity.host,
            pid=identity.pid,
            version=version,
            state=state,
            sequence=head.sequence if head is not None else 0,
            running=in_force,
            time=time.time(),
            zone=slots.config(name).zone,
            generation=identity.generation,
            pinned={version: pinned[version] for version in sorted(pinned)[-MAX_PINNED_SHOWN:]},
            faults=faults,
        )

    def _state(self, name: str) -> tuple[State, int, tuple[str, ...]]:
        """Return what has become of a module's newest release: that for some before that for all."""
        if (refusal := self._intake.refusal(name)) is not None:
            return "quarantined" if refusal.quarantined else "refused", refusal.version, refusal.faults
        if (canary := self._slots.canary(name)) is not None:
            return "running" if canary.used else "staged", canary.version, ()
        if (staged := self._slots.staged(name)) is not None:
            return "staged", staged.version, ()
        newest = self._slots.newest(name)
        return "running", newest.version if newest is not None else 0, ()


async def _within(event: asyncio.Event, seconds: float) -> Any:
    """Wait for an event, at most so many seconds."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass
