"""The checkpoint's second place, and what must change together with it, in one SQLite file with synchronous=FULL."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Final

from daulat.adapters.sqlite_file import opened, transaction
from daulat.errors import SealBroken
from daulat.ledger.intake import Cursor, Open
from daulat.ledger.sequencer import Sealed

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS seal(
    origin TEXT PRIMARY KEY, size INTEGER NOT NULL, checkpoint BLOB NOT NULL,
    base_size INTEGER NOT NULL, base_checkpoint BLOB NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS staged(position INTEGER PRIMARY KEY, entry BLOB NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS cursor(
    worker INTEGER PRIMARY KEY, segment INTEGER NOT NULL, offset INTEGER NOT NULL, groups INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS opened(
    worker INTEGER NOT NULL, sequence INTEGER NOT NULL, admission BLOB NOT NULL, attempts TEXT NOT NULL,
    PRIMARY KEY (worker, sequence)) STRICT;
"""


class SqliteSeal:
    """One row a log; staged entries, cursors and open admissions are of the newest log alone."""

    def __init__(self, path: Path, origin: str) -> None:
        self._origin = origin
        self._db = opened(path, _SCHEMA, "journal_mode=WAL", "synchronous=FULL")

    def origins(self) -> list[str]:
        """Every log that this file has sealed, oldest first."""
        return [origin for (origin,) in self._db.execute("SELECT origin FROM seal ORDER BY rowid")]

    def checkpoint(self) -> bytes:
        """The newest sealed checkpoint of this log, closed or not; empty when there is none."""
        row = self._db.execute("SELECT checkpoint FROM seal WHERE origin = ?", (self._origin,)).fetchone()
        return b"" if row is None else bytes(row[0])

    def load(self) -> Sealed | None:
        row = self._db.execute(
            "SELECT size, checkpoint, base_size, base_checkpoint FROM seal WHERE origin = ?", (self._origin,)
        ).fetchone()
        if row is None:
            return None
        size, checkpoint, base_size, base_checkpoint = row
        staged = tuple(entry for (entry,) in self._db.execute("SELECT entry FROM staged ORDER BY position"))
        cursors = {
            worker: Cursor(segment, offset, groups)
            for worker, segment, offset, groups in self._db.execute(
                "SELECT worker, segment, offset, groups FROM cursor"
            )
        }
        opened = {
            (worker, sequence): Open(admission, json.loads(attempts))
            for worker, sequence, admission, attempts in self._db.execute("SELECT * FROM opened")
        }
        return Sealed(size, checkpoint, base_size, base_checkpoint, staged, cursors, opened)

    def advance(self, expected: bytes, new: Sealed) -> None:
        """See `ledger.sequencer.Seal.advance`."""
        try:
            with transaction(self._db):
                self._replace(expected, new)
        except sqlite3.Error as error:
            raise SealBroken(f"the checkpoint could not be made durable in its second place: {error}") from None

    def _replace(self, expected: bytes, new: Sealed) -> None:
        db = self._db
        values = (new.size, new.checkpoint, new.base_size, new.base_checkpoint, self._origin)
        if expected:
            changed = db.execute(
                "UPDATE seal SET size=?, checkpoint=?, base_size=?, base_checkpoint=? WHERE origin=? AND checkpoint=? "
                "AND size<=?",
                (*values, expected, new.size),
            ).rowcount
        else:
            changed = db.execute(
                "INSERT INTO seal(size, checkpoint, base_size, base_checkpoint, origin) VALUES (?,?,?,?,?) "
                "ON CONFLICT DO NOTHING",
                values,
            ).rowcount
        if changed != 1:
            raise SealBroken("the sealed checkpoint is not the one this sequencer last sealed: another one is running")
        db.execute("DELETE FROM staged")
        db.executemany("INSERT INTO staged(entry) VALUES (?)", [(entry,) for entry in new.staged])
        db.execute("DELETE FROM cursor")
        db.executemany(
            "INSERT INTO cursor VALUES (?,?,?,?)",
            [(worker, at.segment, at.offset, at.group) for worker, at in new.cursors.items()],
        )
        db.execute("DELETE FROM opened")
        db.executemany(
            "INSERT INTO opened VALUES (?,?,?,?)",
            [(*key, item.admission, json.dumps(item.attempts)) for key, item in new.opened.items()],
        )

    def close(self) -> None:
        self._db.close()
