"""``python -m scripts.bench [SUITE...]``: measure, and write the report.

Without suites all of them run, and the report goes to docs/performance; one of some suites, or a quick one, goes to
build/bench/report, unless --out says where, or --update puts these suites' figures into the report that is there.

Exit status: 0; 1 when a suite failed; 2 for wrong usage; 130 after Ctrl-C, and then nothing is written.
"""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from hotfd.bench.machine import machine
from hotfd.children import none_left
from scripts.bench import report, results, runner

if TYPE_CHECKING:
    from collections.abc import Sequence

ROUNDS: Final = 5
"""How often each case runs: enough that one bad round moves no median."""

REPORT: Final = runner.ROOT / "docs" / "performance"
"""Where the report of a whole run goes."""

TRIAL: Final = runner.ROOT / "build" / "bench" / "report"
"""Where that of any other goes."""

DATA: Final = "results.json"
"""The file with every figure, in the report's directory."""

SAME: Final = ("kernel", "processor", "cores", "python")
"""What must be the same of the machine when a suite's figures are put beside those of another run."""


def say(text: str) -> None:
    """Print a line about what goes on."""
    print(text, file=sys.stderr, flush=True)


def main(words: Sequence[str]) -> int:
    """Run with these arguments, and return the exit status."""
    asked = _parser().parse_args(words)
    if unknown := set(asked.suites) - set(runner.available()):
        say(f"There is no suite {', '.join(sorted(unknown))}. Suites: {', '.join(runner.available())}.")
        return 2
    names = [name for name in runner.available() if not asked.suites or name in asked.suites]
    whole = not asked.suites and not asked.quick
    directory = asked.out or (REPORT if whole or asked.update or asked.report_only else TRIAL)
    try:
        if asked.report_only:
            report.write(results.read(directory / DATA), directory)
            return 0
        found = _beginning(directory / DATA, update=asked.update)
    except (OSError, ValueError) as error:
        say(str(error))
        return 2
    rounds = 1 if asked.quick else asked.rounds
    try:
        runs = dict(runner.run(names, rounds, quick=asked.quick, say=say))
    except KeyboardInterrupt:
        say("interrupted: nothing is written")
        return 130
    together = {**found.suites, **runs}
    found.suites = {name: together[name] for name in runner.SUITES if name in together}
    _write(found, directory)
    return 1 if any(ran.section is None for ran in runs.values()) else 0


def _beginning(path: Path, *, update: bool) -> results.Results:
    """Return the results that this run's are put into.

    Raises:
        OSError, ValueError: those that are to be updated cannot be read, or are of another machine.
    """
    here = machine()
    if not (update and path.exists()):
        return results.Results(here)
    there = results.read(path)
    different = [fact for fact in SAME if there.machine.get(fact) != here.get(fact)]
    if different:
        raise ValueError(f"{path} is of another machine ({', '.join(different)}): measure everything, without --update")
    return there


def _write(found: results.Results, directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    results.write(found, directory / DATA)
    # Of what was written, so that drawing it again makes the same.
    written = results.read(directory / DATA)
    report.write(written, directory)
    print(report.summary(written))
    say(f"the report is in {directory / report.INDEX}")


def _positive(text: str) -> int:
    value = int(text)
    if not 1 <= value <= 1000:
        raise argparse.ArgumentTypeError("1 to 1000")
    return value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m scripts.bench", description="Measure, and write the report.")
    parser.add_argument("suites", nargs="*", metavar="SUITE", help=f"all, unless named: {', '.join(runner.SUITES)}")
    parser.add_argument("--quick", action="store_true", help="only show that the suites work: one round, small numbers")
    parser.add_argument("--rounds", type=_positive, default=ROUNDS, metavar="N", help=f"default: {ROUNDS}")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where the report goes")
    either = parser.add_mutually_exclusive_group()
    either.add_argument("--update", action="store_true", help="put these suites' figures into the report that is there")
    either.add_argument("--report-only", action="store_true", help="measure nothing: draw the report anew")
    return parser


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as control-C: what was started is ended
    with none_left():
        sys.exit(main(sys.argv[1:]))
