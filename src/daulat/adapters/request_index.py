"""Where in the log a request's entry stands. A projection: delete the file, and the sequencer makes it anew."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from daulat.adapters.sqlite_file import opened, transaction
from daulat.core.ids import REQUEST_ID_LENGTH
from daulat.errors import SealBroken

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS request(id TEXT PRIMARY KEY, origin TEXT NOT NULL, position INTEGER NOT NULL)
    STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS control(origin TEXT NOT NULL, position INTEGER NOT NULL, type TEXT NOT NULL,
    PRIMARY KEY (origin, position)) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS state(origin TEXT PRIMARY KEY, size INTEGER NOT NULL) STRICT;
"""
_TYPE_OF: Final = "SELECT type FROM control WHERE origin = ? AND position = ?"
# The layout is fixed (`core.entries`), so the id need not be parsed out of the JSON.
_BEFORE: Final = b'{"type":"inference/v1","admission":{"request_id":"'
_ID: Final = slice(len(_BEFORE), len(_BEFORE) + REQUEST_ID_LENGTH)


class RequestIndex:
    """The sequencer's side, of one shard, writes; anyone of this user reads, in all shards."""

    def __init__(self, path: Path, origin: str) -> None:
        self._origin = origin
        self._db = opened(path, _SCHEMA, "journal_mode=WAL", "synchronous=NORMAL")
        self._db.execute("INSERT OR IGNORE INTO state VALUES (?, 0)", (origin,))
        (self.size,) = self._db.execute("SELECT size FROM state WHERE origin = ?", (origin,)).fetchone()

    def add(self, first: int, new: Sequence[bytes]) -> None:
        requests, control, origin = [], [], self._origin
        for index, entry in enumerate(new, first):
            if entry.startswith(_BEFORE):
                requests.append((entry[_ID].decode(), origin, index))
            else:
                control.append((origin, index, json.loads(entry)["type"]))
        try:
            with transaction(self._db):
                self._db.executemany("INSERT OR REPLACE INTO request VALUES (?,?,?)", requests)
                self._db.executemany("INSERT OR REPLACE INTO control VALUES (?,?,?)", control)
                self._db.execute("UPDATE state SET size = ? WHERE origin = ?", (first + len(new), self._origin))
        except sqlite3.Error as error:
            raise SealBroken(f"the index could not be written: {error}") from None
        self.size = first + len(new)

    def type_of(self, index: int) -> str | None:
        row = self._db.execute(_TYPE_OF, (self._origin, index)).fetchone()
        return None if row is None else str(row[0])

    def close(self) -> None:
        self._db.close()


def find(path: Path, request_id: str) -> tuple[str, int] | None:
    """Origin and index of a request's entry, None when there is none (yet). For readers in other processes.

    What stands here is a hint: whoever reads the entry makes sure that it is that request's.

    Raises:
        SealBroken: the file is no index any more.
    """
    try:
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
            row = connection.execute("SELECT origin, position FROM request WHERE id = ?", (request_id,)).fetchone()
        return None if row is None else (str(row[0]), int(row[1]))
    except sqlite3.OperationalError:
        return None  # not created yet
    except (sqlite3.DatabaseError, ValueError) as error:
        raise SealBroken(f"the index cannot be read: {error}") from None


class IndexReader:
    """One shard's part of the index, for looking at all of it. Empty where there is none (yet)."""

    def __init__(self, path: Path, origin: str) -> None:
        self._origin = origin
        self.size = 0
        try:
            self._db = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
            row = self._db.execute("SELECT size FROM state WHERE origin = ?", (origin,)).fetchone()
        except sqlite3.OperationalError:
            return  # not created yet
        self.size = 0 if row is None else int(row[0])

    def position_of(self, request_id: str) -> int | None:
        row = self._db.execute("SELECT origin, position FROM request WHERE id = ?", (request_id,)).fetchone()
        return int(row[1]) if row is not None and row[0] == self._origin else None

    def type_of(self, index: int) -> str | None:
        row = self._db.execute(_TYPE_OF, (self._origin, index)).fetchone()
        return None if row is None else str(row[0])

    def close(self) -> None:
        if hasattr(self, "_db"):
            self._db.close()


def drop(path: Path) -> None:
    """Delete the projection. Nobody may have it open."""
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
