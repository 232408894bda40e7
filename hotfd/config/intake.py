"""What a source has said of some modules, and what follows from it: what to fetch, and what to stage. Without I/O.

::

    heads --take()--> wanted() --fetched and compiled, or not--> usable() / refuse() / failed() --> due() --> Slots.stage()

Releases that were published in one step belong together. When one of them cannot be used, the others of its batch are
held back with it, until its module has another one: the server keeps what is in force of all of them.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

import msgspec

from hotfd import log
from hotfd.config.slots import Staged
from hotfd.config.store import MAX_FAULTS

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from hotfd.config.release import Head, Sealed, Track
    from hotfd.config.slots import Slots
    from hotfd.config.snapshots import Compiled
    from hotfd.errors import Fault

TRIES: Final = 3
"""Tries to get a release from a source that lives, after which the release counts as refused; it is tried further."""

STEP: Final = 2.0
"""Seconds within which the heads of one publish are made, for a release whose batch cannot be read."""

MAX_LOGGED_FAULTS: Final = 20
"""Faults in one line of the log; the report to the operator has more."""

MAX_LINE: Final = 1024
"""Characters of a fault in a report."""

MAX_TEXT: Final = 64 << 10
"""Bytes of all faults in a report, as JSON; stores keep reports of four times as much."""

Verdict = Literal["none", "older", "usable", "refused"]
"""No release for all; only what is older than what is known; one that can be used; one that cannot."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a release is not used.

    Attributes:
        version: which one.
        faults: why, as lines for people; they may show values.
        expected: the same without values, cut: for the log.
        quarantined: it was checked, and failed when it was first used.
        batch: what it was published with; None when that is not known.
    """

    version: int
    faults: tuple[str, ...]
    expected: str
    quarantined: bool = False
    batch: str | None = None


@dataclass(slots=True)
class _Module:
    """What is known of one module's newest head; all of it but the marks for the log is of that head alone."""

    head: Head | None = None
    tracks: tuple[Track, ...] = ()  # of the head, those that concern this server: for all, for some
    compiled: dict[str, Compiled] = field(default_factory=dict)
    refused: dict[str, Refusal] = field(default_factory=dict)
    tries: dict[str, int] = field(default_factory=dict)
    staged: tuple[int, str | None, str | None] | None = None
    spoken: bool = False  # the source has said what there is, at least once
    behind: bool = False  # it says an older head than is known
    logged: str = ""  # the digest of the release of which a refusal was logged last
    held: str = ""  # the same of one that is held back


class _Mate(NamedTuple):
    """A module whose release holds another one back: it is lost, or may still come."""

    module: str
    lost: bool


