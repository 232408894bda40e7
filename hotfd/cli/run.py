"""``hotfd run``: a stable parent of a server that is replaced under it."""

from __future__ import annotations

import os
import sys

import click

from hotfd.cli.group import FAILED, usage_error
from hotfd.cli.handoff import CommandAfterDashes
from hotfd.cli.options import seconds


class RunCommand(CommandAfterDashes):
    """A command that is nothing without ``-- CMD ARG...``."""

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        """Return the usage line's pieces; the command is not optional here."""
        return [piece.replace("[-- CMD ARG...]", "-- CMD ARG...") for piece in super().collect_usage_pieces(ctx)]


@click.command("run", cls=RunCommand)
@click.option("--name", metavar="NAME", help="The service's name; the program's when not given.")
@click.option("--pidfile", type=click.Path(), metavar="FILE", help="Write the supervisor's pid there once it serves.")
@click.option(
    "--workers",
    type=click.IntRange(1, 256),
    default=1,
    show_default=True,
    metavar="N",
    help="Servers that share the listening sockets; needs --listen or socket activation.",
)
@click.option(
    "--listen",
    multiple=True,
    metavar="ADDR",
    help="Listen at HOST:PORT, [IPV6]:PORT or unix:PATH for the server, which names the same address. Repeatable.",
)
@click.option(
    "--restarts",
    type=click.IntRange(0, 1000),
    default=5,
    show_default=True,
    metavar="N",
    help="How often in a row a crashed server is started again.",
)
@click.option(
    "--stop-timeout",
    type=float,
    callback=seconds(),
    default=30.0,
    show_default=True,
    metavar="S",
    help="Seconds from SIGTERM until what is left is killed.",
)
@click.option(
    "--hung-after",
    type=float,
    callback=seconds(positive=True),
    default=30.0,
    show_default=True,
    metavar="S",
    help="Seconds without an answer after which an old process that holds up a handoff is killed.",
)
@click.option("--log-style", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.pass_context
def command(
    ctx: click.Context,
    /,
    name: str | None,
    pidfile: str | None,
    workers: int,
    listen: tuple[str, ...],
    restarts: int,
    stop_timeout: float,
    hung_after: float,
    log_style: str,
) -> None:
    """Start a server, and be its stable parent while it is replaced, restarted and stopped.

    SIGUSR2 hands over; SIGTERM and SIGINT end everything in order, a second one at once; SIGHUP and SIGUSR1
    are passed on. A server that crashed is started again.

    Exit status: the server's, 128 + N when signal N killed it; 126 and 127 when it cannot be executed, 2 for usage.
    """
    program: list[str] | None = ctx.obj
    if not program:
        usage_error("Name the server's command after --, as in: hotfd run -- python server.py")
    activated = os.environ.get("LISTEN_PID") == str(os.getpid())
    if workers > 1 and not listen and not activated:
        usage_error("Several workers share sockets that their parent makes: name the addresses with --listen.")
    # Not at the top: other commands should not pay for asyncio.
    import asyncio

    import prctl

    from hotfd import log
    from hotfd.errors import HandoffRefused
    from hotfd.supervisor.pidfile import PROCESS_NAME
    from hotfd.supervisor.settings import Settings
    from hotfd.supervisor.supervisor import Supervisor
    from hotfd.supervisor.worker import Policy

    log.configure(log_style)
    prctl.set_name(PROCESS_NAME)
    settings = Settings(
        command=tuple(program),
        name=name or os.path.basename(program[0]),
        pidfile=pidfile,
        workers=workers,
        listen=listen,
        policy=Policy(restarts, hung_after),
        stop_timeout=stop_timeout,
    )

    async def supervise() -> int:
        return await Supervisor(settings).run()

    try:
        # Whatever loops are made otherwise: this one leaves SIGCHLD to the supervisor, uvloop's does not.
        with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
            status = runner.run(supervise())
    except ValueError as error:  # an address of --listen that is none
        usage_error(str(error))
    except (OSError, HandoffRefused) as error:
        click.echo(f"hotfd: {_in_words(error)}", err=True)
        status = FAILED
    sys.exit(status)


def _in_words(error: OSError | Exception) -> str:
    """Return what an operator should read of an error: no error number, but the path that it is about."""
    if not isinstance(error, OSError) or error.strerror is None:
        return str(error)
    return f"{error.filename}: {error.strerror}" if error.filename is not None else error.strerror
