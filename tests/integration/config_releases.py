"""Releases for tests: published without a repository, and what servers say of them."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

from hotfd.config import rollout
from hotfd.config.open import open_store
from hotfd.config.release import Release, seal
from hotfd.errors import Conflict
from tests.integration import harness


async def publish_to(
    store: Any, values: dict[str, Any], module: str = "arena", canary: rollout.For | None = None
) -> int:
    """Publish values; whoever else does so at the same time does not matter.

    Returns:
        the version.
    """
    while True:
        head = (await store.heads([module])).get(module)
        version = rollout.next_version(head)
        sealed = seal(Release(module, version, f"r{version}", "tester", time.time(), values))
        try:
            await store.commit([rollout.publish(head, sealed, by="tester", canary=canary)])
            return version
        except Conflict:
            continue


def publish(path: Path, values: dict[str, Any], module: str = "arena", canary: rollout.For | None = None) -> int:
    """Publish values in a directory, and return the version."""

    async def run() -> int:
        store = open_store(f"dir:{path}", create=True)
        try:
            return await publish_to(store, values, module, canary)
        finally:
            await store.aclose()

    return asyncio.run(run())


def of_module(service: harness.Server, field: str, module: str = "arena") -> Any:
    """Return what a server says of a module."""
    return service.status()["config"][module][field]


def staged(service: harness.Server, version: int, module: str = "arena") -> None:
    """Wait until a release is what the next session begins with."""

    def newest() -> int:
        said = service.status()["config"][module]
        return said["staged"] or said["running"]

    harness.becomes(newest, version)
