"""One publish from beginning to end: repository, store and scripts put together, as commands and hooks need it."""

from __future__ import annotations

import os
import pwd
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from hotfd.publish.faults import printable, short
from hotfd.publish.files import Files
from hotfd.publish.programs import Deadline
from hotfd.publish.publisher import Publisher
from hotfd.publish.repository import checked_path, kind_of, open_repository
from hotfd.publish.script import Scripts

if TYPE_CHECKING:
    from collections.abc import Callable

    from hotfd.config.rollout import For
    from hotfd.publish.publisher import Published
    from hotfd.publish.rehearsal import Releases
    from hotfd.publish.repository import Repository

MAX_USER: Final = 256
"""Characters of a user's name: as many as a system has, and a web server can say anything."""


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be published from where.

    Attributes:
        where: the repository.
        path: the directory of modules in it.
        rev: up to which revision; None for the newest.
        modules: which modules; none means all.
        canary: for whom the newest revision is at first; None for all.
        allow_scripts: whether scripts are run.
        rewritten: whether a history is taken that does not hold what was published.
        by: who publishes.
    """

    where: str
    path: str = ""
    rev: str | None = None
    modules: tuple[str, ...] = ()
    canary: For | None = None
    allow_scripts: bool = False
    rewritten: bool = False
    by: str = ""


def publisher(
    order: Order,
    repository: Repository,
    store: Releases,
    note: Callable[[str], None],
    *,
    scripts: Deadline | None = None,
    blind: bool = False,
    script_note: Callable[[str], None] | None = None,
) -> Publisher:
    """Return the publisher that carries out an order.

    Args:
        order: the order.
        repository: where from.
        store: where to.
        note: told what is worth knowing, as a line.
        scripts: when scripts have to be done; None for no other limit than their own.
        blind: the store is not known, and stands for an empty one.
        script_note: told what scripts say, instead of ``note``; that can be anything, values too.
    """
    return Publisher(
        repository,
        store,
        Scripts(order.allow_scripts, scripts or Deadline(), script_note or note),
        by=order.by or who(),
        modules=order.modules,
        canary=order.canary,
        rewritten=order.rewritten,
        blind=blind,
        note=note,
    )


def opened(order: Order) -> Repository:
    """Return the repository of an order; each call of it has its own limit, and all together have none.

    Raises:
        ConfigError: there is none.
    """
    return open_repository(order.where, order.path, Deadline())


def opened_files(order: Order) -> Repository | None:
    """Return the files of a directory, as they are, when an order names one with files in it; else None.

    A bare git repository and a Subversion repository have none.
    """
    if not os.path.isdir(order.where) or (kind_of(order.where) == "svn"):
        return None
    if kind_of(order.where) == "git" and not os.path.lexists(os.path.join(order.where, ".git")):
        return None
    return Files(order.where, checked_path(order.path), Deadline())


def who() -> str:
    """Return who this process works for: whom a web server has let in, or its own user, at this host."""
    user = os.environ.get("REMOTE_USER")
    if not user:
        try:
            user = pwd.getpwuid(os.geteuid()).pw_name
        except KeyError:  # a container may run a user that has no name
            user = str(os.geteuid())
    return f"{printable(user)[:MAX_USER]}@{socket.gethostname()}"


def described(one: Published) -> str:
    """Return a release that was published as a line for people."""
    what = "canary" if one.canary else "release"
    note = f" {one.note}" if one.note else ""
    return f"{one.module}: {what} {one.version} from {short(one.revision)}{note}"
