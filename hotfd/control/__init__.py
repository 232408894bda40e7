"""The control plane: how operators and tools talk to a running server.

A server has one control socket, ``PID.sock``, in a runtime directory that only its user can enter.
:class:`RuntimeDirectory` is that directory, :class:`Endpoint` the server's side of the socket (asyncio),
:class:`Client` the other side (blocking), and :func:`find` leads from a process id to the socket.

The package knows nothing of servers: an endpoint is given its instructions. Names are loaded when they
are first used, because the client must not pay for asyncio.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hotfd.control.client import Client
    from hotfd.control.endpoint import Emit, Endpoint, Instruction
    from hotfd.control.errors import RequestFailed, ServerGone, Unreachable
    from hotfd.control.process import start_time
    from hotfd.control.runtime import RuntimeDirectory
    from hotfd.control.target import Target, at, find, visible

__all__ = [
    "Client",
    "Emit",
    "Endpoint",
    "Instruction",
    "RequestFailed",
    "RuntimeDirectory",
    "ServerGone",
    "Target",
    "Unreachable",
    "at",
    "find",
    "start_time",
    "visible",
]

_HOME = {
    "Client": "client",
    "Emit": "endpoint",
    "Endpoint": "endpoint",
    "Instruction": "endpoint",
    "RequestFailed": "errors",
    "RuntimeDirectory": "runtime",
    "ServerGone": "errors",
    "Target": "target",
    "Unreachable": "errors",
    "at": "target",
    "find": "target",
    "start_time": "process",
    "visible": "target",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"hotfd.control.{_HOME[name]}"), name)
    globals()[name] = value
    return value
