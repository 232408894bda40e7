"""Progress of a handoff on stderr: one live line on a terminal, plain lines anywhere else."""

from __future__ import annotations

import contextlib
import sys
from typing import TextIO

from hotfd.cli.output import printable, screen_columns

BAR_WIDTH = 30
"""Cells of the bar: it fits, with the counts beside it, into a terminal of 80 columns."""

PLAIN_STEP = 10
"""Per cent between two plain lines, so that the log of a deploy gets about ten lines and not thousands."""


class Progress:
    """Shows what a handoff does.

    Args:
        stream: where to; a terminal gets one line that is redrawn.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._live = self._stream.isatty()
        self._phase = ""
        self._shown = -1  # the per cent of the last plain line
        self._drawn = False

    def phase(self, name: str, new_pid: int | None) -> None:
        """Show that a phase has begun."""
        self._phase = printable(name)
        self._shown = -1
        self._show(self._phase + (f" (new process {new_pid})" if new_pid else ""))

    def moved(self, moved: int, total: int) -> None:
        """Show how many of ``total`` sessions have moved."""
        if total <= 0:
            return  # nobody is connected: there is nothing to show
        percent = min(100, 100 * moved // total)
        counts = f"{self._phase or 'move'} {moved}/{total} ({percent} %)"
        if self._live:
            filled = BAR_WIDTH * percent // 100
            self._show(f"[{'#' * filled}{'-' * (BAR_WIDTH - filled)}] {counts}")
        elif self._shown < 0 or percent // PLAIN_STEP > self._shown // PLAIN_STEP:
            self._shown = percent
            self._show(counts)

    def note(self, text: str) -> None:
        """Leave a line that stays."""
        self.clear()
        self._write(f"hotfd: {printable(text)}\n")

    def clear(self) -> None:
        """Take the live line away."""
        if self._drawn:
            self._write("\r\x1b[K")
            self._drawn = False

    def _show(self, text: str) -> None:
        if not self._live:
            self.note(text)
            return
        # A line that wraps could not be redrawn.
        self._write("\r\x1b[K" + text[: max(1, screen_columns() - 1)])
        self._drawn = True

    def _write(self, text: str) -> None:
        # Whoever read this may have gone (a closed pipe); the outcome must be learned all the same.
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(text)
            self._stream.flush()
