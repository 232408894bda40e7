"""Where a frame ends, per protocol.

A :class:`Framing` says how the bytes of a connection divide into frames, and how a payload becomes one. It is
immutable and shared by all connections of a server; each connection has a :class:`Scanner` of its own.
Those here find their frames in C; a framing written in Python implements :meth:`Framing.find`.
"""

from __future__ import annotations

from hotfd.framing.base import DEFAULT_MAX_SIZE, MAX_SPANS, Framing, Scanner
from hotfd.framing.delimited import Delimited, Fixed, Lines
from hotfd.framing.prefixed import LengthPrefix, Netstring, VarintPrefix
from hotfd.framing.resp import Resp

__all__ = [
    "DEFAULT_MAX_SIZE",
    "MAX_SPANS",
    "Delimited",
    "Fixed",
    "Framing",
    "LengthPrefix",
    "Lines",
    "Netstring",
    "Resp",
    "Scanner",
    "VarintPrefix",
]
