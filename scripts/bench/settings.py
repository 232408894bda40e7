"""What every suite is told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Settings:
    """What a suite is told.

    Args:
        rounds: how often each case runs.
        quick: whether this run only shows that the suite works: one round, small numbers, some seconds.
        directory: for whatever the suite writes, 0700; removed when the suite has ended.
        say: is told what goes on, a line at a time.
    """

    rounds: int
    quick: bool
    directory: Path
    say: Callable[[str], None]
