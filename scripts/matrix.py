"""Run a chosen set of tests on every Python that hotfd supports, on both event loops, as it is and with every check on.

    make matrix                                     all of it: an hour, or more
    make matrix ARGS="--python 3.13 --loop uvloop"  some of it
    make matrix ARGS="-- -k rooms"                  options of pytest behind --

The checks are Python's development mode (-X dev), asyncio's debug mode, and warnings as errors (-W error). All is set by
the environment, so that the servers which the tests start, and their successors, run in the same way. An interpreter
that is not on this machine is reported as skipped. When all of it was run, the table is written into docs/proof.md.
The status is 1 when a test has failed.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import textwrap
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOGS = ROOT / "build" / "matrix"
DOCUMENT = ROOT / "docs" / "proof.md"
BEGIN, END = "<!-- begin: written by make matrix -->", "<!-- end: written by make matrix -->"

PYTHONS = ("3.11", "3.12", "3.13")
LOOPS = ("asyncio", "uvloop")

MODES: Mapping[str, Mapping[str, str]] = {
    "plain": {},
    "checked": {"PYTHONDEVMODE": "1", "PYTHONASYNCIODEBUG": "1", "PYTHONWARNINGS": "error"},
}
"""What is in the environment in each mode."""

UNIT = ("server", "transfer", "wire", "config", "testing")
"""The unit tests that depend on the interpreter: by the second word of their files' names."""

INTEGRATION = (
    "accept", "background", "bad_versions", "bus", "config_handoff", "config_serve", "endings", "framings", "generations",
    "rooms", "supervisor_workers", "timers", "together",
)  # fmt: skip
"""The integration tests: each way for a connection and a session to move, and those who look after servers."""

LOOP_POLICY = """
    import asyncio
    import uvloop

    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
"""
"""What Python runs when it starts in a uvloop cell, as its sitecustomize: programs that choose no loop get this one."""

CELL_LIMIT = 3600.0
"""Seconds that one cell may take: a fuse."""


@dataclass(frozen=True)
class Interpreter:
    """A Python, and the environment with hotfd that belongs to it.

    Attributes:
        version: such as 3.12.
        path: the interpreter itself.
    """

    version: str
    path: Path

    @property
    def environment(self) -> Path:
        """Where the environment is: the one that this program runs in, if it is of this version."""
        if self.version == f"{sys.version_info.major}.{sys.version_info.minor}":
            return Path(sys.prefix)
        return ROOT / "build" / f"venv-python{self.version}"

    @property
    def python(self) -> Path:
        """The environment's interpreter."""
        return self.environment / "bin" / "python"

    def set_up(self) -> None:
        """Make the environment.

        Raises:
            subprocess.CalledProcessError: it cannot be made; what is wrong is on standard error.
        """
        variables = {**os.environ, "PYTHON": str(self.path), "VENV": str(self.environment)}
        subprocess.run(["sh", "scripts/setup.sh"], cwd=ROOT, env=variables, check=True)


@dataclass(frozen=True)
class Cell:
    """One row of the table: what was run, and what came of it."""

    version: str
    loop: str
    mode: str
    outcome: str
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    seconds: float = 0.0

    def row(self) -> str:
        """Return the cell in Markdown."""
        figures = (
            (f"{self.passed}", f"{self.failed}", f"{self.skipped}", f"{self.seconds:.0f}") if self.passed else "    "
        )
        return f"| {' | '.join([self.version, self.loop, self.mode, *figures, self.outcome])} |"


