"""The instruction that comes with values, and what it does with them.

``instruction.toml`` beside the values::

    operation = "merge"              # replace, merge or keep
    unset = ["damage.bow"]           # then these keys go,
    [set]
    "damage.sword" = 12              # and then these are set

Only one item needs to be edited to change one item: ``operation = "keep"`` with a ``set``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from hotfd.config.release import Instruction, laid_over
from hotfd.errors import ConfigError, Fault
from hotfd.publish import dotted
from hotfd.publish.documents import Unreadable, parse
from hotfd.publish.faults import shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from hotfd.config.release import Values

NAME: Final = "instruction.toml"

OPERATIONS: Final = ("replace", "merge", "keep")

MAX_CHANGES: Final = 1000
"""Keys that one instruction may set, and unset: who changes more commits the values."""


def read(data: bytes, *, values: bool, name: str = NAME) -> Instruction:
    """Read an instruction.

    Args:
        data: the file.
        values: whether there is a file of values beside it; it decides what is done when no operation is named.
        name: the file's, for faults.

    Raises:
        Unreadable: it is none.
    """
    table = parse(name, data)
    faults = [
        Fault(f"{name}: {dotted.written([key])}", "", "no such key; there are operation, unset and set")
        for key in table
        if key not in {"operation", "unset", "set"}
    ]
    operation = table.get("operation", "replace" if values else "keep")
    if operation not in OPERATIONS:
        faults.append(Fault(f"{name}: operation", shown(operation), "one of 'replace', 'merge', 'keep'"))
    elif operation != "keep" and not values:
        faults.append(Fault(f"{name}: operation", shown(operation), "a file of values beside it, such as config.toml"))
    unset = _unset(table.get("unset", []), name, faults)
    changes = _set(table.get("set", {}), name, faults)
    if len(unset) > MAX_CHANGES or len(changes) > MAX_CHANGES:
        faults.append(Fault(name, "", f"at most {MAX_CHANGES} keys can be set, and unset, by one instruction"))
    if faults:
        raise Unreadable(faults)
    return Instruction(operation, unset, changes)


def _unset(keys: Any, name: str, faults: list[Fault]) -> tuple[str, ...]:
    if not isinstance(keys, list):
        faults.append(Fault(f"{name}: unset", shown(keys), "a list of dotted keys"))
        return ()
    result = []
    for index, key in enumerate(keys):
        try:
            result.append(dotted.written(dotted.parse(key if isinstance(key, str) else "")))
        except ConfigError as error:
            faults.append(Fault(f"{name}: unset[{index}]", shown(key), str(error)))
    return tuple(result)


def _set(table: Any, name: str, faults: list[Fault]) -> dict[str, Any]:
    if not isinstance(table, dict):
        faults.append(Fault(f"{name}: set", shown(table), "a table of dotted keys and their values"))
        return {}
    result: dict[str, Any] = {}
    for key, value in table.items():
        try:
            for keys, leaf in _leaves(dotted.parse(key), value):
                path = dotted.written(keys)
                if path in result:
                    faults.append(Fault(f"{name}: set", "", f"{path} is there twice"))
                elif len(path) > dotted.MAX_KEY:
                    faults.append(Fault(f"{name}: set", "", f"a key has more than {dotted.MAX_KEY} characters"))
                else:
                    result[path] = leaf
        except ConfigError as error:
            faults.append(Fault(f"{name}: set", shown(key), str(error)))
    return result


def _leaves(keys: tuple[str, ...], value: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield what is set.

    Without quotes, ``damage.sword = 12`` is TOML for a table ``damage`` with one key. It means the same as with them,
    and not that the table ``damage`` is to have no other keys; an empty table sets one.
    """
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _leaves((*keys, key), inner)
    else:
        yield keys, value


def carry_out(instruction: Instruction, committed: Values | None, current: Values) -> tuple[Values, list[Fault]]:
    """Return the values that come of an instruction, and what could not be carried out.

    Args:
        instruction: what to do.
        committed: the values beside it, or None.
        current: the values in force; empty before the first release.
    """
    match instruction.operation:
        case "replace":
            values = committed or {}
        case "merge":
            values = laid_over(current, committed or {})
        case "keep":
            values = current
    faults = []
    for key in instruction.unset:
        changed = dotted.without(values, dotted.parse(key))
        if isinstance(changed, Fault):
            faults.append(changed._replace(path=f"{NAME}: unset: {changed.path}"))
        else:
            values = changed
    for key, value in instruction.set.items():
        changed = dotted.with_(values, dotted.parse(key), value)
        if isinstance(changed, Fault):
            faults.append(changed._replace(path=f"{NAME}: set: {changed.path}"))
        else:
            values = changed
    return values, faults


def carry_out_in_zones(
    instruction: Instruction, committed: Mapping[str, Values], current: Mapping[str, Values]
) -> dict[str, Values]:
    """Return by zone what is laid over the values there.

    To replace takes the committed zones alone. To merge or to keep lays each over what that zone has, and zones
    without a file stay as they are.
    """
    if instruction.operation == "replace":
        return dict(committed)
    return {zone: laid_over(current.get(zone, {}), committed.get(zone, {})) for zone in sorted({*current, *committed})}
