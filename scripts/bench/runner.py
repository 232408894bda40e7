"""Runs suites, one after the other: one that fails is reported, and the others go on."""

from __future__ import annotations

import datetime as dt
import importlib
import importlib.util
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Final

from scripts.bench.results import Ran
from scripts.bench.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

SUITES: Final = ("pgbouncer", "plain", "floor", "growth", "steady", "kv", "scanners")
"""All suites, in the order in which they run and are shown."""

ROOT: Final = Path(__file__).resolve().parent.parent.parent

GIT_LIMIT: Final = 10.0
"""Seconds that git may take to say what this tree is."""

TRACE_LINES: Final = 12
"""Lines of a failed suite's traceback that the report keeps: the last ones, which say what and where."""


def available() -> list[str]:
    """Return the suites that this tree has, in order."""
    return [name for name in SUITES if importlib.util.find_spec(f"scripts.bench.suites.{name}") is not None]


def run(names: Sequence[str], rounds: int, *, quick: bool, say: Callable[[str], None]) -> Iterator[tuple[str, Ran]]:
    """Run suites, and yield each one's name and run when it has ended.

    Args:
        names: of suites that are there.
        rounds: how often each case runs.
        quick: whether only to show that they work.
        say: is told what goes on.
    """
    commit = tree()
    for name in names:
        say(f"{name} ...")
        when = dt.datetime.now(dt.UTC).strftime("%Y-%m-%d %H:%M UTC")
        began = time.monotonic()
        directory = Path(tempfile.mkdtemp(prefix=f"hotfd-bench-{name}-"))
        ran = Ran(when, commit, rounds, quick, 0.0)
        try:
            suite = importlib.import_module(f"scripts.bench.suites.{name}")
            settings = Settings(rounds, quick, directory, lambda text, name=name: say(f"  {name}: {text}"))  # type: ignore[misc]
            ran.section = suite.run(settings)
        except Exception as error:  # noqa: BLE001 - whatever a suite meets, the others are still worth running
            traceback.print_exc()
            notes = "\n".join(getattr(error, "__notes__", ()))
            print(notes, file=sys.stderr, end="")
            # Without the notes: they are logs, which may say what is nobody's business in a report.
            lines = "".join(traceback.format_exception(error)).splitlines()
            short = [line for line in lines if line not in notes.splitlines()]
            ran.failure = "\n".join(short[-TRACE_LINES:])
        finally:
            shutil.rmtree(directory)
        ran.seconds = time.monotonic() - began
        say(f"{name}: {'FAILED' if ran.section is None else 'done'} after {ran.seconds:.0f} s")
        yield name, ran


def tree() -> str:
    """Return which commit this is, with a ``+`` where something has been changed since; ``unknown`` without git."""
    try:
        commit = _git("rev-parse", "--short", "HEAD")
        return commit + ("+" if _git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def _git(*words: str) -> str:
    done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, check=True, text=True, timeout=GIT_LIMIT)
    return done.stdout.strip()
