"""Heads that never go back. Without I/O.

A store that was restored from a backup, or a member of a cluster that lags behind, shows heads that are older than what
was seen before. Whoever has seen newer ones keeps them: a server must not take a release back because a disk was
changed.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from hotfd import log

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hotfd.config.release import Head


class Forward:
    """The newest heads that were seen of one store.

    Args:
        url: the store, for the log.
    """

    __slots__ = ("_back", "_newest", "_url")

    def __init__(self, url: str) -> None:
        self._url = url
        self._newest: dict[str, Head] = {}
        self._back: set[str] = set()

    def take(self, heads: Mapping[str, Head]) -> dict[str, Head]:
        """Return the newest heads, after the store has shown these; complete for the modules that are followed.

        A head is newer when its sequence is higher. One with the same sequence and another content comes of a
        restored backup too. When a module goes back this is logged, once until it has caught up.
        """
        for module, newest in list(self._newest.items()):
            self._note(module, newest, heads.get(module))
        for module, head in heads.items():
            known = self._newest.get(module)
            if known is None or head.sequence > known.sequence:
                self._newest[module] = head
        return dict(self._newest)

    def _note(self, module: str, newest: Head, shown: Head | None) -> None:
        if shown is not None and (shown.sequence > newest.sequence or shown == newest):
            self._back.discard(module)
        elif module not in self._back:
            self._back.add(module)
            log.event(
                logging.WARNING,
                "config-store-went-back",
                store=self._url,
                module=module,
                known=newest.sequence,
                shown=0 if shown is None else shown.sequence,
            )
