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

HANDSHAKE: Final = 22
"""The first byte of every connection with TLS: RFC 8446, section 5.1."""

NO_TLS: Final = "this server is reached with TLS only: give ca=FILE, cert=FILE and key=FILE in the subscriber's URL"
NO_MESSAGE: Final = (
    "what came is no message; if it was TLS, leave ca=, cert= and key= out, or start this server with --tls-cert"
)

MAX_RECORD: Final = 5 + (1 << 14) + 2048
"""Bytes of a TLS record with its header, at most: RFC 5246, section 6.2.3."""

READ_SIZE: Final = 1 << 16
"""Bytes asked for per read of what was decrypted; a record holds less."""


class Tunnel(Protocol):
    """What is between a connection and the messages on it."""

    def receive(self, frame: bytes) -> list[bytes]:
        """Return the messages that are complete with a frame of the connection; PushRefused when it is none."""
        ...

    def wrap(self, data: bytes) -> bytes:
        """Return what to write to the connection, so that the other side reads ``data``."""
        ...

    def pending(self) -> bytes:
        """Return what is to be written to the connection beside that."""
        ...

    def nonsense(self) -> PushRefused:
        """Return what to say of bytes that are no frame of the connection."""
        ...

    def last(self, data: bytes) -> bytes:
        """Return what to write at the end, so that the other side reads ``data`` if it can read anything."""
        ...


class Clear:
    """No TLS: each frame of the connection is a message."""

    framing: Framing = LengthPrefix(32, max_size=push.MAX_REQUEST)

    def receive(self, frame: bytes) -> list[bytes]:
        """Return the frame."""
        return [frame]

    def wrap(self, data: bytes) -> bytes:
        """Return the same."""
        return data

    def pending(self) -> bytes:
        """Return nothing."""
        return b""

    def nonsense(self) -> PushRefused:
        """Return a refusal: a greeting of TLS would be a message of hundreds of megabytes."""
        return PushRefused("malformed", NO_MESSAGE)

    def last(self, data: bytes) -> bytes:
        """Return the same."""
        return data


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
        self._begun = False
        self._greeted = False
        self._broken = False
        self._splitter = push.Splitter(push.MAX_REQUEST)

    def receive(self, frame: bytes) -> list[bytes]:
        """Take one record.

        Raises:
            PushRefused: it is none, TLS has failed, or what is inside is no message.
            EOFError: the other side has ended TLS.
        """
        if not self._begun and frame[0] != HANDSHAKE:
            raise self.nonsense()
        self._begun = True
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
            self._broken = True
            reason = getattr(error, "verify_message", "") or error.reason or type(error).__name__
            raise PushRefused("tls", f"TLS has failed: {reason}") from None

    def wrap(self, data: bytes) -> bytes:
        """Return the records of these bytes, and what else is to be written."""
        self._tls.write(data)  # a MemoryBIO takes everything
        return self._outgoing.read()

    def pending(self) -> bytes:
        """Return what TLS itself has to say: its handshake, alerts, new keys."""
        return self._outgoing.read()

    def nonsense(self) -> PushRefused:
        """Return a refusal: of who does not speak TLS at all, or no more."""
        return PushRefused("malformed", "what came is no TLS record") if self._begun else PushRefused("tls", NO_TLS)

    def last(self, data: bytes) -> bytes:
        """Return the records of these bytes; an alert if TLS has failed; the bytes themselves to who speaks no TLS."""
        if not self._begun:
            return data
        return self.pending() if self._broken or not self._greeted else self.wrap(data)
