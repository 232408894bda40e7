"""What may be typed, and how answers are shown.

The console offers whatever instructions the server has. A command is the instruction's name, or the beginning of it
that is no other's, with fields as ``--name value``; the server itself says what it takes, so that there is one place
that decides. Only the words of the help are here.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from hotfd.display.config import served
from hotfd.display.handoff import summary
from hotfd.display.history import listing as history
from hotfd.display.sessions import listing as sessions
from hotfd.display.status import details
from hotfd.display.text import anything, pairs
from hotfd.report import Report

HELP, QUIT, WATCH = "help", "quit", "watch"

_OTHER_NAMES: Final = {"?": HELP, "exit": QUIT, "logout": QUIT, "bye": QUIT, "handoff": "update"}
"""What people type before they have read anything."""

_HANDOFF: Final = (
    "  --dry-run[=deep]      say what would move, and change nothing; deep starts the new process too",
    "  --deadline S          seconds for everything before probation",
    "  --boundary-timeout S  seconds that a session has to reach a frame boundary",
    "  --laggards keep       what becomes of sessions that reached none: keep or close",
    "  --on-loss stale       of sessions that move together: when the new process dies, go on with older data",
    "  --probation S         seconds in which the new process's death gives its sessions back",
    "  --force               hand off where the service may not survive the old process's exit",
)

_WITHOUT_VALUE: Final = frozenset({"dry-run", "force", "allow-downgrade"})
"""Options that take no value after a blank: the next word is not theirs."""

_TEXTS: Final = frozenset({"id", "cwd", "session"})
"""Options whose value is text also where it looks like a number, as 12e456 does, the id of a handoff."""

_INTERRUPT: Final = "Control-C ends the showing, and nothing else: what was started goes on."


@dataclass(frozen=True, slots=True)
class Words:
    """The help of one command: how it is typed, what it does, and the rest."""

    usage: str
    summary: str
    more: tuple[str, ...] = ()


WORDS: Final[Mapping[str, Words]] = {
    "config": Words("config", "the releases of configuration: which run, which are staged, which sessions hold"),
    HELP: Words("help [COMMAND]", "this list, or more about one command"),
    "history": Words("history", "what ran before, and what can be gone back to"),
    QUIT: Words("quit", "leave the console"),
    "result": Words("result --id ID", "how a handoff ended"),
    "rollback": Words(
        "rollback [--to GENERATION] [OPTION]...",
        "hand over to what ran before",
        (*_HANDOFF, _INTERRUPT),
    ),
    "sessions": Words(
        "sessions [--limit N] [--session ID]",
        "some of the sessions, and where those wait in the program that cannot move",
        ("  --session ID          the session with this id or key, or of this connection",),
    ),
    "status": Words("status", "what the server is doing"),
    "update": Words(
        "update [OPTION]... [-- CMD ARG...]",
        "replace the server with a new version of itself",
        (
            "Without a command the new process is started as this one was.",
            *_HANDOFF,
            "  --allow-downgrade     let code take over that is older than the state",
            _INTERRUPT,
        ),
    ),
    WATCH: Words("watch", "show the counts too, as they change", ("Control-C or an empty line ends it.",)),
}

_SHOWN: Final[Mapping[str, Callable[[dict[str, Any]], list[str]]]] = {
    "config": served,
    "history": history,
    "sessions": sessions,
    "status": details,
}


class Misunderstood(ValueError):  # noqa: N818 - reads as the condition
    """What was typed is no command; the text says what would be."""


@dataclass(frozen=True, slots=True)
class Command:
    """A command as it was typed.

    Attributes:
        name: ``help``, ``quit``, or the name of an instruction.
        fields: the instruction's fields.
        topic: what help is wanted about.
    """

    name: str
    fields: dict[str, Any] = field(default_factory=dict)
    topic: str | None = None


def read(line: str, instructions: Iterable[str]) -> Command | None:
    """Read a typed line.

    Args:
        line: one line, without its end.
        instructions: the names of those that the server has.

    Returns:
        the command; None when nothing was typed.

    Raises:
        Misunderstood: there is no such command, or its fields cannot be read.
    """
    try:
        words = shlex.split(line)
    except ValueError as error:
        raise Misunderstood(f"a quotation mark is missing ({error})") from None
    if not words:
        return None
    known = {HELP, QUIT, *instructions}
    name = _whole(words[0], known)
    if name == HELP:
        return Command(HELP, topic=_whole(words[1], known) if len(words) > 1 else None)
    if name == QUIT:
        return Command(QUIT)
    return Command(name, _fields(name, words[1:]))


def _whole(word: str, known: set[str]) -> str:
    """Return the command that a word stands for: its name, another name of it, or its beginning."""
    wanted = word.lower()
    wanted = _OTHER_NAMES.get(wanted, wanted)
    if wanted in known:
        return wanted
    found = sorted(name for name in known if name.startswith(wanted))
    if len(found) == 1:
        return found[0]
    if found:
        raise Misunderstood(f"{word!r} can be {' or '.join(found)}")
    if wanted in WORDS:
        raise Misunderstood(f"this server has no instruction {wanted!r}")
    raise Misunderstood(f"there is no command {word!r}; type help, or one of {', '.join(sorted(known))}")


def _fields(name: str, words: list[str]) -> dict[str, Any]:
    """Read ``--name value``, ``--name=value`` and ``--name``, and after ``--`` a command line."""
    fields: dict[str, Any] = {}
    at = 0
    while at < len(words):
        word = words[at]
        at += 1
        if word == "--":
            if at == len(words):
                raise Misunderstood("there is no command after --")
            fields["command"] = words[at:]
            break
        if not word.startswith("--"):
            usage = WORDS[name].usage if name in WORDS else f"{name} [--name value]..."
            raise Misunderstood(f"{word!r} is not understood here; type it as {usage}")
        option, equals, text = word[2:].partition("=")
        if option == "type":  # a field of the instruction, which the command's name has said already
            raise Misunderstood("there is no option --type")
        value: Any = True
        if equals:
            value = text
        elif option not in _WITHOUT_VALUE and at < len(words) and not words[at].startswith("--"):
            value = words[at]
            at += 1
        elif option == "dry-run":
            value = "plan"
        if isinstance(value, str) and option not in _TEXTS:
            value = _value(value)
        fields[option.replace("-", "_")] = value
    return fields


def _value(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def show(name: str, answer: Any) -> list[str]:
    """Return the answer of an instruction as lines."""
    if isinstance(answer, dict):
        if "outcome" in answer:
            return summary(msgspec.convert(answer, Report))
        if name in _SHOWN:
            return _SHOWN[name](answer)
    return anything(answer)


def help_lines(topic: str | None, instructions: Iterable[str]) -> list[str]:
    """Return the help: about one command, or about all that this server has."""
    if topic is not None:
        words = WORDS.get(topic)
        return [f"{words.usage}  -  {words.summary}", *words.more] if words else [f"{topic} [--name value]..."]
    names = sorted({HELP, QUIT, *instructions})
    rows = [(WORDS[name].usage, WORDS[name].summary) if name in WORDS else (name, "") for name in names]
    return [*pairs(rows), "", "A command may be shortened as long as it stays clear: st for status.", _INTERRUPT]
