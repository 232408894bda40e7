"""Count, and compare with what is committed: ``python -m tests.performance [--write]``.

Prints a line per figure. Exits with 1 when one is above what is allowed, unless it is written down as allowed. With
``--where`` it prints instead in which functions opcodes are spent, and which system calls there are.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.performance import counts


def main() -> int:
    """Count everything that can be counted here; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="allow what is found")
    parser.add_argument("--where", action="store_true", help="only say what the counts consist of")
    arguments = parser.parse_args()
    if arguments.where:
        return where()
    committed = counts.allowed() if counts.FILE.exists() else {}
    found: counts.Counts = {}
    complaints: list[str] = []
    for unit in counts.UNITS:
        if (reason := counts.missing(unit)) is not None:
            print(f"{unit}: not counted: {reason}")
            continue
        environment = counts.environment(unit)
        figures = counts.count(unit)
        found.setdefault(environment, {})[unit] = figures
        before = committed.get(environment, {}).get(unit, {})
        print(f"{unit} ({environment})")
        for figure, value in figures.items():
            old = f"{before[figure]:10g} allowed {value / before[figure] - 1:+8.1%}" if before.get(figure) else ""
            print(f"  {figure:44}{value:10g}{old}")
        complaints += counts.grown(unit, figures, before)
    if arguments.write:
        counts.write(found)
        return 0
    print("\n".join(complaints))
    return 1 if complaints else 0


def where() -> int:
    """Print what the counts consist of, for people who want to make them smaller."""
    if counts.missing("system calls") is None:
        with tempfile.TemporaryDirectory(prefix="hotfd-counts-") as directory:
            for figure, names in counts.trace(Path(directory)).items():
                print(f"{figure}: {sum(names.values()):.2f} system calls")
                for name, times in names.items():
                    print(f"{times:10.2f}  {name}")
    return subprocess.run([*counts.scenes("opcodes"), "--where"], cwd=counts.ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
