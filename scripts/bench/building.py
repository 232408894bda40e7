"""The benchmarks' programs in C: built when they are needed, once for all who need them."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).resolve().parent

BUILT: Final = HERE.parent.parent / "build" / "bench"
"""Where the programs are."""

FLAGS: Final = ("-std=c11", "-O2", "-Wall", "-Wextra", "-Werror")

BUILD_LIMIT: Final = 120.0
"""Seconds that the compiler may take."""


class NoCompiler(RuntimeError):  # noqa: N818 - reads as the reason
    """There is no C compiler."""


def program(name: str) -> Path:
    """Return the program that ``NAME.c`` beside this is the source of, built if it is not there or older.

    Raises:
        NoCompiler: there is none.
        subprocess.CalledProcessError: it does not compile; the compiler has said why.
    """
    source = HERE / f"{name}.c"
    built = BUILT / name
    BUILT.mkdir(parents=True, exist_ok=True)
    with open(BUILT / f"{name}.lock", "wb") as lock:  # others may want the same at the same time
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not built.exists() or built.stat().st_mtime_ns < source.stat().st_mtime_ns:
            compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")
            if compiler is None:
                raise NoCompiler("no C compiler: apt-get install gcc libc6-dev")
            fresh = built.with_suffix(".new")  # renamed, so that nobody meets half of it, and running ones stay whole
            subprocess.run([compiler, *FLAGS, "-o", str(fresh), str(source), "-lm"], check=True, timeout=BUILD_LIMIT)
            fresh.rename(built)
    return built
