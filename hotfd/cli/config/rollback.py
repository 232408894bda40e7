"""``hotfd config rollback``: publish older values again."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from hotfd.cli.config.changing import change
from hotfd.cli.config.looking import release_of, version_before
from hotfd.cli.config.options import module_argument, operator, reason_option, store_option, with_store
from hotfd.cli.options import json_option
from hotfd.cli.output import print_json
from hotfd.errors import ConfigError, StoreError

if TYPE_CHECKING:
    from hotfd.config.release import Head
    from hotfd.config.rollout import Step
    from hotfd.config.store import Store


@click.command("rollback")
@module_argument
@store_option()
@click.option(
    "--to",
    type=click.IntRange(min=1),
    metavar="N",
    help="Go back to the values of this version, and not to what was in force before.",
)
@reason_option
@json_option
def command(module: str, store_url: str, to: int | None, reason: str, as_json: bool) -> None:
    """Publish the values that MODULE had before as a new version, for all.

    Going back twice goes back two versions, and not forth again: use --to for that. What was committed in the
    repository stays as it is; correct it there as well, or its next commit brings the values back.

    A canary is not ended by this: hotfd config abort does that.
    """
    back = _Back(module, to, reason)
    head = with_store(store_url, lambda store: change(store, module, lambda head: back.step(store, head)))
    assert head.stable is not None
    if as_json:
        print_json({"module": module, "version": head.last, "restores": back.restored, "sequence": head.sequence})
    else:
        click.echo(f"{module}: version {head.last} is in force, with the values of version {back.restored}")


class _Back:
    """A way back, which is looked for anew when somebody else has changed the module.

    Args:
        module: the module's name.
        to: the version whose values are wanted; None for what was in force before.
        reason: why.

    Attributes:
        restored: the version whose values were chosen.
    """

    def __init__(self, module: str, to: int | None, reason: str) -> None:
        self._module = module
        self._to = to
        self._reason = reason
        self._left: int | None = None
        self.restored = 0

    async def step(self, store: Store, head: Head) -> Step:
        """Return the change that goes back from this head."""
        from hotfd.config.release import seal
        from hotfd.config.rollout import next_version, publish
        from hotfd.publish.undo import again

        if head.canary is not None:
            raise ConfigError(
                f"module {self._module!r}: version {head.canary.version} is a canary; "
                f"take that back first: hotfd config abort {self._module}"
            )
        if head.stable is None:
            raise ConfigError(f"module {self._module!r} has nothing in force that one could go back from")
        self._still(head.stable.version)
        old = await release_of(store, head, await self._target(store, head))
        if old.version == head.stable.version:
            raise ConfigError(f"module {self._module!r}: version {old.version} is in force already")
        last = await release_of(store, head, head.last)
        by = operator()
        release = again(old, last, version=next_version(head), by=by, time=time.time())
        self.restored = release.restores
        return publish(head, seal(release), by=by, change="rolled-back", reason=self._reason)

    def _still(self, stable: int) -> None:
        """Make sure that what one goes back from is still what was in force at first."""
        if self._left is None:
            self._left = stable
        elif stable != self._left:
            raise ConfigError(
                f"module {self._module!r}: somebody else put version {stable} in force meanwhile; "
                f"nothing was changed. Look at it: hotfd config history {self._module}"
            )

    async def _target(self, store: Store, head: Head) -> int:
        if self._to is not None:
            return self._to
        try:
            before = await version_before(store, self._module)
        except StoreError as error:
            raise StoreError(f"{error}. With --to N, going back does not need the history") from None
        if before is None:
            raise ConfigError(
                f"module {self._module!r} had nothing in force before that one could go back to; "
                f"choose a version of 1 to {head.last} with --to"
            )
        return before
