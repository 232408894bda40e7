"""``hotfd handoff``: replace a running server, and say what happened."""

from __future__ import annotations

import os
import sys
from typing import Any

import click
import msgspec

from hotfd.cli.follow import Handoff
from hotfd.cli.group import INTERRUPTED
from hotfd.cli.options import json_option, resolve, seconds, target_options
from hotfd.cli.output import print_json
from hotfd.cli.progress import Progress
from hotfd.control.client import Client
from hotfd.control.errors import Unreachable
from hotfd.display.handoff import summary
from hotfd.report import Report

DEADLINE = 60.0
"""Seconds for everything before probation: enough for a server that loads a large cache first."""

BOUNDARY_TIMEOUT = 10.0
"""Seconds that a busy session has to reach a frame boundary."""

PROBATION = 5.0
"""Seconds after the last cut-over in which the new process's death gives its sessions back."""


class CommandAfterDashes(click.Command):
    """A command whose ``-- CMD ARG...`` is taken apart before click sees it.

    Otherwise ``hotfd handoff 4711`` would hand off to a program called 4711.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Split ``args`` at the first ``--``, and parse what is before it."""
        ctx.obj = None
        if "--" in args:
            split = args.index("--")
            args, ctx.obj = args[:split], args[split + 1 :]
            if not ctx.obj:
                raise click.UsageError("There is no command after --.", ctx=ctx)
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as exc:
            if "unexpected extra argument" not in exc.message:
                raise
            hint = "The server's pid follows --pid, the command of the new process follows --."
            raise click.UsageError(f"{exc.message.rstrip('.')}. {hint}", ctx=ctx) from exc

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        """Return the usage line's pieces, with the part that click does not know."""
        return [*super().collect_usage_pieces(ctx), "[-- CMD ARG...]"]


@click.command("handoff", cls=CommandAfterDashes)
@target_options
@json_option
@click.option(
    "--dry-run",
    type=click.Choice(["plan", "deep"]),
    is_flag=False,
    flag_value="plan",
    metavar="[=deep]",
    help="Say what would move, and change nothing. deep: start the new process too, up to READY.",
)
@click.option(
    "--deadline",
    type=float,
    callback=seconds(positive=True),
    default=DEADLINE,
    show_default=True,
    metavar="S",
    help="Seconds for everything before probation.",
)
@click.option(
    "--boundary-timeout",
    type=float,
    callback=seconds(),
    default=BOUNDARY_TIMEOUT,
    show_default=True,
    metavar="S",
    help="Seconds that a session has to reach a frame boundary.",
)
@click.option(
    "--laggards",
    type=click.Choice(["keep", "close"]),
    default="keep",
    show_default=True,
    help="What becomes of sessions that reached none.",
)
@click.option(
    "--probation",
    type=float,
    callback=seconds(),
    default=PROBATION,
    show_default=True,
    metavar="S",
    help="Seconds in which the new process's death gives its sessions back; 0 ends it at once.",
)
@click.option("--force", is_flag=True, help="Hand off where the service may not survive the old process's exit.")
@click.pass_context
def command(
    ctx: click.Context,
    /,
    pid: int | None,
    socket: str | None,
    as_json: bool,
    dry_run: str | None,
    **limits: Any,
) -> None:
    """Replace a running server with a new version of itself while its clients stay connected.

    The new process is started with CMD ARG..., or as the old one was. Returns when the outcome is final.

    Exit status: 0 completed, 1 refused or rolled back (the old process serves), 2 no such server or wrong
    usage, 3 partial (some sessions stayed with the old process or were closed).
    """
    try:
        target = resolve(pid, socket)
        client = Client.connect(target)
    except Unreachable as exc:
        if as_json:
            _print_unreachable(exc, pid, dry_run is not None)
        raise
    new_command: list[str] | None = ctx.obj
    fields = {
        "dry_run": dry_run or False,
        **limits,
        "command": new_command,
        "cwd": os.getcwd() if new_command else None,
    }
    with client, Handoff(client, fields, Progress()) as handoff:
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
        click.echo("\n".join(summary(report)))
    sys.exit(report.exit_status)


def _print_unreachable(exc: Unreachable, pid: int | None, dry_run: bool) -> None:
    """Give a script its object although no server was reached; the exit status says that none was."""
    report = Report(outcome="refused", id="", old_pid=pid or 0, reason=f"{exc.code}: {exc.detail}", dry_run=dry_run)
    print_json(msgspec.to_builtins(report))
