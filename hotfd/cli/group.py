"""The top of the command line: which commands there are, and what is common to them."""

from __future__ import annotations

import difflib
import importlib
from typing import TYPE_CHECKING, Any, NoReturn

import click

from hotfd._version import __version__
from hotfd.control.errors import RequestFailed, ServerGone, Unreachable
from hotfd.display.text import printable

if TYPE_CHECKING:
    from collections.abc import Mapping

UNUSABLE = 2
"""Exit status when no request could be made: usage, no such process, not a hotfd server, not permitted."""

FAILED = 1
"""Exit status when a request was made and failed."""

INTERRUPTED = 130
"""Exit status after control-C, as of a shell: 128 + SIGINT. What was started goes on."""

COMMANDS = {
    "bench": "hotfd.cli.bench",
    "completion": "hotfd.cli.completion",
    "config": "hotfd.cli.config.group",
    "doctor": "hotfd.cli.doctor",
    "handoff": "hotfd.cli.handoff",
    "history": "hotfd.cli.history",
    "ps": "hotfd.cli.ps",
    "rollback": "hotfd.cli.rollback",
    "run": "hotfd.cli.run",
    "sessions": "hotfd.cli.sessions",
    "status": "hotfd.cli.status",
    "watch": "hotfd.cli.watch",
}
"""Each command's module, which has the command as ``command``; imported when it is needed."""


class Failure(click.ClickException):
    """A request was made and failed; the message says what happened and what to do."""

    exit_code = FAILED


class Unusable(click.ClickException):
    """No request could be made; the message says why and what to do."""

    exit_code = UNUSABLE


class LazyGroup(click.Group):
    """A group whose commands are imported when they are asked for.

    Args:
        modules: each command's module, by the command's name.
        settings: as :class:`click.Group` takes them.
    """

    def __init__(self, *args: Any, modules: Mapping[str, str], **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._modules = modules

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands."""
        return sorted(self._modules)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command ``cmd_name``, or None."""
        if cmd_name not in self._modules:
            return None
        command = importlib.import_module(self._modules[cmd_name]).command
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that ``args`` begins with; a misspelt one is answered with those like it."""
        if args and args[0] not in self._modules and not args[0].startswith("-") and not ctx.resilient_parsing:
            close = difflib.get_close_matches(args[0], self._modules)
            hint = f" Did you mean {' or '.join(close)}?" if close else ""
            ctx.fail(f"There is no command {args[0]!r}.{hint} Commands: {', '.join(sorted(self._modules))}.")
        return super().resolve_command(ctx, args)


class Main(LazyGroup):
    """The top of the command line: what goes wrong with a server becomes a line and an exit status."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except Unreachable as exc:
            raise Unusable(shown(exc)) from exc
        except (RequestFailed, ServerGone) as exc:
            raise Failure(shown(exc)) from exc


def shown(error: Exception) -> str:
    """Return an error's text, of which a server of another user may have sent a part, without what drives a terminal."""
    return "\n".join(printable(line) for line in str(error).split("\n"))


@click.command(
    cls=Main,
    modules=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="hotfd", message="%(prog)s %(version)s")
def main() -> None:
    """Replace a running TCP server with a new version of itself while its clients stay connected."""


def usage_error(message: str) -> NoReturn:
    """End the command with a usage error."""
    raise click.UsageError(message, ctx=click.get_current_context(silent=True))
