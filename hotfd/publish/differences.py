"""What is different between the values of two releases, key by key. Without I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import msgspec

from hotfd.publish.dotted import written

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hotfd.config.release import Release, Values


class Difference(msgspec.Struct, frozen=True):
    """One key whose value is not the same.

    Attributes:
        key: dotted, as TOML writes it.
        kind: whether it was added, removed, or has another value.
        old: the value before; None when it was added.
        new: the value after; None when it was removed.
    """

    key: str
    kind: Literal["added", "removed", "changed"]
    old: Any
    new: Any


def differences(old: Values, new: Values) -> list[Difference]:
    """Return what is different in ``new``, by key. Lists are compared whole; order of keys makes no difference."""
    return list(_walk(old, new, ()))


def between(old: Release, new: Release, zone: str | None = None) -> dict[str, list[Difference]]:
    """Return what is different between two releases.

    Args:
        old: the one.
        new: the other.
        zone: compare the values as they hold in this zone; None compares what was committed.

    Returns:
        the differences by zone, those of the values for all under the empty name. Zones without any are left out.
    """
    if zone is not None:
        found = {"": differences(old.values_in(zone), new.values_in(zone))}
    else:
        found = {"": differences(old.values, new.values)}
        for name in sorted(old.zones.keys() | new.zones.keys()):
            found[name] = differences(old.zones.get(name, {}), new.zones.get(name, {}))
    return {name: rows for name, rows in found.items() if rows}


def leaves(values: Values, above: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Yield every dotted key with its value, in order; what is no table is a value, and an empty table too."""
    for key in sorted(values):
        value = values[key]
        if isinstance(value, dict) and value:
            yield from leaves(value, (*above, key))
        else:
            yield written((*above, key)), value


def _walk(old: Values, new: Values, above: tuple[str, ...]) -> Iterator[Difference]:
    for key in sorted(old.keys() | new.keys()):
        path = (*above, key)
        if key not in old:
            yield from (Difference(name, "added", None, value) for name, value in leaves({key: new[key]}, above))
        elif key not in new:
            yield from (Difference(name, "removed", value, None) for name, value in leaves({key: old[key]}, above))
        elif isinstance(old[key], dict) and isinstance(new[key], dict):
            yield from _walk(old[key], new[key], path)
        elif _written(old[key]) != _written(new[key]):
            yield Difference(written(path), "changed", old[key], new[key])


def _written(value: object) -> bytes:
    """Return a value as it is published: True is not 1 there, and 1 is not 1.0, which are equal in Python."""
    return msgspec.json.encode(value, order="deterministic")
