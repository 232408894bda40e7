"""The group of ``hotfd config``: which commands there are, and what is common to them."""

from __future__ import annotations

from typing import Any

import click

from hotfd.cli.group import Failure, LazyGroup, Unusable, shown
from hotfd.errors import ConfigError, Conflict, StoreError

COMMANDS = {
    "abort": "hotfd.cli.config.abort",
    "diff": "hotfd.cli.config.diff",
    "history": "hotfd.cli.config.history",
    "promote": "hotfd.cli.config.promote",
    "rollback": "hotfd.cli.config.rollback",
    "show": "hotfd.cli.config.show",
    "status": "hotfd.cli.config.status",
}
"""Each command's module, which has the command as ``command``; imported when it is needed."""


class ConfigGroup(LazyGroup):
    """Commands whose errors are those of configuration: each becomes its text and an exit status."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except StoreError as exc:
            # Conflict comes from a store that answers: the change was asked for, and refused.
            raise (Failure if isinstance(exc, Conflict) else Unusable)(shown(exc)) from exc
        except ConfigError as exc:
            raise Failure(shown(exc)) from exc


@click.command("config", cls=ConfigGroup, modules=COMMANDS)
def command() -> None:
    """Publish releases of configuration, and see what servers make of them."""
