"""What a process holds: descriptors, threads, shared memory. Of servers, and of the process that runs the tests.

Everything is read from proc_pid(5), and none of it asks the process itself.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Footprint:
    """What a process holds at one moment.

    Attributes:
        descriptors: how many are open.
        threads: how many it has.
        mappings: how many parts of anonymous files are mapped, memfd_create(2): a mapping outlives its descriptor.
    """

    descriptors: int
    threads: int
    mappings: int


def footprint(pid: int) -> Footprint:
    """Return what another process holds.

    Raises:
        OSError: there is no such process.
    """
    base = f"/proc/{pid}"
    return Footprint(len(os.listdir(f"{base}/fd")), len(os.listdir(f"{base}/task")), mapped(pid))


def mapped(pid: int | str = "self") -> int:
    """Return how many parts of anonymous files a process has mapped."""
    return Path(f"/proc/{pid}/maps").read_bytes().count(b" /memfd:")


LASTING: set[int] = set()
"""Children that belong to more than one test, as the members of a cluster do; whoever started them ends them."""


def children() -> set[int]:
    """Return the children of this process, zombies included: whoever was not waited for, but for the lasting ones."""
    found: set[int] = set()
    for thread in os.listdir("/proc/self/task"):
        with suppress(OSError):  # it has ended
            found.update(map(int, Path(f"/proc/self/task/{thread}/children").read_text(encoding="ascii").split()))
    return found - LASTING


def zombies() -> list[int]:
    """Return the children of this process that have ended, and were not waited for."""
    return [pid for pid in sorted(children()) if _state(pid) == "Z"]


def _state(pid: int) -> str:
    """Return the state of a process as one letter; nothing when it is gone."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0].decode()
    return ""


def segments() -> set[int]:
    """Return the System V shared memory that this process has made, sysvipc(7)."""
    with suppress(OSError):
        rows = [line.split() for line in Path("/proc/sysvipc/shm").read_text(encoding="ascii").splitlines()[1:]]
        return {int(row[1]) for row in rows if int(row[4]) == os.getpid()}
    return set()