class Intake:
    """What one source has said.

    Args:
        modules: which of the server's modules are the source's.
        slots: the server's.
        where: what an operator removes to let a module go back, by its name, for the log.
    """

    def __init__(self, modules: Collection[str], slots: Slots, where: Mapping[str, str]) -> None:
        self._slots = slots
        self._where = where
        self._modules = {name: _Module() for name in modules}

    # -- what a source says --------------------------------------------------------------------------

    def take(self, heads: Mapping[str, Head], silent: Collection[str] = ()) -> None:
        """Take what a source says; what is older than what is known is left out.

        Args:
            heads: of the modules that have a release.
            silent: the modules of which the source can say nothing.
        """
        for name, module in self._modules.items():
            if name in silent:
                continue
            module.spoken = True
            said, known = heads.get(name), self._slots.head(name)
            if known is not None and (said is None or _older(said, known)):
                self._went_back(name, module, known, said)
            elif said is not None:
                module.behind = False
                if said != module.head:
                    self._follow(name, module, said)

    def _went_back(self, name: str, module: _Module, known: Head, said: Head | None) -> None:
        if module.behind:
            return
        module.behind = True
        log.event(
            logging.WARNING,
            "config-went-back",
            module=name,
            known=known.sequence,
            said=said.sequence if said is not None else 0,
            remove=self._where.get(name, ""),
        )

    def _follow(self, name: str, module: _Module, head: Head) -> None:
        zone = self._slots.config(name).zone
        canary = head.canary
        concerned = canary is not None and ((zone and zone in canary.zones) or canary.share > 0)
        tracks = (head.stable, canary if concerned else None)
        module.head = head
        module.tracks = tuple(track for track in tracks if track is not None)
        digests = {track.sha256 for track in module.tracks}
        module.compiled = {digest: one for digest, one in module.compiled.items() if digest in digests}
        module.refused.clear()
        module.tries.clear()

    # -- what is to be fetched -----------------------------------------------------------------------

    def wanted(self) -> list[tuple[str, Track]]:
        """Return what has to be fetched: by module, a release that nothing is known of yet, or that did not come."""
        return [(name, track) for name, module in self._modules.items() for track in self._pending(name, module)]

    def _pending(self, name: str, module: _Module) -> Iterator[Track]:
        quarantined = self._slots.quarantined(name)
        for track in module.tracks:
            if track.sha256 in module.compiled or track.sha256 in module.refused:
                continue
            if (known := self._slots.known(name, track.sha256)) is not None:
                module.compiled[track.sha256] = known
            elif track.sha256 not in quarantined:
                yield track

    def usable(self, name: str, track: Track, compiled: Compiled) -> None:
        """A release came, and is what the program declares."""
        module = self._modules[name]
        if track in module.tracks:
            module.compiled[track.sha256] = compiled
            module.tries.pop(track.sha256, None)

    def refuse(self, name: str, track: Track, faults: Sequence[Fault], sealed: Sealed | None = None) -> None:
        """A release came, and is not what the program declares, or is damaged; it is not tried again."""
        module = self._modules[name]
        if track not in module.tracks:
            return
        batch = sealed.release.batch or sealed.sha256 if sealed is not None else None
        refusal = module.refused[track.sha256] = Refusal(track.version, _lines(faults), _expected(faults), batch=batch)
        if module.logged != track.sha256:
            module.logged = track.sha256
            log.event(
                logging.ERROR,
                "config-refused",
                module=name,
                version=track.version,
                faults=len(faults),
                expected=refusal.expected,
            )

    def failed(self, name: str, track: Track, reason: str, *, alive: bool) -> None:
        """A release did not come.

        Args:
            name: its module.
            track: which one.
            reason: why.
            alive: the source had just given a sign of life; it is told apart from one that nobody can reach.
        """
        module = self._modules[name]
        if track not in module.tracks:
            return
        before = module.tries.get(track.sha256, 0)
        module.tries[track.sha256] = before + (1 if alive else 0)
        if not before and alive:
            log.event(logging.WARNING, "config-release-missing", module=name, version=track.version, reason=reason)

    # -- what is to be staged ------------------------------------------------------------------------

    def due(self) -> list[Staged]:
        """Return what is to be staged now, of all modules at once: what has changed since it was staged last."""
        return [
            staged
            for name, module in self._modules.items()
            if (staged := self._staged(name, module)) is not None and _mark(staged) != module.staged
        ]

    def done(self, staged: Iterable[Staged]) -> None:
        """That was staged."""
        for one in staged:
            self._modules[one.head.module].staged = _mark(one)

    def _staged(self, name: str, module: _Module) -> Staged | None:
        head = module.head
        if head is None:
            return None
        stable = self._good(name, module, head.stable)
        canary = self._good(name, module, head.canary)
        return Staged(head, stable, canary)

    def _good(self, name: str, module: _Module, track: Track | None) -> Compiled | None:
        """Return a release if it can be used, and everything that was published with it."""
        compiled = module.compiled.get(track.sha256) if track is not None else None
        if compiled is None or compiled.sha256 in self._slots.quarantined(name):
            return None
        if (mate := self._mate(name, module, compiled)) is None:
            return compiled
        if mate.lost and module.held != compiled.sha256:
            module.held = compiled.sha256
            log.event(
                logging.WARNING, "config-held-back", module=name, version=compiled.version, published_with=mate.module
            )
        return None

    def _mate(self, name: str, module: _Module, compiled: Compiled) -> _Mate | None:
        """Return a module of which something was published together with this release, and cannot be used now."""
        batch = compiled.sealed.release.batch
        if not batch or self._slots.runs(name, compiled.sha256):
            return None
        for other, theirs in self._modules.items():
            for track in theirs.tracks if other != name else ():
                refusal = self._refusal_of(other, theirs, track)
                if refusal is not None and refusal.batch is not None:
                    if refusal.batch == batch:
                        return _Mate(other, lost=True)
                elif track.sha256 not in theirs.compiled and _one_step(module.head, theirs.head):
                    return _Mate(other, lost=refusal is not None)  # nobody knows its batch
        return None

    # -- looking at it ---------------------------------------------------------------------------------

    def verdict(self, name: str) -> Verdict | None:
        """Return what the source has for a module; None when it has not said, or a release is on its way."""
        module = self._modules[name]
        if not module.spoken:
            return None
        if module.head is None or module.head.stable is None:
            return "older" if module.behind else "none"
        if self._good(name, module, module.head.stable) is not None:
            return "usable"
        if self.refusal(name) is not None:
            return "refused"
        return None

    def spoken(self, name: str) -> bool:
        """Whether the source has said what there is of a module, and it was not older than what is known."""
        return self._modules[name].spoken and not self._modules[name].behind

    def where(self, name: str) -> str:
        """Return what an operator removes to let a module go back."""
        return self._where.get(name, "")

    def tracks(self, name: str) -> tuple[Track, ...]:
        """Return the releases of a module's newest head that concern this server: for all, for some."""
        return self._modules[name].tracks

    def refusal(self, name: str) -> Refusal | None:
        """Return why a release of the newest head is not used, that for some before that for all; None if all are."""
        module = self._modules[name]
        for track in reversed(module.tracks):
            if (refusal := self._refusal_of(name, module, track)) is not None:
                return refusal
            compiled = module.compiled.get(track.sha256)
            mate = self._mate(name, module, compiled) if compiled is not None else None
            if compiled is not None and mate is not None and mate.lost:
                line = f"held back: it was published together with a release of {mate.module!r} that cannot be used"
                return Refusal(track.version, (line,), line, batch=compiled.sealed.release.batch)
        return None

    def _refusal_of(self, name: str, module: _Module, track: Track) -> Refusal | None:
        if track.sha256 in self._slots.quarantined(name):
            compiled = module.compiled.get(track.sha256)
            batch = compiled.sealed.release.batch or compiled.sha256 if compiled is not None else None
            line = "it failed when it was first used; see the log"
            return Refusal(track.version, (line,), line, True, batch)
        if (refusal := module.refused.get(track.sha256)) is not None:
            return refusal
        if module.tries.get(track.sha256, 0) >= TRIES:
            line = "it could not be read; see the log"
            return Refusal(track.version, (line,), line)
        return None


