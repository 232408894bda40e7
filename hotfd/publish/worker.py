"""Publishes what is in a repository's spool, in a process of its own, until the spool is empty.

A hook starts it and looks on as long as it may. It goes on when the hook has ended: while the store cannot be reached
it tries again, less and less often; what is refused for good is kept in the spool for the next hook to show.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from contextlib import suppress
from logging.handlers import RotatingFileHandler
from typing import TYPE_CHECKING, Final, Literal

import msgspec

from hotfd import log
from hotfd.config.open import open_store
from hotfd.errors import ConfigError, StoreError
from hotfd.publish.faults import RevisionRefused, printable
from hotfd.publish.programs import TooLate
from hotfd.publish.session import Order, described, opened, publisher

if TYPE_CHECKING:
    from io import TextIOWrapper

    from hotfd.publish.install import Settings
    from hotfd.publish.spool import Entry, Spool

FIRST_WAIT: Final = 0.5
LONGEST_WAIT: Final = 10.0
"""Seconds between two attempts: twice as many after each, since who is down for a minute is so for an hour too."""

MAX_LOG: Final = 1 << 20
"""Bytes of the log; there is one older one."""


class Outcome(msgspec.Struct, frozen=True):
    """What became of an attempt.

    Attributes:
        state: it was published; it was refused for good; it is tried again; another worker is at it.
        lines: what to tell the committer.
    """

    state: Literal["published", "refused", "waiting", "busy"]
    lines: list[str]


class Worker:
    """A worker.

    Args:
        settings: of the hooks of its repository.
        spool: of its repository.
        report: a descriptor that the outcome of the first attempt is written to; it is closed then.
    """

    def __init__(self, settings: Settings, spool: Spool, report: int) -> None:
        self._settings = settings
        self._spool = spool
        self._report = report

    def work(self) -> None:
        """Publish until nothing is left to be published."""
        while True:
            with self._spool.alone() as mine:
                if not mine:
                    self._tell(Outcome("busy", ["another worker is at it already, and publishes this too"]))
                    return
                self._empty()
            # Somebody may have come since, and left it to the worker whose lock he saw.
            if self._spool.pending() is None:
                self._tell(Outcome("published", []))
                return

    def _empty(self) -> None:
        wait = FIRST_WAIT
        while (entry := self._spool.pending()) is not None:
            outcome = self._attempt(entry)
            self._tell(outcome)
            if outcome.state == "waiting":
                time.sleep(wait)
                wait = min(2 * wait, LONGEST_WAIT)
                continue
            wait = FIRST_WAIT
            self._spool.refuse("\n".join(outcome.lines) if outcome.state == "refused" else "")
            self._spool.done(entry)

    def _attempt(self, entry: Entry) -> Outcome:
        settings = self._settings
        rev = f"refs/heads/{settings.branch}" if settings.kind == "git" else None
        order = Order(
            settings.repository,
            settings.path,
            rev,
            allow_scripts=settings.allow_scripts,
            rewritten=entry.rewritten,
            by=entry.by,
        )
        lines: list[str] = []
        try:
            asyncio.run(self._publish(order, lines))
        except (StoreError, TooLate, OSError) as error:
            log.event(logging.WARNING, "config-publish-waits", error=str(error).split("\n")[0])
            return Outcome("waiting", [*lines, f"not published yet, and tried again: {error}"])
        except ConfigError as error:
            said = error.lines() if isinstance(error, RevisionRefused) else [str(error)]
            # The faults hold values, which no log shall have: they are in the spool, for who commits.
            log.event(logging.ERROR, "config-publish-refused", faults=len(said), see=self._spool.path("refused"))
            return Outcome("refused", [*lines, "this was committed, and is not published:", *said])
        return Outcome("published", lines)

    async def _publish(self, order: Order, lines: list[str]) -> None:
        store = open_store(self._settings.store, create=True)
        try:
            publishing = publisher(order, opened(order), store, lines.append)
            try:
                await publishing.publish(order.rev)
            finally:
                for one in publishing.published:
                    lines.append(described(one))
                    log.event(logging.INFO, "config-published", module=one.module, version=one.version, at=one.revision)
        finally:
            await store.aclose()

    def _tell(self, outcome: Outcome) -> None:
        if self._report >= 0:
            with suppress(BrokenPipeError):  # the hook has no more time
                lines = [printable(line) for line in outcome.lines]  # msgspec writes no half characters
                os.write(self._report, msgspec.json.encode(Outcome(outcome.state, lines)))
            os.close(self._report)
            self._report = -1


class _Log(RotatingFileHandler):
    """The worker's log; whoever shares the repository can write it, also when it has begun anew."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        super().__init__(spool.path("log"), maxBytes=MAX_LOG, backupCount=1, encoding="utf-8")

    def _open(self) -> TextIOWrapper:
        return os.fdopen(self._spool.open_log(), "a", encoding="utf-8")


def keep_log(spool: Spool) -> None:
    """Write this process's log to the spool."""
    handler = _Log(spool)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s hotfd[%(process)d] %(message)s"))
    log.logger.addHandler(handler)
    log.logger.setLevel(logging.INFO)
