"""Every fault at every step of a handoff, and the table of what came of it.

usage: python -m tests.proof.faults [--jobs N] [--only WORD]... [--table-only]

Tries all cases of :mod:`tests.proof.faults_catalogue`, a few servers beside each other, prints each as it ends, and
writes ``docs/proof-faults.md`` anew. With ``--only``, cases whose names have one of the words; the others stay in the
table as they were. Exits with 1 when any case has ended as it must not.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from hotfd.faults import Point
from tests.proof.faults_catalogue import FAULTS, SCENARIOS, Case, cases, roles, why_not
from tests.proof.faults_stage import Result, Stage

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "docs" / "proof-faults.md"
RECORDED = Path(__file__).with_name("faults.json")
BEGIN, END = "<!-- begin: written by make faults -->", "<!-- end -->"

WORDS = {"completed": "done", "partial": "partly", "rolled-back": "undone", "refused": "refused", "nobody": "refused"}
"""The outcomes, as short as a cell of the table needs them."""


def cell(result: dict[str, object] | None) -> str:
    """Write one cell: the outcome, who serves, how many connections were lost, the longest pause."""
    if result is None:
        return "?"
    outcome, serves, lost = str(result["outcome"]), str(result["serves"]), int(str(result["lost"]))
    if serves == "nobody":
        return "both dead"
    words = [f"{WORDS[outcome]}, {serves}"]
    if lost:
        words.append(f"{lost} lost")
    words.append(f"{float(str(result['pause'])) * 1000:.0f} ms")
    return "; ".join(words)


def table(results: dict[str, dict[str, object]]) -> Iterator[str]:
    """Yield the lines of the tables: one row for a point and a process, one column for a fault."""
    for title, process in (("The old process", "old"), ("The new process", "new"), ("The channel", "channel")):
        yield f"### {title}"
        yield ""
        yield "| point | " + " | ".join(FAULTS) + " |"
        yield "|---" * (len(FAULTS) + 1) + "|"
        for point in Point:
            if point.process != process:
                continue
            for role in roles(point):
                name = f"`{point.value}`" + (f" ({role})" if process == "channel" else "")
                cells = [
                    "-" if why_not(point, fault) else cell(results.get(str(Case(point, fault, role))))
                    for fault in FAULTS
                ]
                yield f"| {name} | " + " | ".join(cells) + " |"
        yield ""


def points() -> Iterator[str]:
    """Yield the lines of the list of points."""
    yield "### The points"
    yield ""
    for point in Point:
        scenario = Case(point, "SIGKILL", roles(point)[0]).scenario
        where = "" if scenario == "rolling" else f" (tried when {SCENARIOS[scenario].about})"
        yield f"- `{point.value}`: {point.about}{where}"
    yield ""


def write_document(results: dict[str, dict[str, object]]) -> None:
    """Put the tables in the place of the former ones."""
    text = DOCUMENT.read_text()
    head, rest = text.split(BEGIN)
    tail = rest.split(END)[1]
    DOCUMENT.write_text("\n".join([head + BEGIN, "", *points(), *table(results), END]) + tail)


def plain(result: Result) -> dict[str, object]:
    """Return what is recorded of a result."""
    return {
        "case": str(result.case), "outcome": result.outcome, "reason": result.reason, "serves": result.serves,
        "lost": result.lost, "counted": result.counted, "pause": round(result.pause, 3), "wrong": result.wrong,
    }  # fmt: skip


async def work(chosen: list[Case]) -> None:
    """Try cases, and print what came of each as a line of JSON."""
    with tempfile.TemporaryDirectory(prefix="hotfd-faults-", ignore_cleanup_errors=True) as name:
        runtime = Path(name, "run")
        runtime.mkdir(mode=0o700)
        os.environ["HOTFD_RUNTIME_DIR"] = str(runtime)
        async with Stage(Path(name)) as stage:
            for case in chosen:
                result = await stage.run(case)
                print(json.dumps(plain(result)), flush=True)
                if result.wrong:
                    print(f"{case}: {result.wrong}\n{stage.log[-6000:]}", file=sys.stderr, flush=True)


def chosen_of(words: list[str]) -> list[Case]:
    """Return the cases that have one of the words in their names, those of one circumstance beside each other."""
    found = [case for case in cases() if not words or any(word in str(case) for word in words)]
    return sorted(found, key=lambda case: case.scenario)


def record(results: dict[str, dict[str, object]]) -> None:
    """Keep what came of each case, for the next time that only some are tried."""
    known = {str(case) for case in cases()}
    kept = {name: results[name] for name in sorted(results) if name in known}
    RECORDED.write_text("[\n" + ",\n".join(json.dumps(result) for result in kept.values()) + "\n]\n")


def recorded() -> dict[str, dict[str, object]]:
    """Return what came of each case until now."""
    return {result["case"]: result for result in json.loads(RECORDED.read_text())} if RECORDED.exists() else {}


def run_all(jobs: int, words: list[str]) -> dict[str, dict[str, object]]:
    """Try cases in several processes, and record what came of each as it ends; return that."""
    before = recorded()
    arguments = [item for word in words for item in ("--only", word)]
    command = [sys.executable, "-m", "tests.proof.faults", *arguments, "--jobs", str(jobs)]
    workers = [
        subprocess.Popen([*command, "--worker", str(number)], stdout=subprocess.PIPE, cwd=ROOT, text=True)
        for number in range(jobs)
    ]
    results: dict[str, dict[str, object]] = {}

    def listen(worker: subprocess.Popen[str]) -> None:
        assert worker.stdout is not None
        for line in worker.stdout:
            result = json.loads(line)
            results[result["case"]] = result
            record({**before, **results})
            print(f"{result['case']}: {cell(result)} {result['reason']} {result['wrong'] or ''}", flush=True)

    with ThreadPoolExecutor() as pool:
        list(pool.map(listen, workers))
    assert [worker.wait() for worker in workers] == [0] * jobs, "a worker has failed"
    return results


def main() -> int:
    """Do what is said above."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--only", action="append", default=[])
    parser.add_argument("--table-only", action="store_true")
    parser.add_argument("--worker", type=int)
    options = parser.parse_args()
    if options.worker is not None:
        asyncio.run(work(chosen_of(options.only)[options.worker :: options.jobs]))
        return 0
    wrong = []
    if not options.table_only:
        news = run_all(options.jobs, options.only)
        wrong = [name for name, result in news.items() if result["wrong"]]
    results = recorded()
    write_document(results)
    print(f"{len(results)} cases, {len(wrong)} of them wrong", *wrong, sep="\n  ")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
