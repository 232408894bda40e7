"""Which heads may follow which: publishing, canaries, and their ends. Without I/O.

Each function takes a module's head and returns a :class:`Step`, which a store carries out if the head is still
the same. So two people who publish at once both succeed, one after the other, and nobody overwrites anybody.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hotfd.config.release import Canary, Event, Head, Sealed, Track
from hotfd.errors import ConfigError, Conflict

if TYPE_CHECKING:
    from hotfd.config.release import Change, Release


@dataclass(frozen=True, slots=True)
class Step:
    """One change of one module.

    Attributes:
        expect: the sequence that the head must have for the step to be carried out; 0 when there must be none.
        head: the new head.
        event: its line of the history.
        release: the release that comes with it, or None.
    """

    expect: int
    head: Head
    event: Event
    release: Sealed | None = None


@dataclass(frozen=True, slots=True)
class For:
    """For whom a canary is: all sessions of these zones, and a share (0 to 1) of the new sessions elsewhere."""

    zones: tuple[str, ...] = ()
    share: float = 0.0


def next_version(head: Head | None) -> int:
    """Return the version that the next release has."""
    return 1 if head is None else head.last + 1


def publish(
    head: Head | None,
    sealed: Sealed,
    *,
    by: str,
    canary: For | None = None,
    change: Change = "published",
    reason: str = "",
) -> Step:
    """Put a release in force: for all, or for some first.

    Args:
        head: the module's head, or None.
        sealed: the release; its version is :func:`next_version`.
        by: who publishes.
        canary: for whom; None for all. A release for all ends a canary that is going on.
        change: ``published``, or ``rolled-back`` when the values are those of an older release.
        reason: why, for the history.

    Raises:
        ConfigError: a canary is going on already, and another one was asked for.
        ValueError: the release has another version.
    """
    release = sealed.release
    if release.version != next_version(head):
        raise ValueError(f"version {release.version} cannot follow version {head.last if head else 0}")
    if canary is None:
        track = Track(release.version, sealed.sha256)
        return _step(head, sealed, track, None, change, by, reason)
    if head is not None and head.canary is not None:
        raise ConfigError(
            f"module {release.module!r}: version {head.canary.version} is a canary already; promote or abort it first"
        )
    some = Canary(release.version, sealed.sha256, canary.zones, canary.share)
    return _step(head, sealed, head.stable if head else None, some, "canary", by, reason)


def promote(head: Head, *, by: str) -> Step:
    """Put the canary in force for all.

    Raises:
        ConfigError: there is none.
    """
    canary = _canary_of(head)
    return _step(head, None, Track(canary.version, canary.sha256), None, "promoted", by, "", about=canary)


def abort(head: Head, *, by: str, reason: str = "") -> Step:
    """Take the canary back; its version is never given again.

    Raises:
        ConfigError: there is none.
    """
    return _step(head, None, head.stable, None, "aborted", by, reason, about=_canary_of(head))


def halt(head: Head, version: int, *, by: str, reason: str) -> Step | None:
    """Take a canary back that a server has refused; None when it is no canary any more."""
    if head.canary is None or head.canary.version != version:
        return None
    return _step(head, None, head.stable, None, "halted", by, reason, about=head.canary)


def event_of(head: Head, about: Track, release: Release | None) -> Event:
    """Return the line of the history that belongs to a head.

    Args:
        head: the head.
        about: the release that the change is about.
        release: that release, when the change has put it in force; None when it ended what an earlier one did.
    """
    return Event(
        head.module,
        head.sequence,
        head.change,
        about.version,
        about.sha256,
        head.by,
        head.time,
        revision=release.revision if release is not None else "",
        note=release.note if release is not None else "",
        reason=head.reason,
        restores=release.restores if release is not None else 0,
    )


def check_follows(head: Head | None, step: Step) -> None:
    """Check that a step can be carried out when a module's head is this one; each store asks that before it writes.

    Raises:
        Conflict: it is another head than the step expects.
        ValueError: the step is none of this module's functions'.
    """
    module, sequence, last = step.head.module, head.sequence if head else 0, head.last if head else 0
    if sequence != step.expect:
        raise Conflict(
            f"module {module!r} has changed meanwhile: its head is change {sequence}, and not {step.expect}; "
            "look again, and decide anew"
        )
    if step.head.sequence != step.expect + 1 or step.event.sequence != step.head.sequence:
        raise ValueError(f"change {step.head.sequence} of module {module!r} cannot follow change {step.expect}")
    if step.release is not None and step.release.release.version <= last:
        raise ValueError(f"version {step.release.release.version} of module {module!r} was given already")


def _canary_of(head: Head) -> Canary:
    if head.canary is None:
        raise ConfigError(f"module {head.module!r}: no canary is going on")
    return head.canary


def _step(
    head: Head | None,
    sealed: Sealed | None,
    stable: Track | None,
    canary: Canary | None,
    change: Change,
    by: str,
    reason: str,
    about: Track | None = None,
) -> Step:
    now = time.time()
    if sealed is not None:
        module, about = sealed.release.module, Track(sealed.release.version, sealed.sha256)
    else:
        assert head is not None
        module = head.module
    assert about is not None
    expect = head.sequence if head is not None else 0
    last = max(head.last if head is not None else 0, about.version)
    new = Head(module, expect + 1, last, change, by[:1024], now, stable, canary, reason[:1024])
    return Step(expect, new, event_of(new, about, sealed.release if sealed is not None else None), sealed)
