"""The report of a handoff as lines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hotfd.display.advice import advice
from hotfd.display.text import pairs, printable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hotfd.report import Counts, Laggard, Report

PLACES = 3
"""Places of a stack that fit a line: the innermost ones, which say what is waited for; --json has them all."""


def summary(report: Report) -> list[str]:
    """Return what a person wants to read of ``report``, as lines."""
    would = " (dry run: nothing was changed)" if report.dry_run else ""
    lines = [f"{report.outcome}{would}"]
    if report.reason:
        lines.append(f"  {printable(report.reason)}")
        if text := advice(report.reason):
            lines.append(f"  what to do: {text}")
    successor = f" -> {report.new_pid}" if report.new_pid else ""
    rows = [("process", f"{report.old_pid}{successor}  generation {report.generation}")]
    if report.outcome != "refused" or report.dry_run:
        rows += [("connections", _counts(report.connections)), ("sessions", _counts(report.sessions))]
    if report.connections.moved and not report.dry_run:
        pause = report.pause_ms
        rows.append(("pause", f"p50 {pause.p50:.1f} ms  p99 {pause.p99:.1f} ms  max {pause.max:.1f} ms"))
    if report.elapsed_ms:
        rows.append(("elapsed", f"{report.elapsed_ms / 1000:.2f} s"))
    if report.phases_ms:
        phases = "  ".join(f"{printable(name)} {ms:.0f} ms" for name, ms in report.phases_ms.items())
        rows.append(("phases", phases))
    if report.id:
        rows.append(("id", printable(report.id)))
    lines += [f"  {line}" for line in pairs(rows)]
    for code, count in sorted(report.reasons.items(), key=lambda item: -item[1]):
        if count:
            lines.append(f"  {printable(code)}: {count} sessions; {advice(code) or 'see the log of the server'}")
            lines += [f"    {told(laggard)}" for laggard in report.laggards if laggard.code == code]
    if report.lost:
        more = report.reasons.get("lost-in-new-process", 0) - len(report.lost)
        names = ", ".join(printable(name) for name in report.lost) + (f" and {more} more" if more > 0 else "")
        lines.append(f"  lost: {names}")
    return lines


def told(laggard: Laggard) -> str:
    """Return in a line which session did not move, why, and where its handler waits."""
    where = " > ".join(printable(place) for place in laggard.awaits[-PLACES:])
    text = (
        f"{printable(laggard.session)}: {printable(laggard.detail)}" if laggard.detail else printable(laggard.session)
    )
    return f"{text}; awaits {where}" if where else text


def each_worker(report: Mapping[str, Any]) -> list[str]:
    """Return a line for each worker of a supervisor's report; none for a server's own."""
    workers = report.get("workers")
    if not isinstance(workers, list):
        return []
    lines = []
    for worker in workers:
        moved = worker.get("sessions", {}).get("moved", 0)
        said = f"{worker.get('outcome')}: {worker.get('old_pid')} -> {worker.get('new_pid') or '-'}, {moved} sessions"
        lines.append(f"  worker {worker.get('worker')}  {said}")
        if worker.get("reason"):
            lines.append(f"    {worker['reason']}")
    return [printable(line) for line in lines]


def _counts(counts: Counts) -> str:
    return f"moved {counts.moved}  kept {counts.kept}  returned {counts.returned}  closed {counts.closed}"
