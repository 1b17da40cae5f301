"""Where in the log a request's entry stands. A projection: delete the file, and the sequencer makes it anew."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Final

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS request(id TEXT PRIMARY KEY, position INTEGER NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS control(position INTEGER PRIMARY KEY, type TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS state(origin TEXT NOT NULL, size INTEGER NOT NULL) STRICT;
"""
# The layout is fixed (`core.entries`), so the id need not be parsed out of the JSON.
_INFERENCE: Final = re.compile(rb'\{"type":"inference/v1","admission":\{"request_id":"(req_[0-9a-f]{32})"')


class RequestIndex:
    """The sequencer's side writes, anyone of this user reads."""

    def __init__(self, path: Path, origin: str) -> None:
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        path.chmod(0o600)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=NORMAL")
        self._db.executescript(_SCHEMA)
        row = self._db.execute("SELECT origin, size FROM state").fetchone()
        if row is None or row[0] != origin:  # of another shard: its requests stay readable by its own tiles
            self._db.executescript("DELETE FROM request; DELETE FROM control; DELETE FROM state;")
            self._db.execute("INSERT INTO state VALUES (?, 0)", (origin,))
            row = (origin, 0)
        self.size = int(row[1])

    def add(self, first: int, new: Sequence[bytes]) -> None:
        requests, control = [], []
        for index, entry in enumerate(new, first):
            if match := _INFERENCE.match(entry):
                requests.append((match[1].decode(), index))
            else:
                control.append((index, json.loads(entry)["type"]))
        self._db.execute("BEGIN")
        self._db.executemany("INSERT OR REPLACE INTO request VALUES (?,?)", requests)
        self._db.executemany("INSERT OR REPLACE INTO control VALUES (?,?)", control)
        self._db.execute("UPDATE state SET size = ?", (first + len(new),))
        self._db.execute("COMMIT")
        self.size = first + len(new)

    def type_of(self, index: int) -> str | None:
        row = self._db.execute("SELECT type FROM control WHERE position = ?", (index,)).fetchone()
        return None if row is None else str(row[0])

    def close(self) -> None:
        self._db.close()


def find(path: Path, request_id: str) -> int | None:
    """The log index of a request's entry, None when there is none (yet). For readers in other processes."""
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        row = connection.execute("SELECT position FROM request WHERE id = ?", (request_id,)).fetchone()
    except sqlite3.OperationalError:
        return None  # not created yet
    finally:
        connection.close()
    return None if row is None else int(row[0])