def _older(said: Head, known: Head) -> bool:
    """Whether a head is older than another one, or another one with the same number: of a store that was set back."""
    if said.sequence == known.sequence:
        return (said.stable, said.canary) != (known.stable, known.canary)
    return said.sequence < known.sequence


def _one_step(one: Head | None, other: Head | None) -> bool:
    """Whether two heads may have been made by one publish."""
    return one is not None and other is not None and one.by == other.by and abs(one.time - other.time) < STEP


def _mark(staged: Staged) -> tuple[int, str | None, str | None]:
    """Return what tells one thing that is staged from another."""
    stable, canary = staged.stable, staged.canary
    return staged.head.sequence, stable.sha256 if stable else None, canary.sha256 if canary else None


def _lines(faults: Sequence[Fault]) -> tuple[str, ...]:
    lines: list[str] = []
    left = MAX_TEXT
    for fault in faults[:MAX_FAULTS]:
        line = str(fault)[:MAX_LINE].encode(errors="replace").decode()  # a program's check may say anything
        left -= len(msgspec.json.encode(line))
        if left < 0:
            break
        lines.append(line)
    return tuple(lines)


def _expected(faults: Sequence[Fault]) -> str:
    """Return what would be right, and where, without what stands there."""
    lines = [f"{fault.path or 'the values'}: expected {fault.expected}" for fault in faults[:MAX_LOGGED_FAULTS]]
    if len(faults) > MAX_LOGGED_FAULTS:
        lines.append(f"and {len(faults) - MAX_LOGGED_FAULTS} more")
    return "; ".join(line[:MAX_LINE] for line in lines)
