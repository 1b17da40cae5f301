"""The rows of the vault's objects in SQLite. What people call their things is sealed; ids, sizes and times are not."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from daulat.adapters.sqlite_file import opened, transaction
from daulat.core.retention import Rule
from daulat.errors import Conflict, Unavailable
from daulat.vault.ports import Kind, Owner, Retired, Row

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS object(
    position INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, id TEXT NOT NULL, name TEXT NOT NULL UNIQUE,
    tenant TEXT NOT NULL, person TEXT NOT NULL, created INTEGER NOT NULL, expires INTEGER, size INTEGER NOT NULL,
    version INTEGER NOT NULL, about BLOB NOT NULL, UNIQUE (kind, person, id)) STRICT;
CREATE INDEX IF NOT EXISTS object_of ON object(person, kind, position);
CREATE INDEX IF NOT EXISTS object_tenant ON object(tenant);
CREATE INDEX IF NOT EXISTS object_expires ON object(expires) WHERE expires IS NOT NULL;
CREATE TABLE IF NOT EXISTS retired(
    position INTEGER PRIMARY KEY AUTOINCREMENT, batch TEXT NOT NULL, tenant TEXT NOT NULL, rule TEXT NOT NULL,
    kind TEXT NOT NULL, name TEXT NOT NULL) STRICT;
CREATE INDEX IF NOT EXISTS retired_batch ON retired(batch);
"""
_COLUMNS: Final = "kind, id, name, tenant, person, created, expires, size, version, about"
_SELECT: Final = f"SELECT {_COLUMNS} FROM object"  # noqa: S608  ours, like everything that is put behind it


class SqliteIndex:
    """`vault.ports.Index`. One thread at a time."""

    def __init__(self, path: Path) -> None:
        self._db = opened(path, _SCHEMA, "secure_delete=ON", "journal_mode=WAL", "synchronous=FULL")

    def add(self, row: Row) -> None:
        """Raises Conflict."""
        values = (*_fields(row), row.version, row.about)
        try:
            self._write(f"INSERT INTO object({_COLUMNS}) VALUES (?,?,?,?,?,?,?,?,?,?)", values)  # noqa: S608  ours
        except sqlite3.IntegrityError:
            raise Conflict(f"There is one with the id {row.id!r} already.") from None

    def get(self, kind: Kind, person: str, id_: str) -> Row | None:
        query = f"{_SELECT} WHERE kind = ? AND person = ? AND id = ?"
        found = self._db.execute(query, (kind, person, id_)).fetchone()
        return None if found is None else Row(*found)

    def page(self, kind: Kind, person: str, after: Row | None, limit: int, *, newest_first: bool) -> Sequence[Row]:
        sign, order = ("<", "DESC") if newest_first else (">", "ASC")
        behind = "" if after is None else f"AND position {sign} (SELECT position FROM object WHERE name = ?)"  # noqa: S608  ours
        query = f"{_SELECT} WHERE kind = ? AND person = ? {behind} ORDER BY position {order} LIMIT ?"
        values = (kind, person, *(() if after is None else (after.name,)), limit)
        return [Row(*found) for found in self._db.execute(query, values)]

    def replace(self, row: Row) -> None:
        """Raises Conflict."""
        query = "UPDATE object SET version = ?, about = ? WHERE name = ? AND version = ?"
        if not self._write(query, (row.version, row.about, row.name, row.version - 1)):
            raise Conflict("It was changed or deleted meanwhile: look again.")

    def remove(self, row: Row) -> None:
        self._write("DELETE FROM object WHERE name = ?", (row.name,))

    def expired(self, now_ms: int) -> Sequence[Row]:
        return [Row(*found) for found in self._db.execute(f"{_SELECT} WHERE expires <= ?", (now_ms,))]

    def taken(self, person: str) -> tuple[int, int]:
        query = "SELECT count(*), coalesce(sum(size), 0) FROM object WHERE person = ?"
        count, size = self._db.execute(query, (person,)).fetchone()
        return int(count), int(size)

    def names(self) -> Iterator[str]:
        return (name for (name,) in self._db.execute("SELECT name FROM object").fetchall())

    def owned(self, owner: Owner, name: str) -> Iterator[Row]:
        column = {"person": "person", "tenant": "tenant"}[owner]
        query = f"{_SELECT} WHERE {column} = ? ORDER BY position"
        return (Row(*found) for found in self._db.execute(query, (name,)).fetchall())

    def made_before(self, kind: Kind, tenant: str, time_ms: int, limit: int) -> Sequence[Row]:
        query = f"{_SELECT} WHERE tenant = ? AND kind = ? AND created <= ? ORDER BY created, position LIMIT ?"
        return [Row(*found) for found in self._db.execute(query, (tenant, kind, time_ms, limit))]

    def retire(self, batch: str, rule: Rule, rows: Sequence[Row]) -> None:
        said = json.dumps(rule.as_dict())
        noting = "INSERT INTO retired(batch, tenant, rule, kind, name) VALUES (?,?,?,?,?)"
        try:
            with transaction(self._db):
                self._db.executemany("DELETE FROM object WHERE name = ?", [(row.name,) for row in rows])
                self._db.executemany(noting, [(batch, row.tenant, said, row.kind, row.name) for row in rows])
        except sqlite3.Error as error:
            raise Unavailable(f"the vault's index cannot be written: {error}", code="storage_failed") from None

    def retired(self) -> Retired | None:
        query = "SELECT batch, tenant, rule, kind, name FROM retired WHERE batch = "
        first = "(SELECT batch FROM retired ORDER BY position LIMIT 1)"
        found = self._db.execute(f"{query}{first} ORDER BY position").fetchall()
        if not found:
            return None
        batch, tenant, rule, _, _ = found[0]
        return Retired(batch, tenant, Rule.read(json.loads(rule)), tuple((kind, name) for *_, kind, name in found))

    def settle(self, batch: str) -> None:
        self._write("DELETE FROM retired WHERE batch = ?", (batch,))

    def close(self) -> None:
        self._db.close()

    def _write(self, statement: str, values: tuple[Any, ...]) -> int:
        try:
            return self._db.execute(statement, values).rowcount
        except sqlite3.IntegrityError:
            raise
        except sqlite3.Error as error:
            raise Unavailable(f"the vault's index cannot be written: {error}", code="storage_failed") from None


def _fields(row: Row) -> tuple[Any, ...]:
    return (row.kind, row.id, row.name, row.tenant, row.person, row.created, row.expires, row.size)
