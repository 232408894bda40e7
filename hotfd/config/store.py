"""What a store of releases does, whichever it is.

Two kinds are there: ``dir:PATH`` (:mod:`hotfd.config.directory`) and ``etcd://HOST:PORT,.../PREFIX``
(:mod:`hotfd.config.etcd`). Both pass the same tests.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, Protocol

import msgspec

from hotfd.config.release import Line, Name, Version

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Sequence

    from hotfd.config.release import Event, Head, Sealed
    from hotfd.config.rollout import Step

INTERVAL: Final = 3.0
"""Seconds between two looks at what has changed, unless told otherwise."""

MAX_FAULTS: Final = 100
"""Faults of a refused release that a server reports; the others are counted in its log."""

EXPIRY: Final = 90.0
"""Seconds after which a server that has not reported again counts as gone; it reports three times as often."""

REMEMBERED: Final = 86_400.0
"""Seconds for which a store shows what a server has reported or declared, and not said again."""

MAX_SCHEMA: Final = 1 << 20
"""Bytes of a JSON Schema that a store keeps: as a release, it must fit into one request to etcd."""

State = Literal["staged", "running", "refused", "quarantined", "ended"]


class Acknowledgement(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a server has made of a module's newest release; each report of a server replaces its last one.

    Attributes:
        module: the module's name.
        server: the server's id: one for each process.
        service: the service's name, the same for all its processes.
        zone: its zone; empty for none.
        host: its host.
        pid: its process id there.
        generation: of the process.
        version: the release that the report is about.
        state: what became of that: checked and waiting for the next session; in force for new sessions; refused when
            it was checked; taken out of force since it failed when it was first used. ``ended`` says of the
            server itself that it goes, and will not report again.
        sequence: the newest head that the server knows.
        running: what new sessions begin with; 0 for the program's own values.
        pinned: by version, how many sessions run with it.
        faults: why it was refused, as lines.
        time: when the server said so, in seconds since the epoch.
    """

    module: Name
    server: Line
    service: Line
    host: Line
    pid: int
    version: Version
    state: State
    sequence: int
    running: Version
    time: float
    zone: Line = ""
    generation: int = 1
    pinned: dict[int, int] = {}
    faults: tuple[Line, ...] = ()


class Store(Protocol):
    """A store. All methods raise StoreError when it cannot be read or written; nothing is changed then.

    Attributes:
        url: as it was opened, without secrets.
    """

    url: str

    async def heads(self, modules: Collection[str] | None = None) -> dict[str, Head]:
        """Return the heads of these modules, or of all; modules without a head are left out."""
        ...

    async def release(self, module: str, version: int, sha256: str | None = None) -> Sealed:
        """Return a release; StoreError when there is none, or it is damaged (or not the one with this digest)."""
        ...

    async def commit(self, steps: Sequence[Step]) -> None:
        """Carry steps of different modules out, all or none; Conflict when a head is not as expected.

        When this returns, everything is on stable storage. When it raises anything but Conflict, the steps may have
        been carried out: whoever needs to know looks at the heads.
        """
        ...

    async def history(self, module: str, *, limit: int = 50, before: int | None = None) -> list[Event]:
        """Return the newest events, newest first; with ``before`` those with a smaller sequence."""
        ...

    def watch(self, modules: Collection[str], interval: float = INTERVAL) -> AsyncIterator[dict[str, Head]]:
        """Yield the heads of these modules: at once, whenever one has changed, and about every ``interval`` seconds.

        Each item is complete, so that nothing is lost if some are missed. While the store cannot be
        reached nothing is yielded; the iterator goes on trying, and logs that once.
        """
        ...

    async def acknowledge(self, reports: Sequence[Acknowledgement]) -> None:
        """Note what servers report; a newer report of the same server and module replaces an older one."""
        ...

    async def acknowledgements(self, module: str) -> list[Acknowledgement]:
        """Return the last report of each server that has reported within a day."""
        ...

    async def declare(self, module: str, schema_id: str, schema: bytes) -> None:
        """Keep the JSON Schema that a server checks a module's releases against."""
        ...

    async def schemas(self, module: str) -> dict[str, bytes]:
        """Return the JSON Schemas that were declared for a module within a day, by id."""
        ...

    async def register(self, address: str, modules: Sequence[str], ttl: float) -> None:
        """Say that a configuration server serves these modules at an address, for so many seconds from now."""
        ...

    async def unregister(self, address: str) -> None:
        """Take that back."""
        ...

    async def addresses(self, module: str) -> list[str]:
        """Return where configuration servers serve a module now, sorted."""
        ...

    async def aclose(self) -> None:
        """Let go of everything. Idempotent."""
        ...
