"""What an operator asks of a handoff, and who hands over."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

if TYPE_CHECKING:
    from hotfd.server.background import Freezer
    from hotfd.transfer.history import History

ANSWER_LIMIT: Final = 10.0
"""Seconds that a new process may take to answer an offer, or to settle after its probation, where the deadline
for its start is longer: what it does then takes milliseconds, and sessions wait for it."""

ENDING_LIMIT: Final = 30.0
"""Seconds beyond what was asked for: ending a new process that does not want to end, and taking sessions back."""

DryRun = Literal["plan", "deep"]


@dataclass(slots=True, frozen=True)
class Options:
    """What an operator asks for.

    Attributes:
        deadline: seconds that the new process may take to become ready, and at most for any later answer.
        boundary_timeout: seconds that sessions may take to reach a boundary.
        laggards: what happens to those that do not: ``keep`` them here, or ``close`` them.
        on_loss: with ``together``, what becomes of untouched sessions whose process-wide state the dead new process
            may have changed: ``close`` them, or let them go on with the ``stale`` state of the old process.
        probation: seconds after the last commit in which the new process can still fail without loss.
        force: hand over although the service would lose its main process.
        command: program and arguments of the new process, or None for those of this one.
        cwd: its directory, or None for this one's.
        rollback: go back to what ran before.
        to: the generation to go back to, or None for what ran before this.
        allow_downgrade: hand over to code of an older state version too; going back implies it.
        dry_run: ``plan`` starts nothing, ``deep`` starts the new process and ends it when it is ready.
    """

    deadline: float = 60.0
    boundary_timeout: float = 10.0
    laggards: Literal["keep", "close"] = "keep"
    on_loss: Literal["close", "stale"] = "close"
    probation: float = 5.0
    force: bool = False
    command: tuple[str, ...] | None = None
    cwd: str | None = None
    dry_run: DryRun | None = None
    rollback: bool = False
    to: int | None = None
    allow_downgrade: bool = False

    @property
    def patience(self) -> float:
        """Seconds after which a handoff is certainly over: to be ready, to take over, and what else may take time."""
        return 2 * self.deadline + self.boundary_timeout + self.probation + ENDING_LIMIT

    @property
    def answer_limit(self) -> float:
        """Seconds that the new process may take for an answer once it is ready."""
        return min(self.deadline, ANSWER_LIMIT)


@dataclass(slots=True, frozen=True)
class Identity:
    """Who hands over.

    Attributes:
        generation: 1 for the first process of a service.
        together: all sessions share process-wide state and move in one offer.
        export_state: returns the process-wide state, or None.
        history: what ran until now, this process included; None where nothing is remembered.
        freezer: brings the program to rest before anything is given away; None where there is nothing to.
    """

    generation: int
    together: bool = False
    export_state: Callable[[], Any | Awaitable[Any]] | None = None
    history: History | None = None
    freezer: Freezer | None = None
