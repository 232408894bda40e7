"""The counts that are allowed, those that are found, and how the two stand to each other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from tests.performance import instructions, system_calls

ROOT: Final = Path(__file__).resolve().parents[2]
FILE: Final = Path(__file__).with_name("counts.json")

TOLERANCE: Final = 1.03
"""What a count may be of the one that is allowed: as much as patch releases of Python and of the compiler differ."""

LIMIT: Final = 120
"""Seconds for a process that plays the scenes, which takes one or two."""

PYTHON: Final = f"python {sys.version_info.major}.{sys.version_info.minor}"

UNITS: Final = ("opcodes", "calls into C", "system calls", instructions.UNIT)

Figures = dict[str, float]
Counts = dict[str, dict[str, Figures]]
"""By environment, unit and figure."""


def environment(unit: str) -> str:
    """Return what counts of this unit depend on: the version of Python, or of the C compiler."""
    return instructions.environment() if unit == instructions.UNIT else PYTHON


def missing(unit: str) -> str | None:
    """Say why this unit cannot be counted here; None if it can."""
    if unit == instructions.UNIT:
        return instructions.missing()
    return system_calls.missing() if unit == "system calls" else None


def count(unit: str) -> Figures:
    """Count now, in a process of its own that nothing of this one's can disturb."""
    with tempfile.TemporaryDirectory(prefix="hotfd-counts-") as directory:
        if unit == instructions.UNIT:
            return instructions.count(Path(directory))
        if unit == "system calls":
            return {figure: round(sum(names.values()), 2) for figure, names in trace(Path(directory)).items()}
        return {figure: round(total / units, 1) for figure, (total, units) in _play(scenes(unit)).items()}


def scenes(unit: str) -> list[str]:
    """Return the command that plays the scenes."""
    return [sys.executable, "-m", "tests.performance.scenes", unit]


def trace(directory: Path) -> dict[str, Figures]:
    """Return the system calls of each figure, per unit and by their names."""
    file = directory / "trace"
    played = _play(system_calls.traced(scenes("system calls"), file))
    with file.open() as lines:
        found = system_calls.counted(lines)
    return {
        figure: {name: times / units for name, times in found[figure].most_common()}
        for figure, (_, units) in played.items()
    }


def _play(command: list[str]) -> dict[str, tuple[int, int]]:
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "COVERAGE", "HOTFD"))}
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=plain,
        check=False,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        stdin=subprocess.DEVNULL,
    )
    if done.returncode != 0:
        raise RuntimeError(f"the scenes fail: {done.stderr}")
    return {figure: (total, units) for figure, (total, units) in json.loads(done.stdout).items()}


def allowed() -> Counts:
    """Return the committed counts."""
    found: Counts = json.loads(FILE.read_text())
    return found


def grown(unit: str, found: Mapping[str, float], committed: Mapping[str, float]) -> list[str]:
    """Say which figures are above what is allowed, and which nobody has committed; a line for each."""
    complaints = []
    for figure, value in found.items():
        if figure not in committed:
            complaints.append(f"{figure}: {value:g} {unit}, and no figure is committed: make counts ARGS=--write")
        elif value > committed[figure] * TOLERANCE:
            complaints.append(
                f"{figure}: {value:g} {unit}, {committed[figure]:g} allowed; if it is meant: make counts ARGS=--write"
            )
    complaints += [f"{figure}: it is not counted any more" for figure in committed.keys() - found.keys()]
    return complaints


def write(found: Counts) -> None:
    """Commit new counts; those of other environments, and of units that could not be counted, stay."""
    counts = allowed() if FILE.exists() else {}
    for environment_, units in found.items():
        counts[environment_] = counts.get(environment_, {}) | units
    FILE.write_text(json.dumps(counts, indent=2) + "\n")
