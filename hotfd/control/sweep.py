"""Removing the control sockets that dead servers have left behind.

A server that is killed leaves its socket. It harms nobody (the next process of that pid replaces it), but
it clutters; whoever lists servers tidies up. Only what is certainly dead is removed: the directory belongs
to the user it should belong to, nobody listens at the socket, and no process has its pid.
"""

from __future__ import annotations

import glob
import os
import re
from typing import TYPE_CHECKING

from hotfd.control.errors import Unreachable
from hotfd.control.runtime import RuntimeDirectory, default_path, socket_name

if TYPE_CHECKING:
    from collections.abc import Iterable

_PROBE_TIMEOUT = 0.1  # seconds; a dead socket refuses at once, only a live one with a full queue waits


def known_directories() -> dict[str, int]:
    """Return the runtime directories that this user may tidy up, and the user each must belong to.

    Root: everybody's in the usual places. Anybody else: the user's own.
    """
    me = os.geteuid()
    found = {default_path(): me, "/run/hotfd": 0}
    found |= {f"/run/user/{me}/hotfd": me, f"/tmp/hotfd-{me}": me}  # noqa: S108 - its owner is checked
    if me == 0:
        for pattern in ("/tmp/hotfd-*", "/run/user/*/hotfd"):  # noqa: S108 - as above
            for path in glob.glob(pattern):
                if number := re.search(r"[0-9]+", path):
                    found[path] = int(number[0])
    return {path: owner for path, owner in found.items() if os.path.isabs(path) and me in (0, owner)}


def sweep(directories: Iterable[tuple[str, int]]) -> list[str]:
    """Remove stale sockets; directories that are missing, unsafe or somebody else's are left alone.

    Args:
        directories: paths, and the user id that each must belong to.

    Returns:
        the paths of the sockets that were removed.
    """
    removed = []
    for path, owner in directories:
        try:
            with RuntimeDirectory.look(path, {owner}) as directory:
                names = [socket_name(pid) for pid in directory.pids() if not os.path.exists(f"/proc/{pid}")]
                removed += [os.path.join(path, name) for name in names if remove_dead(directory, name)]
        except (OSError, Unreachable):
            continue
    return removed


def remove_dead(directory: RuntimeDirectory, name: str) -> bool:
    """Remove a socket that nobody listens on; return whether it was one."""
    identity = directory.identity(name)
    if identity is None:
        return False
    try:
        directory.connect(name, _PROBE_TIMEOUT).close()
    except ConnectionRefusedError:
        return directory.remove(name, identity)
    except OSError:
        pass
    return False  # somebody lives there: a process of another pid namespace that shares the directory
