"""What every server that is handed over keeps of a client: two hundred bytes, of the types that such a state has."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

REPLY: Final = b"%011d\n"
"""What a line is answered with: how many this client has sent so far, in all processes."""

REPLY_SIZE: Final = 12
"""Bytes of that."""


@dataclass
class Visitor:
    """The state of one connection: 200 bytes as JSON without spaces."""

    name: str = "a visitor of middling name"
    token: str = "9f3b1c5a7d8e2f4061b2c3d4e5f60718"
    since: float = 1790000000.25
    lines: int = 0
    score: int = 123456
    away: bool = False
    topics: list[str] = field(default_factory=lambda: ["news", "weather", "sports"])
    note: str = "likes brevity"
