"""What a handoff brings of the configuration: the releases that run, and those that sessions hold."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Final

from hotfd import _core
from hotfd.config.carry import MAX_CARRIED, Luggage, carry
from hotfd.config.slots import Slots
from hotfd.errors import ChannelError, ConfigError, HandoffRefused
from hotfd.faults import Point, reach
from hotfd.wire import messages as m

if TYPE_CHECKING:
    from collections.abc import Iterable

    from hotfd.config.snapshots import Snapshot
    from hotfd.server.engine import Engine
    from hotfd.transfer.channel import Arrival, Channel

MAX_REASON: Final = 256
"""Characters of a reason why a release cannot be read: as many as Hello may bring fit half a packet, at four bytes each."""


def send_releases(channel: Channel, slots: Slots, held: Iterable[Snapshot]) -> None:
    """Send a new process what runs here of the configuration, and what sessions hold of it.

    Raises:
        OSError: no memory or descriptor is left for it.
        BufferError: the new process reads nothing.
        HandoffRefused: it is more than the new process takes.
    """
    reach(Point.OLD_RELEASES)
    carried = carry(slots, held)
    if len(carried) > MAX_CARRIED:
        raise HandoffRefused(
            "too-large",
            f"the sessions hold {len(carried) >> 20} MiB of configuration in different releases, and at most "
            f"{MAX_CARRIED >> 20} can be handed over; hand over again when some of them have ended",
        )
    memfd = _core.memfd_seal("hotfd-releases", [carried])
    channel.send(m.Releases(), [memfd], owned=[memfd])


class Arriving:
    """The releases that come to a new process by one handoff.

    Args:
        engine: who serves what comes with them.

    Attributes:
        luggage: what has come; None when nothing was announced.
    """

    def __init__(self, engine: Engine) -> None:
        self.luggage: Luggage | None = None
        self._engine = engine
        self._packed: list[bytes] = []
        self._begun = False

    def expect(self) -> None:
        """They are announced. Through a program without a configuration they only pass, with the sessions that hold them."""
        if self._engine.slots is None:
            self._engine.slots = Slots(())
            self._engine.slots.start()
        self.luggage = Luggage(self._engine.slots)

    @property
    def begun(self) -> bool:
        """Whether what was announced has come, so that the sessions that were there then can be read."""
        return self.luggage is None or self._begun

    def take(self, arrival: Arrival, *, first: bool) -> None:
        """Take what the old process sends.

        Args:
            arrival: how it came; its descriptors stay there.
            first: it is before Hello, and is unpacked then.

        Raises:
            ChannelError: it did not arrive, is damaged, or was not announced.
            OSError, ValueError: what came holds no releases.
        """
        reach(Point.NEW_RELEASES)
        if self.luggage is None:
            raise ChannelError("releases that nobody has announced")
        if not arrival.descriptors:
            raise ChannelError("the releases did not arrive; raise LimitNOFILE")
        data = _core.memfd_load(arrival.descriptors[0], MAX_CARRIED)
        self._begun = True
        if first:
            self._packed.append(data)
            return
        try:
            self.luggage.unpack(data)
        except ConfigError as error:
            raise ChannelError(str(error)) from None

    async def unpack(self) -> None:
        """Unpack what came before Hello: that is most, may take seconds, and holds up nobody whom this process serves.

        Raises:
            ConfigError: it is damaged.
        """
        while self.luggage is not None and self._packed:
            await self.luggage.unpack_beside(self._packed.pop(0))

    def missing(self) -> str | None:
        """Put in force what has come, before the first session begins here; or say why sessions would go back then."""
        behind = self.luggage.behind() if self.luggage is not None else {}
        for module, version in behind.items():
            return f"module {module!r}: version {version} is in force in the old process and cannot be used here; see the log"
        return None

    @property
    def unreadable(self) -> dict[int, str]:
        """By serial, why this program cannot read what sessions hold; as many as a packet holds."""
        found = self.luggage.unreadable.items() if self.luggage is not None else ()
        return {serial: reason[:MAX_REASON] for serial, reason in islice(found, m.MAX_UNREADABLE)}

    def clear(self) -> None:
        """Forget everything: what no session holds by now is gone."""
        if self.luggage is not None:
            self.luggage.clear()
