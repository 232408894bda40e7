"""Clients with an oracle: each knows every byte that it must get."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field

from tests.integration.harness import PATIENCE


@dataclass
class Score:
    """What all clients of a test saw."""

    replies: int = 0
    wrong: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)

    def check(self, replies: int | None = None) -> None:
        assert not self.wrong, f"{len(self.wrong)} wrong: {self.wrong[:5]}"
        assert not self.lost, f"{len(self.lost)} lost: {self.lost[:5]}"
        if replies is not None:
            assert self.replies == replies, f"{self.replies} replies instead of {replies}"


async def line_client(
    address: tuple[str, int],
    score: Score,
    stop: asyncio.Event,
    seed: int,
    *,
    burst: int = 8,
    pause: float = 0.002,
    size: int = 40,
) -> None:
    """Talk to the counter in bursts of lines, written in random fragments, and check each reply.

    The connection is kept from the first to the last byte: a reset, an end or a wrong number is a finding.
    """
    rng = random.Random(seed)
    reader, writer = await asyncio.open_connection(*address, limit=1 << 24)
    try:
        if (greeting := await reader.readline()) != b"hello\n":
            score.wrong.append(f"client {seed}: greeted with {greeting[:40]!r}")
        number = 0
        while not stop.is_set():
            lines = [rng.randbytes(rng.randint(1, size)).hex().encode() for _ in range(rng.randint(1, burst))]
            await _write_in_fragments(writer, b"".join(line + b"\n" for line in lines), rng)
            for line in lines:
                number += 1
                reply = await asyncio.wait_for(reader.readline(), PATIENCE)
                if reply != b"%d %s\n" % (number, line):
                    score.wrong.append(f"client {seed}: line {number} answered {reply[:60]!r}")
                    return
                score.replies += 1
            await asyncio.sleep(rng.random() * pause)
        writer.write_eof()
        if rest := await asyncio.wait_for(reader.read(), PATIENCE):
            score.wrong.append(f"client {seed}: {rest[:60]!r} after the end")
    except (OSError, TimeoutError) as error:
        score.lost.append(f"client {seed}: {type(error).__name__} {error}")
    finally:
        writer.close()


async def _write_in_fragments(writer: asyncio.StreamWriter, data: bytes, rng: random.Random) -> None:
    while data:
        cut = rng.randint(1, max(1, len(data)))
        writer.write(data[:cut])
        data = data[cut:]
        if data:
            await asyncio.sleep(0)
    await writer.drain()
