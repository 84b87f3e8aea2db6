"""Sessions in one SQLite file, which several processes of one machine may share."""

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import msgspec

from tokenturing.serve.store import FIRST, LONGEST_TICK, Change, Claim, Record, StoreError, pack, unpack_record

Result = TypeVar("Result")

LOCK_SECONDS = 2.0
"""to wait for another process that writes"""
LOG_PAGES = 16_000
"""of 4 KiB in the log before they go to where they belong, which takes a while; meanwhile most are written many times"""
FORM = 1
TABLES = """
CREATE TABLE IF NOT EXISTS sessions (
    id TEXT PRIMARY KEY, fence INTEGER NOT NULL, worker TEXT NOT NULL, created REAL NOT NULL, used REAL NOT NULL,
    about BLOB NOT NULL, state BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS by_use ON sessions (used);
CREATE INDEX IF NOT EXISTS by_age ON sessions (created);
CREATE TABLE IF NOT EXISTS replies (id TEXT, slot INTEGER, seq INTEGER, reply BLOB, PRIMARY KEY (id, slot)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS marks (id TEXT, name TEXT, state BLOB, PRIMARY KEY (id, name));
CREATE TABLE IF NOT EXISTS clock (one INTEGER PRIMARY KEY CHECK (one = 1), seconds REAL, wall REAL);
CREATE TABLE IF NOT EXISTS counts (one INTEGER PRIMARY KEY CHECK (one = 1), sessions INTEGER);
INSERT OR IGNORE INTO clock VALUES (1, 0, 0);
INSERT OR IGNORE INTO counts VALUES (1, 0);
CREATE TRIGGER IF NOT EXISTS one_more AFTER INSERT ON sessions BEGIN UPDATE counts SET sessions = sessions + 1; END;
CREATE TRIGGER IF NOT EXISTS one_less AFTER DELETE ON sessions BEGIN
    UPDATE counts SET sessions = sessions - 1;
    DELETE FROM replies WHERE id = old.id;
    DELETE FROM marks WHERE id = old.id; END;
"""

DAMAGED, FOREIGN = "it is damaged: restore a copy, see the guide for operators", "it is no SQLite file: name another one"
ADVICE = {
    "SQLITE_FULL": (
        "there is no room left on its disk: free some, and send the same again",
        "there is no room left on its disk: free some, or name a file on another",
    ),
    "SQLITE_BUSY": (
        "another process holds it: send the same again",
        "another process holds it: end that one, or name another file",
    ),
    "SQLITE_NOTADB": (FOREIGN, FOREIGN),
    "SQLITE_CORRUPT": (DAMAGED, DAMAGED),
    "SQLITE_READONLY": ("it may not be written by this user",) * 2,
}
"""by the beginning of an error's name: for who sent a message, and for who starts a server"""
OTHERWISE = "send the same again", "expected a file that this user may read and write, in such a folder"
LASTING = ("SQLITE_NOTADB", "SQLITE_CORRUPT")


