"""Find what a handler keeps outside of its state, before a handoff does.

:func:`serve` runs a handler as a server would, in the test's own process, and hands every connection over at
every frame boundary: the state is written, the handler unwinds, and starts again with what was read. A
test that passes without, and fails with that, has found something that does not travel. The pytest
plugin's fixture ``hotfd_serve`` runs a test both ways.

:class:`ServerProcess` runs a whole program and hands it over for real, for what lives in its modules.

Names are loaded when they are first used: pytest imports this package at every start, for its plugin.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hotfd.testing.client import Client, Unexpected
    from hotfd.testing.harness import Harness, serve
    from hotfd.testing.passage import Boundary
    from hotfd.testing.process import ServerProcess
    from hotfd.testing.program import Program, per_process
    from hotfd.testing.travel import HandoverFailed

__all__ = [
    "Boundary",
    "Client",
    "HandoverFailed",
    "Harness",
    "Program",
    "ServerProcess",
    "Unexpected",
    "per_process",
    "serve",
]

_HOME = {
    "Boundary": "passage",
    "Client": "client",
    "HandoverFailed": "travel",
    "Harness": "harness",
    "Program": "program",
    "ServerProcess": "process",
    "Unexpected": "client",
    "per_process": "program",
    "serve": "harness",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(f"hotfd.testing.{_HOME[name]}"), name)
    return value
