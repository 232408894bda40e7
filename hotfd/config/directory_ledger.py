"""The ledger of a directory store: history, acknowledgements, schemas, addresses. Blocking, as directory_files.py.

It is an index beside the files, in SQLite. Servers get their configuration without it, and publishers publish without
it: what it cannot take waits beside it (directory_history.py). A ledger that was lost begins anew with the last change
of each module.

Rows are fetched before anything is made of them: a cursor that an error keeps alive would keep the file open.
Each call opens the database for itself: nothing stays open in a server for years, and a ledger that was moved away or
replaced is noticed at once. With connections that short a write-ahead log would be written back at each end, and it
could be read by nobody who may not write; so the journal is the ordinary one.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
import time
from typing import TYPE_CHECKING, Final, TypeVar
from urllib.parse import quote

import msgspec

from hotfd.config.release import Event
from hotfd.config.store import MAX_SCHEMA, REMEMBERED, Acknowledgement
from hotfd.errors import ConfigError, StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

T = TypeVar("T")

BUSY: Final = 2.0
"""Seconds that SQLite waits for another process's transaction: each is a few rows."""

PATIENCE: Final = 8.0
"""The same for what servers say, for whom nobody waits: after a publish, hundreds of them say it at once."""

FORMAT: Final = 1
"""Of the tables (``PRAGMA user_version``). A ledger with a higher one was made by a newer hotfd."""

MAX_REPORT: Final = 256 << 10
"""Bytes of an encoded acknowledgement: a hundred faults, and some thousand pinned versions."""

MAX_ROWS: Final = 10_000
"""Acknowledgements, and schemas, of one module that are kept: as many server processes as report within a day."""

_TABLES: Final = (
    """CREATE TABLE IF NOT EXISTS events (module TEXT, sequence INTEGER, version INTEGER, sha256 TEXT, data BLOB,
    PRIMARY KEY (module, sequence)) WITHOUT ROWID""",
    "CREATE TABLE IF NOT EXISTS reports (module TEXT, server TEXT, time REAL, data BLOB, PRIMARY KEY (module, server))",
    "CREATE TABLE IF NOT EXISTS schemas (module TEXT, id TEXT, time REAL, data BLOB, PRIMARY KEY (module, id))",
    "CREATE TABLE IF NOT EXISTS addresses (address TEXT, module TEXT, expires REAL, PRIMARY KEY (address, module))",
)

_encoder = msgspec.json.Encoder()
_event_decoder = msgspec.json.Decoder(Event)
_report_decoder = msgspec.json.Decoder(Acknowledgement)


class LedgerError(StoreError):
    """The ledger cannot be read or written: it is held by somebody for long, or damaged, or not this user's to write."""


