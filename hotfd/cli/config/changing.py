"""Changing a module's head in a store that others change as well."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from hotfd.errors import ConfigError, Conflict, StoreError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from hotfd.config.release import Head
    from hotfd.config.rollout import Step
    from hotfd.config.store import Store

ATTEMPTS: Final = 20
"""Times that a change is tried while others change the same module: more people than ever publish it at once."""


async def change(store: Store, module: str, decide: Callable[[Head], Awaitable[Step]]) -> Head:
    """Carry a change of a module out, and look again when somebody else was quicker.

    Args:
        store: the store.
        module: the module's name.
        decide: returns the change for the head that the module has now; raises ConfigError when there is none that is
            still meant.

    Returns:
        the new head.

    Raises:
        ConfigError: nothing was ever published, or what ``decide`` raises.
        Conflict: others changed the module again and again.
        StoreError: the store failed; the message says that the change may have been made.
    """
    for _ in range(ATTEMPTS):
        head = await head_of(store, module)
        step = await decide(head)
        try:
            await store.commit([step])
        except Conflict:
            continue
        except StoreError as error:
            raise StoreError(
                f"{error}\nWhether it was carried out is not known: hotfd config history {module} tells"
            ) from error
        return step.head
    raise Conflict(f"module {module!r} was changed by others {ATTEMPTS} times meanwhile; look at it, and try again")


async def head_of(store: Store, module: str) -> Head:
    """Return a module's head.

    Raises:
        ConfigError: nothing was ever published.
    """
    heads = await store.heads([module])
    if module not in heads:
        others = sorted(await store.heads())
        known = f"; there are {', '.join(others)}" if others else ""
        raise ConfigError(f"nothing was ever published of module {module!r} in {store.url}{known}")
    return heads[module]


class Canary:
    """The canary that an operator means: the one that was going on when he asked.

    Args:
        module: the module's name.

    Attributes:
        version: its version; 0 until a head was looked at.
    """

    def __init__(self, module: str) -> None:
        self._module = module
        self.version = 0

    def still(self, head: Head) -> None:
        """Make sure that a head has this canary.

        Raises:
            ConfigError: it has none, or another one by now.
        """
        if head.canary is None:
            ended = f"version {self.version} is no canary any more" if self.version else "no canary is going on"
            raise ConfigError(f"module {self._module!r}: {ended}; hotfd config history {self._module} tells what was")
        if self.version and head.canary.version != self.version:
            raise ConfigError(
                f"module {self._module!r}: version {head.canary.version} is the canary by now, and not version "
                f"{self.version}; nothing was changed"
            )
        self.version = head.canary.version
