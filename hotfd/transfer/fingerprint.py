"""What a process runs, as marks by which a change of it is recognised later.

Marked are the interpreter, every file of the program's own that is loaded (script, modules, extension modules,
archives), and every installed distribution of which something is loaded, by its list of files. A mark that still fits
by size, time and inode is the same without being read. Where those differ, the content decides: a file that was only
touched, or put there anew with the same content, has not changed.

Nothing here loads a module that is not loaded anyway, and nothing is imported or executed of what is looked at.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import chain
from typing import TYPE_CHECKING, Annotated, Final

import msgspec

if TYPE_CHECKING:
    from hotfd.transfer.process import Origin

MAX_MARKS: Final = 8192
"""Files that are marked; a program that has loaded more of its own cannot be told in full, and counts as changed."""

MAX_HASHED: Final = 64 << 20
"""Bytes of a file that is read for its mark; of larger ones (archives) size, time and inode must do."""

DIGEST_SIZE: Final = 16
"""Bytes of a digest: two files that are different by accident or by malice will not have the same."""

_SITES: Final = frozenset({"site-packages", "dist-packages"})
_LISTS: Final = ("RECORD", "installed-files.txt", "METADATA", "PKG-INFO")
"""What lists the files of a distribution, or failing that names its version; the first that is there counts."""


class Mark(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One file as it was.

    Attributes:
        path: where it is, in the file system's encoding.
        name: the distribution that it stands for; empty for a file that stands for itself.
        size: in bytes.
        changed_ns: the time of its last modification.
        inode: its number.
        digest: of its content; None when it was not read, for it is too large, or may not be read.
    """

    path: bytes
    name: str
    size: int
    changed_ns: int
    inode: int
    digest: bytes | None


class Fingerprint(msgspec.Struct, array_like=True, frozen=True):
    """What a process runs.

    Attributes:
        marks: the files that it had loaded when it began to serve.
        complete: whether these are all.
        later: what it has loaded since, as far as that is known.
    """

    marks: Annotated[list[Mark], msgspec.Meta(max_length=MAX_MARKS)]
    complete: bool = True
    later: Annotated[list[Mark], msgspec.Meta(max_length=MAX_MARKS)] = []

    def change(self) -> str | None:
        """Look whether everything is as it was.

        Returns:
            None when it is, else one line that names the first thing that is not, and ends where "since" would follow.
        """
        if not self.complete:
            return f"more than {MAX_MARKS} files, which are too many to be remembered, may have changed"
        marks = chain(self.marks, self.later)
        return next((change for mark in marks if (change := _change(mark)) is not None), None)

    def same(self, other: Fingerprint) -> bool:
        """Say whether two processes have run the same content from the same places.

        What they load later is up to their clients: one may have loaded what the other has not.
        """
        if not (self.complete and other.complete):
            return False
        if _contents(self.marks) != _contents(other.marks):
            return False
        mine, theirs = _contents(chain(self.marks, self.later)), _contents(chain(other.marks, other.later))
        return all(mine[path] == theirs[path] for path in mine.keys() & theirs.keys())

    def and_later(self, files: Iterable[tuple[str, str]]) -> Fingerprint:
        """Mark, as they are now, those files that are not marked yet.

        Args:
            files: what the process has loaded by now, as :func:`loaded_files` returns it.

        Returns:
            the fingerprint with them.
        """
        known = {mark.path for mark in chain(self.marks, self.later)}
        found = read((path, name) for path, name in files if os.fsencode(path) not in known)
        later = [*self.later, *found.marks]
        return Fingerprint(self.marks, self.complete and found.complete and len(later) <= MAX_MARKS, later[:MAX_MARKS])


def _contents(marks: Iterable[Mark]) -> dict[bytes, object]:
    return {mark.path: mark.digest or (mark.size, mark.changed_ns, mark.inode) for mark in marks}


def _change(mark: Mark) -> str | None:
    path = os.fsdecode(mark.path)
    what = f"the distribution {mark.name} ({path})" if mark.name else path
    try:
        with open(path, "rb", opener=_open) as file:
            now = os.fstat(file.fileno())
            if (now.st_size, now.st_mtime_ns, now.st_ino) == (mark.size, mark.changed_ns, mark.inode):
                return None
            if mark.digest is not None and now.st_size == mark.size and _digest(file) == mark.digest:
                return None
    except (FileNotFoundError, NotADirectoryError):
        return f"{what} has gone"
    except OSError as error:
        if _unchanged_outside(path, mark):
            return None
        return f"{what} cannot be read any more ({error.strerror}), and may have changed"
    return f"{what} has changed"


def _unchanged_outside(path: str, mark: Mark) -> bool:
    """Say whether a file that may not be read looks as it did."""
    try:
        now = os.stat(path)
    except OSError:
        return False
    return (now.st_size, now.st_mtime_ns, now.st_ino) == (mark.size, mark.changed_ns, mark.inode)


