"""The console: a person with a Telnet client talks to a running server.

It offers the same instructions as the control socket, carried out by the same functions; what is here is the part
that a person needs: a log-in, words instead of JSON, and progress as it happens. Like :mod:`hotfd.control`, the
package knows nothing of servers: a console is given its instructions by name.

``telnet`` and ``editing`` do no I/O: bytes in, lines out.
"""

from __future__ import annotations

from hotfd.console.address import canonical
from hotfd.console.console import Console
from hotfd.console.token import TokenFile, TokenUnusable

__all__ = ["Console", "TokenFile", "TokenUnusable", "canonical"]
