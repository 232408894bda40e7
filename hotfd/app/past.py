"""What a server remembers of itself and of the generations before it, and tells of them."""

from __future__ import annotations

import asyncio
import logging
import os
import platform
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from hotfd import log
from hotfd._version import __version__
from hotfd.errors import HandoffRefused
from hotfd.server.tasks import aside
from hotfd.transfer import fingerprint
from hotfd.transfer.history import Entry, History
from hotfd.transfer.process import ORIGIN

if TYPE_CHECKING:
    from types import ModuleType

    from hotfd.transfer.fingerprint import Fingerprint


LATER_LIMIT: Final = 5.0
"""Seconds in which what was loaded after the start is marked; a handoff waits no longer for a disk that hangs."""


class Past:
    """The history of one server, this process included.

    Args:
        state_version: the version of the connections' state.
    """

    def __init__(self, state_version: int) -> None:
        self._state_version = state_version
        self._history: History | None = None
        self._marking: asyncio.Task[Fingerprint] | None = None
        self._modules: frozenset[str] = frozenset()

    def begin(self, before: History | None, generation: int, back_to: int | None) -> None:
        """Remember this process, and mark on another thread what it runs, before anybody can change it.

        Args:
            before: the history of the process that hands over; None where there is none.
            generation: of this process.
            back_to: the generation that this process runs again, or None.
        """
        entry = Entry.of(
            ORIGIN,
            generation=generation,
            pid=os.getpid(),
            started=time.time(),
            hotfd=__version__,
            python=platform.python_version(),
            state_version=self._state_version,
        )
        self._history = before.followed_by(entry, back_to) if before is not None else History([entry])
        # As they are now: which of those that on_start imports a thread would still see is chance.
        modules = dict(sys.modules)
        self._modules = frozenset(modules)
        self._marking = asyncio.get_running_loop().create_task(aside(_mark, modules))

    async def known(self) -> History:
        """Return the history once it is complete."""
        assert self._history is not None
        assert self._marking is not None
        current = self._history.current
        if current.fingerprint is None:
            try:
                current.fingerprint = await asyncio.shield(self._marking)
            except Exception as error:  # noqa: BLE001 - the server serves; going back to it will have to be forced
                reason = error.strerror if isinstance(error, OSError) else type(error).__name__
                log.event(logging.WARNING, "fingerprint-failed", reason=reason)
        return self._history

    async def complete(self) -> History:
        """Return the history with what this process has loaded since it began, as the next process is to know it.

        A module that was imported late counts as it is on the disk now, which is the best that can be known of it.
        """
        history = await self.known()
        current, modules = history.current, frozenset(sys.modules)
        if current.fingerprint is not None and modules != self._modules:
            try:
                async with asyncio.timeout(LATER_LIMIT):
                    current.fingerprint = await aside(_mark_later, current.fingerprint, self._modules)
                self._modules = modules
            except Exception as error:  # noqa: BLE001 - as above
                log.event(logging.WARNING, "fingerprint-failed", reason=type(error).__name__)
        return history

    async def aclose(self) -> None:
        """Wait until nothing works on it any more."""
        if self._marking is not None:
            with suppress(Exception):  # whoever has waited for it has told of it
                await self._marking

    async def tell(self) -> dict[str, Any]:
        """Return what ``hotfd history`` shows: never the environment."""
        history = await self.known()
        problems = await aside(lambda: [entry.check() for entry in history.entries[:-1]])
        try:
            target, why = history.previous().generation, None
        except HandoffRefused as refusal:
            target, why = None, str(refusal)
        rows = [_row(entry, problem) for entry, problem in zip(history.entries[:-1], problems, strict=True)]
        now = {**_row(history.current, None), "current": True, "rollback": False, "reason": "it is what runs"}
        return {"generations": [*rows, now], "rollback_to": target, "reason": why}


def _mark(modules: dict[str, ModuleType]) -> Fingerprint:
    return fingerprint.read(fingerprint.loaded_files(ORIGIN, modules))


def _mark_later(known: Fingerprint, modules: frozenset[str]) -> Fingerprint:
    return known.and_later(fingerprint.loaded_files(ORIGIN, without=modules))


def _row(entry: Entry, problem: HandoffRefused | None) -> dict[str, Any]:
    return {
        "generation": entry.generation,
        "pid": entry.pid,
        "started": round(entry.started, 3),
        "how": entry.how,
        "runs": entry.runs,
        "command": [_text(word) for word in entry.command],
        "cwd": _text(entry.cwd),
        "directory": _text(entry.directory),
        "hotfd": entry.hotfd,
        "python": entry.python,
        "state_version": entry.state_version,
        "current": False,
        "rollback": problem is None,
        "reason": str(problem) if problem is not None else None,
    }


def _text(name: bytes) -> str:
    """Return a name that need not be text as some."""
    return name.decode("utf-8", "backslashreplace")
