"""Which configuration servers a subscriber holds connections to, and what it has heard from them. Without I/O.

It holds two servers for each of its modules when there are two, so that nothing is late when one of them goes::

                 +--------- due: its back-off is over <--------+
                 v                                             |
    KNOWN --wanted--> HELD, not welcomed --welcomed--> HELD    |
      ^                        |                        |      |
      |                        +---------- ended -------+------+
      +-- seeds, and whoever the servers say serves one of the modules

Addresses that were given are kept for ever; the others are those that the last answer has named.
"""

from __future__ import annotations

import random as random_module
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from hotfd.config.tls import is_local

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from hotfd.config.release import Head

TARGET: Final = 2
"""Servers that are held for each module: one may die, and the other has been heard within an interval."""

MAX_HELD: Final = 16
"""Connections of one subscriber, whose modules may be served by different servers."""

MAX_KNOWN: Final = 128
"""Addresses that are kept, seeds apart."""

FIRST_BACK_OFF: Final = 0.05
"""Seconds after the first failure: a server that hands over is back in less."""

LONG_BACK_OFF: Final = 10
"""Intervals until a server is asked again that does not serve any of the modules, or speaks another protocol."""


@dataclass(slots=True)
class _Known:
    """An address."""

    seed: bool
    rank: float
    """A random number: each subscriber prefers other servers."""
    serves: frozenset[str] | None = None
    """The modules that it serves, as far as anybody has said; None for nobody has."""
    identity: str = ""
    """Which server it was at the last connection: one server may have several addresses."""
    failures: int = 0
    not_before: float = 0.0


@dataclass(slots=True)
class _Held:
    """An address that a connection is made or held to."""

    modules: frozenset[str]
    welcomed: bool = False


@dataclass(slots=True)
class _Heard:
    """What was heard of a module."""

    head: Head | None = None
    announcers: list[str] = field(default_factory=list)
    """Who has announced this head, the first of them first."""


