"""From a process id, or a path, to a connected control socket whose other end is known.

The directory, the socket's peer and the greeting are each checked against what /proc says of the process,
so that neither a reused pid nor a socket that somebody else has put there is taken for the server.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hotfd import _core
from hotfd.control.errors import Unreachable
from hotfd.control.process import Process
from hotfd.control.runtime import RuntimeDirectory, default_path, socket_name

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

CONNECT_TIMEOUT = 5.0
"""Seconds in which a server must accept and greet. A healthy event loop does so within milliseconds;
five seconds cover one that is loading, and are what an operator is willing to wait."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where a server's control socket is.

    Args:
        places: directories to look in, as paths of this process, most likely first.
        name: the socket's name in them.
        process: the process that must answer; None when the user named the socket.
    """

    places: tuple[str, ...]
    name: str
    process: Process | None

    @property
    def label(self) -> str:
        """What to call the target in a message."""
        return f"process {self.process.pid}" if self.process else os.path.join(self.places[0], self.name)

    def connect(self, timeout: float = CONNECT_TIMEOUT) -> tuple[socket.socket, Process | None]:
        """Connect, and check who is at the other end.

        Args:
            timeout: seconds to wait for a place in the server's queue.

        Returns:
            a blocking socket that the caller owns, and the process at its other end (None where its pid
            is not visible from here).

        Raises:
            Unreachable: see :class:`hotfd.control.errors.Unreachable`.
        """
        refused: list[str] = []
        deadline = time.monotonic() + timeout
        for place in self.places:
            try:
                connection = self._open(place, deadline)
            except (FileNotFoundError, ConnectionRefusedError):
                refused.append(place)
                continue
            except BlockingIOError:
                raise Unreachable(
                    "unresponsive",
                    f"{self.label} has a control socket, but accepted nobody within {timeout:g} s; "
                    "it is stopped or its event loop hangs",
                ) from None
            except PermissionError as exc:
                raise Unreachable(
                    "not-permitted", f"{place} may not be entered by uid {os.geteuid()}; run as root"
                ) from exc
            try:
                return connection, self._check_peer(connection)
            except BaseException:
                connection.close()
                raise
        raise Unreachable(
            "not-a-server",
            f"{self.label} does not listen at {self.name} in {', '.join(refused)}: what is there is left over "
            "from a process that has ended",
        )

    def _open(self, place: str, deadline: float) -> socket.socket:
        owners = {self.process.uid, 0} if self.process else None
        with RuntimeDirectory.look(place, owners) as directory:
            return directory.connect(self.name, deadline - time.monotonic())

    def _check_peer(self, connection: socket.socket) -> Process | None:
        pid, uid, _gid = _core.peer_credentials(connection.fileno())
        if self.process is not None:
            if pid != self.process.pid:
                raise Unreachable(
                    "impostor",
                    f"process {pid} listens at the control socket of {self.label}; nothing was sent to it",
                )
            return self.process
        me = os.geteuid()
        if me != 0 and uid not in (0, me):
            raise Unreachable("not-permitted", f"uid {uid} listens at {self.label}; run as that user or root")
        return Process.read(pid) if pid else None


def find(pid: int) -> Target:
    """Find the control socket of process ``pid``.

    Every runtime directory that the process may have is looked at, as the process itself would see it:
    through its root directory, and under its id in its own pid namespace.

    Raises:
        Unreachable: ``no-such-process``, ``not-permitted``, ``not-a-server``, or ``unsafe-directory``.
    """
    process = Process.read(pid)
    me = os.geteuid()
    if me not in (0, process.uid):
        raise Unreachable("not-permitted", f"process {pid} belongs to uid {process.uid}; run as that user or root")
    notes: list[str] = []
    target = _locate(process, notes)
    if target is None:
        Process.read(pid)  # it may have ended while we looked, and then that is the reason
        looked = ", ".join(_candidates(process))
        more = f" ({'; '.join(notes)})" if notes else ""
        raise Unreachable(
            "not-a-server",
            f"process {pid} is not a hotfd server: no control socket {socket_name(process.inner_pid)} "
            f"in {looked}{more}",
        )
    return target


def visible() -> Iterator[Target]:
    """Yield each server that this user may control, in order of pid: his own, for root everybody's."""
    me = os.geteuid()
    for pid in sorted(int(entry) for entry in os.listdir("/proc") if entry.isdecimal()):
        try:
            process = Process.read(pid)
        except Unreachable:
            continue  # it has ended, or is hidden
        if me in (0, process.uid) and (target := _locate(process, [])):
            yield target


def at(path: str) -> Target:
    """Return the target at the control socket ``path``.

    Raises:
        Unreachable: ``not-a-server``: no socket is there.
    """
    directory, name = os.path.split(os.path.abspath(path))
    target = Target((directory,), name, None)
    try:
        with RuntimeDirectory.look(directory, None) as opened:
            if opened.identity(name):
                return target
    except OSError as exc:
        raise Unreachable("not-a-server", f"{path}: {exc.strerror}") from exc
    raise Unreachable("not-a-server", f"{path} is not a socket; hotfd ps lists the servers")


def _candidates(process: Process) -> list[str]:
    """Return the runtime directories that ``process`` may use, and the one that is set for this command."""
    own = default_path()
    return list(dict.fromkeys([*process.runtime_directories(), *([own] if os.path.isabs(own) else [])]))


def _locate(process: Process, notes: list[str]) -> Target | None:
    """Return where ``process`` has a socket, or None; ``notes`` gets what was in the way."""
    name = socket_name(process.inner_pid)
    places = []
    for path in _candidates(process):
        place = process.reach(path)
        try:
            with RuntimeDirectory.look(place, {process.uid, 0}) as directory:
                if directory.identity(name):
                    places.append(place)
        except FileNotFoundError:
            continue
        except Unreachable as exc:
            notes.append(exc.detail)
        except OSError as exc:
            notes.append(f"{path}: {exc.strerror}")
    return Target(tuple(places), name, process) if places else None
