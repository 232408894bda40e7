"""What the commands of ``hotfd config`` share: the store that they work on, and who does it."""

from __future__ import annotations

import contextlib
import os
import pwd
import socket
import sys
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from hotfd.cli.group import INTERRUPTED, Unusable, shown

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from click.shell_completion import CompletionItem

    from hotfd.config.release import Head
    from hotfd.config.store import Store

T = TypeVar("T")

STORE: Final = "HOTFD_CONFIG_STORE"
"""The environment variable with the store of commands that are told none."""

COMPLETION_TIMEOUT: Final = 2.0
"""Seconds in which a store must name its modules for a shell that completes one; somebody waits at the keyboard."""


def store_option(*, required: bool = True) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return the option ``--store``, which commands get as ``store_url``."""
    return click.option(
        "--store",
        "store_url",
        envvar=STORE,
        show_envvar=True,
        required=required,
        metavar="URL",
        help="Store of the releases: dir:PATH or etcd://HOST:PORT,.../PREFIX.",
    )


def module_argument(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the argument ``MODULE`` to a command."""
    return click.argument("module", callback=_checked, shell_complete=complete_module)(command)


def _checked(_ctx: click.Context, _param: click.Parameter, value: str) -> str:
    return _name(value, "module")


def _name(value: str, what: str) -> str:
    from hotfd.config.release import check_name
    from hotfd.errors import ConfigError

    try:
        return check_name(value, what)
    except ConfigError as error:
        raise click.BadParameter(str(error)) from None


def _checked_zone(_ctx: click.Context, _param: click.Parameter, value: str | None) -> str | None:
    return value if value is None else _name(value, "zone")


def checked_modules(_ctx: click.Context, _param: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    """Check the values of a repeatable option ``--module``: a callback."""
    return tuple(_name(value, "module") for value in values)


def complete_module(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the modules of the store that begin with what was typed; none when it does not answer at once."""
    import asyncio

    from click.shell_completion import CompletionItem  # only a completing shell needs it

    url = ctx.params.get("store_url") or os.environ.get(STORE)
    heads: dict[str, Head] = {}
    if url:
        with contextlib.suppress(Exception):  # whatever it is: a shell that completes shows no errors
            heads = with_store(url, lambda store: asyncio.wait_for(store.heads(), COMPLETION_TIMEOUT))
    return [CompletionItem(module) for module in sorted(heads) if module.startswith(incomplete)]


def with_store(url: str, work: Callable[[Store], Awaitable[T]], *, create: bool = False) -> T:
    """Open a store, do something with it, and let go of it again.

    Args:
        url: the store.
        work: what to do, on an event loop of its own.
        create: whether a store that is not there is made.

    Raises:
        Unusable: the URL is none of a store.
        ConfigError: what ``work`` raises.
    """

    async def whole() -> T:
        from hotfd.config.open import open_store
        from hotfd.errors import ConfigError

        try:
            store = open_store(url, create=create)
        except ConfigError as error:
            raise Unusable(shown(error)) from error
        try:
            return await work(store)
        finally:
            await store.aclose()

    return run(whole())


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end; control-C cancels it, and ends the command when it has cleaned up."""
    import asyncio  # not at the top: a list of the commands loads this module, and starts quickly

    try:
        return asyncio.run(work)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def operator() -> str:
    """Return who runs this command, for the history: ``user@host``; under sudo, the user that called it."""
    user = os.environ.get("SUDO_USER") if os.geteuid() == 0 else None
    if not user:
        try:
            user = pwd.getpwuid(os.geteuid()).pw_name
        except KeyError:  # a container may run a user that has no name
            user = str(os.geteuid())
    return f"{user}@{socket.gethostname()}"


reason_option = click.option("--reason", default="", metavar="TEXT", help="Why, for the history.")

zone_option = click.option(
    "--zone", callback=_checked_zone, metavar="ZONE", help="The values as they hold in this zone."
)