class Ledger:
    """The ledger at a path; it may be missing, which reads as empty.

    Args:
        path: the database's. Whoever writes has made the file, with its permissions, before.
    """

    def __init__(self, path: str) -> None:
        self.path = path

    # -- history -------------------------------------------------------------------------------------

    def lacking(self, latest: Sequence[tuple[str, int, float]]) -> list[str]:
        """Return the modules whose last change is not here.

        Args:
            latest: of each module its name, and the sequence and time of its head.
        """
        with self._reading() as database:
            rows = {
                (module, sequence): database.execute(
                    "SELECT data FROM events WHERE module = ? AND sequence = ?", (module, sequence)
                ).fetchall()
                for module, sequence, _ in latest
            }
        known = {
            key: _decoded(self.path, _event_decoder, data).time for key, found in rows.items() for (data,) in found
        }
        return [module for module, sequence, moment in latest if known.get((module, sequence)) != moment]

    def append(self, events: Sequence[Event]) -> None:
        """Write events, on stable storage when this returns; in place of those that no head came to have."""
        rows = [(e.module, e.sequence, e.version, e.sha256, _encoder.encode(e)) for e in events]
        with self._writing(durable=True) as database:
            database.executemany("INSERT OR REPLACE INTO events VALUES (?, ?, ?, ?, ?)", rows)

    def events(self, module: str, below: int, limit: int) -> list[Event]:
        """Return the newest events with a sequence below a number, newest first."""
        with self._reading() as database:
            rows = database.execute(
                "SELECT data FROM events WHERE module = ? AND sequence < ? ORDER BY sequence DESC LIMIT ?",
                (module, below, max(0, limit)),
            ).fetchall()
        return [_decoded(self.path, _event_decoder, data) for (data,) in rows]

    def digest(self, module: str, version: int, up_to: int) -> str | None:
        """Return the SHA-256 of a release as the history up to a sequence has it, or None."""
        with self._reading() as database:
            rows = database.execute(
                "SELECT sha256 FROM events WHERE module = ? AND version = ? AND sequence <= ? LIMIT 1",
                (module, version, up_to),
            ).fetchall()
        return str(rows[0][0]) if rows else None

    # -- what servers say ----------------------------------------------------------------------------

    def note(self, reports: Sequence[Acknowledgement]) -> None:
        """Keep the newest report of each server and module; forget those of long ago."""
        now = time.time()
        # A clock that is ahead must not keep a dead server alive, nor one that was ahead keep newer reports out.
        dated = [report if report.time <= now else msgspec.structs.replace(report, time=now) for report in reports]
        rows = [(r.module, r.server, r.time, self._encoded(r), now) for r in dated]
        with self._writing() as database:
            database.executemany(
                "INSERT INTO reports VALUES (?, ?, ?, ?) ON CONFLICT (module, server) DO UPDATE"
                " SET time = excluded.time, data = excluded.data WHERE excluded.time >= time OR time > ?",
                rows,
            )
            database.execute("DELETE FROM reports WHERE time < ?", (now - REMEMBERED,))
            for module in {report.module for report in reports}:
                _keep(database, "reports", module)

    def reports(self, module: str) -> list[Acknowledgement]:
        """Return the last report of each server within a day, by server."""
        since = time.time() - REMEMBERED
        with self._reading() as database:
            rows = database.execute(
                "SELECT data FROM reports WHERE module = ? AND time >= ? ORDER BY server", (module, since)
            ).fetchall()
        return [_decoded(self.path, _report_decoder, data) for (data,) in rows]

    def declare(self, module: str, schema_id: str, schema: bytes) -> None:
        """Keep a schema; forget those of long ago."""
        if len(schema) > MAX_SCHEMA:
            raise ConfigError(f"module {module!r}: a schema of {len(schema)} bytes; at most {MAX_SCHEMA} are kept")
        now = time.time()
        with self._writing() as database:
            database.execute("INSERT OR REPLACE INTO schemas VALUES (?, ?, ?, ?)", (module, schema_id, now, schema))
            database.execute("DELETE FROM schemas WHERE time < ?", (now - REMEMBERED,))
            _keep(database, "schemas", module)

    def schemas(self, module: str) -> dict[str, bytes]:
        """Return the schemas that were declared within a day, by id."""
        since = time.time() - REMEMBERED
        with self._reading() as database:
            rows = database.execute(
                "SELECT id, data FROM schemas WHERE module = ? AND time >= ?", (module, since)
            ).fetchall()
        return {str(schema_id): bytes(data) for schema_id, data in rows}

    # -- configuration servers -----------------------------------------------------------------------

    def register(self, address: str, modules: Sequence[str], ttl: float) -> None:
        """Say that modules, and no others, are served at an address for ``ttl`` seconds."""
        now = time.time()
        with self._writing() as database:
            database.execute("DELETE FROM addresses WHERE address = ? OR expires <= ?", (address, now))
            database.executemany(
                "INSERT INTO addresses VALUES (?, ?, ?)", [(address, module, now + ttl) for module in set(modules)]
            )

    def unregister(self, address: str) -> None:
        """Forget an address."""
        with self._writing() as database:
            database.execute("DELETE FROM addresses WHERE address = ?", (address,))

    def addresses(self, module: str) -> list[str]:
        """Return where a module is served now, sorted."""
        with self._reading() as database:
            rows = database.execute(
                "SELECT address FROM addresses WHERE module = ? AND expires > ? ORDER BY address",
                (module, time.time()),
            ).fetchall()
        return [str(address) for (address,) in rows]

    # -- the database --------------------------------------------------------------------------------

    def _encoded(self, report: Acknowledgement) -> bytes:
        data = _encoder.encode(report)
        if len(data) > MAX_REPORT:
            raise ConfigError(f"a report of {len(data)} bytes; at most {MAX_REPORT} are kept")
        return data

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        """Open the ledger to read what is in it."""
        with self._told(), contextlib.closing(self._for_reading()) as database:
            yield database

    def _for_reading(self) -> sqlite3.Connection:
        if os.path.exists(self.path):
            database = self._connect("ro", BUSY)
            try:
                if self._format(database) > 0:
                    return database
            except BaseException:
                database.close()
                raise
            database.close()
        empty = sqlite3.connect(":memory:")  # for a missing ledger, and one whose tables nobody has made yet
        _make_tables(empty)
        return empty

    @contextlib.contextmanager
    def _writing(self, *, durable: bool = False) -> Iterator[sqlite3.Connection]:
        """Open the ledger for one transaction: of a publish, which must last and cannot wait, or of servers."""
        wait = BUSY if durable else PATIENCE
        with self._told(), contextlib.closing(self._connect("rw", wait)) as database:
            # EXTRA also synchronises the directory, without which the journal that undoes the transaction may come
            # back after a power cut (https://sqlite.org/pragma.html#pragma_synchronous).
            database.execute(f"PRAGMA synchronous = {'EXTRA' if durable else 'FULL'}")
            database.execute("BEGIN IMMEDIATE")
            if self._format(database) == 0:
                _make_tables(database)
                database.execute(f"PRAGMA user_version = {FORMAT}")
            yield database
            database.execute("COMMIT")  # closing without it rolls back

    def _connect(self, mode: str, wait: float) -> sqlite3.Connection:
        with contextlib.suppress(OSError):  # SQLite says what is wrong then
            if not stat.S_ISREG(os.lstat(self.path).st_mode):  # it would follow a link to any database of this user's
                raise LedgerError(f"{self.path} is no regular file; move it away")
        name = f"file:{quote(self.path)}?mode={mode}"
        return sqlite3.connect(name, uri=True, timeout=wait, isolation_level=None)

    def _format(self, database: sqlite3.Connection) -> int:
        found = int(database.execute("PRAGMA user_version").fetchone()[0])
        if found > FORMAT:
            raise StoreError(f"{self.path} was written by a newer hotfd; use that one with this store")
        return found

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """Turn SQLite's errors into StoreErrors that say what to do."""
        try:
            yield
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # what is above says more than anybody needs
            advice = _ADVICE.get(code, "look at the file, and at the disk")
            if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                advice = f"{_holders(self.path)} held it for long; look at what it does, and try again"
            raise LedgerError(f"{self.path}: {error}; {advice}") from error