def find(version: str) -> Interpreter | None:
    """Return an interpreter of a version: on PATH, or the newest that pyenv has installed."""
    name = f"python{version}"
    candidates = [Path(path)] if (path := shutil.which(name)) else []
    versions = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    installed = [
        path for path in versions.glob(f"{version}.*/bin/{name}") if re.search(r"/\d+\.\d+\.\d+/bin/", str(path))
    ]
    candidates += sorted(installed, key=lambda path: int(path.parts[-3].split(".")[2]), reverse=True)
    for candidate in candidates:
        # A shim of pyenv is there for versions, too, that it does not run.
        asked = subprocess.run([candidate, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"],
                               capture_output=True, text=True, check=False)  # fmt: skip
        if asked.stdout.strip() == version:
            return Interpreter(version, candidate)
    return None


def chosen() -> Iterator[str]:
    """Yield the files of the tests that are run."""
    for word in UNIT:
        yield from sorted(str(path.relative_to(ROOT)) for path in (ROOT / "tests" / "unit").glob(f"test_{word}*.py"))
    for word in INTEGRATION:
        yield f"tests/integration/test_{word}.py"


def run(interpreter: Interpreter, loop: str, mode: str, options: list[str]) -> Cell:
    """Run the tests once."""
    log = LOGS / f"{interpreter.version}-{loop}-{mode}.log"
    with tempfile.TemporaryDirectory(prefix="hotfd-matrix-") as directory:
        results = Path(directory) / "results.xml"
        variables = {**os.environ, **MODES[mode]}
        variables["PATH"] = f"{interpreter.environment / 'bin'}:{variables['PATH']}"
        if loop == "uvloop":
            (Path(directory) / "sitecustomize.py").write_text(textwrap.dedent(LOOP_POLICY), encoding="ascii")
            variables["PYTHONPATH"] = directory
        command = [
            str(interpreter.python), "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not long and not alone",
            "--numprocesses", str(os.cpu_count()), "--dist", "worksteal", f"--junitxml={results}", *chosen(), *options,
        ]  # fmt: skip
        began = time.monotonic()
        with log.open("wb") as sink:
            try:
                done = subprocess.run(
                    command, cwd=ROOT, env=variables, stdout=sink, stderr=sink, timeout=CELL_LIMIT, check=False
                )
                outcome = f"status {done.returncode}"
            except subprocess.TimeoutExpired:
                outcome = f"not over within {CELL_LIMIT:.0f} s"
        seconds = time.monotonic() - began
        return read(results, log, Cell(interpreter.version, loop, mode, outcome, seconds=seconds))


def read(results: Path, log: Path, cell: Cell) -> Cell:
    """Return a cell with what pytest has written; failures are named on standard error."""
    if not results.exists():
        print(f"no results; see {log.relative_to(ROOT)}", file=sys.stderr)
        return cell
    cases = list(ET.parse(results).getroot().iter("testcase"))
    failed = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
    skipped = [case for case in cases if case.find("skipped") is not None]
    for case in failed:
        print(f"failed: {case.get('classname')}::{case.get('name')}; see {log.relative_to(ROOT)}", file=sys.stderr)
    return Cell(
        cell.version, cell.loop, cell.mode, "passed" if cell.outcome == "status 0" else "failed",
        len(cases) - len(failed) - len(skipped), len(failed), len(skipped), cell.seconds,
    )  # fmt: skip


def table(cells: list[Cell]) -> str:
    """Return all cells as a table in Markdown."""
    head = "| Python | loop | mode | passed | failed | skipped | seconds | outcome |\n|---|---|---|---|---|---|---|---|"
    return "\n".join([head, *(cell.row() for cell in cells)])


def write(found: str) -> None:
    """Put a table into the documentation, in the place of the one before."""
    text = DOCUMENT.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    DOCUMENT.write_text(f"{before}{BEGIN}\n\n{found}\n\n{END}{rest.split(END)[1]}", encoding="utf-8")


def main() -> int:
    """Run all cells that were asked for, one after another, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", action="append", choices=PYTHONS, help="default: all")
    parser.add_argument("--loop", action="append", choices=LOOPS, help="default: both")
    parser.add_argument("--mode", action="append", choices=list(MODES), help="default: both")
    parser.add_argument("options", nargs="*", help="of pytest")
    arguments = parser.parse_args()
    LOGS.mkdir(parents=True, exist_ok=True)
    cells: list[Cell] = []
    for version in arguments.python or PYTHONS:
        interpreter = find(version)
        if interpreter is None:
            cells.append(Cell(version, "", "", "skipped: not on this machine"))
            continue
        interpreter.set_up()
        for loop in arguments.loop or LOOPS:
            for mode in arguments.mode or MODES:
                cells.append(run(interpreter, loop, mode, arguments.options))
                print(cells[-1].row(), file=sys.stderr, flush=True)
    found = table(cells)
    print(found)
    if not (arguments.python or arguments.loop or arguments.mode or arguments.options):
        write(found)
    return int(any(cell.outcome != "passed" and not cell.outcome.startswith("skipped") for cell in cells))


if __name__ == "__main__":
    sys.exit(main())
