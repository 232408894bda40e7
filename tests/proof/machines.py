"""The protocol's real state machines, each of whose moves is made once.

A machine's move depends on its state and on what it is told, and on nothing else. So each state that a machine comes
to is kept once and has a number, and each move from it is made once, by the machine itself, and looked up after that:
millions of states of the whole system need some thousands of moves of the machines.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar

from hotfd.errors import ChannelError
from tests.proof.explorer import Wrong

M = TypeVar("M")


def freeze(value: Any) -> Hashable:
    """Return everything that is in a machine, or in a value, as something that can be compared and hashed.

    It goes by what is there, not by a list of names: an attribute that a machine gets later is part of its state.
    """
    if isinstance(value, dict):
        return tuple((key, freeze(entry)) for key, entry in value.items())
    if isinstance(value, (set, frozenset)):
        return frozenset(value)
    if isinstance(value, (list, tuple)):
        return tuple(map(freeze, value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return tuple(freeze(getattr(value, entry.name)) for entry in dataclasses.fields(value))
    return value


class Machines(Generic[M]):
    """The states of one kind of machine, and the moves between them.

    Args:
        first: the machine in its first state.
    """

    def __init__(self, first: M) -> None:
        self._known: list[M] = []
        self._numbers: dict[Hashable, int] = {}
        self._moves: dict[Hashable, tuple[int, Any]] = {}
        self.first = self._number(first)

    def __getitem__(self, number: int) -> M:
        """The machine in a state, to be looked at and not to be changed."""
        return self._known[number]

    def __len__(self) -> int:
        return len(self._known)

    def _number(self, machine: M) -> int:
        number = self._numbers.setdefault(freeze(vars(machine)), len(self._known))
        if number == len(self._known):
            self._known.append(machine)
        return number

    def move(self, number: int, name: Hashable, act: Callable[[M], Any]) -> tuple[int, Any]:
        """Make a move, if it was not made before.

        Args:
            number: the state from which.
            name: what tells this move from all others.
            act: makes it.

        Returns:
            the number of the state after it, and what the machine has answered.

        Raises:
            Wrong: the machine refuses what an honest process does, or has changed although it refused.
        """
        key = (number, name)
        known = self._moves.get(key)
        if known is None:
            known = self._moves[key] = self._act(self._known[number], act)
        return known

    def _act(self, before: M, act: Callable[[M], Any]) -> tuple[int, Any]:
        machine = copy.deepcopy(before)
        try:
            result = act(machine)
        except (ChannelError, ValueError) as error:
            if freeze(vars(machine)) != freeze(vars(before)):
                raise Wrong(f"a machine refused and has changed: {error}") from error
            raise Wrong(f"an honest process was refused: {error}") from error
        return self._number(machine), result
