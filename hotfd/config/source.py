"""What brings releases to a server, whichever it is: a store that it reads itself, or configuration servers.

``dir:PATH`` and ``etcd://...`` are stores; ``hotfd://HOST:PORT,...`` are configuration servers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Mapping, Sequence

    from hotfd.config.release import Head, Sealed
    from hotfd.config.store import Acknowledgement


@dataclass(frozen=True, slots=True)
class Identity:
    """Who follows a source.

    Attributes:
        server: an id of this process.
        service: the service's name.
        zone: its zone; empty for none.
        host: its host's name.
        pid: its process id.
        generation: of the process.
    """

    server: str
    service: str
    zone: str
    host: str
    pid: int
    generation: int


class Source(Protocol):
    """A source. It lives on the event loop that it is used on; its methods raise ConfigError when it cannot be reached.

    Attributes:
        url: as it was given, without secrets.
    """

    url: str

    def heads(self, modules: Collection[str]) -> AsyncIterator[dict[str, Head]]:
        """Yield what the source says is in force: at first, at every change, and about every interval.

        As :meth:`hotfd.config.store.Store.watch`: each item is complete, but for :attr:`silent` modules, and an item is
        a sign of life.
        """
        ...

    @property
    def silent(self) -> Collection[str]:
        """The modules of which the source could say nothing with its last item: that they have no head tells nothing."""
        ...

    async def release(self, module: str, version: int, sha256: str) -> Sealed:
        """Return a release, checked against its digest."""
        ...

    async def report(self, reports: Sequence[Acknowledgement]) -> None:
        """Tell what this server has made of the newest releases."""
        ...

    async def declare(self, schemas: Mapping[str, tuple[str, bytes]]) -> None:
        """Tell by module the id and the JSON Schema that this server checks releases against."""
        ...

    @property
    def contact(self) -> str:
        """Where it gets its releases from at the moment, for people: an address, a path; empty for nowhere."""
        ...

    async def aclose(self) -> None:
        """Let go of everything. Idempotent."""
        ...
