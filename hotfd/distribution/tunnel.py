"""The bytes of a subscriber's connection: as they are, or through TLS. Without I/O.

With TLS, what the server takes for a frame is a TLS record (RFC 8446, section 5.1), so that a connection stands at a
boundary between two records. The keys cannot travel to another process.
"""

from __future__ import annotations

import ssl
from typing import Final, Protocol

from hotfd.config import push
from hotfd.errors import PushRefused
from hotfd.framing import Framing, LengthPrefix

MAX_RECORD: Final = 5 + (1 << 14) + 2048
"""Bytes of a TLS record with its header, at most: RFC 5246, section 6.2.3."""

READ_SIZE: Final = 1 << 16
"""Bytes asked for per read of what was decrypted; a record holds less."""


class Tunnel(Protocol):
    """What is between a connection and the messages on it.

    Attributes:
        broken: whether nothing more can be said through it.
    """

    broken: bool

    def receive(self, frame: bytes) -> list[bytes]:
        """Return the messages that are complete with a frame of the connection; PushRefused when it is none."""
        ...

    def wrap(self, data: bytes) -> bytes:
        """Return what to write to the connection, so that the other side reads ``data``."""
        ...

    def pending(self) -> bytes:
        """Return what is to be written to the connection beside that."""
        ...


class Clear:
    """No TLS: each frame of the connection is a message."""

    framing: Framing = LengthPrefix(32, max_size=push.MAX_REQUEST)
    broken = False

    def receive(self, frame: bytes) -> list[bytes]:
        """Return the frame."""
        return [frame]

    def wrap(self, data: bytes) -> bytes:
        """Return the same."""
        return data

    def pending(self) -> bytes:
        """Return nothing."""
        return b""


class Encrypted:
    """The server's side of TLS.

    Args:
        context: with the server's certificate.
    """

    framing: Framing = LengthPrefix(16, offset=3, keep_header=True, max_size=MAX_RECORD)

    def __init__(self, context: ssl.SSLContext) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._greeted = False
        self.broken = False
        self._splitter = push.Splitter(push.MAX_REQUEST)

    def receive(self, frame: bytes) -> list[bytes]:
        """Take one record.

        Raises:
            PushRefused: it is none, TLS has failed, or what is inside is no message. :meth:`pending` has an alert.
            EOFError: the other side has ended TLS.
        """
        self._incoming.write(frame)
        messages: list[bytes] = []
        try:
            if not self._greeted:
                self._tls.do_handshake()
                self._greeted = True
            while True:
                data = self._tls.read(READ_SIZE)
                if not data:
                    raise EOFError
                messages += self._splitter.feed(data)
        except ssl.SSLWantReadError:
            return messages
        except ssl.SSLZeroReturnError:
            raise EOFError from None
        except ssl.SSLError as error:
            self.broken = True
            reason = getattr(error, "verify_message", "") or error.reason or type(error).__name__
            raise PushRefused("malformed", f"TLS has failed: {reason}") from None

    def wrap(self, data: bytes) -> bytes:
        """Return the records of these bytes, and what else is to be written."""
        self._tls.write(data)  # a MemoryBIO takes everything
        return self._outgoing.read()

    def pending(self) -> bytes:
        """Return what TLS itself has to say: its handshake, alerts, new keys."""
        return self._outgoing.read()
