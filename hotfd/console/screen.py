"""What a client sees: lines, the prompt, and a bound on what it leaves unread."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from hotfd import log
from hotfd.console.telnet import encode
from hotfd.display.text import printable

MAX_PASSING: Final = 32 * 1024
"""Bytes kept for a client that does not read before lines of passing interest, such as progress, are left out."""

MAX_OUTPUT: Final = 256 * 1024
"""Bytes that a client may leave unread when it is told more; then it is closed. One answer more than that is kept."""


class Screen:
    """The output of one console.

    Args:
        name: the server's name, for the prompt.
        peer: where the client is, for the log.
    """

    def __init__(self, name: str, peer: str) -> None:
        self._name = name
        self._peer = peer
        self._transport: asyncio.Transport | None = None
        self._prompted = False
        self._lost = 0

    def attach(self, transport: asyncio.Transport) -> None:
        """Begin to write."""
        self._transport = transport

    def entered(self) -> None:
        """The client has ended a line, and shows that itself."""
        self._prompted = False

    def prompt(self) -> None:
        """Ask for the next command."""
        self.write(encode(f"{printable(self._name)}> "))
        self._prompted = True

    def say(self, lines: list[str]) -> None:
        """Print lines, below the prompt when there is one."""
        text = "".join(f"{printable(line)}\n" for line in lines)
        self.write(encode(f"\n{text}" if self._prompted else text))
        self._prompted = False

    def tell(self, lines: list[str], *, passing: bool) -> bool:
        """Print what happens in the server; what is of passing interest is left out when the client does not keep up.

        Returns:
            whether anything was printed.
        """
        if passing and self.unread > MAX_PASSING:
            self._lost += len(lines)
            return False
        if not lines:
            return False
        lost, self._lost = self._lost, 0
        self.say([f"({lost} lines are missing here: they were not read in time)"] * bool(lost) + lines)
        return True

    def write(self, data: bytes) -> None:
        """Send bytes as they are; a client that has left too much unread is closed instead."""
        if self._transport is None or self._transport.is_closing() or not data:
            return
        if self.unread > MAX_OUTPUT:
            log.event(logging.WARNING, "console-closed", peer=self._peer, reason="it does not read")
            self._transport.abort()
            return
        self._transport.write(data)

    @property
    def unread(self) -> int:
        """Bytes that wait for the client."""
        return self._transport.get_write_buffer_size() if self._transport is not None else 0
