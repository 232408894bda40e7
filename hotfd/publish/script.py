"""Scripts that make the values of a release: run once, when it is published, in a process that can do little.

A script is given the values in force as JSON on its standard input, and prints the new ones. It has time, memory,
processes and descriptors within limits, an environment of two variables, a fresh directory with the files that were
committed beside it, and no network where the kernel permits it (see :mod:`hotfd.publish.warden`). It runs as the user
who publishes, or as ``nobody`` when that is root. It is somebody's program all the same: whoever can commit one can
read what that user can read, so nobody's scripts are run unless that was asked for.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import msgspec

from hotfd import log
from hotfd.errors import ConfigError
from hotfd.publish.compile import SCRIPT
from hotfd.publish.documents import MAX_FILE, parse
from hotfd.publish.faults import printable
from hotfd.publish.programs import Deadline, listen
from hotfd.publish.workroom import lay_out, remove

if TYPE_CHECKING:
    from collections.abc import Callable

    from hotfd.config.release import Values
    from hotfd.publish.compile import Script

TIME_LIMIT: Final = 5.0
"""Seconds that a script may take."""

END_LIMIT: Final = 5.0
"""Seconds that the warden has to end what is left of a script; then it is killed, and what it watched dies of that."""

NOBODY: Final = 65534
"""The user and group that may do nothing, on every Linux (passwd(5)); whom root's scripts run as."""

ENVIRONMENT: Final = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}
"""All that a script finds in its environment."""

MAX_NOTES: Final = 4096
"""Bytes that the warden may note: a sentence or two."""

MAX_SHOWN: Final = 2000
"""Characters of a script's standard error that the committer is shown, the last ones: errors come last."""

MAX_SHOWN_LINES: Final = 20
"""Lines of it: a screen has no more."""


class Scripts:
    """Runs scripts, if they may be run.

    Args:
        allowed: whether they may.
        deadline: when they have to be done, at most :data:`TIME_LIMIT` seconds each.
        note: told what is worth knowing of a script that succeeded, as a line.
    """

    def __init__(self, allowed: bool, deadline: Deadline, note: Callable[[str], None]) -> None:
        self._allowed = allowed
        self._deadline = deadline
        self._note = note

    def __call__(self, script: Script, current: Values) -> Values:
        """Run a script, and return the values that it prints.

        Raises:
            ConfigError: it may not be run, failed, or printed what are no values.
        """
        if not self._allowed:
            raise ConfigError("scripts are not run here; publish with --allow-scripts if you trust who can commit one")
        user = NOBODY if os.geteuid() == 0 else os.getuid()
        directory = tempfile.mkdtemp(prefix="hotfd-script-")
        try:
            lay_out(directory, script.files, script.executable, user)
            output = self._run(directory, user, msgspec.json.encode(current), script.module)
        except OSError as error:
            raise ConfigError(f"a script cannot be run here: {error.strerror}") from None
        finally:
            if not remove(directory):
                log.event(logging.WARNING, "config-script-directory-left", path=directory)
        return parse(f"what {script.module}/{SCRIPT} prints", output, ".json")

    def _run(self, directory: str, user: int, data: bytes, module: str) -> bytes:
        limit = self._deadline.left(TIME_LIMIT)
        notes, notes_end = os.pipe2(os.O_CLOEXEC)
        try:
            try:
                warden = subprocess.Popen(
                    [
                        sys.executable,
                        "-I",
                        "-m",
                        "hotfd.publish.warden",
                        str(notes_end),
                        str(int(limit) + 1),
                        str(user),
                        str(os.getpid()),
                        os.path.join(directory, SCRIPT),
                    ],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    pass_fds=(notes_end,),
                    cwd=directory,
                    env=ENVIRONMENT,
                    start_new_session=True,
                )
            finally:
                os.close(notes_end)
            with warden:
                try:
                    said = listen(warden, data, self._deadline, limit, MAX_FILE + 1)
                    if said.in_time and not said.too_much:
                        with suppress(subprocess.TimeoutExpired):
                            warden.wait(self._deadline.left(limit))
                    in_time = said.in_time and (said.too_much or warden.poll() is not None)
                finally:
                    _end(warden)
            noted = os.read(notes, MAX_NOTES).decode(errors="replace")
        finally:
            os.close(notes)
        complaint = _readable(said.complaint)
        if said.too_much:
            raise ConfigError(_with(f"the script printed more than {MAX_FILE} bytes, and was ended", complaint))
        if not in_time:
            raise ConfigError(_with(f"the script was not done after {limit:.1f} s, and was ended", complaint))
        if warden.returncode:
            raise ConfigError(_with(f"the script {_ended(warden.returncode)}", complaint))
        if noted:
            self._note(f"module {module!r}: the script has run, but {noted}")
            log.event(logging.WARNING, "config-script-not-isolated", module=module)
        if complaint:
            self._note(f"module {module!r}: the script says: {complaint}")
        return said.output


def _end(warden: subprocess.Popen[bytes]) -> None:
    """End a warden, and with it everything that it watches over."""
    if warden.poll() is None:
        warden.terminate()
        try:
            warden.wait(END_LIMIT)
        except subprocess.TimeoutExpired:
            warden.kill()
            log.event(logging.ERROR, "config-script-warden-killed", pid=warden.pid)


def _ended(status: int) -> str:
    number = status - 128 if status > 128 else -status
    if number > 0:
        with suppress(ValueError):
            return f"was ended by {signal.Signals(number).name}{_WHY.get(number, '')}"
    return f"ended with status {status}"


_WHY: Final[dict[int, str]] = {
    signal.SIGXCPU: ": it used more processor time than it may",
    signal.SIGXFSZ: ": it wrote a file that is larger than it may be",
    signal.SIGKILL: ": it used more processor time than it may, or somebody has killed it",
}
"""What a signal means that the kernel sends to who goes over a limit, setrlimit(2)."""


def _readable(data: bytes) -> str:
    """Return the end of what a script has said, without what would drive the terminal that shows it."""
    lines = data.decode(errors="replace").strip()[-MAX_SHOWN:].split("\n")[-MAX_SHOWN_LINES:]
    return printable("\n".join(lines))


def _with(what: str, complaint: str) -> str:
    return f"{what}; it says: {complaint}" if complaint else what
