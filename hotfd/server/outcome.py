"""What a handoff did: counted while it runs, told as progress, logged, and reported at its end (G9)."""

from __future__ import annotations

import logging
import os
import secrets
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import TYPE_CHECKING, Any

from hotfd import log
from hotfd.report import Counts, Outcome, Pause, Report
from hotfd.server.laggards import Sample

if TYPE_CHECKING:
    from hotfd.server.session import Session

FATES = ("moved", "kept", "returned", "closed")

NAMED_SESSIONS = 100
"""Sessions that a handoff names in events, and lost ones in its report; of further ones its report has the counts by reason."""


PROGRESS_INTERVAL = 0.1
"""Seconds between two words on how far it is. People read no faster, and each word wakes whoever listens, on a processor
that the sessions could have."""


@dataclass(slots=True)
class Tally:
    """What became of sessions and connections, by fate."""

    sessions: Counter[str] = field(default_factory=Counter)
    connections: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    sample: Sample = field(default_factory=Sample)
    lost: list[str] = field(default_factory=list)

    def count(self, fate: str, connections: int, reason: str | None = None) -> None:
        """Count one session of so many connections."""
        self.sessions[fate] += 1
        self.connections[fate] += connections
        if reason is not None:
            self.reasons[reason] += 1

    def count_moved(self, sessions: Sequence[Session]) -> None:
        """Count sessions that have moved."""
        self.sessions["moved"] += len(sessions)
        self.connections["moved"] += sum([len(session.connections) for session in sessions])

    def lose(self, session: str, connections: int) -> None:
        """Count a session that was closed because nobody knows what the dead new process has done with it."""
        self.count("closed", connections, "lost-in-new-process")
        if len(self.lost) < NAMED_SESSIONS:
            self.lost.append(session)

    def counts(self) -> tuple[Counts, Counts]:
        """Return the counts of connections and of sessions."""
        return _counts(self.connections), _counts(self.sessions)


def _counts(fates: Counter[str]) -> Counts:
    return Counts(**{fate: fates[fate] for fate in FATES})


class Journal:
    """The timeline of one handoff.

    Args:
        emit: called with progress events, plain dictionaries.
        generation: the generation that hands over.
        dry_run: whether nothing is to move.
        silent: whether nothing of it is worth a line in the log: it is one of many tries.

    Attributes:
        id: the handoff's id.
        phase: the phase that it is in.
        silent: as above.
    """

    def __init__(
        self, emit: Callable[[dict[str, Any]], None], generation: int, *, dry_run: bool = False, silent: bool = False
    ) -> None:
        self.id = secrets.token_hex(6)
        self.phase = "preflight"
        self.silent = silent
        self._emit = emit
        self._generation = generation
        self._dry_run = dry_run
        self._began = self._phase_began = monotonic()
        self._phases: dict[str, float] = {}
        self._named = 0
        self._tell_at = self._began
        self._told = -1

    def started(self) -> None:
        """The handoff begins."""
        self._emit({"event": "started", "id": self.id, "pid": os.getpid()})

    def enter(self, phase: str, new_pid: int | None) -> None:
        """A phase begins, and with it ends the one before."""
        self.begin(phase)
        self.tell(new_pid)

    def begin(self, phase: str) -> None:
        """The same, without a word."""
        self._end_phase()
        self.phase = phase

    def tell(self, new_pid: int | None) -> None:
        """Tell which phase it is."""
        self._emit({"event": "phase", "phase": self.phase, "new_pid": new_pid})
        log.event(logging.INFO, "handoff-phase", id=self.id, phase=self.phase, new_pid=new_pid)

    def progress(self, moved: int, total: int, *, last: bool) -> None:
        """Tell how many sessions have moved, if that is news; the last word is told at once, the others now and then.

        Args:
            moved: how many have moved.
            total: of how many.
            last: whether none is on its way.
        """
        now = monotonic()
        if moved != self._told and (last or now >= self._tell_at):
            self._told, self._tell_at = moved, now + PROGRESS_INTERVAL
            self._emit({"event": "progress", "moved": moved, "total": total})

    def session(self, id: str, fate: str, code: str, detail: str) -> None:
        """A session does not move: tell which one, and why."""
        self._named += 1
        if self._named <= NAMED_SESSIONS:
            self._emit({"event": "session", "session": id, "fate": fate, "code": code, "detail": detail})

    def _end_phase(self) -> None:
        now = monotonic()
        self._phases[self.phase] = round((now - self._phase_began) * 1000, 3)
        self._phase_began = now

    def close(
        self, outcome: Outcome, tally: Tally, *, new_pid: int | None, reason: str | None, pause: Pause | None = None
    ) -> Report:
        """The handoff is over: log it and return its report."""
        self._end_phase()
        connections, sessions = tally.counts()
        report = Report(
            outcome=outcome,
            id=self.id,
            old_pid=os.getpid(),
            reason=reason,
            new_pid=new_pid,
            generation=self._generation + (outcome in {"completed", "partial"} and not self._dry_run),
            connections=connections,
            sessions=sessions,
            reasons=dict(tally.reasons),
            pause_ms=pause or Pause(),
            elapsed_ms=round((monotonic() - self._began) * 1000, 3),
            phases_ms=self._phases,
            dry_run=self._dry_run,
            laggards=tally.sample.laggards,
            lost=tally.lost,
        )
        if not self._dry_run:
            _log(report)
        return report


def _log(report: Report) -> None:
    log.event(
        logging.INFO if report.exit_status == 0 else logging.WARNING,
        "handoff",
        id=report.id,
        outcome=report.outcome,
        reason=report.reason or "-",
        new_pid=report.new_pid,
        **{f"connections_{fate}": getattr(report.connections, fate) for fate in FATES},
        reasons=",".join(f"{code}:{count}" for code, count in sorted(report.reasons.items())) or "-",
        pause_max_ms=report.pause_ms.max,
        elapsed_ms=report.elapsed_ms,
    )