class SqliteStore:
    """A store in a file with a write-ahead log: what a transaction wrote is on the disk when it returns.

    Args:
        path: of the file; it is made if it is not there.
        window: replies that are kept of each session.
    """

    def __init__(self, path: str | Path, window: int):
        self.path, self.window = Path(path), window
        self._local = threading.local()
        self._all: list[sqlite3.Connection] = []
        self._lock = threading.Lock()
        if not self.path.parent.is_dir():
            raise StoreError(f"there is no folder {self.path.parent}: make it, or name another place for the sessions")
        if self.path.is_dir():
            raise StoreError(f"{self.path} is a folder: name a file in it, such as {self.path / 'sessions.db'}")
        self._opened = False
        try:
            self._prepare()
        except BaseException:
            self.close()
            raise
        self._opened = True

    def _prepare(self) -> None:
        with self._transaction() as connection:
            (form,) = connection.execute("PRAGMA user_version").fetchone()
            if form > FORM:
                raise StoreError(f"{self.path} is of a newer tokenturing (form {form}): expected at most {FORM}")
        self._translated(lambda: self._connection().executescript(TABLES))
        self._translated(lambda: self._connection().execute(f"PRAGMA user_version = {FORM}"))

    def get(self, session: str) -> Record | None:
        row = self._read("SELECT about, state, created FROM sessions WHERE id = ?", session)
        return None if row is None else _join(*row)

    def claim(self, session: str, worker: str) -> Claim | None:
        with self._transaction(durable=False) as connection:
            connection.execute(
                "UPDATE sessions SET fence = fence + (worker <> ?), worker = ?, used = (SELECT seconds FROM clock) WHERE id = ?",
                (worker, worker, session),
            )
            row = connection.execute("SELECT about, state, created, fence FROM sessions WHERE id = ?", (session,)).fetchone()
        return None if row is None else Claim(_join(*row[:3]), row[3])

    def put(self, changes: Sequence[Change], new: Sequence[Record] = (), worker: str = "") -> list[str]:
        lost = []
        with self._transaction() as connection:
            (now,) = connection.execute("SELECT seconds FROM clock").fetchone()
            for record in new:
                about, state = _split(record)
                values = (record.session, FIRST, worker, now, now, about, state)
                if not connection.execute("INSERT OR IGNORE INTO sessions VALUES (?, ?, ?, ?, ?, ?, ?)", values).rowcount:
                    lost.append(record.session)
            for change in changes:
                record = change.record
                about, state = _split(record)
                written = connection.execute(
                    "UPDATE sessions SET used = ?, about = ?, state = ? WHERE id = ? AND fence = ?",
                    (now, about, state, record.session, change.fence),
                )
                if not written.rowcount:
                    lost.append(record.session)
                    continue
                connection.executemany(
                    "INSERT OR REPLACE INTO replies VALUES (?, ?, ?, ?)",
                    [(record.session, seq % self.window, seq, reply) for seq, reply in change.replies],
                )
                connection.executemany(
                    "INSERT OR REPLACE INTO marks VALUES (?, ?, ?)",
                    [(record.session, name, mark) for name, mark in change.marks],
                )
        return lost

    def reply(self, session: str, seq: int) -> bytes | None:
        row = self._read("SELECT reply FROM replies WHERE id = ? AND seq = ?", session, seq)
        return None if row is None else row[0]

    def mark(self, session: str, name: str) -> bytes | None:
        row = self._read("SELECT state FROM marks WHERE id = ? AND name = ?", session, name)
        return None if row is None else row[0]

    def marks(self, session: str) -> list[str]:
        return [name for (name,) in self._rows("SELECT name FROM marks WHERE id = ? ORDER BY name", session)]

    def delete(self, session: str) -> bool:
        with self._transaction() as connection:
            return connection.execute("DELETE FROM sessions WHERE id = ?", (session,)).rowcount > 0

    def expire(self, idle: float | None, total: float | None) -> list[str]:
        wall = time.time()
        with self._transaction(durable=False) as connection:
            connection.execute(
                "UPDATE clock SET seconds = seconds + min(max(? - wall, 0), ?) * (wall > 0), wall = ?",
                (wall, LONGEST_TICK, wall),
            )
            (now,) = connection.execute("SELECT seconds FROM clock").fetchone()
            found: list[str] = []
            for column, limit in (("used", idle), ("created", total)):
                if limit is not None:
                    query = f"DELETE FROM sessions WHERE {column} < ? RETURNING id"
                    found += [name for (name,) in connection.execute(query, (now - limit,)).fetchall()]
        return found

    def page(self, after: str, limit: int) -> list[Record]:
        query = "SELECT about, x'', created FROM sessions WHERE id > ? ORDER BY id LIMIT ?"
        return [_join(*row) for row in self._rows(query, after, limit)]

    def count(self) -> int:
        return self._rows("SELECT sessions FROM counts")[0][0]

    def now(self) -> float:
        return self._rows("SELECT seconds FROM clock")[0][0]

    def close(self) -> None:
        with self._lock:
            for connection in self._all:
                connection.close()
            self._all.clear()

    def _connection(self) -> sqlite3.Connection:
        """One for each thread."""
        if not hasattr(self._local, "connection"):
            connection = self._translated(self._open)
            self._local.connection, self._local.durable = connection, True
        return self._local.connection

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=LOCK_SECONDS, isolation_level=None, check_same_thread=False)
        (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
        if mode != "wal":
            connection.close()
            raise StoreError(f"{self.path} can have no write-ahead log (but {mode}): name a file on a disk of this machine")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(f"PRAGMA wal_autocheckpoint = {LOG_PAGES}")
        with self._lock:
            self._all.append(connection)
        return connection

    @contextmanager
    def _transaction(self, *, durable: bool = True) -> Iterator[sqlite3.Connection]:
        """All or nothing. One that is not durable may be lost when the power goes, with all processes; it waits for no disk."""
        connection = self._connection()
        if durable is not self._local.durable:
            self._translated(lambda: connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}"))
            self._local.durable = durable
        self._translated(lambda: connection.execute("BEGIN IMMEDIATE"))
        try:
            yield connection
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            raise self._error(error) from error
        finally:
            if connection.in_transaction:
                self._translated(lambda: connection.execute("ROLLBACK"))

    def _rows(self, query: str, *values: object) -> list[tuple]:
        connection = self._connection()
        return self._translated(lambda: connection.execute(query, values).fetchall())

    def _read(self, query: str, *values: object) -> tuple | None:
        rows = self._rows(query, *values)
        return rows[0] if rows else None

    def _translated(self, call: Callable[[], Result]) -> Result:
        try:
            return call()
        except sqlite3.Error as error:
            raise self._error(error) from error

    def _error(self, error: sqlite3.Error) -> StoreError:
        name = getattr(error, "sqlite_errorname", "")
        key = next((key for key in ADVICE if name.startswith(key)), "")
        later, at_start = ADVICE.get(key, OTHERWISE)
        text = f"the sessions in {self.path.name} cannot be reached ({error}): {later if self._opened else at_start}"
        return StoreError(text, lasting=key in LASTING)


def _split(record: Record) -> tuple[bytes, bytes]:
    return pack(msgspec.structs.replace(record, state=b"")), record.state


def _join(about: bytes, state: bytes, created: float) -> Record:
    return msgspec.structs.replace(unpack_record(about), state=state, created=created)
