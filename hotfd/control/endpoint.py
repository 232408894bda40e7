"""The server's side of the control socket.

The endpoint is given its instructions by name, and runs them; it knows nothing of what they do. It
lives on the server's event loop and never blocks it: sockets are non-blocking and watched with
``add_reader`` and ``add_writer``, which asyncio's loop and uvloop treat alike. asyncio's own Unix server is
not used: from Python 3.13 closing one unlinks its path, which another process may own by then.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
from typing import TYPE_CHECKING, Any

from hotfd import _core, log
from hotfd.control.lines import PROTOCOL, encode
from hotfd.control.peer import Emit, Instruction, Peer
from hotfd.control.process import start_time
from hotfd.control.runtime import Identity, RuntimeDirectory, socket_name

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

__all__ = ["Emit", "Endpoint", "Instruction"]

MAX_CLIENTS = 64
"""Clients at once. Operators and monitors are few; the limit bounds what a broken script can hold."""

IDLE_TIMEOUT = 30.0
"""Seconds in which a client must complete a request. ``hotfd status --watch`` asks each second."""

DRAIN_TIMEOUT = 1.0
"""Seconds that closing the endpoint waits for running instructions before it cancels them."""

ACCEPT_PAUSE = 1.0
"""Seconds without accepting after the process ran out of descriptors or memory: the pending connection
stays readable, and trying again at once would spin."""

ACCEPTS_PER_TURN = 16
"""Connections accepted in one turn of the event loop, so that a flood leaves turns for the clients served."""

_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class Endpoint:
    """A control socket and its clients.

    Args:
        instructions: what a request's ``type`` may be, and what carries it out.
        greeting: returns what is to be in the greeting beside the protocol's version, pid and start
            time; called for each client.
        attended: those of the instructions that end when their client hangs up; the others go on.
        idle_timeout: seconds in which a client must complete a request.
        max_clients: clients served at once; further ones are told so and closed.
    """

    def __init__(
        self,
        instructions: Mapping[str, Instruction],
        greeting: Callable[[], dict[str, Any]],
        *,
        attended: Collection[str] = (),
        idle_timeout: float = IDLE_TIMEOUT,
        max_clients: int = MAX_CLIENTS,
    ) -> None:
        self._instructions = instructions
        self._greeting = greeting
        self._attended = attended
        self._idle_timeout = idle_timeout
        self._max_clients = max_clients
        self._peers: set[Peer] = set()
        self._running: set[asyncio.Task[None]] = set()
        self._listener: socket.socket | None = None
        self._resume: asyncio.TimerHandle | None = None
        self._place: tuple[RuntimeDirectory, str, Identity] | None = None

    async def start(self, directory: RuntimeDirectory) -> str:
        """Listen at ``PID.sock`` in ``directory``.

        Args:
            directory: stays the caller's, and must stay open until :meth:`aclose` has returned.

        Returns:
            the path of the socket.

        Raises:
            Unreachable: the name is taken by a live process.
            OSError: the socket cannot be made.
            RuntimeError: the endpoint listens already.
        """
        if self._listener is not None:
            raise RuntimeError("this endpoint listens already")
        name = socket_name(os.getpid())
        listener = directory.listen(name)
        identity = directory.identity(name)
        if identity is None:
            listener.close()
            raise FileNotFoundError(errno.ENOENT, "the control socket vanished as it was made", name)
        self._place = directory, name, identity
        self._listener = listener
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(listener.fileno(), self._accept)
        return os.path.join(directory.path, name)

    async def aclose(self) -> None:
        """Stop listening, let running instructions end, send what is due, and close every client.

        An instruction that has not ended within :data:`DRAIN_TIMEOUT` is cancelled. May be called more
        than once, and by an instruction: it is not waited for, and its answer is still sent.
        """
        self._stop_listening()
        me = asyncio.current_task()
        if others := self._running - {me}:
            _, late = await asyncio.wait(others, timeout=DRAIN_TIMEOUT)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        for peer in list(self._peers):
            peer.finish()
        # Each of these ends by itself, at the latest when its time to read what is due is over.
        if ending := [peer.closed for peer in self._peers if peer.task is None or peer.task is not me]:
            await asyncio.wait(ending)

    def _stop_listening(self) -> None:
        if self._listener is None or self._place is None:
            return
        listener, self._listener = self._listener, None
        if self._resume is not None:
            self._resume.cancel()
            self._resume = None
        self._loop.remove_reader(listener.fileno())
        directory, name, identity = self._place
        directory.remove(name, identity)
        listener.close()

    def _accept(self) -> None:
        for _ in range(ACCEPTS_PER_TURN):
            if self._listener is None:
                return
            try:
                connection, _address = self._listener.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as exc:
                if exc.errno in _EXHAUSTED:
                    self._pause(exc)
                    return
                continue  # that one client went away before it was accepted (accept(2))
            try:
                self._admit(connection)
            except Exception as exc:  # noqa: BLE001 - one client's trouble must not end the endpoint
                connection.close()
                log.event(logging.ERROR, "control-client-failed", exc_info=exc)

    def _pause(self, exc: OSError) -> None:
        if self._listener is None:
            return
        log.event(logging.WARNING, "control-accept-paused", error=exc.strerror, seconds=ACCEPT_PAUSE)
        self._loop.remove_reader(self._listener.fileno())
        self._resume = self._loop.call_later(ACCEPT_PAUSE, self._watch_again)

    def _watch_again(self) -> None:
        self._resume = None
        if self._listener is not None:
            self._loop.add_reader(self._listener.fileno(), self._accept)

    def _admit(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        pid, uid, _gid = _core.peer_credentials(connection.fileno())
        if uid not in (0, os.geteuid()):
            log.event(logging.WARNING, "control-client-refused", pid=pid, uid=uid)
            _turn_away(
                connection,
                "not-permitted",
                f"uid {uid} may not control a server of uid {os.geteuid()}; run as that user or root",
            )
        elif len(self._peers) >= self._max_clients:
            _turn_away(connection, "too-many-clients", f"{self._max_clients} clients are connected already; end one")
        else:
            identity = {"hotfd": PROTOCOL, "pid": os.getpid(), "start_time": start_time()}
            greeting = encode(identity | self._greeting())
            peer = Peer(
                connection,
                self._loop,
                self._instructions,
                self._idle_timeout,
                self._running,
                self._attended,
                self._peers,
            )
            self._peers.add(peer)
            peer.closed.add_done_callback(lambda _: self._peers.discard(peer))
            peer.start(greeting)


def _turn_away(connection: socket.socket, code: str, message: str) -> None:
    """Tell a client why, and close ``connection``. A new socket's buffer holds the line, so nothing waits."""
    try:
        connection.send(encode({"error": {"code": code, "message": message}}), socket.MSG_NOSIGNAL)
    except OSError:
        pass  # it has gone already
    finally:
        connection.close()
