"""``python -m hotfd.publish``: what the hooks of a repository run. People use ``hotfd config``."""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import suppress
from typing import NoReturn

from hotfd.errors import ConfigError
from hotfd.publish.install import Settings


def main() -> NoReturn:
    """Run a hook, or a worker."""
    parser = argparse.ArgumentParser(prog="hotfd.publish", allow_abbrev=False)
    parser.add_argument("--kind", choices=("git", "svn"), required=True)
    parser.add_argument("--repository", required=True)
    parser.add_argument("--store", required=True)
    parser.add_argument("--path", default="")
    parser.add_argument("--branch", default="")
    parser.add_argument("--allow-scripts", action="store_true")
    parser.add_argument("--limit", type=float, default=2.0)  # of a hook, in seconds: hotfd.publish.hooks.LIMIT
    parser.add_argument("words", nargs="+")
    given = parser.parse_args()
    what, *rest = given.words
    settings = Settings(given.kind, given.repository, given.store, given.path, given.branch, given.allow_scripts)
    status = 1
    try:
        status = _work(settings, rest) if what == "work" else _hook(settings, what, rest, given.limit)
    except ConfigError as error:
        say(str(error))
    except OSError as error:
        say(f"{error.strerror}: {error.filename}" if error.filename else str(error))
    # Not sys.exit: it would wait for threads that wait for a store.
    os._exit(status)


def say(line: str) -> None:
    """Tell who commits something."""
    from hotfd.publish.faults import printable

    with suppress(OSError):  # he is gone; what he has committed is published all the same
        sys.stderr.write(f"hotfd: {printable(line)}\n")
        sys.stderr.flush()


def _hook(settings: Settings, what: str, rest: list[str], limit: float) -> int:
    from hotfd.publish.hooks import Hook

    return Hook(settings, say, limit).run(what, rest)


def _work(settings: Settings, rest: list[str]) -> int:
    from hotfd.publish.spool import Spool, directory_of
    from hotfd.publish.worker import Worker, keep_log

    report = int(rest[0])
    os.set_inheritable(report, False)  # the programs that a worker runs have no part in it
    spool = Spool(directory_of(settings.kind, settings.repository))
    keep_log(spool)
    Worker(settings, spool, report).work()
    return 0


if __name__ == "__main__":
    main()
