"""Which program the new process is: this one again, the one that an operator names, or one that ran before."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hotfd.errors import HandoffRefused
from hotfd.server.tasks import aside
from hotfd.systemd import WATCHED_BY
from hotfd.transfer.process import ORIGIN

if TYPE_CHECKING:
    from hotfd.server.options import Options
    from hotfd.transfer.history import Entry, History


@dataclass(slots=True, frozen=True)
class Launch:
    """What is started.

    Attributes:
        command: program and arguments.
        cwd: the directory.
        environment: the variables; never shown, never logged.
        back_to: the generation that this was, or None.
    """

    command: tuple[str, ...]
    cwd: str
    environment: Mapping[str, str]
    back_to: int | None = None

    def __repr__(self) -> str:
        return f"Launch(command={self.command!r}, cwd={self.cwd!r}, back_to={self.back_to})"


async def choose(options: Options, history: History | None) -> Launch:
    """Return what an operator wants to be started.

    Args:
        options: what is asked for.
        history: what ran until now; None where nothing is remembered.

    Raises:
        HandoffRefused: it is to go back, and there is nothing to go back to, or it is not what it was.
    """
    current = history.current.origin if history is not None else ORIGIN
    if not options.rollback:
        return Launch(options.command or current.command, options.cwd or current.cwd, current.environment)
    if history is None:
        raise HandoffRefused("nothing-to-roll-back-to", "this process does not know what ran before it")
    entry = history.previous() if options.to is None else history.named(options.to)
    problem = await _checked(entry, options.deadline)
    if problem is not None and not (options.force and problem.code == "same-code"):
        raise problem
    origin = entry.origin
    environment = {k: v for k, v in origin.environment.items() if k not in WATCHED_BY}
    environment |= {k: v for k, v in current.environment.items() if k in WATCHED_BY}
    return Launch(origin.exact, origin.directory, environment, entry.generation)


async def _checked(entry: Entry, limit: float) -> HandoffRefused | None:
    """Look at the files of a generation on a thread: a file system that hangs must hold nobody."""
    try:
        async with asyncio.timeout(limit):
            return await aside(entry.check)
    except TimeoutError:
        directory = os.fsdecode(entry.directory)
        raise HandoffRefused(
            "not-found",
            f"the files of generation {entry.generation} in {directory} could not be looked at in {limit:g} s",
        ) from None
