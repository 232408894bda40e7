"""The worlds that are explored: small ones to their last state in every run of the tests, larger ones on demand."""

from __future__ import annotations

from tests.proof.world import Bounds

SMALL: dict[str, Bounds] = {
    "one session": Bounds((("X",),)),
    "half a frame": Bounds((("xX",),), refusals=0),
    "a half-closed client": Bounds((("E",),)),
    "a newcomer": Bounds((("",),), newcomers=("X",)),
    "two connections in two parts": Bounds((("X", ""),), refusals=0),
    "two sessions, one fault of a process": Bounds(
        (("",), ("",)), offers=2, refusals=0, kinds=frozenset({"old_dies", "new_dies"})
    ),
}
"""Each is explored to its end; all of them together take less than half a minute."""

LARGE: dict[str, Bounds] = SMALL | {
    "offered again, two faults": Bounds((("",),), offers=2, faults=2),
    "half a frame of a half-closed client": Bounds((("xXE",),)),
    "two sessions": Bounds((("X",), ("",)), offers=1),
    "two sessions, offered again": Bounds((("",), ("",)), offers=3),
    "two sessions, two faults": Bounds((("",), ("",)), offers=2, faults=2),
    "one session, offered again": Bounds((("X",),), offers=2),
    "two connections and a frame each": Bounds((("xX", "E"),)),
    "a newcomer and a frame": Bounds((("X",),), newcomers=("E",)),
    "two newcomers": Bounds((("",),), newcomers=("X", ""), refusals=0),
    "three connections in one session": Bounds((("", "", ""),), per_part=2, faults=2),
}
"""Beyond those of every run; together far more than a million states."""

WIDE = Bounds((("xX", "E"), ("X",), ("xXE",)), newcomers=("X", "E"), offers=6, refusals=2, faults=2)
"""Too large to be seen whole: random ways go through it."""
