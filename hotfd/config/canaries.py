"""Canaries: releases that are in force for some of the sessions that begin. Without I/O."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from hotfd.config.snapshots import Compiled


_DIGEST: Final = 8
"""Bytes of the digest that says where a session stands: no two stand together but by intent."""


class _Rule:
    """Which release, and for what share of new sessions.

    What is looked at when a session begins is made beforehand: it is then a hash and a comparison of bytes.
    """

    __slots__ = ("_below", "_step", "compiled", "share")

    def __init__(self, compiled: Compiled, share: float) -> None:
        self.compiled = compiled
        self.share = share
        release = compiled.sealed.release
        # The same on every server, and for all that was published with it, since that fits together.
        step = release.batch or f"{release.module}\0{release.version}"
        self._step = f"{step}\0".encode(errors="surrogatepass")
        self._below = int(share * (1 << 8 * _DIGEST)).to_bytes(_DIGEST) if share < 1.0 else None

    def takes(self, key: str) -> bool:
        """Whether a session with this key begins with it: the same ones everywhere, others for each canary."""
        if self._below is None:
            return True
        where = self._step + key.encode("utf-8", "surrogatepass")
        return hashlib.blake2b(where, digest_size=_DIGEST).digest() < self._below


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
        return {module: rule.compiled for module, rule in self._rules.items() if rule.takes(key)}


def batch_of(compiled: Compiled) -> str:
    """Return what a release has in common with those that were published with it."""
    return compiled.sealed.release.batch or compiled.sha256
