"""What a handoff did: the object that ``hotfd handoff --json`` prints.

The names and the meaning of the fields are a contract with scripts; they change only with a changelog entry.
"""

from __future__ import annotations

from typing import Literal

import msgspec

Outcome = Literal["completed", "partial", "rolled-back", "refused"]

EXIT_STATUS: dict[str, int] = {"completed": 0, "refused": 1, "rolled-back": 1, "partial": 3}
"""Exit status of ``hotfd handoff`` by outcome; 2 is for usage and for processes that are no hotfd server."""


class Counts(msgspec.Struct):
    """How many of a kind moved, stayed with the old process, came back to it, or were closed by hotfd."""

    moved: int = 0
    kept: int = 0
    returned: int = 0
    closed: int = 0


class Pause(msgspec.Struct):
    """Pause per connection in milliseconds: from the old process's last read to the new one's first."""

    p50: float = 0.0
    p99: float = 0.0
    max: float = 0.0


class Laggard(msgspec.Struct):
    """A session that did not move: its id, why, and where its handler waits, the innermost place last."""

    session: str
    code: str
    detail: str = ""
    awaits: list[str] = msgspec.field(default_factory=list)


class Report(msgspec.Struct):
    """The outcome of one handoff, or with ``dry_run`` the prediction of one."""

    outcome: Outcome
    id: str
    old_pid: int
    reason: str | None = None
    new_pid: int | None = None
    generation: int = 1
    connections: Counts = msgspec.field(default_factory=Counts)
    sessions: Counts = msgspec.field(default_factory=Counts)
    reasons: dict[str, int] = msgspec.field(default_factory=dict)
    pause_ms: Pause = msgspec.field(default_factory=Pause)
    elapsed_ms: float = 0.0
    phases_ms: dict[str, float] = msgspec.field(default_factory=dict)
    dry_run: bool = False
    laggards: list[Laggard] = msgspec.field(default_factory=list)
    """Some of the sessions that did not move, a few of each reason code."""
    lost: list[str] = msgspec.field(default_factory=list)
    """Some of the sessions that were lost with the new process; ``reasons`` has how many there were."""

    @property
    def exit_status(self) -> int:
        """The exit status that ``hotfd handoff`` ends with."""
        return EXIT_STATUS[self.outcome]
