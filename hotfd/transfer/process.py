"""The other process of a handoff: how it is started, and how its death is known.

A process is dead when its pidfd says so (pidfd_open(2)); the end of a channel proves nothing. What the
new process is started with by default is what this one was started with: taken from the kernel when
hotfd is imported, before the program can change its own environment or directory.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from hotfd.errors import HandoffRefused
from hotfd.faults import Point, reach
from hotfd.systemd import watchdog_interval

CHANNEL_VARIABLE: Final = "HOTFD_CHANNEL"
"""Environment variable that tells the new process which descriptor its channel is."""

_NOT_INHERITED: Final = ("LISTEN_", "WATCHDOG_", CHANNEL_VARIABLE)
"""Prefixes of variables that were meant for one process alone: sd_listen_fds(3), sd_watchdog_enabled(3).

The watchdog's interval is given to a new process all the same, without the pid of the process that it was for:
the manager that expects signs of life of this process will expect them of that one.
"""


@dataclass(frozen=True, slots=True)
class Origin:
    """What a process was started with.

    Attributes:
        command: program and arguments.
        cwd: the directory, by the name that it was started under: when ``$PWD`` is a symlink that names
            the same directory, a later move of the symlink takes effect.
        environment: the environment at the start. It may hold secrets: never shown, never logged.
        exact: the command without symlinks on the way to the interpreter and the script: what runs the same files
            again after a symlink has moved.
        directory: the directory itself, for the same reason; empty when it was gone.
    """

    command: tuple[str, ...]
    cwd: str
    environment: Mapping[str, str]
    exact: tuple[str, ...] = ()
    directory: str = ""

    def __repr__(self) -> str:
        return f"Origin(command={self.command!r}, cwd={self.cwd!r}, environment=<{len(self.environment)} variables>)"

    @classmethod
    def of_this_process(cls) -> Origin:
        """Read it, from the kernel where the kernel knows it."""
        environment = dict(os.environ)
        with suppress(OSError), open("/proc/self/environ", "rb") as file:
            pairs = (os.fsdecode(entry).partition("=") for entry in file.read().split(b"\0") if entry)
            environment = {name: value for name, _, value in pairs}
        named = environment.get("PWD", "")
        try:
            cwd = directory = os.getcwd()
        except FileNotFoundError:  # started in a directory that is gone; a release that replaced it may be there
            cwd, directory = named or "/", ""
        with suppress(OSError):
            if os.path.isabs(named) and os.path.samefile(named, cwd):
                cwd = named
        kept = {k: v for k, v in environment.items() if not k.startswith(_NOT_INHERITED)}
        if watchdog_interval(environment, os.getpid()) is not None:
            kept["WATCHDOG_USEC"] = environment["WATCHDOG_USEC"]
        command = (sys.executable, *sys.orig_argv[1:])
        return cls(command, cwd, kept, _exact(command, directory), directory)


def _exact(command: tuple[str, ...], directory: str) -> tuple[str, ...]:
    """Return this process's command with the symlinks resolved that lead to its interpreter and its script."""
    # Of the interpreter only the directory: its own name is what tells a virtual environment from another.
    head, tail = os.path.split(command[0])
    exact = [os.path.join(os.path.realpath(head), tail) if head else tail, *command[1:]]
    # Where Python was given a script, and not -m or -c, sys.argv is the end of its command line.
    at = len(sys.orig_argv) - len(sys.argv)
    if 0 < at < len(exact) and exact[at] == sys.argv[0]:
        script = os.path.join(directory, exact[at])
        if os.path.exists(script) and os.path.realpath(script) != script:
            exact[at] = os.path.realpath(script)
    return tuple(exact)


ORIGIN: Final = Origin.of_this_process()
"""What this process was started with."""


class ProcessWatch:
    """Watches one process through a pidfd, which it owns.

    Args:
        pid: its pid, for people.
        pidfd: its pidfd; the watch closes it.
        on_exit: called once when the process is certainly dead.
    """

    def __init__(self, pid: int, pidfd: int, on_exit: Callable[[], None]) -> None:
        self.pid = pid
        self.dead = False
        self._pidfd = pidfd
        self._on_exit = on_exit
        self._loop = asyncio.get_running_loop()
        self._gone = asyncio.Event()
        self._loop.add_reader(pidfd, self._exited)

    def _exited(self) -> None:
        self._loop.remove_reader(self._pidfd)
        self.dead = True
        self._gone.set()
        self._on_exit()

    def kill(self) -> None:
        """Send SIGKILL; a stopped process dies of it too."""
        self.send(signal.SIGKILL)

    def send(self, number: int) -> None:
        """Send a signal; one who is dead gets none.

        Raises:
            PermissionError: the process has another user, and this one may not.
        """
        if not self.dead and self._pidfd >= 0:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    async def wait(self) -> None:
        """Wait until the process is dead."""
        await self._gone.wait()

    def close(self) -> None:
        """Stop watching. Idempotent."""
        if self._pidfd >= 0:
            if not self.dead:
                self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1


class Child(subprocess.Popen[bytes]):
    """A child that is meant to outlive its parent, and whose end a :class:`ProcessWatch` tells."""

    def __del__(self) -> None:
        """Say nothing: Popen would warn, at the end of each successful handoff, of a process that was forgotten."""


def spawn(command: Sequence[str], cwd: str, environment: Mapping[str, str], channel: int) -> Child:
    """Start the new process with its end of the channel; ``$PWD`` will name the directory, as a shell would see to.

    Args:
        command: program and arguments; never a shell's line.
        cwd: the directory to start it in.
        environment: its environment, without the channel's variable.
        channel: the descriptor that it inherits, under the same number.

    Raises:
        HandoffRefused: it cannot be started; nothing is left over.
    """
    try:
        reach(Point.OLD_SPAWN)
        return Child(
            list(command),
            cwd=cwd,
            env={**environment, "PWD": cwd, CHANNEL_VARIABLE: str(channel)},
            pass_fds=(channel,),
            stdin=None,
        )
    except OSError as error:
        # Popen puts the directory into ``filename`` when it was the directory that failed.
        culprit = f"the directory {cwd}" if error.filename == cwd else command[0]
        if not isinstance(error, FileNotFoundError):
            raise HandoffRefused("cannot-start", f"{culprit} cannot be used: {error.strerror}") from error
        if culprit == command[0] and os.path.exists(os.path.join(cwd, command[0])):
            raise HandoffRefused("not-found", f"the interpreter of {command[0]} does not exist") from error
        raise HandoffRefused("not-found", f"{culprit} does not exist; correct the command and try again") from error
    except ValueError as error:
        raise HandoffRefused("cannot-start", f"{command[0]!r} cannot be started: {error}") from error


def inherited_channel() -> int | None:
    """Return the descriptor of the channel when a handoff started this process, and forget the variable.

    Raises:
        HandoffRefused: the variable is there, and the descriptor is none that could be a channel.
    """
    value = os.environ.pop(CHANNEL_VARIABLE, None)
    if value is None:
        return None
    try:
        fd = int(value)
        os.set_inheritable(fd, False)
    except (ValueError, OSError) as error:
        raise HandoffRefused("no-channel", f"{CHANNEL_VARIABLE} names no open descriptor") from error
    return fd
