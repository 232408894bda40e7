"""What to do about a reason code; the table is in :mod:`hotfd.display.advice`, since the console shows it too."""

from __future__ import annotations

from hotfd.display.advice import ADVICE, advice

__all__ = ["ADVICE", "advice"]
