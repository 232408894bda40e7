"""From the files of a module to the values of a release. Without I/O, but for a script, which somebody else runs.

A directory of the repository is a module if it has one of these files::

    match/config.toml        the values (or .json, .yaml, .yml: exactly one)
    match/instruction.toml   what to do with them
    match/instruction        instead: an executable that is given the values in force, and prints the new ones
    match/zones/eu-1.toml    what is laid over the values in that zone (or .json, .yaml, .yml)

The operation comes first, then what is unset, then what is set.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol

import msgspec

from hotfd.config.release import MAX_ZONES, Instruction, check_name
from hotfd.errors import ConfigError, Fault, ReleaseRefused
from hotfd.publish import instruction as instructions
from hotfd.publish.documents import MAX_FILE, SUFFIXES, Unreadable, parse, too_large

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from hotfd.config.release import Release, Values
    from hotfd.publish.repository import Entry

SCRIPT: Final = "instruction"
"""The executable file that makes the values."""

MAX_COMPANIONS: Final = 1000
"""Files that a script finds beside it: a module is a directory of settings, and no program."""

MAX_COMPANION_BYTES: Final = 8 << 20
"""Bytes of all files that a script finds beside it: they are copied each time."""

_VALUES: Final = re.compile(r"config\.(?:toml|json|yaml|yml)")
_ZONE: Final = re.compile(r"zones/(?P<zone>[^/]+)\.(?:toml|json|yaml|yml)")


class Runner(Protocol):
    """Runs a module's script; raises ConfigError when it cannot, or when what it prints are no values."""

    def __call__(self, script: Script, current: Values) -> Values:
        """Return the values that the script makes of those in force."""
        ...


@dataclass(frozen=True, slots=True)
class Script:
    """A script, and the files beside it, by path; it is one of them."""

    module: str
    files: Mapping[str, bytes]
    executable: frozenset[str]

    @property
    def sha256(self) -> str:
        """The digest of the script itself."""
        return hashlib.sha256(self.files[SCRIPT]).hexdigest()


@dataclass(frozen=True, slots=True)
class Committed:
    """What was committed for a module, read and not carried out.

    Attributes:
        module: its name.
        values: what is in its file of values, or None.
        zones: by zone, what is laid over the values there.
        instruction: what to do.
        script: what makes the values, or None.
        origin: SHA-256 of the files: they differ if and only if this differs.
    """

    module: str
    values: Values | None
    zones: Mapping[str, Values]
    instruction: Instruction
    script: Script | None
    origin: str

    @property
    def alone(self) -> bool:
        """Whether the new values do not depend on those in force."""
        return self.script is None and self.instruction.operation == "replace"


GONE: Final = Committed("", None, {}, Instruction("keep"), None, "")
"""What is committed for a module whose files were removed: its last release stays in force."""


@dataclass(frozen=True, slots=True)
class Draft:
    """What a release will hold."""

    values: Values
    zones: dict[str, Values]
    instruction: Instruction


@dataclass(slots=True)
class Selection:
    """Which of a module's files are read, and what is wrong with them already."""

    wanted: list[Entry] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)


def is_module(name: str, entries: Sequence[Entry]) -> bool:
    """Return whether a directory is a module: it has one of the files that make one, and is not hidden.

    Tools have their settings in hidden ones: ``.circleci/config.yml``.
    """
    return not name.startswith(".") and any(_is_known(entry.path) for entry in entries)


def _is_known(path: str) -> bool:
    return bool(_VALUES.fullmatch(path) or _ZONE.fullmatch(path)) or path in {SCRIPT, instructions.NAME}


def select(module: str, entries: Sequence[Entry]) -> Selection:
    """Return which files of a module are to be read, by what is known without reading them."""
    chosen = Selection()
    try:
        check_name(module)
    except ConfigError as error:
        chosen.faults.append(Fault("", "", str(error)))
    scripted = any(entry.path == SCRIPT for entry in entries)
    for entry in entries:
        known = _is_known(entry.path)
        name = f"{module}/{entry.path}"
        if not _is_path(entry.path):
            chosen.faults.append(Fault(name, "", "no path that a file can have"))
        elif entry.path == "zones":
            chosen.faults.append(Fault(name, "", f"a directory, and not a {entry.kind}"))
        elif entry.path.startswith("zones/") and not known and not _is_ignored(entry.path):
            chosen.faults.append(Fault(name, "", f"a zone's file ends with one of {', '.join(SUFFIXES)}"))
        elif not known and (not scripted or entry.kind != "file"):
            continue
        elif entry.kind != "file":
            chosen.faults.append(Fault(name, "", f"the file must be there itself, and is a {entry.kind}"))
        elif entry.size > MAX_FILE:
            chosen.faults.append(too_large(name, entry.size))
        else:
            chosen.wanted.append(entry)
    if len(chosen.wanted) > MAX_COMPANIONS or sum(entry.size for entry in chosen.wanted) > MAX_COMPANION_BYTES:
        chosen.faults.append(
            Fault(module, "", f"more than {MAX_COMPANIONS} files, or {MAX_COMPANION_BYTES} bytes, beside a script")
        )
    chosen.faults += _contradictions(module, entries)
    return chosen


