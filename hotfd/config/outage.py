"""A store that cannot be read, in the log: once when that begins, and once when it is over."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from hotfd import log

if TYPE_CHECKING:
    from hotfd.errors import StoreError


class Outage:
    """Whether a store can be read, as the log has been told.

    Args:
        url: the store, for the log.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._on = False

    def goes_on(self, error: StoreError) -> None:
        """Say that the store cannot be read."""
        if not self._on:
            self._on = True
            log.event(logging.WARNING, "config-store-unreachable", store=self._url, reason=error)

    def is_over(self) -> None:
        """Say that it was read."""
        if self._on:
            self._on = False
            log.event(logging.INFO, "config-store-reachable", store=self._url)
