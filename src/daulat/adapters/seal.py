"""The checkpoint's second place, and what must change together with it, in one SQLite file with synchronous=FULL."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from daulat.adapters.sqlite_file import opened, transaction
from daulat.errors import SealBroken, VerificationFailed
from daulat.ledger.intake import Cursor, Open
from daulat.ledger.sequencer import Sealed
from daulat.tlog.tiles import WIDTH, decode_bundle, encode_bundle

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS seal(
    origin TEXT PRIMARY KEY, size INTEGER NOT NULL, checkpoint BLOB NOT NULL,
    base_size INTEGER NOT NULL, base_checkpoint BLOB NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS staged_bundle(
    position INTEGER PRIMARY KEY, width INTEGER NOT NULL, entries BLOB NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS cursor(
    worker INTEGER PRIMARY KEY, segment INTEGER NOT NULL, offset INTEGER NOT NULL, groups INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS opened(
    worker INTEGER NOT NULL, sequence INTEGER NOT NULL, admission BLOB NOT NULL, attempts TEXT NOT NULL,
    PRIMARY KEY (worker, sequence)) STRICT;
"""

_CACHE_KIB: Final = 16 * 1024  # what a busy step replaces: else SQLite reads it from the file again to free its pages


class SqliteSeal:
    """One row a log; staged entries, cursors and open admissions are of the newest log alone.

    Entries are staged as bundles (c2sp.org/tlog-tiles): a row for each would be the dearest thing of a busy step.
    """

    def __init__(self, path: Path, origin: str) -> None:
        """Open it, or make it.

        Raises:
            sqlite3.Error: it cannot be opened, or is no such file.
        """
        self._origin = origin
        self._db = opened(path, _SCHEMA, "journal_mode=WAL", "synchronous=FULL", f"cache_size=-{_CACHE_KIB}")
        self._bundle_rows()

    def _bundle_rows(self) -> None:
        """What an earlier version has staged, a row an entry, goes into bundles."""
        if not self._db.execute("SELECT 1 FROM sqlite_master WHERE name = 'staged'").fetchone():
            return
        with transaction(self._db):
            rows = self._db.execute("SELECT entry FROM staged ORDER BY position")
            self._stage([entry for (entry,) in rows])
            self._db.execute("DROP TABLE staged")

    def origins(self) -> list[str]:
        """Every log that this file has sealed, oldest first."""
        return [origin for (origin,) in self._db.execute("SELECT origin FROM seal ORDER BY rowid")]

    def checkpoint(self) -> bytes:
        """The newest sealed checkpoint of this log, closed or not; empty when there is none."""
        row = self._db.execute("SELECT checkpoint FROM seal WHERE origin = ?", (self._origin,)).fetchone()
        return b"" if row is None else bytes(row[0])

    def load(self) -> Sealed | None:
        """See `ledger.sequencer.Seal.load`."""
        with transaction(self._db, reads=True):  # `daulat log fsck` reads beside a sequencer that goes on
            return self._load()

    def _load(self) -> Sealed | None:
        row = self._db.execute(
            "SELECT size, checkpoint, base_size, base_checkpoint FROM seal WHERE origin = ?", (self._origin,)
        ).fetchone()
        if row is None:
            return None
        size, checkpoint, base_size, base_checkpoint = row
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
        return Sealed(size, checkpoint, base_size, base_checkpoint, self._staged(), cursors, opened)

    def _staged(self) -> tuple[bytes, ...]:
        staged: list[bytes] = []
        try:
            for width, bundle in self._db.execute("SELECT width, entries FROM staged_bundle ORDER BY position"):
                staged += decode_bundle(bundle, width)
        except VerificationFailed as error:
            raise SealBroken(f"the staged entries were changed: {error.message}") from None
        return tuple(staged)

    def _stage(self, entries: Sequence[bytes]) -> None:
        self._db.execute("DELETE FROM staged_bundle")
        parts = (entries[start : start + WIDTH] for start in range(0, len(entries), WIDTH))
        rows = ((len(part), encode_bundle(part)) for part in parts)
        self._db.executemany("INSERT INTO staged_bundle(width, entries) VALUES (?,?)", rows)

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
        self._stage(new.staged)
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


def settle(copy: sqlite3.Connection) -> None:
    """Make of a copy of such a file one whose newest checkpoint is published: nothing is staged for it any more."""
    copy.execute("UPDATE seal SET base_size = size, base_checkpoint = checkpoint")
    for table in ("staged", "staged_bundle"):  # whichever it has; they are made anew
        copy.execute(f"DROP TABLE IF EXISTS {table}")
