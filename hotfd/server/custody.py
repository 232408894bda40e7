"""What has been offered to this process and is not its own yet: kept whole, untouched, and ready to be owned.

The custody owns the descriptors of everything in it. A session leaves it in one of two ways: it is taken,
because this process owns it from then on, or it is dropped, because the old one has taken it back.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any

from hotfd import log
from hotfd.errors import ChannelError, StateError
from hotfd.faults import Point, reach
from hotfd.server.moving import PROCESS
from hotfd.server.snapshot import Readers, States, UnreadableRelease, decode_states
from hotfd.state import decode_any
from hotfd.transfer.channel import close_all
from hotfd.transfer.offer import Assembler, Bundle
from hotfd.wire import messages as m

if TYPE_CHECKING:
    from hotfd.server.bus import Bus
    from hotfd.transfer.channel import Arrival


class Custody:
    """The sessions in custody.

    Args:
        read: decodes states as the old process wrote them.
        import_state: takes the process-wide state over, or None.
        bus: keeps what the sessions will need of it.
    """

    def __init__(self, read: Readers, import_state: Callable[[Any], Any] | None, bus: Bus) -> None:
        self._read = read
        self._bus = bus
        self._import_state = import_state
        self._assembler = Assembler()
        self._held: dict[int, tuple[Bundle, States]] = {}
        self._spoiled: set[int] = set()

    def add(self, part: m.OfferPart, arrival: Arrival, complete: list[int]) -> tuple[list[int], list[m.Refusal]]:
        """Take one part; with the last one, decode everything that can fail.

        Args:
            part: the part; its descriptors are taken out of ``arrival``.
            arrival: how it came.
            complete: the sessions that are complete with it, and not revoked meanwhile.

        Returns:
            the sessions that can be served, and those that cannot, of which everything is closed.
        """
        reach(Point.NEW_PART)
        if part.offer in self._spoiled:
            return [], []
        try:
            if arrival.truncated:
                self._assembler.drop(part.offer)
                raise ChannelError("descriptors were lost on the way; raise LimitNOFILE")
            descriptors, arrival.descriptors = arrival.descriptors, []
            arrived = self._assembler.add(part, descriptors)
        except ChannelError as error:
            self._spoiled.add(part.offer)
            detail = str(error)[: m.MAX_TEXT]
            return [], [m.Refusal(id, "descriptors", detail) for id in range(part.first, part.first + part.sessions)]
        if arrived is None:
            return [], []
        for id in arrived.bundles.keys() - set(complete):
            close_all(arrived.bundles[id].descriptors)  # revoked while its parts arrived
        refusals = []
        for id in complete:
            bundle = arrived.bundles[id]
            try:
                if arrived.process is not None:
                    self._import(bundle, arrived.process)
                self._held[id] = (bundle, decode_states(bundle, self._read))
                for record in bundle.connections:
                    if record.subscriptions:
                        self._bus.expect(record)
            except UnreadableRelease as error:
                close_all(bundle.descriptors)
                refusals.append(m.Refusal(id, "config-unreadable", str(error)[: m.MAX_TEXT]))
            except StateError as error:
                close_all(bundle.descriptors)
                refusals.append(m.Refusal(id, "state-decode", str(error)[: m.MAX_TEXT]))
        return [id for id in complete if id in self._held], refusals

    def _import(self, bundle: Bundle, process: bytes) -> None:
        if bundle.record.id == PROCESS and self._import_state is not None:
            import_process_state(self._import_state, process)

    def take(self, ids: Iterable[int]) -> list[tuple[int, Bundle, States]]:
        """Give sessions away with their decoded states; the caller owns their descriptors."""
        held = self._held
        return [(id, *held.pop(id)) for id in ids if id in held]

    def drop(self, ids: Iterable[int]) -> None:
        """Close everything of these sessions; unknown ones say nothing."""
        for _, bundle, _ in self.take(ids):
            close_all(bundle.descriptors)
            for record in bundle.connections:
                self._bus.release(record.id)

    def close(self) -> None:
        """Close everything. Idempotent."""
        self.drop(list(self._held))
        self._assembler.close()


def import_process_state(import_state: Callable[[Any], Any], process: bytes) -> None:
    """Hand the process-wide state to the program.

    Raises:
        StateError: it cannot be read, or the program cannot take it.
    """
    value = decode_any(process)
    try:
        result = import_state(value)
    except Exception as error:
        log.event(logging.ERROR, "import-state-failed", exc_info=error)
        raise StateError("import_state", f"raised {type(error).__name__}; see the log") from error
    if isinstance(result, Awaitable):
        raise StateError("import_state", "is a coroutine function; it must be a plain one")
