"""Progress of a handoff on stderr: a bar on a terminal while sessions move, plain lines anywhere else."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO

import click

from hotfd.cli.output import printable

BAR_WIDTH = 30
"""Cells of the bar: it fits, with the counts beside it, into a terminal of 80 columns."""

PLAIN_STEP = 10
"""Per cent between two plain lines, so that the log of a deploy gets about ten lines and not thousands."""


class Progress:
    """Shows what a handoff does.

    Args:
        stream: where to; a terminal gets a bar while sessions move.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._live = self._stream.isatty()
        self._phase = ""
        self._shown = -1  # the per cent of the last plain line
        self._bar: Any = None  # click's ProgressBar, a name that click does not export

    def phase(self, name: str, new_pid: int | None) -> None:
        """Show that a phase has begun."""
        self._phase = printable(name)
        self._shown = -1
        self.note(self._phase + (f" (new process {new_pid})" if new_pid else ""))

    def moved(self, moved: int, total: int) -> None:
        """Show how many of ``total`` sessions have moved."""
        if total <= 0:
            return  # nobody is connected: there is nothing to show
        if self._live:
            self._draw(moved, total)
            return
        percent = min(100, 100 * moved // total)
        if self._shown < 0 or percent // PLAIN_STEP > self._shown // PLAIN_STEP:
            self._shown = percent
            self.note(f"{self._phase or 'move'} {moved}/{total} ({percent} %)")

    def note(self, text: str) -> None:
        """Leave a line that stays."""
        self.clear()
        with self._somebody_reads():
            self._stream.write(f"hotfd: {printable(text)}\n")
            self._stream.flush()

    def clear(self) -> None:
        """End the bar as it stands, and give the cursor back."""
        bar, self._bar = self._bar, None
        if bar is not None:
            with self._somebody_reads():
                bar.render_finish()

    def _draw(self, moved: int, total: int) -> None:
        with self._somebody_reads():
            if self._bar is None:
                label = f"hotfd: {self._phase or 'move'}"
                self._bar = click.progressbar(
                    length=total, label=label, show_eta=False, show_pos=True, show_percent=True, width=BAR_WIDTH,
                    file=self._stream,
                )  # fmt: skip
            self._bar.length = total
            self._bar.update(moved - self._bar.pos)

    @contextlib.contextmanager
    def _somebody_reads(self) -> Iterator[None]:
        """Whoever read this may have gone (a closed pipe); the outcome must be learned all the same.

        What was written for him is still in the stream's buffer, and would fail once more when the
        interpreter ends, with an exit status of its own: so it goes nowhere from then on.
        """
        try:
            yield
        except (OSError, ValueError):
            self._live, self._bar = False, None
            with contextlib.suppress(OSError, ValueError):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, self._stream.fileno())
                os.close(nowhere)