def _is_path(path: str) -> bool:
    # A tree of git can be made by hand, with names that lead out of it.
    return not {"", ".", ".."} & set(path.split("/"))


def _is_ignored(path: str) -> bool:
    name = path.rpartition("/")[2]
    return name.startswith((".", "README"))


def _contradictions(module: str, entries: Sequence[Entry]) -> list[Fault]:
    faults = []
    values = sorted(entry.path for entry in entries if _VALUES.fullmatch(entry.path))
    if len(values) > 1:
        faults.append(Fault(module, "", f"one file of values, and not {' and '.join(values)}"))
    paths = {entry.path for entry in entries}
    if {SCRIPT, instructions.NAME} <= paths:
        faults.append(Fault(module, "", f"{SCRIPT} or {instructions.NAME}, and not both"))
    if any(entry.path == SCRIPT and entry.kind == "file" and not entry.executable for entry in entries):
        faults.append(
            Fault(
                f"{module}/{SCRIPT}",
                "",
                "a script must be executable: git update-index --chmod=+x, or svn propset svn:executable on",
            )
        )
    zones = [found["zone"] for entry in entries if (found := _ZONE.fullmatch(entry.path))]
    faults += [
        Fault(f"{module}/zones", "", f"one file for zone {zone!r}, and not several")
        for zone in sorted({zone for zone in zones if zones.count(zone) > 1})
    ]
    if len(zones) > MAX_ZONES:
        faults.append(Fault(f"{module}/zones", "", f"at most {MAX_ZONES} zones"))
    return faults


def read(module: str, entries: Sequence[Entry], files: Mapping[str, bytes]) -> Committed:
    """Read a module's files.

    Args:
        module: its name.
        entries: those that were wanted.
        files: what is in them, by path.

    Raises:
        ReleaseRefused: with every fault of every file.
    """
    faults: list[Fault] = []
    values: Values | None = None
    zones: dict[str, Values] = {}
    instruction: Instruction | None = None
    has_values = any(_VALUES.fullmatch(entry.path) for entry in entries)
    for entry in entries:
        name, data = f"{module}/{entry.path}", files[entry.path]
        try:
            if _VALUES.fullmatch(entry.path):
                values = parse(name, data)
            elif found := _ZONE.fullmatch(entry.path):
                zones[check_name(found["zone"], "zone")] = parse(name, data)
            elif entry.path == instructions.NAME:
                instruction = instructions.read(data, values=has_values, name=name)
        except Unreadable as error:
            faults += error.faults
        except ConfigError as error:
            faults.append(Fault(name, "", str(error)))
    if faults:
        raise ReleaseRefused(module, faults)
    script = None
    if SCRIPT in files:
        script = Script(module, dict(files), frozenset(entry.path for entry in entries if entry.executable))
    if instruction is None:
        instruction = Instruction() if values is not None or script else Instruction("keep")
    return Committed(module, values, zones, instruction, script, _origin(entries, files))


def _origin(entries: Sequence[Entry], files: Mapping[str, bytes]) -> str:
    facts = [
        [entry.path, entry.path == SCRIPT and entry.executable, hashlib.sha256(files[entry.path]).hexdigest()]
        for entry in sorted(entries, key=lambda entry: entry.path)
    ]
    return hashlib.sha256(msgspec.json.encode(facts)).hexdigest()


def carry_out(committed: Committed, current: Release | None, run: Runner) -> Draft:
    """Make the values of a release.

    Args:
        committed: what was committed.
        current: the release in force, or None before the first.
        run: runs a script.

    Raises:
        ReleaseRefused: something cannot be carried out; with every fault.
    """
    before: dict[str, Any] = current.values if current is not None else {}
    zones_before = current.zones if current is not None else {}
    instruction = committed.instruction
    if committed.script is not None:
        try:
            values = run(committed.script, before)
        except Unreadable as error:
            raise ReleaseRefused(committed.module, error.faults) from None
        except ConfigError as error:
            raise ReleaseRefused(committed.module, [Fault(f"{committed.module}/{SCRIPT}", "", str(error))]) from None
        return Draft(values, dict(committed.zones), Instruction(script=committed.script.sha256))
    values, faults = instructions.carry_out(instruction, committed.values, before)
    if faults:
        named = [fault._replace(path=f"{committed.module}/{fault.path}") for fault in faults]
        raise ReleaseRefused(committed.module, named)
    return Draft(values, instructions.carry_out_in_zones(instruction, committed.zones, zones_before), instruction)
