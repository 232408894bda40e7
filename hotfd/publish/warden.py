"""A script's warden: a process that starts the script, limited, and sees that nothing of it is left.

It is a program of its own, since it becomes the reaper of whatever the script leaves behind (prctl(2),
PR_SET_CHILD_SUBREAPER), and because what limits a process is set between fork and exec, which only a process of one
thread may do. Where it is permitted, the script runs in namespaces of its own (user_namespaces(7)): it has no network,
and its first process takes all others with it. What cannot be had is said on the descriptor of notes.

::

    python -I -m hotfd.publish.warden NOTES-FD CPU-SECONDS USER-ID PARENT-ID SCRIPT

Whoever started it ends it by SIGTERM, or by dying. In the end it removes the directory that the script is in.
"""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import prctl

from hotfd.children import end_children
from hotfd.publish.workroom import remove

MEMORY: Final = 256 << 20
"""Bytes of address space of each process of a script."""

PROCESSES: Final = 32
"""Processes of a script at a time: a pipeline has a handful, and a fork bomb has these."""

FILE_SIZE: Final = 8 << 20
"""Bytes of a file that a script writes: eight times what it may print."""

DESCRIPTORS: Final = 64
"""Descriptors of each process of a script."""

UNSHARE: Final = "/usr/bin/unshare"
PRLIMIT: Final = "/usr/bin/prlimit"
TIMEOUT: Final = "/usr/bin/timeout"
"""Of util-linux and coreutils, which every Linux has: unshare(1), prlimit(1), timeout(1)."""

NAMESPACES: Final = (
    UNSHARE,
    "--user",
    "--map-current-user",
    "--net",
    "--ipc",
    "--pid",
    "--fork",
    "--kill-child",
    "--",
)

FAILED: Final = 125
"""Exit status when the script could not be started, as of env(1)."""


def main() -> int:
    """Run one script; return its exit status, 128 + its signal if one ended it, or :data:`FAILED`."""
    notes, cpu, user, parent = (int(word) for word in sys.argv[1:5])
    script = sys.argv[5]
    os.set_inheritable(notes, False)
    try:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(FAILED))
        prctl.set_pdeathsig(signal.SIGTERM)
        prctl.set_child_subreaper(1)
        if os.getppid() != parent:  # it has died before its death was a signal
            return FAILED
        return _run(notes, cpu, user, script)
    finally:
        # A second SIGTERM must not keep this from its end.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        end_children()
        remove(os.path.dirname(script))  # who has started this may be gone; if not, he looks whether it is


def _run(notes: int, cpu: int, user: int, script: str) -> int:
    limited = _limits(cpu, user)
    # Between the namespace and the script, since no signal of its own ends the first process of a namespace, which
    # abort(3) expects; and one more fence against a script that does not end.
    command = [TIMEOUT, "--signal=KILL", str(cpu + 1), script]
    if _permitted(limited):
        command = [*NAMESPACES, PRLIMIT, f"--nproc={PROCESSES}", "--", *command]
    else:
        command = [PRLIMIT, f"--nproc={_processes_of(user) + PROCESSES}", "--", *command]
        os.write(notes, b"it could reach the network: namespaces of its own are not permitted here")
    try:
        # In a namespace, ``--kill-child`` makes the script's end certain with that of unshare.
        child = subprocess.Popen(command, preexec_fn=limited, start_new_session=True)
    except (OSError, subprocess.SubprocessError) as error:
        sys.stderr.write(f"it cannot be started: {error}\n")
        return FAILED
    # Only now, and with no standard stream of its own: who reads them shall see their end when the script has ended.
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.close(null)
    status = child.wait()
    return status if status >= 0 else 128 - status


def _limits(cpu: int, user: int) -> Callable[[], None]:
    """Return what a child does between fork and exec: it gives everything away that the script shall not have."""

    def apply() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_CPU, (cpu, cpu + 1))
        resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_SIZE, FILE_SIZE))
        resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if user != os.getuid():
            os.setgroups([])
            os.setresgid(user, user, user)
            os.setresuid(user, user, user)
        prctl.set_no_new_privs(1)
        prctl.set_pdeathsig(signal.SIGKILL)  # last: a change of user clears it

    return apply


def _permitted(limited: Callable[[], None]) -> bool:
    """Return whether the script may have namespaces of its own: by trying.

    However long that takes: a machine that is busy is no reason to let a script reach the network.
    """
    try:
        tried = subprocess.run(
            [*NAMESPACES, PRLIMIT, "--nproc", "--", "/bin/true"],
            preexec_fn=limited,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return False
    return tried.returncode == 0


def _processes_of(user: int) -> int:
    """Return how many threads a user has: what RLIMIT_NPROC counts outside of a user namespace, getrlimit(2)."""
    count = 0
    for name in os.listdir("/proc"):
        if name.isdecimal():
            with suppress(OSError):
                if os.stat(f"/proc/{name}").st_uid == user:
                    count += len(os.listdir(f"/proc/{name}/task"))
    return count


if __name__ == "__main__":
    sys.exit(main())
