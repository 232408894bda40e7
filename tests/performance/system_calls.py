"""System calls of the scenes, as strace(1) sees them."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Final

from tests.performance.meters import MARK

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_CALL: Final = re.compile(r"\d+ +(\w+)\(")
_MARKED: Final = re.compile(r"\d+ +\w+\([^\"]*\"" + re.escape(MARK) + r"([^\"]*)\"")

TRACER: Final = ("strace", "--follow-forks", "--quiet=all", "--signal=none", "--string-limit=100")


def missing() -> str | None:
    """Say why system calls cannot be traced here; None if they can."""
    if shutil.which(TRACER[0]) is None:
        return "there is no strace: apt-get install strace"
    tried = subprocess.run([*TRACER, "true"], check=False, capture_output=True, text=True)
    return None if tried.returncode == 0 else f"strace may not trace here: {tried.stderr.strip().splitlines()[-1]}"


def traced(command: list[str], trace: Path) -> list[str]:
    """Return a command that writes the system calls of another one into a file."""
    return [*TRACER, f"--output={trace}", *command]


def counted(lines: Iterable[str]) -> dict[str, Counter[str]]:
    """Return how many calls there are between the marks of each figure, by their names."""
    found: dict[str, Counter[str]] = defaultdict(Counter)
    figure = ""
    for line in lines:
        if mark := _MARKED.match(line):
            figure = mark[1]
        elif figure and (
            call := _CALL.match(line)
        ):  # and not the second half of one that another thread's came between
            found[figure][call[1]] += 1
    return found
