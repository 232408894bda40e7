"""An echo server with a thread for each connection, and blocking sockets."""

from __future__ import annotations

import signal
import socket
import sys
import threading
from contextlib import suppress

from scripts.bench.servers import echo_common

STACK = 256 << 10
"""Bytes of a thread's stack: thousands of threads, and none of them calls deeply."""


def echo_length(sock: socket.socket) -> None:
    """Send back each frame: four bytes of length, and the payload."""
    with sock, sock.makefile("rb") as reader, suppress(ConnectionError):
        while len(header := reader.read(4)) == 4:
            size = int.from_bytes(header, "big")
            if size > echo_common.MAX_FRAME:
                return
            payload = reader.read(size)
            if len(payload) < size:
                return
            sock.sendall(header + payload)


def echo_lines(sock: socket.socket) -> None:
    """Send back each line."""
    with sock, sock.makefile("rb") as reader, suppress(ConnectionError):
        while line := reader.readline(echo_common.MAX_FRAME):
            sock.sendall(line)


def main(framing: str) -> None:
    """Serve until the process is ended."""
    threading.stack_size(STACK)
    handler = echo_length if framing == "length" else echo_lines
    with echo_common.listening() as listener:
        echo_common.announce(listener.getsockname()[1])
        while True:
            sock, _ = listener.accept()
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=handler, args=(sock,), daemon=True).start()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    options = echo_common.arguments(__doc__)
    main(options.framing)
