"""The consoles of a server: their addresses, and how their listening sockets pass from process to process.

A console's socket is passed with the server's own listening sockets. The old process goes on serving its consoles until
the handoff has succeeded, so that whoever asked for it sees how it ends; the new one begins when it serves alone. In
between both hold the socket, nobody is refused, and the port is never free.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from hotfd import log
from hotfd.console import Console, TokenFile, TokenUnusable, canonical
from hotfd.server.listener import Listener

if TYPE_CHECKING:
    from hotfd.control.endpoint import Instruction
    from hotfd.server.engine import Engine

LASTING: Final = frozenset({"update", "rollback"})
"""Instructions that go on when nobody waits for them: a handoff does not end with who has asked for it."""

ACCEPT_INTERVAL: Final = 0.01
"""Seconds between two consoles that are accepted. A person does not notice; somebody who connects again and again to
be thrown out each time takes some per cent of the server and not all of it."""

PREFIX: Final = "console:"
"""Begins the names under which consoles' sockets are passed on; no address of a server begins so."""


def addresses_of(control: bool | str | Sequence[str], *, exposed: bool) -> list[str]:
    """Return the consoles' addresses of what the program says.

    Raises:
        ValueError: one of them is none, is not loopback, or comes twice.
    """
    if isinstance(control, bool):
        return []
    specs = [control] if isinstance(control, str) else list(control)
    found = [canonical(spec, exposed=exposed) for spec in specs]
    if len(set(found)) != len(found):
        raise ValueError("each address of a console is to be given only once")
    return found


class Consoles:
    """The consoles of one process.

    Args:
        addresses: where they listen, as :func:`addresses_of` returned them.
        token: the path of the token file, or None for where it is by default.
        instructions: what may be asked for.
        name: the server's name.
    """

    def __init__(
        self, addresses: Sequence[str], token: str | None, instructions: Mapping[str, Instruction], name: str
    ) -> None:
        self._addresses = addresses
        self._token = TokenFile(token)
        self._instructions = instructions
        self._name = name
        self._console: Console | None = None
        self._engine: Engine | None = None

    def open(self, engine: Engine) -> None:
        """Make ready what can fail, and let the engine take the sockets that the old process passes.

        A console that cannot be opened is logged, and keeps the server from nothing.
        """
        if not self._addresses:
            return
        try:
            if self._token.make():
                log.event(logging.INFO, "console-token-made", path=self._token.path)
            self._token.read()
        except TokenUnusable as error:
            log.event(logging.ERROR, "no-console", reason=str(error))
            return
        self._console = Console(self._instructions, self._token, name=self._name, lasting=LASTING)
        self._engine = engine
        for address in self._addresses:
            engine.carry(PREFIX + address, self._accepted)

    def serve(self) -> None:
        """Accept: from the sockets that were passed, and from new ones where none was."""
        if self._engine is None:
            return
        carried = self._engine.carried
        for address in self._addresses:
            name = PREFIX + address
            try:
                if name not in carried:
                    carried[name] = Listener.bind(address, self._accepted)
                carried[name].start()
            except OSError as error:
                log.event(logging.ERROR, "no-console", reason=str(error))
            else:
                log.event(logging.INFO, "console", address=carried[name].address, token=self._token.path)

    @property
    def addresses(self) -> list[str]:
        """Where consoles can be opened now, with real ports."""
        carried = self._engine.carried if self._engine is not None else {}
        return [carried[PREFIX + address].address for address in self._addresses if PREFIX + address in carried]

    def _accepted(self, listener: Listener, sock: socket.socket, peername: Any) -> None:
        listener.pause(ACCEPT_INTERVAL)
        if self._console is None:
            sock.close()
        else:
            self._console.welcome(sock, peername)

    async def aclose(self) -> None:
        """End all consoles; their listening sockets are the engine's to close."""
        if self._console is not None:
            await self._console.aclose()
