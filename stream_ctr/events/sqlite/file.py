"""The SQLite file of the embedded log: opening, creation and format checks.

Record headers are in a separate table. Events carry no headers, so the table is created by the first record
with headers, and a log without it costs one query per read. Files of earlier versions, which have no headers
table, stay readable by earlier and later versions.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
import uuid
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from stream_ctr.errors import LogError, UsageError
from stream_ctr.events.log import Headers

SCHEME = "sqlite:///"
FORMAT_VERSION = 1
_APPLICATION_ID = 0x53435452  # "SCTR" in the file's header distinguishes event logs from other SQLite files

_SCHEMA = (
    "CREATE TABLE log (id TEXT NOT NULL)",
    "CREATE TABLE topics (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, uuid TEXT NOT NULL)",
    "CREATE TABLE partitions (id INTEGER PRIMARY KEY, topic INTEGER NOT NULL, partition INTEGER NOT NULL, "
    "start_offset INTEGER NOT NULL, end_offset INTEGER NOT NULL, UNIQUE (topic, partition))",
    "CREATE TABLE entries (id INTEGER PRIMARY KEY, timestamp_ms INTEGER NOT NULL, key BLOB, value BLOB)",
)

# A write-ahead file that grew during a burst is truncated to this size at the next checkpoint.
_WAL_LIMIT_BYTES = 64 * 1024 * 1024

_RETRY_PAUSE_SECONDS = 0.02


def path_of(url: str) -> Path:
    """The file that a ``sqlite:///path`` URL names; a relative path starts at the working folder.

    Raises:
        UsageError: the URL has another form.
    """
    name = url.removeprefix(SCHEME)
    if not url.startswith(SCHEME) or not name or name.endswith("/"):
        raise UsageError(
            f"{url!r} is not a log URL; write sqlite:///relative/path or sqlite:////absolute/path"
        )
    return Path(name)


class SqliteFile:
    """One connection to an event log's file; SQLite's errors are raised as :class:`LogError`.

    With ``create``, a missing or empty file becomes a log, and missing folders are created.

    Raises:
        LogError: the file is missing, is not an event log, or cannot be opened.
    """

    def __init__(self, url: str, path: Path, *, create: bool, busy_timeout_seconds: float) -> None:
        self.url = url
        self.path = path.absolute()
        self._lock = threading.RLock()
        if create:
            self._make_folder()
        elif not path.exists():
            raise LogError(f"{url}: the log does not exist; check the path, or start a writer of events")
        with self._errors():
            self.connection = sqlite3.connect(
                f"{self.path.as_uri()}?mode={'rwc' if create else 'rw'}",
                uri=True,
                timeout=busy_timeout_seconds,
                isolation_level=None,
                check_same_thread=False,
            )
        try:
            self.execute("PRAGMA synchronous = FULL")
            self.execute(f"PRAGMA journal_size_limit = {_WAL_LIMIT_BYTES}")
            with self.transaction("DEFERRED"):
                is_log = self._check_format()
            if not is_log:
                self._initialise(create, busy_timeout_seconds)
            self._opened = self._identity()
        except LogError:
            self.close()
            raise

    def _make_folder(self) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise LogError(
                f"{self.url}: cannot create the folder {self.path.parent}: {error.strerror}"
            ) from error

    def _not_a_log(self) -> LogError:
        return LogError(f"{self.url}: the file is not an event log of Stream CTR; give another path")

    def _check_format(self) -> bool:
        """Whether the file is an event log; ``False`` if it is still empty."""
        tables = self.execute("SELECT name FROM sqlite_master LIMIT 1")
        ((application,),) = self.execute("PRAGMA application_id")
        ((version,),) = self.execute("PRAGMA user_version")
        if application == _APPLICATION_ID:
            if version != FORMAT_VERSION:
                raise LogError(
                    f"{self.url}: the file has format {version}; "
                    f"this version of Stream CTR reads {FORMAT_VERSION}"
                )
            return True
        if application != 0 or tables:
            raise self._not_a_log()
        return False

    def _initialise(self, create: bool, busy_timeout_seconds: float) -> None:
        if not create:
            raise self._not_a_log()
        self._use_wal(busy_timeout_seconds)
        with self.transaction("IMMEDIATE"):
            if self._check_format():  # another process created the log first
                return
            for statement in _SCHEMA:
                self.execute(statement)
            self.execute("INSERT INTO log VALUES (?)", (str(uuid.uuid4()),))
            self.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
            self.execute(f"PRAGMA user_version = {FORMAT_VERSION}")

    def _use_wal(self, busy_timeout_seconds: float) -> None:
        """Switch to write-ahead logging; SQLite rejects that without waiting while others open the file."""
        deadline = time.monotonic() + busy_timeout_seconds
        while True:
            try:
                ((mode,),) = self.execute("PRAGMA journal_mode = WAL")
            except LogError as error:
                if not _is_busy(error.__cause__) or time.monotonic() >= deadline:
                    raise
                time.sleep(_RETRY_PAUSE_SECONDS)
                continue
            if mode != "wal":
                raise LogError(
                    f"{self.url}: the file system does not support write-ahead logging; use a local disk"
                )
            return

    def _identity(self) -> tuple[int, int] | None:
        try:
            status = os.stat(self.path)
        except OSError:
            return None
        return status.st_dev, status.st_ino

    def check_in_place(self) -> None:
        """Check that the file is still at its path; otherwise appended records would be lost.

        Raises:
            LogError: the file was removed or replaced.
        """
        if self._identity() != self._opened:
            raise LogError(
                f"{self.url}: the file was removed or replaced while it was open; open the log again"
            )

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            text = f"{error}; check the file, its folder and the free space"
            if _is_busy(error):
                text = "other processes kept the file locked for too long; try again"
            raise LogError(f"{self.url}: {text}") from error

    def execute(self, sql: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """Execute one statement and return all rows."""
        with self._lock, self._errors():
            return self.connection.execute(sql, values).fetchall()

    def pieces(
        self, sql: str, values: Sequence[object], rows: int
    ) -> Generator[list[tuple[Any, ...]], None, None]:
        """Yield the rows of one statement, ``rows`` at a time; only these are in memory."""
        with self._lock, self._errors():
            cursor = self.connection.execute(sql, values)
            while found := cursor.fetchmany(rows):
                yield found

    def execute_many(self, sql: str, rows: Sequence[Sequence[object]]) -> None:
        """Execute one statement for each row."""
        with self._lock, self._errors():
            self.connection.executemany(sql, rows)

    @contextmanager
    def transaction(self, kind: str) -> Iterator[None]:
        """One transaction, ``DEFERRED`` to read or ``IMMEDIATE`` to write; all or nothing.

        Writers acquire the lock at once: SQLite may reject, without waiting, a transaction that reads
        first and requests the lock later.
        """
        with self._lock, self._errors():
            self.connection.execute(f"BEGIN {kind}")
            try:
                yield
                self.connection.execute("COMMIT")
            except BaseException:
                if self.connection.in_transaction:  # on a full disk SQLite has ended the transaction already
                    self.connection.execute("ROLLBACK")
                raise

    def close(self) -> None:
        """Close the connection."""
        with self._lock, self._errors():
            self.connection.close()


def _is_busy(error: BaseException | None) -> bool:
    return isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorname", "").startswith(
        "SQLITE_BUSY"
    )


def write_headers(file: SqliteFile, headers: Sequence[tuple[int, Headers]]) -> None:
    """Store the headers of entries by row id, inside the transaction that appends the entries."""
    file.execute("CREATE TABLE IF NOT EXISTS headers (id INTEGER PRIMARY KEY, content BLOB NOT NULL)")
    file.execute_many(
        "INSERT INTO headers VALUES (?, ?)",
        [(row, msgspec.msgpack.encode(content)) for row, content in headers],
    )


def read_headers(file: SqliteFile, base: int, rows: Sequence[tuple[Any, ...]]) -> dict[int, Headers]:
    """Headers, by offset, of consecutive rows (offset first) of the partition whose ids begin at ``base``."""
    if not rows or not _has_headers_table(file):
        return {}
    found = file.execute(
        "SELECT id - ?, content FROM headers WHERE id >= ? AND id <= ?",
        (base, base | rows[0][0], base | rows[-1][0]),
    )
    return {offset: msgspec.msgpack.decode(content, type=Headers) for offset, content in found}


def drop_headers(file: SqliteFile, first: int, end: int) -> None:
    """Delete the headers of the row ids from ``first`` up to, not including, ``end``."""
    if _has_headers_table(file):
        file.execute("DELETE FROM headers WHERE id >= ? AND id < ?", (first, end))


def _has_headers_table(file: SqliteFile) -> bool:
    return bool(file.execute("SELECT 1 FROM sqlite_master WHERE name = 'headers'"))
