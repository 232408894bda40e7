"""Heads and messages for the tests of configuration servers and their subscribers."""

from __future__ import annotations

from typing import Any

from hotfd.config import push
from hotfd.config.release import Canary, Head, Release, Sealed, Track, seal
from hotfd.config.store import Acknowledgement


def sealed(module: str = "arena", version: int = 1, **values: Any) -> Sealed:
    """Return a release."""
    return seal(Release(module, version, f"r{version}", "anna", 1.5, values or {"version": version}))


def head(module: str = "arena", sequence: int = 1, *releases: Sealed, canary: Sealed | None = None) -> Head:
    """Return a head that names a release; by default that with the number of the sequence."""
    stable = releases[0] if releases else sealed(module, sequence)
    some = None if canary is None else Canary(canary.release.version, canary.sha256, share=0.5)
    track = Track(stable.release.version, stable.sha256)
    return Head(module, sequence, stable.release.version, "published", "anna", 1.5, track, some)


def report(module: str = "arena", server: str = "s1", version: int = 1, **fields: Any) -> Acknowledgement:
    """Return a report."""
    values: dict[str, Any] = {"state": "staged", "sequence": version, "running": 0, "time": 1.0, **fields}
    return Acknowledgement(module, server, "games", "host", 7, version, **values)


def subscribe(*modules: str, **fields: Any) -> push.Subscribe:
    """Return the first message of a subscriber."""
    values = {"protocol": push.PROTOCOL, "server": "s1", "service": "games", "zone": "", "host": "host"}
    return push.Subscribe(**{**values, "pid": 7, "generation": 1, "modules": modules or ("arena",), **fields})
