"""What /proc says of a process: whose it is, when it started, and what it is called where it lives.

A process id alone is a weak name: it is reused, and a process in a container has another one inside.
The start time (proc_pid_stat(5), field 22) makes it unique, ``NSpid`` (proc_pid_status(5)) translates it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from hotfd.control.errors import Unreachable
from hotfd.control.runtime import ENVIRONMENT

_DEAD = frozenset({"Z", "X", "x"})  # states of a process that has exited and is not yet forgotten


@dataclass(frozen=True, slots=True)
class Process:
    """One process, as this one sees it.

    Args:
        pid: its id here.
        uid: its effective user id here.
        start_time: when it started, in clock ticks since boot.
        inner_pid: its id in its own pid namespace.
        inner_uid: its effective user id in its own user namespace.
        namespace: its pid namespace, or None when this process may not know.
    """

    pid: int
    uid: int
    start_time: int
    inner_pid: int
    inner_uid: int
    namespace: int | None

    @classmethod
    def read(cls, pid: int) -> Process:
        """Look at process ``pid``.

        Raises:
            Unreachable: ``no-such-process``, or ``not-permitted`` where /proc hides it.
        """
        try:
            started = start_time(pid)
            status = _status(pid)
        except (FileNotFoundError, ProcessLookupError, PermissionError) as exc:
            raise _absent(pid) from exc
        if status["State"].split()[0] in _DEAD:
            raise Unreachable("no-such-process", f"process {pid} has exited; its parent has not noticed yet")
        uid = int(status["Uid"].split()[1])
        inner = status.get("NSpid", str(pid)).split()[-1]
        return cls(pid, uid, started, int(inner), _inner_uid(pid, uid), _namespace(pid))

    def environment(self, name: str) -> str | None:
        """Return a variable of the environment that it was started with; None when unset or unreadable."""
        try:
            with open(f"/proc/{self.pid}/environ", "rb") as file:
                entries = file.read().split(b"\0")
        except OSError:
            return None
        prefix = os.fsencode(name) + b"="
        return next((os.fsdecode(entry[len(prefix) :]) for entry in entries if entry.startswith(prefix)), None)

    def runtime_directories(self) -> list[str]:
        """Return where its control socket may be, as absolute paths under its own root."""
        found = [self.environment(ENVIRONMENT)]
        if base := self.environment("XDG_RUNTIME_DIR"):
            found.append(os.path.join(base, "hotfd"))
        found.append("/run/hotfd")
        for uid in (self.inner_uid, self.uid):
            found += [f"/run/user/{uid}/hotfd", f"/tmp/hotfd-{uid}"]  # noqa: S108 - its owner is checked
        return list(dict.fromkeys(path for path in found if path and os.path.isabs(path)))

    def reach(self, path: str) -> str:
        """Return ``path``, absolute under the process's root, as a path of this process."""
        try:
            os.stat(f"/proc/{self.pid}/root/")
        except PermissionError:
            # The kernel shields the root of a process that has changed its user (PR_SET_DUMPABLE). Such
            # a process mostly lives in the same root as this one; the socket's peer is checked anyway.
            return path
        except OSError:
            pass  # it has ended, and whoever opens the path finds out
        return f"/proc/{self.pid}/root{path}"


def start_time(pid: int | None = None) -> int:
    """Return when ``pid`` (this process when None) started, in clock ticks since boot.

    Raises:
        OSError: there is no such process.
    """
    with open(f"/proc/{'self' if pid is None else pid}/stat", "rb") as file:
        # The name may hold spaces and parentheses: fields are counted from the last one, which ends it.
        return int(file.read().rpartition(b")")[2].split()[19])


def translate(inner_pid: int, relative: Process) -> int | None:
    """Return the id here of the process that ``relative`` knows as ``inner_pid``; None when there is none.

    A server in a container reports the ids of its own namespace.
    """
    if relative.namespace is None or relative.namespace == _namespace(os.getpid()):
        return inner_pid if os.path.exists(f"/proc/{inner_pid}") else None
    for entry in os.listdir("/proc"):
        if entry.isdecimal() and _namespace(int(entry)) == relative.namespace:
            try:
                inner = _status(int(entry))["NSpid"].split()[-1]
            except (OSError, KeyError):
                continue  # it ended while we looked
            if int(inner) == inner_pid:
                return int(entry)
    return None


def _status(pid: int) -> dict[str, str]:
    with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as file:
        return {key: value.strip() for key, _, value in (line.partition(":") for line in file)}


def _absent(pid: int) -> Unreachable:
    try:
        os.kill(pid, 0)
    except PermissionError:
        # It exists, and /proc is mounted with hidepid (proc(5)).
        return Unreachable("not-permitted", f"process {pid} belongs to another user; run as that user or root")
    except (OSError, OverflowError):
        pass
    return Unreachable("no-such-process", f"there is no process {pid}; hotfd ps lists the servers")


def _namespace(pid: int) -> int | None:
    try:
        return os.stat(f"/proc/{pid}/ns/pid").st_ino
    except OSError:
        return None


def _inner_uid(pid: int, uid: int) -> int:
    """Return ``uid`` as the process itself knows it (user_namespaces(7), uid_map)."""
    try:
        if os.stat(f"/proc/{pid}/ns/user").st_ino == os.stat("/proc/self/ns/user").st_ino:
            return uid  # here the map's second column would speak of the parent namespace, not of ours
        with open(f"/proc/{pid}/uid_map", encoding="ascii") as file:
            for inside, outside, count in (map(int, line.split()) for line in file):
                if outside <= uid < outside + count:
                    return inside + uid - outside
    except OSError:
        pass
    return uid