class Servers:
    """The configuration servers that a subscriber knows.

    Args:
        seeds: addresses that are always known.
        modules: what the subscriber wants to hear of.
        interval: its interval in seconds; no server that failed is left alone for longer than a quarter of it.
        local: whether only addresses on this machine may be used, since there is no TLS.
        random: for tests.

    Attributes:
        modules: as they were given, sorted.
    """

    def __init__(
        self,
        seeds: Sequence[str],
        modules: Collection[str],
        interval: float,
        *,
        local: bool,
        random: random_module.Random | None = None,
    ) -> None:
        self._random = random or random_module.Random()  # noqa: S311 - which server is first is no secret
        self.modules = tuple(sorted(modules))
        self._modules = frozenset(modules)
        self._interval = interval
        self._local = local
        self._known = {seed: _Known(seed=True, rank=self._random.random()) for seed in seeds}
        self._held: dict[str, _Held] = {}
        self._heard = {module: _Heard() for module in self._modules}
        self._spoken_of: set[str] = set()

    # -- whom to connect to ----------------------------------------------------------------------------

    def learn(self, addresses: Mapping[str, Iterable[str]]) -> list[str]:
        """Take an answer to who serves which module.

        Returns:
            addresses that are left out, since only TLS would make them safe.
        """
        serves: dict[str, set[str]] = {}
        unsafe: set[str] = set()
        for module in self._modules & addresses.keys():
            for address in addresses[module]:
                if self._local and not _is_local(address):
                    unsafe.add(address)
                else:
                    serves.setdefault(address, set()).add(module)
        if not serves:
            return sorted(unsafe)  # nobody has registered, or the store is away: what is known stays
        for address in [name for name, known in self._known.items() if not known.seed]:
            if address not in serves and address not in self._held:
                del self._known[address]
        room = MAX_KNOWN - sum(not known.seed for known in self._known.values())
        new = [address for address in serves if address not in self._known]
        for address in self._random.sample(new, max(0, min(room, len(new)))):
            self._known[address] = _Known(seed=False, rank=self._random.random())
        for address, modules in serves.items():
            if (known := self._known.get(address)) is not None:
                known.serves = frozenset(modules)
        return sorted(unsafe)

    def wanted(self, now: float) -> list[str]:
        """Return the addresses to connect to now; they count as held from here on."""
        chosen = []
        while len(self._held) < MAX_HELD:
            address = self._best(now)
            if address is None:
                break
            self._held[address] = _Held(self._expected(self._known[address]))
            chosen.append(address)
        return chosen

    def next_try(self, now: float) -> float | None:
        """Return when :meth:`wanted` may say more, if nothing else happens; None for never."""
        if len(self._held) >= MAX_HELD:
            return None
        lacking = self._lacking()
        times = [known.not_before for known in self._candidates() if self._expected(known) & lacking]
        return max(now, min(times)) if times else None

    def _best(self, now: float) -> str | None:
        """Return the address that is due and serves most of what too few servers are held for."""
        lacking = self._lacking()
        usable = [
            (-len(self._expected(known) & lacking), known.failures, known.rank, address)
            for address, known in self._known.items()
            if known.not_before <= now and self._is_candidate(address, known) and self._expected(known) & lacking
        ]
        return min(usable)[3] if usable else None

    def _candidates(self) -> list[_Known]:
        return [known for address, known in self._known.items() if self._is_candidate(address, known)]

    def _is_candidate(self, address: str, known: _Known) -> bool:
        """Return whether a connection to the address would be one to a server that is not held yet."""
        if address in self._held:
            return False
        return not known.identity or all(
            self._known[other].identity != known.identity or not held.welcomed for other, held in self._held.items()
        )

    def _expected(self, known: _Known) -> frozenset[str]:
        return self._modules if known.serves is None else known.serves & self._modules

    def _lacking(self) -> frozenset[str]:
        """Return the modules that too few servers are held for."""
        counts = dict.fromkeys(self._modules, 0)
        for held in self._held.values():
            for module in held.modules:
                counts[module] += 1
        return frozenset(module for module, count in counts.items() if count < TARGET)

    # -- what becomes of it ----------------------------------------------------------------------------

    def welcomed(self, address: str, identity: str, modules: Collection[str]) -> bool:
        """Note that a server has taken the subscriber on.

        Returns:
            whether the connection is of use: False when the same server is held at another address already, so that
            this connection should end.
        """
        known, held = self._known[address], self._held[address]
        known.identity, known.failures = identity, 0
        for other, also in self._held.items():
            if other != address and also.welcomed and self._known[other].identity == identity:
                return False
        held.welcomed = True
        held.modules = known.serves = frozenset(modules) & self._modules
        return True

    def ended(self, address: str, now: float, code: str = "") -> None:
        """Note that a connection has ended, or was not made.

        Args:
            address: of the server.
            now: the time, in seconds of the loop's clock.
            code: with what the server has refused the subscriber; empty when it has not.
        """
        del self._held[address]
        for heard in self._heard.values():
            if address in heard.announcers:
                heard.announcers.remove(address)
        known = self._known[address]
        longest = self._interval / 4
        if code in {"unknown-module", "protocol", "malformed"}:
            delay = LONG_BACK_OFF * self._interval
        elif code in {"too-many", "tls"}:
            delay = self._interval
        else:
            delay = min(longest, FIRST_BACK_OFF * 2.0 ** min(known.failures, 16))
        known.failures += 1
        known.not_before = now + delay * self._random.uniform(0.5, 1.0)

    def failures(self, address: str) -> int:
        """Return how often in a row a connection to the address was tried in vain."""
        return self._known[address].failures

    # -- what was heard --------------------------------------------------------------------------------

    def digest(self, address: str, heads: Iterable[Head], silent: Collection[str] = ()) -> bool:
        """Take the heads that a server says are in force; the newest that any server has said count.

        Args:
            address: of the server.
            heads: of the modules that have a release.
            silent: modules of which it cannot say anything.

        Returns:
            whether one of them is news.
        """
        news = False
        self._spoken_of |= self._held[address].modules.difference(silent)
        for head in heads:
            heard = self._heard.get(head.module)
            if heard is None:
                continue
            if heard.head is None or head.sequence > heard.head.sequence:
                heard.head, heard.announcers = head, [address]
                news = True
            elif head.sequence == heard.head.sequence and address not in heard.announcers:
                heard.announcers.append(address)
        return news

    @property
    def silent(self) -> frozenset[str]:
        """The modules of which no server has spoken yet."""
        return self._modules - self._spoken_of

    @property
    def heads(self) -> dict[str, Head]:
        """The newest heads by module."""
        return {module: heard.head for module, heard in self._heard.items() if heard.head is not None}

    @property
    def have(self) -> dict[str, int]:
        """The sequences of the newest heads by module."""
        return {module: head.sequence for module, head in self.heads.items()}

    def serving(self, module: str) -> list[str]:
        """Return the servers to ask for a module's release: who has announced its head, then the others."""
        first = self._heard[module].announcers if module in self._heard else []
        others = [name for name, held in self._held.items() if held.welcomed and module in held.modules]
        return [*first, *(name for name in others if name not in first)]

    @property
    def welcoming(self) -> list[str]:
        """The servers that have taken the subscriber on."""
        return [address for address, held in self._held.items() if held.welcomed]


def _is_local(address: str) -> bool:
    try:
        return is_local(address)
    except ValueError:
        return False
