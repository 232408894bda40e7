"""Instructions of the C core, as valgrind's callgrind counts them; the C library's own, which differ by processor, apart."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

ROOT: Final = Path(__file__).resolve().parents[2]

UNIT: Final = "instructions of the C core"

FRAMES: Final = 200
"""Frames of each scan in ``core.c``."""

LIMIT: Final = 120
"""Seconds for the compiler, and for callgrind, which takes one."""

_TRIGGER: Final = re.compile(r"desc: Trigger: Client Request: (.+)")
_COST: Final = re.compile(r"[+-]?\d+ (\d+)")


def compiler() -> str:
    """Return the C compiler's name."""
    return os.environ.get("CC", "cc")


def environment() -> str:
    """Return what these counts depend on: the compiler, its version and the machine it compiles for."""
    cc = compiler()
    if shutil.which(cc) is None:
        return "no compiler"
    version = subprocess.run([cc, "--version"], check=True, capture_output=True, text=True).stdout.splitlines()[0]
    number = subprocess.run([cc, "-dumpfullversion", "-dumpversion"], check=False, capture_output=True, text=True)
    return f"{'clang' if 'clang' in version else 'gcc'} {number.stdout.strip()}, {platform.machine()}"


def missing() -> str | None:
    """Say why instructions cannot be counted here; None if they can."""
    if shutil.which(compiler()) is None:
        return "there is no C compiler"
    if shutil.which("valgrind") is None:
        return "there is no valgrind: apt-get install valgrind"
    return None


def count(directory: Path) -> dict[str, float]:
    """Compile ``core.c`` with the core, run it, and return the instructions of each figure, per frame for scanners.

    Args:
        directory: for what the compiler and callgrind write.

    Raises:
        subprocess.CalledProcessError: one of them fails; what it said is in the error.
    """
    program, out = directory / "core", directory / "counted"
    sources = [ROOT / "csrc" / name for name in ("message.c", "memory.c", "scan.c", "scan_resp.c")]
    compiled = [compiler(), "-std=c11", "-D_GNU_SOURCE", "-O2", "-g", f"-I{ROOT / 'csrc'}", "-o", str(program)]
    _run([*compiled, str(Path(__file__).with_name("core.c")), *map(str, sources)])
    _run(
        [
            "valgrind",
            "--tool=callgrind",
            "--compress-strings=no",
            "--compress-pos=no",
            f"--callgrind-out-file={out}",
            str(program),
        ]
    )
    found: dict[str, float] = {}
    for part in sorted(directory.glob("counted.*"), key=lambda path: int(path.suffix[1:])):
        with part.open() as lines:
            figure, counted = of_part(lines, str(ROOT / "csrc"))
        found[figure] = round(counted / (FRAMES if figure.startswith("a ") else 1), 1)
    return found


def of_part(lines: Iterable[str], sources: str) -> tuple[str, int]:
    """Return the figure of one of callgrind's files, and the instructions that belong to files below ``sources``.

    The format is in valgrind's manual, "Callgrind Format Specification": costs count for the last file named by fl=,
    fi= or fe=, but for the line behind calls=, which has the costs of the callee.
    """
    found: Counter[bool] = Counter()
    figure, ours, of_callee = "", False, False
    for line in lines:
        if trigger := _TRIGGER.match(line):
            figure = trigger[1].strip()
        elif line.startswith(("fl=", "fi=", "fe=")):
            ours = line[3:].startswith(sources)
        elif line.startswith("calls="):
            of_callee = True
        elif cost := _COST.match(line):
            found[ours and not of_callee] += int(cost[1])
            of_callee = False
    return figure, found[True]


def _run(command: list[str]) -> None:
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=LIMIT)
    if done.returncode != 0:
        raise subprocess.CalledProcessError(done.returncode, command, done.stdout, done.stderr)
