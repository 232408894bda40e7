"""Heads, releases and reports for the tests of what operators see of configuration."""

from __future__ import annotations

from typing import Any

from hotfd.config import rollout
from hotfd.config.open import open_store
from hotfd.config.release import Canary, Head, Release, Track, seal
from hotfd.config.store import Acknowledgement

NOW = 1_700_000_000.0
DIGEST = "ab" * 32


def head(
    stable: int | None = 12,
    canary: Canary | None = None,
    *,
    sequence: int = 20,
    change: Any = "published",
    **fields: Any,
) -> Head:
    track = Track(stable, DIGEST) if stable is not None else None
    last = max(stable or 0, canary.version if canary is not None else 0)
    by = fields.pop("by", "anna@build")
    return Head("arena", sequence, last, change, by, NOW, track, canary, **fields)


def canary(version: int = 13, *, zones: tuple[str, ...] = (), share: float = 0.0) -> Canary:
    return Canary(version, DIGEST, zones, share)


def report(version: int = 12, state: Any = "running", *, ago: float = 1.0, **fields: Any) -> Acknowledgement:
    settings: dict[str, Any] = {
        "module": "arena",
        "server": f"{fields.get('host', 'play1')}-{fields.get('pid', 7)}",
        "service": "game",
        "host": "play1",
        "pid": 7,
        "version": version,
        "state": state,
        "sequence": 20,
        "running": version,
        "time": NOW - ago,
    }
    return Acknowledgement(**settings | fields)


async def publish(
    url: str,
    values: dict[str, Any],
    zones: dict[str, Any] | None = None,
    canary: rollout.For | None = None,
    module: str = "arena",
    note: str = "",
) -> Head:
    """Put values in force in a store, as a commit would."""
    store = open_store(url, create=True)
    try:
        head = (await store.heads([module])).get(module)
        version = rollout.next_version(head)
        release = Release(
            module,
            version,
            f"revision{version}",
            "anna <anna@example.org>",
            NOW,
            values,
            zones or {},
            note=note,
            origin=f"origin{version}",
        )
        step = rollout.publish(head, seal(release), by="anna@build", canary=canary)
        await store.commit([step])
        return step.head
    finally:
        await store.aclose()
