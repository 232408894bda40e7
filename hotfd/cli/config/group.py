"""The group of ``hotfd config``: which commands there are, and what is common to them."""

from __future__ import annotations

from typing import Any

import click

from hotfd.cli.group import Failure, LazyGroup, Unusable, shown
from hotfd.errors import ConfigError, Conflict, StoreError

COMMANDS = {
    "abort": "hotfd.cli.config.abort",
    "diff": "hotfd.cli.config.diff",
    "follow": "hotfd.cli.config.follow",
    "history": "hotfd.cli.config.history",
    "hook": "hotfd.cli.config.hook",
    "promote": "hotfd.cli.config.promote",
    "publish": "hotfd.cli.config.publish",
    "rollback": "hotfd.cli.config.rollback",
    "serve": "hotfd.cli.config.serve",
    "show": "hotfd.cli.config.show",
    "status": "hotfd.cli.config.status",
    "validate": "hotfd.cli.config.validate",
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
