"""The vault's wrapped keys in a SQLite file of their own, which no ordinary backup holds.

What is deleted is overwritten (`secure_delete`), and the rollback journal, which had the pages, is truncated. A medium
that writes elsewhere (flash, a copying file system) may still hold them: they stand under a root that is gone by then.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from daulat.adapters.sqlite_file import opened, transaction
from daulat.errors import Conflict, Unavailable
from daulat.vault.ports import Destroyed, KeyRow, Owner

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS key(
    position INTEGER PRIMARY KEY, id BLOB NOT NULL UNIQUE, owner TEXT NOT NULL, name TEXT NOT NULL,
    parent TEXT NOT NULL, wrapped BLOB NOT NULL, created INTEGER NOT NULL) STRICT;
CREATE INDEX IF NOT EXISTS key_owner ON key(owner, name);
CREATE TABLE IF NOT EXISTS destroyed(
    owner TEXT NOT NULL, name TEXT NOT NULL, time INTEGER NOT NULL, PRIMARY KEY (owner, name)) STRICT;
"""
_COLUMNS: Final = "id, owner, name, parent, wrapped, created"


class SqliteKeys:
    """`vault.ports.KeyRows`. One thread at a time."""

    def __init__(self, path: Path) -> None:
        # EXTRA syncs also the folder, so that a truncated journal stays truncated.
        self._db = opened(path, _SCHEMA, "secure_delete=ON", "journal_mode=TRUNCATE", "synchronous=EXTRA")

    def all(self) -> Sequence[KeyRow]:
        rows = self._db.execute(f"SELECT {_COLUMNS} FROM key ORDER BY position")  # noqa: S608  ours
        return [KeyRow(*row) for row in rows]

    def of(self, owner: Owner, name: str) -> KeyRow | None:
        query = f"SELECT {_COLUMNS} FROM key WHERE owner = ? AND name = ? ORDER BY position DESC"  # noqa: S608  ours
        row = self._db.execute(query, (owner, name)).fetchone()
        return None if row is None else KeyRow(*row)

    def get(self, id_: bytes) -> KeyRow | None:
        row = self._db.execute(f"SELECT {_COLUMNS} FROM key WHERE id = ?", (id_,)).fetchone()  # noqa: S608  ours
        return None if row is None else KeyRow(*row)

    def add(self, row: KeyRow) -> None:
        """Raises Conflict: this owner's keys were destroyed."""
        gone = self._db.execute("SELECT 1 FROM destroyed WHERE owner = ? AND name = ?", (row.owner, row.name))
        if gone.fetchone() is not None:
            raise Conflict(f"the keys of this {row.owner} were destroyed: nothing of theirs is kept again")
        values = (row.id, row.owner, row.name, row.parent, row.wrapped, row.created)
        self._write((f"INSERT INTO key({_COLUMNS}) VALUES (?,?,?,?,?,?)", values))  # noqa: S608  ours

    def rewrap(self, changes: Sequence[tuple[bytes, str, bytes]]) -> None:
        statement = "UPDATE key SET parent = ?, wrapped = ? WHERE id = ?"
        self._write(*((statement, (parent, wrapped, id_)) for id_, parent, wrapped in changes))

    def remove(self, id_: bytes) -> None:
        self._write(("DELETE FROM key WHERE id = ?", (id_,)))

    def destroy(self, owners: Iterable[tuple[Owner, str]], now_ms: int) -> int:
        owners = list(owners)
        counted = "SELECT count(*) FROM key WHERE owner = ? AND name = ?"
        gone = sum(self._db.execute(counted, owner).fetchone()[0] for owner in owners)
        deleting = [("DELETE FROM key WHERE owner = ? AND name = ?", owner) for owner in owners]
        said = [("INSERT OR IGNORE INTO destroyed VALUES (?,?,?)", (*owner, now_ms)) for owner in owners]
        self._write(*deleting, *said)
        return int(gone)

    def destroyed(self) -> Sequence[Destroyed]:
        return [Destroyed(*row) for row in self._db.execute("SELECT owner, name, time FROM destroyed ORDER BY time")]

    def close(self) -> None:
        self._db.close()

    def _write(self, *statements: tuple[str, tuple[Any, ...]]) -> None:
        """One transaction.

        Raises:
            Unavailable: it could not be made durable.
        """
        try:
            with transaction(self._db):
                for statement, values in statements:
                    self._db.execute(statement, values)
        except sqlite3.Error as error:
            raise Unavailable(f"the vault's keys cannot be written: {error}") from None
