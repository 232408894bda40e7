"""The pid file: whom an operator's script talks to.

It holds the supervisor's pid, and not that of the server, for three reasons: it stays right over every handoff and
restart; a signal to it reaches whoever serves; and the manager that watches it (systemd's ``PIDFile=``, a
script's ``kill -0``) watches the process whose end is the end of the service. It is what nginx's pid file is, too.
"""

from __future__ import annotations

import os
from contextlib import suppress


class PidFile:
    """A pid file.

    Args:
        path: where it is to be.

    Attributes:
        written: whether it is there, and this process's.
    """

    def __init__(self, path: str) -> None:
        self.path = os.path.abspath(path)
        self._text = f"{os.getpid()}\n"
        self.written = False

    def write(self) -> None:
        """Put it in place in one step: whoever reads it finds the old one or the new one, and never half of one.

        Raises:
            OSError: it cannot be written; nothing is left over.
        """
        temporary = f"{self.path}.{os.getpid()}"
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        try:
            with open(fd, "w", encoding="ascii") as file:
                file.write(self._text)
            os.rename(temporary, self.path)
        except OSError:
            with suppress(OSError):
                os.unlink(temporary)
            raise
        self.written = True

    def remove(self) -> None:
        """Remove it, if it is still the one that was written."""
        if not self.written:
            return
        with suppress(OSError), open(self.path, encoding="ascii", errors="replace") as file:
            if file.read() == self._text:
                os.unlink(self.path)
        self.written = False
