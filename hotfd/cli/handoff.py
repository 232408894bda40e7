"""``hotfd handoff``: replace a running server, and say what happened."""

from __future__ import annotations

from typing import Any

import click

from hotfd.cli.carry import carry_out, handoff_options, working_directory
from hotfd.cli.options import json_option, target_options


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
@handoff_options
@click.option("--force", is_flag=True, help="Hand off where the service may not survive the old process's exit.")
@click.option("--allow-downgrade", is_flag=True, help="Hand off to code of an older state version too.")
@click.pass_context
def command(
    ctx: click.Context,
    /,
    pid: int | None,
    socket: str | None,
    as_json: bool,
    dry_run: str | None,
    **fields: Any,
) -> None:
    """Replace a running server with a new version of itself while its clients stay connected.

    The new process is started with CMD ARG..., or as the old one was. Returns when the outcome is final.

    Exit status: 0 completed, 1 refused or rolled back (the old process serves), 2 no such server or wrong
    usage, 3 partial (some sessions stayed with the old process or were closed).
    """
    new_command: list[str] | None = ctx.obj
    if not fields["allow_downgrade"]:
        del fields["allow_downgrade"]  # a server of an earlier release knows no such field
    carry_out(
        "update",
        pid,
        socket,
        as_json=as_json,
        dry_run=dry_run,
        command=new_command,
        cwd=working_directory() if new_command else None,
        **fields,
    )
