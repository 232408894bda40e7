"""What a server remembers of itself and of the generations before it, and tells of them."""

from __future__ import annotations

import asyncio
import logging
import os
import platform
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from hotfd import log
from hotfd._version import __version__
from hotfd.errors import HandoffRefused
from hotfd.transfer import fingerprint
from hotfd.transfer.history import Entry, History
from hotfd.transfer.process import ORIGIN

if TYPE_CHECKING:
    from hotfd.transfer.fingerprint import Fingerprint


class Past:
    """The history of one server, this process included.

    Args:
        state_version: the version of the connections' state.
    """

    def __init__(self, state_version: int) -> None:
        self._state_version = state_version
        self._history: History | None = None
        self._marking: asyncio.Task[Fingerprint] | None = None

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
        self._marking = asyncio.get_running_loop().create_task(asyncio.to_thread(_mark))

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

    async def aclose(self) -> None:
        """Wait until nothing works on it any more."""
        if self._marking is not None:
            with suppress(Exception):  # whoever has waited for it has told of it
                await self._marking

    async def tell(self) -> dict[str, Any]:
        """Return what ``hotfd history`` shows: never the environment."""
        history = await self.known()
        problems = await asyncio.to_thread(lambda: [entry.check() for entry in history.entries[:-1]])
        try:
            target, why = history.previous().generation, None
        except HandoffRefused as refusal:
            target, why = None, str(refusal)
        rows = [_row(entry, problem) for entry, problem in zip(history.entries[:-1], problems, strict=True)]
        now = {**_row(history.current, None), "current": True, "rollback": False, "reason": "it is what runs"}
        return {"generations": [*rows, now], "rollback_to": target, "reason": why}


def _mark() -> Fingerprint:
    return fingerprint.read(fingerprint.loaded_files(ORIGIN))


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
