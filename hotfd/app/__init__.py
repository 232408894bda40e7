"""What a program uses: :class:`Server`, and :func:`run` for a program that is nothing but a server."""

from __future__ import annotations

from hotfd.app.runner import run
from hotfd.app.service import Server

__all__ = ["Server", "run"]
