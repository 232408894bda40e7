"""One report of several workers' handoffs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import msgspec

from hotfd.report import Counts, Pause, Report

Outcome = Literal["completed", "partial", "rolled-back", "refused"]

_WORST_LAST: Final[tuple[Outcome, ...]] = ("completed", "partial", "rolled-back", "refused")


def refused(worker: int, pid: int | None, code: str, detail: str, *, dry_run: bool) -> dict[str, Any]:
    """Return the report of a worker that gave none, because it refused or has gone."""
    reason = f"{code}: {detail}"
    report = Report(outcome="refused", id="", old_pid=pid or 0, reason=reason, dry_run=dry_run)
    return {**msgspec.to_builtins(report), "worker": worker}


def combined(pid: int, reports: Sequence[Mapping[str, Any]], elapsed_ms: float, *, dry_run: bool) -> dict[str, Any]:
    """Return the sum of several reports, with each of them in ``workers``.

    The outcome is the worst one, and so is the exit status of ``hotfd handoff``; counts are added up; of
    pauses the longest counts, since percentiles cannot be added; the generation is the least that serves.

    Args:
        pid: the supervisor's, which stays the same.
        reports: the workers' reports as the servers sent them, in the order in which they were handed over.
        elapsed_ms: milliseconds from the first one's beginning to the last one's end.
        dry_run: whether nothing was to be changed.
    """
    each = [msgspec.convert(report, Report) for report in reports]
    worst = max(_WORST_LAST.index(report.outcome) for report in each)
    reasons: dict[str, int] = {}
    phases: dict[str, float] = {}
    for report in each:
        for code, count in report.reasons.items():
            reasons[code] = reasons.get(code, 0) + count
        for phase, ms in report.phases_ms.items():
            phases[phase] = phases.get(phase, 0.0) + ms
    first_bad = next(
        (r for r, e in zip(reports, each, strict=True) if e.outcome == _WORST_LAST[worst] and e.reason), None
    )
    total = Report(
        outcome=_WORST_LAST[worst],
        id=",".join(report.id for report in each if report.id),
        old_pid=pid,
        reason=f"{first_bad['reason']} (worker {first_bad['worker']})" if first_bad is not None else None,
        generation=min(report.generation for report in each),
        connections=_added([report.connections for report in each]),
        sessions=_added([report.sessions for report in each]),
        reasons=reasons,
        pause_ms=Pause(*(max(getattr(r.pause_ms, name) for r in each) for name in ("p50", "p99", "max"))),
        elapsed_ms=round(elapsed_ms, 3),
        phases_ms=phases,
        dry_run=dry_run,
    )
    return {**msgspec.to_builtins(total), "workers": list(reports)}


def _added(counts: Sequence[Counts]) -> Counts:
    names = ("moved", "kept", "returned", "closed")
    return Counts(*(sum(getattr(count, name) for count in counts) for name in names))
