"""The directory that a script runs in: the files that were committed beside it, and all that it leaves there."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from hotfd.errors import ConfigError
from hotfd.publish.programs import PATH, Deadline, find, run

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

REMOVE_LIMIT: Final = 5.0
"""Seconds that rm(1) may take for what is too deep to be removed from here."""


def lay_out(directory: str, files: Mapping[str, bytes], executable: Collection[str], user: int) -> None:
    """Write files into a new directory, and give them all to the user whom the script runs as.

    Args:
        directory: empty, and closed to everybody else.
        files: by path, which leads nowhere else.
        executable: paths of those that may be executed.
        user: and group of the same number.

    Raises:
        OSError: it cannot be written.
    """
    made = [directory]
    for path, data in files.items():
        parts = path.split("/")
        for depth in range(1, len(parts)):
            below = os.path.join(directory, *parts[:depth])
            if below not in made:
                os.mkdir(below, 0o700)
                made.append(below)
        full = os.path.join(directory, *parts)
        fd = os.open(full, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        with open(fd, "wb") as file:
            file.write(data)
            os.fchmod(fd, 0o700 if path in executable else 0o600)
        made.append(full)
    if user != os.geteuid():
        # The outermost last. While it is root's, no other process of that user can get in and put a link in the place of
        # what root is about to write, or to give away.
        for path in reversed(made):
            os.chown(path, user, user, follow_symlinks=False)


def remove(directory: str) -> bool:
    """Remove a script's directory, whatever the script has made of it; its processes are gone.

    Returns:
        whether it is gone.
    """
    if os.geteuid():
        # Who owns a directory may open it again, whatever the script has done to it. Root needs not: and by a path,
        # in a directory that is somebody else's, it would follow where that one leads it.
        _open_all(directory)
    try:
        shutil.rmtree(directory)
    except FileNotFoundError:
        pass
    except (OSError, RecursionError):
        # Directories within each other, deeper than a path may be long.
        with suppress(ConfigError):
            run([find("rm", "a script"), "-rf", "--", directory], Deadline(), limit=REMOVE_LIMIT, env={"PATH": PATH})
    return not os.path.lexists(directory)


def _open_all(directory: str) -> None:
    waiting = [directory]
    while waiting:
        with suppress(OSError):
            os.chmod(waiting[-1], 0o700)
        with suppress(OSError), os.scandir(waiting.pop()) as entries:
            waiting += [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