_LOST: Final = (
    "it is damaged: move it away, and publish again. Releases and what is in force are not in it; the history then begins "
    "with the last change of each module"
)

_ADVICE: Final = {
    sqlite3.SQLITE_READONLY: "whoever may write the store can; see the file's owner, group and mode",
    sqlite3.SQLITE_PERM: "whoever may write the store can; see the file's owner, group and mode",
    sqlite3.SQLITE_CANTOPEN: "see the owner, group and mode of the file and of its directory",
    sqlite3.SQLITE_FULL: "nothing has changed; make room on the file system and try again",
    sqlite3.SQLITE_CORRUPT: _LOST,
    sqlite3.SQLITE_NOTADB: _LOST,
    sqlite3.SQLITE_ERROR: _LOST,  # another program's tables
}


def _make_tables(database: sqlite3.Connection) -> None:
    for statement in _TABLES:
        database.execute(statement)


def _keep(database: sqlite3.Connection, table: str, module: str) -> None:
    """Forget the oldest rows of a module that are above the limit."""
    # Counted first, in its index: to sort them takes most of the time for which a report holds the ledger.
    counting = f"SELECT count(*) FROM {table} WHERE module = ?"  # noqa: S608 - our own name
    if database.execute(counting, (module,)).fetchone()[0] <= MAX_ROWS:
        return
    database.execute(
        f"DELETE FROM {table} WHERE rowid IN (SELECT rowid FROM {table} WHERE module = ?"  # noqa: S608 - our own name
        " ORDER BY time DESC LIMIT -1 OFFSET ?)",
        (module, MAX_ROWS),
    )


def _decoded(path: str, decoder: msgspec.json.Decoder[T], data: bytes) -> T:
    try:
        return decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, TypeError) as error:
        raise LedgerError(f"{path}: {error}; {_LOST}") from None


def _holders(path: str) -> str:
    """Say which processes have locked a file, as /proc/locks does (proc_locks(5)).

    The file itself is not opened: closing it again would take all locks from this process's other threads (fcntl(2)).
    """
    try:
        found = os.stat(path)
        place = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
        with open("/proc/locks", encoding="ascii") as file:
            rows = [line.split() for line in file]
    except (OSError, UnicodeDecodeError):
        rows, place = [], ""
    # 1: POSIX ADVISORY WRITE 4711 08:01:1234 1073741825 1073741825; who waits has "->" after the number.
    pids = {row[4] for row in rows if len(row) > 5 and row[5] == place and row[4].isdigit()} - {"0", str(os.getpid())}
    return f"process {', '.join(sorted(pids, key=int))} has" if pids else "another process has"
