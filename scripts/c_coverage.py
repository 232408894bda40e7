"""Prints which lines of the C core were executed, of all that gcc's ``--coverage`` has counted below some folders.

A source is compiled into the extension and into each test program; what any of them has executed counts.

usage: scripts/c_coverage.py FOLDER...
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

LIMIT = 60
"""Seconds for gcov to read the counts of one object file."""


def counts(folders: list[str]) -> dict[str, Counter[int]]:
    """Return by source of the core how often each of its lines was executed."""
    found: dict[str, Counter[int]] = defaultdict(Counter)
    for path in (path for folder in folders for path in sorted(Path(folder).rglob("*.gcda"))):
        command = ["gcov", "--json-format", "--stdout", str(path)]
        said = subprocess.run(command, capture_output=True, check=True, timeout=LIMIT, cwd=path.parent).stdout
        for document in filter(None, said.splitlines()):
            for file in json.loads(document)["files"]:
                source = Path(file["file"])
                if source.parent.name == "csrc" and not source.name.startswith(("test_", "fuzz", "replay", "_")):
                    for line in file["lines"]:
                        found[source.name][line["line_number"]] += line["count"]
    return found


def ranges(lines: list[int]) -> str:
    """Return numbers as a person writes them: ``3-5, 9``."""
    text: list[str] = []
    begin = end = -1
    for line in [*lines, -1]:
        if line == end + 1:
            end = line
            continue
        if begin > 0:
            text.append(str(begin) if begin == end else f"{begin}-{end}")
        begin = end = line
    return ", ".join(text)


def main() -> int:
    """Print the table."""
    found = counts(sys.argv[1:])
    if not found:
        print("there are no counts: nothing was built with --coverage, or nothing ran", file=sys.stderr)
        return 1
    print(f"{'csrc/':16} lines  missed  covered  not executed")
    total = missed = 0
    for name, lines in sorted(found.items()):
        never = sorted(line for line, count in lines.items() if not count)
        total, missed = total + len(lines), missed + len(never)
        print(f"{name:16} {len(lines):5} {len(never):7} {1 - len(never) / len(lines):8.1%}  {ranges(never)}".rstrip())
    print(f"{'all':16} {total:5} {missed:7} {1 - missed / total:8.1%}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
