"""What is wrong with what was committed, collected: a person mends everything at once, or comes again ten times."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from hotfd.errors import Fault, ReleaseRefused

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MAX_SHOWN_VALUE: Final = 80
"""Characters of a value that a fault shows: enough to know it again, and it fits a line."""

MAX_FAULTS: Final = 100
"""Faults that are collected of one file: who has made more has made the same one again and again."""


class RevisionRefused(ReleaseRefused):
    """One revision cannot be published: nothing of it is.

    Args:
        revision: which.
        modules: the faults by module; modules without faults may be there, which are not published either.
    """

    def __init__(self, revision: str, modules: Mapping[str, Sequence[Fault]]) -> None:
        self.revision = revision
        self.modules = {module: list(faults) for module, faults in modules.items()}
        faulty = [module for module, faults in self.modules.items() if faults]
        super().__init__(", ".join(faulty), [fault for module in faulty for fault in self.modules[module]])
        self.args = (f"{self.summary()} {'; '.join(self.lines()[: self.SHOWN])}",)

    def summary(self) -> str:
        """Return what was refused, without the faults."""
        return f"revision {short(self.revision)} is refused; nothing of it was published:"

    def lines(self) -> list[str]:
        """Return every fault as a line that begins with its module, or with its file, whose path does."""
        return [
            printable(str(fault) if fault.path.startswith(f"{module}/") else f"{module}: {fault}")
            for module, faults in self.modules.items()
            for fault in faults
        ]


def shown(value: Any) -> str:
    """Return a value as a fault shows it: as JSON, cut to :data:`MAX_SHOWN_VALUE` characters."""
    text = json.dumps(value, ensure_ascii=True, default=str)
    return text if len(text) <= MAX_SHOWN_VALUE else text[: MAX_SHOWN_VALUE - 3] + "..."


def printable(text: str) -> str:
    """Return text without what drives a terminal, or cannot be written in UTF-8: names of files can hold both."""
    return "".join(char if char.isprintable() or char in "\t\n" else "?" for char in text)


def short(revision: str) -> str:
    """Return a revision as people write it: the first twelve digits of a git commit, others whole."""
    return revision[:12] if len(revision) in {40, 64} else revision
