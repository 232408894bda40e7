"""All consoles of a server: who is let in, how many, and how they end."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, Final

from hotfd import log
from hotfd.console.login import Login
from hotfd.console.visitor import Visitor

if TYPE_CHECKING:
    from hotfd.console.token import TokenFile
    from hotfd.control.peer import Instruction

MAX_CONSOLES: Final = 64
"""Consoles at once. Operators are few; the limit bounds what a port scanner or a broken script can hold."""

DRAIN_TIMEOUT: Final = 2.0
"""Seconds that closing waits for consoles whose command is about to answer, before they are reset."""


class Console:
    """The consoles of a server.

    Args:
        instructions: what may be asked for by name, and what carries it out; looked at anew for each command.
        token: the file of the token.
        name: the server's name, for the prompt.
        lasting: the instructions that go on when nobody waits for them any more.
        max_consoles: connections at once.
    """

    def __init__(
        self,
        instructions: Mapping[str, Instruction],
        token: TokenFile,
        *,
        name: str,
        lasting: Collection[str] = (),
        max_consoles: int = MAX_CONSOLES,
    ) -> None:
        self.instructions = instructions
        self.login = Login(token)
        self.name = name
        self.lasting = lasting
        self.token_path = token.path
        self.banner = f"console of {name}"
        self._max_consoles = max_consoles
        self._visitors: dict[Visitor, None] = {}  # the longest connected first
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closing = False
        self._changed = asyncio.Event()

    def welcome(self, sock: socket.socket, peername: Any) -> None:
        """Serve a fresh connection; the console owns the socket from here on."""
        host, port = peername[:2]
        peer = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        if self._closing or not self._make_room():
            log.event(logging.WARNING, "console-refused", peer=peer, reason="too many consoles")
            _turn_away(sock, f"{self._max_consoles} consoles are open already; end one, or use the hotfd command\r\n")
            return
        try:
            # A client interrupts with urgent data (RFC 854, Synch), which must stay where it is among the rest:
            # taken out of line, its last byte would be missing, and the command before it without its end.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        except OSError:
            sock.close()  # reset already
            return
        visitor = Visitor(self, peer)
        self._visitors[visitor] = None
        self.adopt(asyncio.get_running_loop().create_task(self._connect(visitor, sock)))

    async def _connect(self, visitor: Visitor, sock: socket.socket) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(lambda: visitor, sock)
        except BaseException as error:
            sock.close()
            self.gone(visitor)
            if not isinstance(error, OSError):
                raise

    def _make_room(self) -> bool:
        """See that there is room for one more: whoever has not logged in for longest makes way.

        Those come first who have typed no token: else a crowd that only connects would throw people out who wait for
        their verdict.
        """
        if len(self._visitors) < self._max_consoles:
            return True
        strangers = [visitor for visitor in self._visitors if not visitor.logged_in]
        if not strangers:
            return False
        visitor = next((visitor for visitor in strangers if not visitor.has_offered), strangers[0])
        visitor.drop()
        self._visitors.pop(visitor)
        return True

    def gone(self, visitor: Visitor) -> None:
        """A visitor's connection is closed."""
        self._visitors.pop(visitor, None)
        self._changed.set()

    def adopt(self, task: asyncio.Task[Any]) -> None:
        """Keep a task alive that its visitor waits for no longer."""
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def aclose(self) -> None:
        """End all consoles, in order where that is quick. May be called more than once.

        The instruction ``watch`` is over by then, or will be at once: it is what tells people who serves from now on.
        """
        self._closing = True
        if watches := [visitor.watch for visitor in self._visitors if visitor.watch is not None]:
            await asyncio.wait(watches, timeout=DRAIN_TIMEOUT)
        for visitor in list(self._visitors):
            visitor.finish("the server ends; good-bye")
        try:
            async with asyncio.timeout(DRAIN_TIMEOUT):
                while self._visitors:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            for visitor in list(self._visitors):
                visitor.drop()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def _turn_away(sock: socket.socket, text: str) -> None:
    """Tell a client why, and close ``sock``. A new socket's buffer holds the line, so nothing waits."""
    try:
        sock.send(text.encode(), socket.MSG_NOSIGNAL)
    except OSError:
        pass  # it has gone already
    finally:
        sock.close()