def loaded_files(
    origin: Origin, modules: Mapping[str, object] | None = None, without: Collection[str] = ()
) -> list[tuple[str, str]]:
    """Return what this process has loaded, to be marked by :func:`read`; on another thread if need be.

    Args:
        origin: what it was started with.
        modules: what is loaded; by default what is by now.
        without: modules that are not asked about, nor the distributions that they are from.

    Returns:
        path and distribution name of each file; the name is empty for files that stand for themselves.
    """
    found: dict[str, str] = {}
    if sys.executable:
        # By the very name that will be run again: a link at its end, as virtual environments have, may come to lead
        # to another interpreter.
        found[os.path.join(origin.directory, (origin.exact or (sys.executable,))[0])] = ""
    standard, pinned = _standard_directories(), _pinned(origin)
    names: set[str] = set()
    for name, module in (dict(sys.modules) if modules is None else modules).items():
        if name in without:
            continue
        names.add(name.partition(".")[0])
        path = _file_of(module)
        if path is not None and not _is_standard(path, standard):
            found[_lasting(os.path.join(origin.directory, path), pinned)] = ""
    for site in dict.fromkeys(_lasting(entry, pinned) for entry in sys.path if os.path.basename(entry) in _SITES):
        found.update(_distributions(site, names.difference(without), doubtful=not without))
    return list(found.items())


def _file_of(module: object) -> str | None:
    """Return a module's file without asking the module: one that loads itself at its first use would do so now.

    What stands in :data:`sys.modules` need not be a module, and its ``__getattr__`` may raise anything.
    """
    try:
        path = object.__getattribute__(module, "__dict__").get("__file__")
    except AttributeError:
        return None
    return path if isinstance(path, str) else None


def read(files: Iterable[tuple[str, str]]) -> Fingerprint:
    """Mark files as they are now; those that are not there are left out."""
    marks: list[Mark] = []
    for path, name in files:
        if len(marks) == MAX_MARKS:
            return Fingerprint(marks, complete=False)
        mark = _mark(path, name)
        if mark is not None:
            marks.append(mark)
    return Fingerprint(marks)


def _mark(path: str, name: str) -> Mark | None:
    digest = None
    try:
        with open(path, "rb", opener=_open) as file:
            found = os.fstat(file.fileno())
            digest = _digest(file) if found.st_size <= MAX_HASHED else None
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None
    except OSError:
        try:
            found = os.stat(path)
        except OSError:
            return None
    return Mark(os.fsencode(path), name, found.st_size, found.st_mtime_ns, found.st_ino, digest)


def _open(path: str, flags: int) -> int:
    # Where a module was there may be a pipe by now, which must not hold whoever looks.
    return os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)


def _digest(file: object) -> bytes:
    return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=DIGEST_SIZE)).digest()  # type: ignore[arg-type]


def _standard_directories() -> tuple[str, ...]:
    """Return the directories of the standard library: it belongs to the interpreter, which is marked itself."""
    library = os.path.dirname(os.__file__)
    version = os.path.basename(library)
    places = {library, os.path.join(sys.base_exec_prefix, sys.platlibdir, version)}
    return tuple(os.path.join(place, "") for place in places)


def _is_standard(path: str, standard: tuple[str, ...]) -> bool:
    return path.startswith(standard) or not _SITES.isdisjoint(path.split(os.sep))


def _pinned(origin: Origin) -> tuple[str, ...]:
    """Return what is run again by its real place: the interpreter with its packages, and the script or archive.

    Python itself resolves the directory of a script; what it imports from there has its real place already.
    """
    scripts = [given for given, real in zip(origin.command[1:], origin.exact[1:], strict=True) if given != real]
    return (sys.prefix, sys.base_prefix, *(os.path.join(origin.directory, script) for script in scripts))


def _lasting(path: str, pinned: tuple[str, ...]) -> str:
    """Return where a file will be found when the same is run again.

    What is not pinned is reached by its name again, such as one in ``$PYTHONPATH``: then it is what the name leads to
    that must not have changed.
    """
    real = any(path == place or path.startswith(place + os.sep) for place in pinned)
    while path != os.sep and not os.path.exists(path):  # inside of an archive
        path = os.path.dirname(path)
    return os.path.realpath(path) if real else path


def _distributions(site: str, loaded: set[str], *, doubtful: bool = True) -> Iterator[tuple[str, str]]:
    """Find the distributions of a directory of which something is loaded; in doubt, it is if ``doubtful``."""
    try:
        entries = sorted(os.listdir(site))
    except OSError:
        return
    for entry in entries:
        stem, suffix = os.path.splitext(entry)
        if suffix not in (".dist-info", ".egg-info"):
            continue
        directory = os.path.join(site, entry)
        listed = next((path for name in _LISTS if os.path.isfile(path := os.path.join(directory, name))), None)
        if listed is None:
            continue
        names = _top_levels(directory)
        if doubtful if names is None else not names.isdisjoint(loaded):
            yield listed, " ".join(stem.split("-")[:2])


def _top_levels(directory: str) -> set[str] | None:
    """Return the names by which a distribution is imported, or None when it does not say."""
    for name, first in (("RECORD", _first_of_record), ("top_level.txt", str.strip)):
        try:
            with open(os.path.join(directory, name), encoding="utf-8", errors="replace") as file:
                return {first(line) for line in file}
        except OSError:
            continue
    return None


def _first_of_record(line: str) -> str:
    # "package/module.py,sha256=...,123" and "module.cpython-311-x86_64-linux-gnu.so,...": the name before "/" or "."
    return line.partition(",")[0].partition("/")[0].partition(".")[0]
