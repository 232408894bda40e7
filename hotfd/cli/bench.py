"""``hotfd bench``: how long clients wait for a handoff on this machine, how fast connections move, and what limits that."""

from __future__ import annotations

import signal
import sys
import tempfile
from tempfile import TemporaryDirectory
from typing import Any

import click

from hotfd.cli.group import INTERRUPTED, Failure, Unusable
from hotfd.cli.options import json_option
from hotfd.cli.output import print_json

MAX_STATE = 64 * 1024 * 1024
"""Bytes of state per connection; more times a thousand connections is more than most machines have."""

MAX_ROUNDS = 1000
"""More rounds than anybody waits for."""


@click.command("bench")
@click.option(
    "--connections",
    type=click.IntRange(1, 1_000_000),
    default=1000,
    show_default=True,
    metavar="N",
    help="Connections of the server that is handed over.",
)
@click.option(
    "--state",
    type=click.IntRange(0, MAX_STATE),
    default=200,
    show_default=True,
    metavar="BYTES",
    help="State of each connection.",
)
@click.option(
    "--busy",
    type=click.FloatRange(0, 100),
    default=1.0,
    show_default=True,
    metavar="PERCENT",
    help="How many of the connections keep asking; one at least.",
)
@click.option(
    "--rounds",
    type=click.IntRange(1, MAX_ROUNDS),
    default=5,
    show_default=True,
    metavar="N",
    help="How often everything is measured.",
)
@click.option(
    "--loop",
    type=click.Choice(["asyncio", "uvloop"]),
    default="asyncio",
    show_default=True,
    help="The server's event loop.",
)
@json_option
def command(as_json: bool, **fields: Any) -> None:
    """Measure handoffs on this machine: how long clients wait, how fast connections move, and what limits that.

    Starts a small server of its own with clients, and hands it over, in turns with what the kernel alone
    takes to pass as many descriptors. Touches no other server.

    Exit status: 0 measured, 1 a handoff failed or a client lost its connection, 2 wrong usage, or more
    connections than a process may have here.
    """
    from hotfd.bench import handoffs, telling
    from hotfd.bench.child import Broken
    from hotfd.children import none_left

    asked = handoffs.Asked(**fields)
    if asked.loop == "uvloop":
        _need_uvloop()
    click.echo(telling.title(asked), err=as_json)
    try:
        # Wherever it is interrupted, nothing is left: no process, and no file, since all of them are made in this directory.
        with TemporaryDirectory(prefix="hotfd-bench-", ignore_cleanup_errors=True) as tempfile.tempdir, none_left():
            signal.signal(signal.SIGTERM, _interrupt)
            if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # as of what runs in the background
                signal.signal(signal.SIGINT, _interrupt)
            results = handoffs.run(asked, lambda text: click.echo(text, err=True))
    except handoffs.TooMany as exc:
        raise Unusable(str(exc)) from exc
    except Broken as exc:
        raise Failure(f"The measurement failed: {exc}") from exc
    except _Interrupted:
        sys.exit(INTERRUPTED)
    if as_json:
        print_json(telling.plain(asked, results))
    else:
        click.echo("\n".join(["", *telling.lines(asked, results)]))


class _Interrupted(BaseException):
    """Control-C, or SIGTERM.

    It is no KeyboardInterrupt: once one of these has gone through an ``exec`` of text, as each dataclass makes one,
    ``python -m`` ends by SIGINT, whatever exit status was asked for.
    """


def _interrupt(number: int, frame: object) -> None:
    raise _Interrupted


def _need_uvloop() -> None:
    """End the command when there is no uvloop."""
    from importlib.util import find_spec

    if find_spec("uvloop") is None:
        raise Unusable("--loop uvloop needs the package uvloop: pip install 'hotfd[uvloop]'")
