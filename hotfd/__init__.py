"""hotfd replaces a running server with a new version of itself while its clients stay connected.

::

    import hotfd

    async def talk(conn: hotfd.Connection) -> None:
        async for line in conn:            # the frame boundary: here a connection may move
            await conn.send(b"you said " + line)

    hotfd.run(talk, listen="127.0.0.1:7000", framing=hotfd.Lines())

``hotfd handoff --pid PID`` then replaces the process; nobody who is connected notices.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from hotfd._version import __version__
from hotfd.errors import (
    ChannelError,
    ConfigError,
    Conflict,
    ConnectionClosed,
    ConnectionMoved,
    ControlError,
    FrameTooLarge,
    FramingError,
    HandedOff,
    HandoffRefused,
    HotfdError,
    ReleaseRefused,
    SessionElsewhere,
    StateError,
    StoreError,
)

if TYPE_CHECKING:
    from hotfd.app.runner import run
    from hotfd.app.service import Server
    from hotfd.config.declare import Config
    from hotfd.config.hints import Live
    from hotfd.framing import Delimited, Fixed, Framing, LengthPrefix, Lines, Netstring, Resp, VarintPrefix
    from hotfd.server.connection import Connection
    from hotfd.server.session import Session
    from hotfd.server.subscription import Subscription
    from hotfd.server.timers import Timer
    from hotfd.state import State

__all__ = [
    "ChannelError",
    "Config",
    "ConfigError",
    "Conflict",
    "Connection",
    "ConnectionClosed",
    "ConnectionMoved",
    "ControlError",
    "Delimited",
    "Fixed",
    "FrameTooLarge",
    "Framing",
    "FramingError",
    "HandedOff",
    "HandoffRefused",
    "HotfdError",
    "LengthPrefix",
    "Lines",
    "Live",
    "Netstring",
    "ReleaseRefused",
    "Resp",
    "Server",
    "Session",
    "SessionElsewhere",
    "State",
    "StateError",
    "StoreError",
    "Subscription",
    "Timer",
    "VarintPrefix",
    "__version__",
    "run",
]

# What needs asyncio and the C core is loaded when it is first used: the command line must start quickly.
_HOME = {
    "Config": "hotfd.config.declare",
    "Connection": "hotfd.server.connection",
    "Delimited": "hotfd.framing",
    "Fixed": "hotfd.framing",
    "Framing": "hotfd.framing",
    "LengthPrefix": "hotfd.framing",
    "Lines": "hotfd.framing",
    "Live": "hotfd.config.hints",
    "Netstring": "hotfd.framing",
    "Resp": "hotfd.framing",
    "Server": "hotfd.app.service",
    "Session": "hotfd.server.session",
    "State": "hotfd.state",
    "Subscription": "hotfd.server.subscription",
    "Timer": "hotfd.server.timers",
    "VarintPrefix": "hotfd.framing",
    "run": "hotfd.app.runner",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(_HOME[name]), name)
    return value
