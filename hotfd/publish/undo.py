"""Going back to what was in force before. Without I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hotfd.config.release import Instruction, Release

if TYPE_CHECKING:
    from collections.abc import Iterable

    from hotfd.config.release import Event

FOR_ALL = frozenset({"published", "promoted", "rolled-back"})
"""Changes after which their release is in force for all."""


def before(events: Iterable[Event]) -> int | None:
    """Return the version that was in force before the one that is now, as *undo* finds it.

    After versions 1, 2 and 3 going back leads to 2, and the next time to 1: a version that somebody went back from does
    not come again by itself.

    Args:
        events: the module's history, newest first; the oldest may be missing.

    Returns:
        the version whose values were in force then; None when there was none, or it is not in these events.
    """
    past: list[int] = []
    for event in reversed(list(events)):
        if event.change not in FOR_ALL:
            continue
        version = event.restores or event.version
        if version in past:
            del past[past.index(version) + 1 :]
        else:
            past.append(version)
    return past[-2] if len(past) > 1 else None


def again(old: Release, last: Release, *, version: int, by: str, time: float) -> Release:
    """Make a release with the values of an older one.

    It says of itself that it was made from the repository's revision that was published last: that revision is done with.
    Whoever publishes what was committed since then would otherwise publish at once what somebody has just gone back from.

    Args:
        old: the release whose values are to be in force again.
        last: the one that was published last.
        version: the version of the new one.
        by: who goes back.
        time: when, in seconds since the epoch.
    """
    first = old.restores or old.version
    return Release(
        module=old.module,
        version=version,
        revision=last.revision,
        author=by[:1024],
        time=time,
        values=old.values,
        zones=old.zones,
        instruction=Instruction(),
        note=f"the values of version {first}",
        origin=last.origin,
        schema=old.schema,
        restores=first,
    )
