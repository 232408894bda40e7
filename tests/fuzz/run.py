"""Runs the targets for as long as one likes: ``python -m tests.fuzz.run --seconds 60 --seed 1 [TARGET ...]``.

Prints a line for each target. A finding is written to ``build/fuzz/``, as a file that goes into the corpus when its
cause is mended; the exit status is 1 then.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import time
from pathlib import Path
from typing import Final

from tests.fuzz import protocol, scanners, text
from tests.fuzz.engine import Finding, Target

TARGETS: Final = {target.name: target for target in (*scanners.TARGETS, *protocol.TARGETS, *text.TARGETS)}

FINDINGS: Final = Path("build/fuzz")

MAX_FINDINGS: Final = 20
"""Of one target: whoever mends the first often mends the others."""

MEASURED: Final = 10
"""One input in so many is measured for its memory too."""


def fuzz(target: Target, seed: int, seconds: float) -> int:
    """Run one target; return how many findings there are, one for each place and kind of error."""
    deadline = time.monotonic() + seconds
    taken = count = 0
    places: set[str] = set()
    for data in target.inputs(seed):
        count += 1
        try:
            taken += target.check(data, memory=count % MEASURED == 0)
        except Finding as finding:
            place = _place(finding)
            if place not in places:
                places.add(place)
                _keep(finding, place)
        if len(places) >= MAX_FINDINGS or time.monotonic() > deadline:
            break
    print(f"{target.name:22} {count:9} inputs {taken:9} taken {len(places):3} findings", flush=True)
    return len(places)


def _place(finding: Finding) -> str:
    error = finding.__cause__
    if error is None:
        return str(finding).split(";")[0].rstrip("0123456789 bytes")
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f"{type(error).__name__} {trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace else str(error)


def _keep(finding: Finding, place: str) -> None:
    FINDINGS.mkdir(parents=True, exist_ok=True)
    path = FINDINGS / f"{finding.target}-{hashlib.sha256(finding.data).hexdigest()[:12]}"
    path.write_bytes(finding.data)
    print(f"{path}: {finding}\n    at {place}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description="Fuzz the parsers of what comes from elsewhere.")
    parser.add_argument("--seconds", type=float, default=30.0, help="for each target")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(TARGETS))
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.targets if name not in TARGETS]:
        parser.error(f"there is no target {unknown[0]}")
    chosen = [TARGETS[name] for name in arguments.targets] or list(TARGETS.values())
    return 1 if sum(fuzz(target, arguments.seed, arguments.seconds) for target in chosen) else 0


if __name__ == "__main__":
    sys.exit(main())
