"""Starting a server: fork(2) and execve(2), as a service manager does it.

subprocess cannot do it: ``LISTEN_PID`` must hold the pid of the very process that gets the sockets
(sd_listen_fds(3)), and that is known only between the two calls. The supervisor has one thread, so the child may run
Python until it executes the program.
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Final, NoReturn

from hotfd.systemd import LISTEN_FDS_START

NOT_FOUND: Final = 127
"""Exit status of a shell for a command that is not there."""

NOT_EXECUTABLE: Final = 126
"""Exit status of a shell for a command that cannot be executed."""


class CannotStart(Exception):  # noqa: N818 - reads as the condition
    """The program could not be executed.

    Args:
        status: what a shell would exit with.
        detail: one line that says what is wrong.
    """

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


def spawn(command: Sequence[str], cwd: str, environment: Mapping[str, str], sockets: Sequence[int]) -> int:
    """Start a program in a process group of its own.

    In its own group it does not get control-C from the terminal beside the signal that the supervisor forwards.

    Args:
        command: program and arguments; never a shell's line.
        cwd: the directory to start it in.
        environment: its environment; ``LISTEN_FDS`` and ``LISTEN_PID`` are added where there are sockets.
        sockets: descriptors that it gets as 3, 4 and so on; they stay the caller's.

    Returns:
        its pid. The caller reaps it.

    Raises:
        CannotStart: it cannot be executed; nothing is left over.
    """
    try:
        told, tell = os.pipe2(os.O_CLOEXEC)
    except OSError as error:
        raise CannotStart(NOT_EXECUTABLE, f"no pipe can be made: {error.strerror}") from error
    # Until it has reset them, a signal in the child would run the parent's handlers, and wake the parent's loop.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        try:
            pid = os.fork()
        except OSError as error:
            raise CannotStart(NOT_EXECUTABLE, f"no process can be made: {error.strerror}") from error
        if pid == 0:
            _become(command, cwd, dict(environment), list(sockets), tell)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        os.close(tell)
        failure = _read_and_close(told)
    if not failure:
        return pid
    os.waitpid(pid, 0)
    step, _, number = failure.decode().partition(" ")
    reason = os.strerror(int(number))
    if step == "cwd":
        raise CannotStart(NOT_EXECUTABLE, f"the directory {cwd} cannot be used: {reason}")
    status = NOT_FOUND if int(number) == errno.ENOENT else NOT_EXECUTABLE
    raise CannotStart(status, f"{command[0]} cannot be executed: {reason}")


def _read_and_close(fd: int) -> bytes:
    """Read what the child says before it executes the program: nothing, if that works."""
    with open(fd, "rb") as file:
        return file.read()


def _become(command: Sequence[str], cwd: str, environment: dict[str, str], sockets: list[int], tell: int) -> NoReturn:
    """In the child: execute the program, or say why not. Never returns, and never raises."""
    step = "exec"
    try:
        os.setpgid(0, 0)
        signal.set_wakeup_fd(-1)
        for number in signal.valid_signals():
            # Ignored ones are inherited by the program, as from nohup(1); but SIGPIPE and SIGXFSZ Python ignores itself.
            if signal.getsignal(number) is not signal.SIG_IGN or number in {signal.SIGPIPE, signal.SIGXFSZ}:
                with suppress(OSError, ValueError):
                    signal.signal(number, signal.SIG_DFL)
        if sockets:
            tell = _place(sockets, tell)
            environment["LISTEN_FDS"] = str(len(sockets))
            environment["LISTEN_PID"] = str(os.getpid())
        step = "cwd"
        os.chdir(cwd)
        step = "exec"
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.execvpe(command[0], list(command), environment)  # noqa: S606 - the command is the user's
    except OSError as error:
        os.write(tell, f"{step} {error.errno or errno.EINVAL}".encode())
    finally:
        os._exit(NOT_EXECUTABLE)


def _place(sockets: Sequence[int], tell: int) -> int:
    """Give the sockets the numbers from 3 on, inheritable; return the number that ``tell`` has then."""
    end = LISTEN_FDS_START + len(sockets)
    # First everything out of the way of the final numbers, then into place.
    tell = fcntl.fcntl(tell, fcntl.F_DUPFD_CLOEXEC, end)
    away = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, end) for fd in sockets]
    for number, fd in enumerate(away, LISTEN_FDS_START):
        os.dup2(fd, number, inheritable=True)
    return tell
