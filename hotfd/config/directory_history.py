"""The history of a directory store: in the ledger, and beside it while that cannot be written. Blocking.

An event is written *before* the heads that it belongs to: those are the commit, and an event that no head has reached
does not count. So after a power cut the history has neither a hole nor a line too much.

The ledger is one file for all, locked by whoever writes to it. A process that is stopped in the middle holds that
lock until it goes on, and nobody could publish meanwhile, not even a rollback. So events that the ledger does not take
wait in a file of their own, ``waiting.json``, which only who holds the store's lock writes; whoever can moves them.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

import msgspec

from hotfd import log
from hotfd.config import rollout
from hotfd.config.directory_access import exists, read_file, told
from hotfd.config.directory_ledger import LedgerError
from hotfd.config.release import Event, Track
from hotfd.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from hotfd.config.directory_files import StoreDirectory
    from hotfd.config.directory_ledger import Ledger
    from hotfd.config.release import Head

WAITING: Final = "waiting.json"

MAX_WAITING: Final = 4 << 20
"""Bytes of the events that wait: some thousand. Who has published that often has been told as often."""

_OF_A_RELEASE: Final = ("published", "canary", "rolled-back")
"""Changes whose event tells of their release; the others end what an earlier event has told of."""

_decoder = msgspec.json.Decoder(list[Event])
_encoder = msgspec.json.Encoder()


class History:
    """The history in an open store directory.

    Args:
        directory: the store's, for whose lifetime this is.
        ledger: the store's.
    """

    def __init__(self, directory: StoreDirectory, ledger: Ledger) -> None:
        self._directory = directory
        self._ledger = ledger

    def record(self, heads: Mapping[str, Head], events: Sequence[Event]) -> None:
        """Write the events of a commit, on stable storage when this returns. Only for who holds the store's lock.

        Args:
            heads: those that are in force until now.
            events: of the new ones.

        Raises:
            StoreError: they could not be written anywhere, or the ledger is a newer hotfd's.
        """
        waiting = [event for event in self._waiting() if _counts(event, heads.get(event.module))]
        try:
            if not self._directory.prepare_ledger():
                raise LedgerError(f"{self._ledger.path} cannot be written by this user; see its owner, group and mode")
            self._ledger.append([*self._missing(heads, waiting), *waiting, *events])
        except LedgerError as error:
            log.event(logging.WARNING, "config-history-waits", store=f"dir:{self._directory.path}", reason=str(error))
            self._wait([*waiting, *events])
        else:
            self._directory.remove(WAITING)  # before the heads: else it could hide what another commit writes

    def events(self, head: Head, below: int, limit: int) -> list[Event]:
        """Return a module's newest events with a sequence below a number, newest first.

        Raises:
            StoreError: the ledger cannot be read.
        """
        found = {event.sequence: event for event in self._ledger.events(head.module, below, limit)}
        for event in self._waiting():
            if event.module == head.module and event.sequence < below and _counts(event, head):
                found[event.sequence] = event
        if head.sequence < below and not _is_event_of(found.get(head.sequence), head):
            found[head.sequence] = self._event_of(head)  # the ledger was lost, or restored
        return [found[sequence] for sequence in sorted(found, reverse=True)][:limit]

    def digest(self, head: Head, version: int) -> str | None:
        """Return the SHA-256 of a release as its module's history has it; None when it has not, or is not to be read."""
        try:
            for event in self._waiting():
                if (event.module, event.version) == (head.module, version) and _counts(event, head):
                    return event.sha256
            return self._ledger.digest(head.module, version, head.sequence)
        except StoreError:
            return None  # without its history releases can be read, too

    def _missing(self, heads: Mapping[str, Head], waiting: Iterable[Event]) -> list[Event]:
        """Return the last event of each module whose ledger has another one, or none: it was lost, or restored."""
        here = {(event.module, event.sequence) for event in waiting}
        lacking = self._ledger.lacking([(head.module, head.sequence, head.time) for head in heads.values()])
        missing = []
        for head in (heads[module] for module in lacking if (module, heads[module].sequence) not in here):
            try:
                missing.append(self._event_of(head))
            except StoreError as error:  # a damaged release of one module keeps nobody from publishing others
                log.event(
                    logging.WARNING,
                    "config-history-lost",
                    module=head.module,
                    sequence=head.sequence,
                    reason=str(error),
                )
        return missing

    def _event_of(self, head: Head) -> Event:
        """Return the event of a head, as :mod:`hotfd.config.rollout` has made it.

        What an abort ended is not in its head: it is the last version, since while a canary goes on none is given.
        """
        track = head.canary if head.change == "canary" else head.stable
        version = head.last if track is None or head.change in ("aborted", "halted") else track.version
        sealed = self._directory.release(head.module, version, None)
        release = sealed.release if head.change in _OF_A_RELEASE else None
        return rollout.event_of(head, Track(version, sealed.sha256), release)

    # -- events that wait ----------------------------------------------------------------------------

    def _waiting(self) -> list[Event]:
        descriptor, path = self._directory.descriptor, f"{self._directory.path}/{WAITING}"
        with told(f"{path} cannot be read"):
            if not exists(descriptor, WAITING):
                return []
            try:
                data = read_file(descriptor, WAITING, MAX_WAITING)
            except FileNotFoundError:
                return []  # somebody has just moved them
        try:
            return _decoder.decode(data)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise StoreError(
                f"{path} is damaged: {error}; move it away. It holds lines of the history, and nothing else"
            ) from None

    def _wait(self, events: Iterable[Event]) -> None:
        data = _encoder.encode(list({(event.module, event.sequence): event for event in events}.values()))
        if len(data) > MAX_WAITING:
            raise StoreError(
                f"{self._ledger.path} could not be written for so long that no more changes can wait for it; look at "
                "the file and at who holds it, or move it away, and publish again"
            )
        self._directory.write_file(WAITING, data)


def _is_event_of(event: Event | None, head: Head) -> bool:
    return event is not None and (event.sequence, event.change, event.time) == (head.sequence, head.change, head.time)


def _counts(event: Event, head: Head | None) -> bool:
    """Whether a head has reached an event: that was not written for a commit which failed then."""
    return head is not None and (event.sequence < head.sequence or _is_event_of(event, head))
