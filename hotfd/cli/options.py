"""Options and parameter types that several commands share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from hotfd.cli.group import usage_error

if TYPE_CHECKING:
    from collections.abc import Callable

    from click.shell_completion import CompletionItem

    from hotfd.control.target import Target


MAX_SECONDS = 86_400.0
"""A day: what a server accepts for any of its timeouts; a larger value is a slip of the finger."""


def seconds(*, positive: bool = False) -> Callable[[click.Context, click.Parameter, float], float]:
    """Return an option's callback that lets only times of 0 to :data:`MAX_SECONDS` pass.

    Args:
        positive: whether 0 is refused as well.
    """

    def check(_ctx: click.Context, _param: click.Parameter, value: float) -> float:
        # Written so that NaN, which compares as false with everything, does not pass.
        if not 0 <= value <= MAX_SECONDS or (positive and value == 0):
            wanted = "more than 0" if positive else "0 or more"
            raise click.BadParameter(f"{value:g} must be {wanted}, and at most {MAX_SECONDS:.0f} (a day)")
        return value

    return check


def _complete_pid(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    from click.shell_completion import CompletionItem  # only a completing shell needs it

    from hotfd.control.target import visible

    pids = [str(target.process.pid) for target in visible() if target.process]
    return [CompletionItem(pid) for pid in pids if pid.startswith(incomplete)]


def target_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--pid`` and ``--socket`` to a command."""
    pid = click.option(
        "--pid",
        type=click.IntRange(min=1),
        metavar="PID",
        shell_complete=_complete_pid,
        help="Process id of the server, or of its supervisor.",
    )
    socket = click.option(
        "--socket",
        type=click.Path(),
        metavar="PATH",
        help="Control socket of the server, instead of --pid.",
    )
    return pid(socket(command))


def resolve(pid: int | None, socket: str | None) -> Target:
    """Return the target that ``--pid`` and ``--socket`` name.

    Raises:
        Unreachable: it cannot be found.
        click.UsageError: none or both are given.
    """
    if (pid is None) == (socket is None):
        usage_error("Name the server with --pid PID or with --socket PATH; hotfd ps lists the servers.")
    # Not at the top: it loads the native core, whose absence ``hotfd doctor`` must live to report.
    from hotfd.control.target import at, find

    return find(pid) if pid is not None else at(str(socket))


json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
