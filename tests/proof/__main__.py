"""Explore the handoff protocol beyond what every run of the tests does: ``python -m tests.proof [--limit STATES]``.

Prints a line for each world, and the story of the first thing that is wrong; exits with 1 when there is one.
"""

from __future__ import annotations

import argparse
import random
import sys

from tests.proof.explorer import explore, walk
from tests.proof.handoff import FAULTS, Handoff
from tests.proof.worlds import LARGE, WIDE

LIMIT = 2_000_000
"""States of one world; a million and a half of them take a minute and some hundreds of megabytes."""

WALKS = 20_000
"""Random ways through the widest world; about a minute."""


def main() -> int:
    """Explore all worlds, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--limit", type=int, default=LIMIT, help="states of one world at most (default: %(default)s)")
    parser.add_argument("--walks", type=int, default=WALKS, help="random ways (default: %(default)s)")
    parser.add_argument("--world", choices=LARGE, help="only this one")
    arguments = parser.parse_args()
    worlds = {arguments.world: LARGE[arguments.world]} if arguments.world else LARGE
    states = 0
    for title, bounds in worlds.items():
        found = explore(Handoff(bounds), limit=arguments.limit, faults=FAULTS)
        states += found.states
        print(f"{title}: {found}", flush=True)
        if found.wrong is not None:
            print(found.wrong)
            return 1
    start = Handoff(WIDE)
    for seed in range(arguments.walks):
        story = walk(start, random.Random(seed), faults=FAULTS)
        if story is not None:
            print(f"random way {seed}: {story}")
            return 1
    print(f"{states:,} states, and {arguments.walks:,} random ways through a wider world: nothing is wrong")
    return 0


if __name__ == "__main__":
    sys.exit(main())
