"""Subversion repositories: by the program ``svn``, here or anywhere, and by ``svnlook`` what is about to be committed."""

from __future__ import annotations

import time
from datetime import datetime
from typing import TYPE_CHECKING, Final
from urllib.parse import quote, unquote
from xml.etree import ElementTree as ET

from hotfd.errors import ConfigError
from hotfd.publish import programs
from hotfd.publish.repository import MAX_ENTRIES, MAX_PENDING, Commit, Entry, split

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from hotfd.publish.programs import Deadline
    from hotfd.publish.repository import Kind, Relation

CALL_LIMIT: Final = 60.0
"""Seconds for one call of svn: its repository may be far away."""

MAX_DIGITS: Final = 18
"""Of a revision's number: no repository has as many."""

ABSENT: Final = ("E200009", "E160013", "W160013", "E195012")
"""How svn says that a path is not there at a revision."""


class Svn:
    """A Subversion repository.

    Its revisions are named ``r1``, ``r2`` and so on.

    Args:
        where: its URL, or a directory that was checked out of it.
        path: the directory of modules below that.
        deadline: when every call has to be done.
    """

    def __init__(self, where: str, path: str, deadline: Deadline) -> None:
        self.where = where
        self.deadline = deadline
        self._program = programs.find("svn", "a Subversion repository")
        self._env = programs.environment()
        self._path = path
        self._top = self._text("info", "--show-item", "url", self._target(where)).rstrip("/")
        self._url = "/".join([self._top, quote(path)]) if path else self._top

    def newest(self, rev: str | None = None) -> str:
        """Return the name of the newest revision, or of the one that ``rev`` names."""
        if rev is None or rev.upper() == "HEAD":
            # Of what is surely there: the directory of modules may come later.
            return "r" + self._text("info", "--show-item", "revision", self._target(self._top))
        number = rev.removeprefix("r")
        known = number.isascii() and number.isdecimal() and len(number) <= MAX_DIGITS
        if not known or int(number) > number_of(self.newest()):
            raise ConfigError(f"{self.where}: there is no revision {rev!r}")
        return f"r{int(number)}"

    def modules(self, revision: str, only: str | None = None) -> Mapping[str, tuple[Entry, ...]]:
        """Return the files by directory at a revision."""
        at = number_of(revision)
        listing = self._xml_if_there("list", "--recursive", "--xml", self._target(self._below(only), at))
        if listing is None:
            return {}
        marks = self._xml_if_there(
            "propget", "svn:executable", "--recursive", "--xml", "-r", str(at), self._target(self._below(only), at)
        )
        links = self._xml_if_there(
            "propget", "svn:special", "--recursive", "--xml", "-r", str(at), self._target(self._below(only), at)
        )
        base = self._below(only)
        executable, special = _targets(marks, base), _targets(links, base)
        found: dict[str, list[Entry]] = {}
        entries = listing.findall("./list/entry[@kind='file']")
        if len(entries) > MAX_ENTRIES:
            raise ConfigError(f"{self.where}: more than {MAX_ENTRIES} files; name the directory of modules with --path")
        for entry in entries:
            name = entry.findtext("name") or ""
            place = split(f"{only}/{name}" if only else name, "")
            if place is not None:
                kind: Kind = "link" if name in special else "file"
                size = int(entry.findtext("size") or 0)
                found.setdefault(place[0], []).append(Entry(place[1], size, kind, name in executable, name))
        return {
            module: tuple(sorted(entries, key=lambda entry: entry.path)) for module, entries in sorted(found.items())
        }

    def read(self, revision: str, module: str, entries: Sequence[Entry]) -> dict[str, bytes]:
        """Return what is in files, by path."""
        at = number_of(revision)
        below = self._below(module)
        return {entry.path: self._svn("cat", self._target(f"{below}/{quote(entry.path)}", at)) for entry in entries}

    def commit(self, revision: str) -> Commit:
        """Return who made a revision, when, and the first line of the message."""
        at = str(number_of(revision))
        entry = _parsed(self._svn("log", "--xml", "-r", at, self._target(self._top))).find("logentry")
        if entry is None:
            raise ConfigError(f"{self.where}: nothing is known of revision {revision}")
        message = (entry.findtext("msg") or "").strip()
        when = datetime.fromisoformat(entry.findtext("date") or "1970-01-01T00:00:00Z").timestamp()
        return Commit(revision, entry.findtext("author") or "", when, message.split("\n")[0])

    def touching(self, module: str, after: str | None, until: str) -> list[str]:
        """Return the revisions that touched a module, oldest first."""
        last = number_of(until)
        target = self._target(self._below(module), last)
        if after is None:
            said = self._xml_if_there("log", "--xml", "-q", "-r", f"{last}:1", "--limit", "1", target)
        elif number_of(after) >= last:
            return []
        else:
            span = f"{number_of(after) + 1}:{last}"
            said = self._xml_if_there("log", "--xml", "-q", "-r", span, "--limit", str(MAX_PENDING + 1), target)
        return [f"r{entry.get('revision')}" for entry in said.findall("logentry")] if said is not None else []

    def ordered(self, revisions: Collection[str], until: str) -> list[str]:
        """Return revisions by their numbers."""
        return sorted(revisions, key=number_of)

    def relation(self, old: str, new: str) -> Relation:
        """Return how one revision stands to another: Subversion has but one line."""
        if old == new:
            return "same"
        if not is_revision(old):
            return "unrelated"
        if number_of(old) < number_of(new):
            return "older"
        return "newer" if number_of(old) <= number_of(Svn.newest(self)) else "unrelated"

    def _below(self, module: str | None) -> str:
        return f"{self._url}/{quote(module)}" if module else self._url

    @staticmethod
    def _target(where: str, at: int | None = None) -> str:
        # What follows the last @ is a peg revision, also when it is empty.
        return f"{where}@{at if at is not None else ''}"

    def _run(self, *arguments: str) -> bytes:
        return programs.run(arguments, self.deadline, limit=CALL_LIMIT, env=self._env)[1]

    def _svn(self, *arguments: str) -> bytes:
        try:
            return self._run(self._program, "--non-interactive", *arguments)
        except programs.TooLate:
            raise
        except ConfigError as error:
            # A missing path is told first as a warning of svn list; the locale, if it is none here, before all.
            raise ConfigError(f"{self.where}: {programs.essence(error, 'svn: E', *ABSENT)}") from None

    def _text(self, *arguments: str) -> str:
        return self._svn(*arguments).decode(errors="replace").strip()

    def _xml_if_there(self, *arguments: str) -> ET.Element | None:
        try:
            return _parsed(self._svn(*arguments))
        except programs.TooLate:
            raise
        except ConfigError as error:
            if any(code in str(error) for code in ABSENT):
                return None
            raise


