"""What ``hotfd handoff`` and ``hotfd rollback`` have in common: the options, and carrying one out."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NoReturn

import click
import msgspec

from hotfd.cli.follow import Handoff
from hotfd.cli.group import INTERRUPTED
from hotfd.cli.options import resolve, seconds
from hotfd.cli.output import print_json
from hotfd.cli.progress import Progress
from hotfd.control.client import Client
from hotfd.control.errors import Unreachable
from hotfd.display.handoff import each_worker, summary
from hotfd.report import Report

if TYPE_CHECKING:
    from collections.abc import Callable

DEADLINE = 60.0
"""Seconds for everything before probation: enough for a server that loads a large cache first."""

BOUNDARY_TIMEOUT = 10.0
"""Seconds that a busy session has to reach a frame boundary."""

PROBATION = 5.0
"""Seconds after the last cut-over in which the new process's death gives its sessions back."""


def handoff_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say how a handoff is carried out."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


_OPTIONS = (
    click.option(
        "--dry-run",
        type=click.Choice(["plan", "deep"]),
        is_flag=False,
        flag_value="plan",
        metavar="[=deep]",
        help="Say what would move, and change nothing. deep: start the new process too, up to READY.",
    ),
    click.option(
        "--deadline",
        type=float,
        callback=seconds(positive=True),
        default=DEADLINE,
        show_default=True,
        metavar="S",
        help="Seconds for everything before probation.",
    ),
    click.option(
        "--boundary-timeout",
        type=float,
        callback=seconds(),
        default=BOUNDARY_TIMEOUT,
        show_default=True,
        metavar="S",
        help="Seconds that a session has to reach a frame boundary.",
    ),
    click.option(
        "--laggards",
        type=click.Choice(["keep", "close"]),
        default="keep",
        show_default=True,
        help="What becomes of sessions that reached none.",
    ),
    click.option(
        "--on-loss",
        type=click.Choice(["close", "stale"]),
        default="close",
        show_default=True,
        help="Of sessions that move together: what becomes of those that a dead new process leaves with older data.",
    ),
    click.option(
        "--probation",
        type=float,
        callback=seconds(),
        default=PROBATION,
        show_default=True,
        metavar="S",
        help="Seconds in which the new process's death gives its sessions back; 0 ends it at once.",
    ),
    click.option(
        "--all-at-once",
        is_flag=True,
        help="Of a supervisor with several workers: hand all over together, not one after another.",
    ),
)


def carry_out(
    instruction: str, pid: int | None, socket: str | None, *, as_json: bool, dry_run: str | None, **fields: Any
) -> NoReturn:
    """Ask a server for a handoff, follow it to its outcome, print that, and exit with its status.

    Args:
        instruction: ``update`` or ``rollback``.
        pid: as the operator named the server.
        socket: the same.
        as_json: whether to print one object instead of lines.
        dry_run: ``plan``, ``deep`` or None.
        fields: the other fields of the instruction.

    Raises:
        Unreachable: there is no such server.
    """
    try:
        client = Client.connect(resolve(pid, socket))
    except Unreachable as exc:
        if as_json:
            _print_unreachable(exc, pid, dry_run is not None)
        raise
    if not fields.get("all_at_once") or "workers" not in client.greeting:
        fields.pop("all_at_once", None)  # only a supervisor knows it; of one server there is nothing to order
    if fields.get("on_loss") == "close":
        del fields["on_loss"]  # a server of an earlier release knows no such field
    wanted = {"dry_run": dry_run or False, **fields}
    with client, Handoff(client, wanted, Progress(), instruction) as handoff:
        try:
            result = handoff.run()
        except KeyboardInterrupt:
            click.echo(
                f"hotfd: interrupted; handoff {handoff.id or '(not begun)'} goes on in process {client.pid}: "
                f"hotfd status --pid {client.pid}",
                err=True,
            )
            sys.exit(INTERRUPTED)
    report = msgspec.convert(result, Report)
    if as_json:
        print_json(result)
    else:
        click.echo("\n".join([*summary(report), *each_worker(result)]))
    sys.exit(report.exit_status)


def _print_unreachable(exc: Unreachable, pid: int | None, dry_run: bool) -> None:
    """Give a script its object although no server was reached; the exit status says that none was."""
    report = Report(outcome="refused", id="", old_pid=pid or 0, reason=f"{exc.code}: {exc.detail}", dry_run=dry_run)
    print_json(msgspec.to_builtins(report))


def working_directory() -> str:
    """Return the directory by the name that the shell has for it: a symlink that is moved later is followed then."""
    directory, named = os.getcwd(), os.environ.get("PWD", "")
    with suppress(OSError):
        if os.path.isabs(named) and os.path.samefile(named, directory):
            return named
    return directory
