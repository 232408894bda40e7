"""Programs for tests of the directory store: power cuts, and many publishers. Each runs in a process of its own.

``python -m tests.unit.config_power_cuts cuts DIRECTORY`` and ``... publishers DIRECTORY``. They fork, which a process
with threads (as pytest's is) should not. ``cuts-held`` cuts a commit while somebody holds the ledger, and ``cuts-after``
the one that follows it.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import sqlite3
import sys
from typing import TYPE_CHECKING, Any, NoReturn

from hotfd.config import directory_ledger
from hotfd.config.directory import DirectoryStore
from hotfd.config.directory_ledger import Ledger
from hotfd.config.rollout import For
from hotfd.errors import Conflict
from tests.unit.config_stores import publishing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from hotfd.config.release import Head
    from hotfd.config.rollout import Step

STEPS = ("open", "close", "mkdir", "fchmod", "ftruncate", "pwrite", "write", "fsync", "rename", "unlink")
"""Functions of ``os`` by which a commit changes something, or makes a change last."""

CUT = 77
"""Exit status of a process whose power was cut."""

MODULES = ("chat", "game", "shop")
LOCK_WAIT = 300.0


def wrap(before: Callable[[str, tuple[Any, ...]], None]) -> None:
    """Call something before each step of a commit from here on: system calls, and statements of SQL."""

    def wrapped(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            before(name, arguments)
            return function(*arguments, **named)

        return call

    for name in STEPS:
        setattr(os, name, wrapped(name, getattr(os, name)))
    connect = Ledger._connect

    def traced(ledger: Ledger, mode: str, wait: float) -> Any:
        database = connect(ledger, mode, wait)
        database.set_trace_callback(lambda statement: before("sql", (statement,)))
        return database

    Ledger._connect = traced  # type: ignore[method-assign]


def child(work: Callable[[], None]) -> int:
    """Do something in a child; return its pid."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return pid


