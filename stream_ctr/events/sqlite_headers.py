"""Headers of the embedded log's records, in a table of their own.

Events carry none, so the table is made by the first record that has some, and a log without it costs one
look a read. Files of earlier versions, which know nothing of headers, stay readable both ways.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from stream_ctr.events.log import Headers
from stream_ctr.events.sqlite.file import SqliteFile


def write_headers(file: SqliteFile, headers: Sequence[tuple[int, Headers]]) -> None:
    """Store the headers of entries by row id, inside the transaction that appends them."""
    file.execute("CREATE TABLE IF NOT EXISTS headers (id INTEGER PRIMARY KEY, content BLOB NOT NULL)")
    file.execute_many(
        "INSERT INTO headers VALUES (?, ?)",
        [(row, msgspec.msgpack.encode(content)) for row, content in headers],
    )


def read_headers(file: SqliteFile, base: int, rows: Sequence[tuple[Any, ...]]) -> dict[int, Headers]:
    """Headers by offset of consecutive rows (offset first) of the partition whose ids begin at ``base``."""
    if not rows or not _there(file):
        return {}
    found = file.execute(
        "SELECT id - ?, content FROM headers WHERE id >= ? AND id <= ?",
        (base, base | rows[0][0], base | rows[-1][0]),
    )
    return {offset: msgspec.msgpack.decode(content, type=Headers) for offset, content in found}


def drop_headers(file: SqliteFile, first: int, end: int) -> None:
    """Forget the headers of the row ids from ``first`` to before ``end``."""
    if _there(file):
        file.execute("DELETE FROM headers WHERE id >= ? AND id < ?", (first, end))


def _there(file: SqliteFile) -> bool:
    return bool(file.execute("SELECT 1 FROM sqlite_master WHERE name = 'headers'"))
