"""Run a program on a free port, and say which: ``python -m scripts.bench.servers.on_port COMMAND...``.

``{port}`` in the command's words becomes the port, which nobody had a moment before. The program takes the place of
this process, so that its id is the one that whoever started this knows.
"""

from __future__ import annotations

import os
import socket
import sys


def main(command: list[str]) -> None:
    """Say ``127.0.0.1:PORT`` and become the program, which may need a while until it listens there."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    print(f"127.0.0.1:{port}", flush=True)
    os.execvp(command[0], [word.replace("{port}", str(port)) for word in command])


if __name__ == "__main__":
    main(sys.argv[1:])