class SvnTransaction(Svn):
    """What is about to be committed to a repository on this machine, as a revision that follows the last one.

    Args:
        directory: the repository's.
        path: the directory of modules in it.
        deadline: when every call has to be done.
        transaction: its name, as the hook is given it.
    """

    def __init__(self, directory: str, path: str, deadline: Deadline, transaction: str) -> None:
        super().__init__(f"file://{quote(directory)}", path, deadline)
        self._directory = directory
        self._transaction = transaction
        self._look = programs.find("svnlook", "a hook of Subversion")
        # Looked up once each: every question is a process, and who commits waits.
        self._base = "r" + self._run(self._look, "youngest", directory).decode().strip()
        self._entries: dict[str, tuple[Entry, ...]] = {}
        self._changed = self._modules_changed()

    def newest(self, rev: str | None = None) -> str:
        """Return the transaction's name."""
        return self._transaction

    def modules(self, revision: str, only: str | None = None) -> Mapping[str, tuple[Entry, ...]]:
        """Return the files of the modules that the transaction touches."""
        if revision != self._transaction:
            return super().modules(revision, only)
        found: dict[str, tuple[Entry, ...]] = {}
        for module in self._changed if only is None else [only]:
            if module not in self._entries:
                self._entries[module] = self._listed(module)
            if self._entries[module]:
                found[module] = self._entries[module]
        return found

    def _listed(self, module: str) -> tuple[Entry, ...]:
        names = self._named("/".join(part for part in (self._path, module) if part))
        if len(names) > MAX_ENTRIES:
            raise ConfigError(f"{self.where}: module {module!r} has more than {MAX_ENTRIES} files")
        return tuple(self._entry(name) for name in sorted(names) if not name.endswith("/"))

    def read(self, revision: str, module: str, entries: Sequence[Entry]) -> dict[str, bytes]:
        """Return what is in files, by path."""
        if revision != self._transaction:
            return super().read(revision, module, entries)
        return {entry.path: self._raw("cat", entry.key) for entry in entries}

    def commit(self, revision: str) -> Commit:
        """Return who is about to commit."""
        if revision != self._transaction:
            return super().commit(revision)
        return Commit(revision, self._looked("author").strip(), time.time(), self._looked("log").strip().split("\n")[0])

    def touching(self, module: str, after: str | None, until: str) -> list[str]:
        """Return the revisions that touched a module, and the transaction if it does."""
        own = [self._transaction] if module in self._changed else []
        if after is None and own:
            return own
        return super().touching(module, after, self._base) + own

    def ordered(self, revisions: Collection[str], until: str) -> list[str]:
        """Return revisions by their numbers, and the transaction after them."""
        earlier = super().ordered([name for name in revisions if name != self._transaction], until)
        return [*earlier, self._transaction] if self._transaction in revisions else earlier

    def relation(self, old: str, new: str) -> Relation:
        """Return how a revision stands to what is about to be committed."""
        if old == self._transaction:
            return "same"
        return "older" if is_revision(old) and number_of(old) <= number_of(self._base) else "unrelated"

    def _named(self, where: str, *flags: str) -> list[str]:
        """Return what is in a directory, by its path; nothing if the transaction removes it."""
        try:
            names = self._looked("tree", where, "--full-paths", *flags).splitlines()
        except programs.TooLate:
            raise
        except ConfigError as error:
            if any(code in str(error) for code in ABSENT):
                return []
            raise
        return [name.removeprefix("/") for name in names]

    def _modules_changed(self) -> list[str]:
        changed = [line[4:] for line in self._looked("changed").splitlines()]
        if any(name.endswith("/") and f"{self._path}/".startswith(name) for name in changed):
            # The directory of modules, or one above it, is new, perhaps a copy: then what is in it is not named.
            changed += self._named(self._path, "--non-recursive")
        places = (split(f"{name}." if name.endswith("/") else name, self._path) for name in changed)
        return sorted({place[0] for place in places if place is not None})

    def _entry(self, name: str) -> Entry:
        place = split(name, self._path)
        assert place is not None
        properties = {line.strip() for line in self._looked("proplist", name).splitlines()}
        size = int(self._looked("filesize", name).strip() or 0)
        kind: Kind = "link" if "svn:special" in properties else "file"
        return Entry(place[1], size, kind, "svn:executable" in properties, name)

    def _raw(self, command: str, path: str | None = None, *flags: str) -> bytes:
        # With a slash before it, no path is taken for an option.
        where = [] if path is None else [f"/{path}"]
        return self._run(self._look, command, *flags, "-t", self._transaction, self._directory, *where)

    def _looked(self, command: str, path: str | None = None, *flags: str) -> str:
        return self._raw(command, path, *flags).decode(errors="replace")


def number_of(revision: str) -> int:
    """Return the number of a revision such as ``r12``."""
    return int(revision[1:])


def is_revision(name: str) -> bool:
    """Return whether a name is that of a revision of Subversion."""
    return name[:1] == "r" and name[1:].isascii() and name[1:].isdecimal()


def _parsed(said: bytes) -> ET.Element:
    try:
        return ET.fromstring(said)  # noqa: S314 - what svn itself writes; expat as of 2.4 bounds entities
    except ET.ParseError as error:
        raise ConfigError(f"what svn says cannot be read: {error}") from None


def _targets(marks: ET.Element | None, base: str) -> set[str]:
    """Return the files that have a property, as paths below ``base``."""
    paths: Iterable[str] = (target.get("path") or "" for target in marks.findall("target")) if marks is not None else ()
    return {unquote(path[len(base) + 1 :]) for path in paths}
