"""What is wrong with values, said so that whoever wrote them finds the place and knows what to write."""

from __future__ import annotations

import difflib
import re
import time
from collections.abc import Collection, Iterable, Sequence
from typing import Any, Final

import msgspec

from hotfd.errors import Fault

MAX_FAULTS: Final = 10_000
"""Faults that are noted: nobody reads more, and a release of a megabyte could have a hundred thousand."""

SHOWN: Final = 80
"""Characters of a value, or of one key, that are shown: with its path it fits a line or two."""

STRETCH: Final = 100
"""Values that are looked at before other threads get their turn: about 0.1 ms of a slow machine's time."""

TURN: Final = 20e-6
"""Seconds of that turn. With 0, a thread takes the interpreter's lock again before the one that waits for it is awake."""

MAX_GUESSES: Final = 20
"""Unknown keys for which a similar one is looked for: each is compared with all that are known."""

MAX_CHOICES: Final = 12
"""Permitted values that are named in one fault."""

MISSING: Final = "a value: the key is missing"
"""What is expected where a key is missing."""

_PLAIN_KEY = re.compile(r"[\w-]+")

Step = str | int
"""One step of a path: a key of a table, or an index of a list."""


class Findings:
    """The faults of one release's values, as they are found, and the place that is looked at.

    Attributes:
        faults: those found so far, up to ``MAX_FAULTS``.
        count: how many were found so far.
        path: where the search is, from the outermost key.
    """

    __slots__ = ("_guesses", "_looked", "count", "faults", "path")

    def __init__(self) -> None:
        self.faults: list[Fault] = []
        self.count = 0
        self.path: list[Step] = []
        self._looked = 0
        self._guesses = 0

    def rest(self) -> None:
        """Let other threads run if it is time: an event loop that serves must not wait for one that checks."""
        self._looked += 1
        if self._looked >= STRETCH:
            self._looked = 0
            time.sleep(TURN)

    def wrong(self, value: object, expected: str) -> None:
        """Note that the value at the current place is not what it should be."""
        self._note(Fault(path_of(self.path), shown(value), expected))

    def missing(self, key: str) -> None:
        """Note that a key is missing in the table at the current place."""
        self._note(Fault(path_of([*self.path, key]), "", MISSING))

    def unknown(self, key: str, known: Collection[str]) -> None:
        """Note that a key of the table at the current place is not known there."""
        self._guesses += 1
        guess = self._guess(key, known) if self._guesses <= MAX_GUESSES else None
        hint = f"; did you mean {guess!r}?" if guess else ""
        self._note(Fault(path_of([*self.path, key]), "", f"no such key{hint}"))

    def _note(self, fault: Fault) -> None:
        self.count += 1
        if len(self.faults) < MAX_FAULTS:
            self.faults.append(fault)
        self.rest()

    def _guess(self, key: str, known: Iterable[str]) -> str | None:
        best, ratio = None, 0.6  # The cutoff of difflib.get_close_matches, which does not let other threads run.
        matcher = difflib.SequenceMatcher(autojunk=False)
        matcher.set_seq2(key[:SHOWN])
        for candidate in known:
            self.rest()
            matcher.set_seq1(candidate[:SHOWN])
            if matcher.real_quick_ratio() > ratio and matcher.quick_ratio() > ratio and matcher.ratio() > ratio:
                best, ratio = candidate, matcher.ratio()
        return best


def path_of(steps: Sequence[Step]) -> str:
    """Return a path as people write it: ``a.b[3]``; keys that would be mistaken for paths are quoted."""
    parts: list[str] = []
    for step in steps:
        if isinstance(step, int):
            parts.append(f"[{step}]")
        elif _PLAIN_KEY.fullmatch(step) and len(step) <= SHOWN:
            parts.append(f".{step}" if parts else step)
        else:
            parts.append(f"[{shown(step)}]")
    return "".join(parts)


def shown(value: object) -> str:
    """Return a value as JSON, cut to ``SHOWN`` characters; the time that takes does not depend on its size."""
    text = ""
    for piece in _pieces(value):
        text += piece
        if len(text) > SHOWN:
            return text[: SHOWN - 3] + "..."
    return text


def _pieces(value: Any) -> Iterable[str]:
    if isinstance(value, dict):
        yield "{"
        for count, (key, item) in enumerate(value.items()):
            yield ", " if count else ""
            yield from _pieces(str(key))
            yield ": "
            yield from _pieces(item)
        yield "}"
    elif isinstance(value, list | tuple):
        yield "["
        for count, item in enumerate(value):
            yield ", " if count else ""
            yield from _pieces(item)
        yield "]"
    else:
        try:
            yield msgspec.json.encode(value[: SHOWN + 1] if isinstance(value, str) else value).decode()
        except (TypeError, ValueError, OverflowError):
            yield f"a {type(value).__name__}"


def one_of(values: Iterable[object]) -> str:
    """Say that one of some values is expected; of many, the first few are named."""
    names = [repr(value) if isinstance(value, str) else shown(value) for value in values]
    if len(names) == 1:
        return names[0]
    more = f", ... ({len(names)} in all)" if len(names) > MAX_CHOICES else ""
    return "one of " + ", ".join(names[:MAX_CHOICES]) + more


def alternatives(words: Iterable[str]) -> str:
    """Say that one of several kinds of values is expected."""
    *most, last = dict.fromkeys(words)
    return f"{', '.join(most)} or {last}" if most else last


def sized(words: str, least: int | None, most: int | None, unit: str) -> str:
    """Add to words how many there may be."""
    if least is not None and most is not None:
        return f"{words} of {least} to {most} {unit}"
    if least is not None:
        return f"{words} of at least {least} {unit}"
    return words if most is None else f"{words} of at most {most} {unit}"
