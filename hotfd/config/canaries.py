"""Canaries: releases that are in force for some of the sessions that begin. Without I/O."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hotfd.config.snapshots import Compiled


@dataclass(slots=True)
class _Rule:
    """Which release, and for what share of new sessions."""

    compiled: Compiled
    share: float


class Canaries:
    """The canaries of one server, by module."""

    def __init__(self) -> None:
        self._rules: dict[str, _Rule] = {}

    def __bool__(self) -> bool:
        return bool(self._rules)

    def begin(self, compiled: Compiled, share: float) -> None:
        """Let a share of the new sessions, 0 to 1, begin with a release."""
        self._rules[compiled.module] = _Rule(compiled, share)

    def end(self, module: str) -> None:
        """Let no new session begin with a module's canary; without one, nothing happens."""
        self._rules.pop(module, None)

    def end_batch(self, batch: str) -> list[str]:
        """End the canaries that were published in one step; return whose they were."""
        ended = [module for module, rule in self._rules.items() if batch_of(rule.compiled) == batch]
        for module in ended:
            del self._rules[module]
        return ended

    def of(self, module: str) -> Compiled | None:
        """Return a module's canary."""
        rule = self._rules.get(module)
        return rule.compiled if rule is not None else None

    def share(self, module: str) -> float:
        """Return the share of new sessions that begin with a module's canary."""
        rule = self._rules.get(module)
        return rule.share if rule is not None else 0.0

    def chosen(self, key: str) -> dict[str, Compiled]:
        """Return by module the canaries that a session with this key begins with."""
        return {
            module: rule.compiled
            for module, rule in self._rules.items()
            if rule.share >= 1.0 or _place(rule.compiled, key) < rule.share
        }


def batch_of(compiled: Compiled) -> str:
    """Return what a release has in common with those that were published with it."""
    return compiled.sealed.release.batch or compiled.sha256


def _place(canary: Compiled, key: str) -> float:
    """Return where between 0 and 1 a session stands for a canary.

    The same on every server, and for all that was published with it, since that fits together; another for each canary.
    """
    release = canary.sealed.release
    step = release.batch or f"{release.module}\0{release.version}"
    text = f"{step}\0{key}".encode(errors="surrogatepass")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest()) / (1 << 64)
