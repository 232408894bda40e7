"""Whether a token is right: one answer at a time, and slower with each that was wrong.

The delay belongs to the server and not to a connection, so that many connections guess no faster than one. Nobody
learns a verdict before the delay is over, be it right or wrong: else a guesser would not wait for it.
"""

from __future__ import annotations

import asyncio
import hmac
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from hotfd.console.token import TokenFile

FIRST_DELAY: Final = 0.25
"""Seconds before the verdict after one wrong token; they double with each further one."""

MAX_DELAY: Final = 2.0
"""Longest delay in seconds: 43,200 guesses a day, and one's own log-in still comes through while somebody guesses on a
few connections."""

FORGIVEN_AFTER: Final = 60.0
"""Seconds after the last wrong token when the delay begins anew: a typing error of yesterday slows nobody down."""


class Login:
    """Gives the verdicts for all consoles of a server.

    Args:
        token: where the token is.
    """

    def __init__(self, token: TokenFile) -> None:
        self._token = token
        self._turn = asyncio.Lock()
        self._wrong = 0
        self._last_wrong = 0.0

    async def check(self, offered: str) -> bool:
        """Return whether this is the token, after the delay that is due. Cancelled, it gives no verdict.

        Raises:
            TokenUnusable: the token file cannot be used any more.
        """
        async with self._turn:
            loop = asyncio.get_running_loop()
            delay = self.delay(loop.time())
            if delay > 0:
                await asyncio.sleep(delay)
            right = hmac.compare_digest(offered.strip().encode(), self._token.read())
            if right:
                self._wrong = 0
            else:
                self._wrong += 1
                self._last_wrong = loop.time()
            return right

    def delay(self, now: float) -> float:
        """Return the seconds that the next verdict has to wait, by the loop's clock."""
        if not self._wrong or now - self._last_wrong >= FORGIVEN_AFTER:
            self._wrong = 0
            return 0.0
        doublings = min(self._wrong - 1, 16)  # a larger power would only be cut off
        return float(min(MAX_DELAY, FIRST_DELAY * 2**doublings))
