"""The events of a server as lines, as ``hotfd watch`` and the console show them."""

from __future__ import annotations

import time
from typing import Any

from hotfd.display.advice import advice
from hotfd.display.text import describe, printable

PROGRESS_STEP = 10
"""Per cent between two lines of progress: a handoff of thousands of sessions is told in about ten lines."""


class Teller:
    """Turns one event after another into lines.

    Args:
        stamp: begin each line with the time of day at which the event happened.
    """

    def __init__(self, *, stamp: bool = True) -> None:
        self._stamp = stamp
        self._shown = -1  # the step of progress that was told last

    def lines(self, event: dict[str, Any]) -> list[str]:
        """Return the lines of one event; none when it tells nothing that is worth a line."""
        kind = str(event.get("event", ""))
        told = getattr(self, f"_{kind.replace('-', '_')}", None) if kind in KNOWN else None
        texts = told(event) if told is not None else [_anything(event)]
        if not self._stamp or not texts:
            return texts
        moment = event.get("time")
        clock = time.strftime("%H:%M:%S", time.localtime(moment if isinstance(moment, int | float) else None))
        return [f"{clock}  {texts[0]}", *(f"          {text}" for text in texts[1:])]

    def _watching(self, event: dict[str, Any]) -> list[str]:
        where = f"process {_value(event, 'pid')}, generation {_value(event, 'generation')}"
        return [f"watching {where}: {_counted(event)}"]

    def _counts(self, event: dict[str, Any]) -> list[str]:
        return [_counted(event)]

    def _started(self, event: dict[str, Any]) -> list[str]:
        self._shown = -1
        return [f"handoff {_value(event, 'id')} of process {_value(event, 'pid')} begins"]

    def _phase(self, event: dict[str, Any]) -> list[str]:
        self._shown = -1
        new = event.get("new_pid")
        return [f"handoff: {_value(event, 'phase')}" + (f" (new process {printable(new)})" if new else "")]

    def _progress(self, event: dict[str, Any]) -> list[str]:
        moved, total = event.get("moved"), event.get("total")
        if not isinstance(moved, int) or not isinstance(total, int) or total <= 0:
            return []
        percent = min(100, 100 * moved // total)
        if percent // PROGRESS_STEP <= self._shown:
            return []
        self._shown = percent // PROGRESS_STEP
        return [f"handoff: {moved} of {total} sessions moved ({percent} %)"]

    def _session(self, event: dict[str, Any]) -> list[str]:
        fate = "is closed" if event.get("fate") == "closed" else "stays"
        return [f"session {_value(event, 'session')} {fate}: {_value(event, 'code')}: {_value(event, 'detail')}"]

    def _outcome(self, event: dict[str, Any]) -> list[str]:
        report = event.get("report")
        if not isinstance(report, dict):
            return [_anything(event)]
        what = "dry run" if report.get("dry_run") else "handoff"
        new = f" -> {printable(report['new_pid'])}" if report.get("new_pid") else ""
        processes = f"process {_value(report, 'old_pid')}{new}, generation {_value(report, 'generation')}"
        texts = [f"{what} {_value(report, 'outcome')}: {processes}; connections {describe(report.get('connections'))}"]
        if reason := report.get("reason"):
            texts.append(printable(reason))
            if text := advice(str(reason)):
                texts.append(f"what to do: {text}")
        return texts

    def _lost(self, event: dict[str, Any]) -> list[str]:
        return [f"({_value(event, 'count')} events are missing here: they were not read in time)"]

    def _replaced(self, event: dict[str, Any]) -> list[str]:
        return [f"process {_value(event, 'pid')} serves from here on"]

    def _ended(self, event: dict[str, Any]) -> list[str]:
        return ["the server has ended"]


KNOWN = frozenset(
    {"watching", "counts", "started", "phase", "progress", "session", "outcome", "lost", "replaced", "ended"}
)
"""Events that have words of their own; any other is shown by its fields."""


def _value(event: dict[str, Any], name: str) -> str:
    return describe(event.get(name))


def _counted(event: dict[str, Any]) -> str:
    text = f"{_value(event, 'state')}, {_value(event, 'connections')} connections, {_value(event, 'sessions')} sessions"
    return text + (f", {_value(event, 'newcomers')} newcomers" if event.get("newcomers") else "")


def _anything(event: dict[str, Any]) -> str:
    return describe({name: value for name, value in event.items() if name != "time"})