def ended(pid: int) -> int:
    """Wait for a child's end; return its exit status."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@contextlib.contextmanager
def held(place: str) -> Iterator[None]:
    """Hold the ledger, as a process does that was stopped while it wrote."""
    busy, directory_ledger.BUSY = directory_ledger.BUSY, 0.0  # type: ignore[misc]
    with contextlib.closing(sqlite3.connect(os.path.join(place, "ledger.sqlite"), isolation_level=None)) as database:
        database.execute("BEGIN EXCLUSIVE")
        yield
    directory_ledger.BUSY = busy  # type: ignore[misc]


# -- power cuts ------------------------------------------------------------------------------------


def cut_at(place: str, steps: list[Step], at: int, *, hold: bool) -> None:
    """Commit, and end at the n-th step; a write is half done then."""
    with held(place) if hold else contextlib.nullcontext():
        _cut_at(place, steps, at)


def _cut_at(place: str, steps: list[Step], at: int) -> None:
    write, exit_now = os.write, os._exit
    count = 0

    def before(name: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        count += 1
        if count == at:
            if name == "write":
                write(arguments[0], bytes(arguments[1])[: len(arguments[1]) // 2])
            exit_now(CUT)

    store = DirectoryStore(place)
    wrap(before)
    store.write(steps)


def check_whole(place: str, old: dict[str, Head], new: dict[str, Head], events: dict[tuple[str, int], Any]) -> bool:
    """Check what a power cut has left; return whether the commit was carried out."""
    store = DirectoryStore(place)
    heads = store.read_heads()
    assert heads in (old, new), f"a mixture: {heads}"
    for module, head in heads.items():
        history = store._history(module, 50, None)
        assert [event.sequence for event in history] == list(range(head.sequence, 0, -1)), history
        assert all(event == events[module, event.sequence] for event in history), history
        for version in range(1, head.last + 1):
            store._release(module, version, None)
    for module in set(new) - set(heads):
        assert store._history(module, 50, None) == []
    return heads == new


def go_on(place: str) -> None:
    """Check that all modules can be published to, with other values than those that were cut off."""
    store = DirectoryStore(place)
    before = store.read_heads()
    steps = [publishing(before.get(module), module, who="next") for module in MODULES]
    store.write(steps)
    assert store.read_heads() == {step.head.module: step.head for step in steps}
    for step in steps:
        assert step.head.stable is not None
        release = store._release(step.head.module, step.head.last, step.head.stable.sha256)
        assert release.release.values == {"who": "next"}
        history = store._history(step.head.module, 50, None)
        assert history[0] == step.event
        assert [event.sequence for event in history] == list(range(step.head.sequence, 0, -1)), history
    left = [
        name
        for _, _, names in os.walk(place)
        for name in names
        if name.endswith((".new", "-journal")) or name == "waiting.json"
    ]
    assert left == [], left


def cuts(base: str, when_held: str = "never") -> None:
    """Cut the power at each step of a commit of three modules; print at how many.

    Args:
        base: a directory.
        when_held: when somebody holds the ledger: ``never``, ``before`` that commit, or ``now``.
    """
    whole = os.path.join(base, "whole")
    store = DirectoryStore(whole, create=True)
    events = {}
    for number in range(3):
        steps = [publishing(store.read_heads().get(module), module) for module in ("chat", "game")]
        with held(whole) if number and when_held == "before" else contextlib.nullcontext():
            store.write(steps)
        events |= {(step.head.module, step.head.sequence): step.event for step in steps}
    old = store.read_heads()
    steps = [
        publishing(old["chat"], "chat", For(("eu",), 0.5), who="cut"),
        publishing(old["game"], "game", who="cut"),
        publishing(None, "shop", who="cut"),
    ]
    events |= {(step.head.module, step.head.sequence): step.event for step in steps}
    new = {step.head.module: step.head for step in steps}
    at, status, carried_out = 0, CUT, []
    while status == CUT:
        at += 1
        place = os.path.join(base, f"cut-{at}")
        shutil.copytree(whole, place)
        status = ended(child(lambda place=place, at=at: cut_at(place, steps, at, hold=when_held == "now")))
        assert status in (CUT, 0), status
        carried_out.append(check_whole(place, old, new, events))
        go_on(place)
        shutil.rmtree(place)
    assert carried_out == sorted(carried_out), "carried out by an earlier step and not by a later one"
    print("cuts", at - 1, "carried out from", carried_out.index(True) + 1)


# -- many publishers -------------------------------------------------------------------------------

PROCESSES = 8
COMMITS = 5


def publish_some(place: str, number: int) -> None:
    """Publish to some modules at a time, as often as it takes."""
    store = DirectoryStore(place, lock_wait=LOCK_WAIT)
    choice = random.Random(number)
    for commit in range(COMMITS):
        modules = choice.sample(MODULES, choice.randint(1, len(MODULES)))
        while True:
            heads = store.read_heads()
            try:
                store.write([publishing(heads.get(m), m, who=f"{number}-{commit}") for m in modules])
            except Conflict:
                continue
            break


def publishers(base: str) -> None:
    """Let processes publish at once; check that nothing is lost, and print how much was published."""
    place = os.path.join(base, "store")
    store = DirectoryStore(place, create=True)
    store.read_heads()
    pids = [child(lambda number=number: publish_some(place, number)) for number in range(PROCESSES)]
    assert [ended(pid) for pid in pids] == [0] * PROCESSES
    count = 0
    expected: dict[str, set[str]] = {module: set() for module in MODULES}
    for number in range(PROCESSES):
        choice = random.Random(number)
        for commit in range(COMMITS):
            for module in choice.sample(MODULES, choice.randint(1, len(MODULES))):
                expected[module].add(f"{number}-{commit}")
    for module, head in store.read_heads().items():
        history = store._history(module, 1000, None)
        assert [event.sequence for event in history] == list(range(head.sequence, 0, -1))
        assert [event.version for event in history] == list(range(head.last, 0, -1))
        found = [store._release(module, event.version, event.sha256).release.values["who"] for event in history]
        assert len(found) == len(expected[module])
        assert set(found) == expected[module]
        count += len(found)
    print("published", count)


def main() -> NoReturn:
    """Run one of the programs."""
    programs: dict[str, Callable[[str], None]] = {
        "cuts": cuts,
        "cuts-held": lambda base: cuts(base, "now"),
        "cuts-after": lambda base: cuts(base, "before"),
        "publishers": publishers,
    }
    programs[sys.argv[1]](sys.argv[2])
    sys.exit(0)


if __name__ == "__main__":
    main()
