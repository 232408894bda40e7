"""The pid file: whom an operator's script talks to.

It holds the supervisor's pid, and not that of the server, for three reasons: it stays right over every handoff and
restart; a signal to it reaches whoever serves; and the manager that watches it (systemd's ``PIDFile=``, a
script's ``kill -0``) watches the process whose end is the end of the service. It is what nginx's pid file is, too.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from typing import Final

PROCESS_NAME: Final = "hotfd-run"
"""The supervisor's name as ps(1) shows it, by which one supervisor knows another."""


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

    def check(self) -> None:
        """See that no other supervisor uses the file: whoever reads it would end the wrong service.

        One that is left over from a supervisor that has ended is in nobody's way, whoever has its pid now.

        Raises:
            FileExistsError: another supervisor, which lives, has written it.
        """
        try:
            with open(self.path, encoding="ascii", errors="replace") as file:
                pid = file.read(32).strip()
            if pid == str(os.getpid()) or not (pid.isascii() and pid.isdecimal()):
                return
            with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
                name = file.read().rstrip("\n")
        except OSError:
            return
        if name == PROCESS_NAME:
            raise FileExistsError(errno.EEXIST, f"it is the pid file of process {pid}, another hotfd run", self.path)

    def write(self) -> None:
        """Put it in place in one step: whoever reads it finds the old one or the new one, and never half of one.

        Raises:
            OSError: it cannot be written, or is another supervisor's; nothing is left over.
        """
        self.check()
        temporary = f"{self.path}.{os.getpid()}"
        with suppress(FileNotFoundError):  # left over by one that was killed here and had this pid: in a container, 1
            os.unlink(temporary)
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
