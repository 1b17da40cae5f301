"""The vault's ports in memory: what the adapters are held against, and rooms are tested with."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from daulat.core.retention import Rule
from daulat.errors import Conflict, NotFound, VerificationFailed
from daulat.vault.ports import Destroyed, KeyRow, Kind, Owner, Retired, Row
from daulat.vault.sealed import unwrap, wrap


class MemoryRoot:
    """`vault.ports.Root`."""

    def __init__(self) -> None:
        self.keys: dict[str, bytes] = {}
        self.current = ""
        self.rotate()

    def version(self) -> str:
        return self.current

    def versions(self) -> Sequence[str]:
        return tuple(self.keys)

    def wrap(self, key: bytes, bound: bytes) -> bytes:
        return wrap(key, self.keys[self.current], bound)

    def unwrap(self, wrapped: bytes, version: str, bound: bytes) -> bytes:
        if version not in self.keys:
            raise VerificationFailed("no such version")
        return unwrap(wrapped, self.keys[version], bound)

    def rotate(self) -> str:
        self.current = os.urandom(8).hex()
        self.keys[self.current] = os.urandom(32)
        return self.current

    def forget(self, version: str) -> None:
        if version == self.current:
            raise Conflict("in use")
        self.keys.pop(version, None)


class MemoryKeys:
    """`vault.ports.KeyRows`."""

    def __init__(self) -> None:
        self.rows: list[KeyRow] = []
        self.gone: dict[tuple[Owner, str], int] = {}

    def all(self) -> Sequence[KeyRow]:
        return list(self.rows)

    def of(self, owner: Owner, name: str) -> KeyRow | None:
        return next((row for row in reversed(self.rows) if (row.owner, row.name) == (owner, name)), None)

    def get(self, id_: bytes) -> KeyRow | None:
        return next((row for row in self.rows if row.id == id_), None)

    def add(self, row: KeyRow) -> None:
        if (row.owner, row.name) in self.gone:
            raise Conflict("destroyed")
        self.rows.append(row)

    def rewrap(self, changes: Sequence[tuple[bytes, str, bytes]]) -> None:
        told = {id_: (parent, wrapped) for id_, parent, wrapped in changes}
        rows = [(row, *told.get(row.id, (row.parent, row.wrapped))) for row in self.rows]
        self.rows = [replace(row, parent=parent, wrapped=wrapped) for row, parent, wrapped in rows]

    def remove(self, id_: bytes) -> None:
        self.rows = [row for row in self.rows if row.id != id_]

    def destroy(self, owners: Iterable[tuple[Owner, str]], now_ms: int) -> int:
        chosen, before = set(owners), len(self.rows)
        self.rows = [row for row in self.rows if (row.owner, row.name) not in chosen]
        for owner in chosen:
            self.gone.setdefault(owner, now_ms)
        return before - len(self.rows)

    def destroyed(self) -> Sequence[Destroyed]:
        return [Destroyed(*owner, time) for owner, time in self.gone.items()]


class MemoryPlace:
    """`vault.ports.Place`."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}

    def describe(self) -> str:
        return "memory"

    def put(self, name: str, data: Iterable[bytes]) -> int:
        kept = b"".join(data)
        self.objects[name] = kept
        return len(kept)

    def get(self, name: str) -> Iterator[bytes]:
        if name not in self.objects:
            raise NotFound("no such object")
        return iter([self.objects[name]])

    def delete(self, name: str) -> None:
        self.objects.pop(name, None)

    def names(self) -> Iterator[str]:
        return iter(list(self.objects))

    def tidy(self) -> None:
        """Nothing is ever half there."""


class MemoryIndex:
    """`vault.ports.Index`."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.notes: list[Retired] = []

    def add(self, row: Row) -> None:
        if self.get(row.kind, row.person, row.id) is not None:
            raise Conflict("taken")
        self.rows.append(row)

    def get(self, kind: Kind, person: str, id_: str) -> Row | None:
        return next((row for row in self.rows if (row.kind, row.person, row.id) == (kind, person, id_)), None)

    def page(self, kind: Kind, person: str, after: Row | None, limit: int, *, newest_first: bool) -> Sequence[Row]:
        rows = [row for row in self.rows if (row.kind, row.person) == (kind, person)]
        ordered = rows[::-1] if newest_first else rows
        names = [row.name for row in ordered]
        start = 0 if after is None else names.index(after.name) + 1
        return ordered[start : start + limit]

    def replace(self, row: Row) -> None:
        for place, held in enumerate(self.rows):
            if held.name == row.name and held.version == row.version - 1:
                self.rows[place] = row
                return
        raise Conflict("changed meanwhile")

    def remove(self, row: Row) -> None:
        self.rows = [held for held in self.rows if held.name != row.name]

    def expired(self, now_ms: int) -> Sequence[Row]:
        return [row for row in self.rows if row.expires is not None and row.expires <= now_ms]

    def taken(self, person: str) -> tuple[int, int]:
        sizes = [row.size for row in self.rows if row.person == person]
        return len(sizes), sum(sizes)

    def names(self) -> Iterator[str]:
        return iter([row.name for row in self.rows])

    def owned(self, owner: Owner, name: str) -> Iterator[Row]:
        return (row for row in list(self.rows) if (row.person if owner == "person" else row.tenant) == name)

    def made_before(self, kind: Kind, tenant: str, time_ms: int, limit: int) -> Sequence[Row]:
        rows = [row for row in self.rows if (row.kind, row.tenant) == (kind, tenant) and row.created <= time_ms]
        return sorted(rows, key=lambda row: row.created)[:limit]

    def retire(self, batch: str, rule: Rule, rows: Sequence[Row]) -> None:
        for row in rows:
            self.remove(row)
        self.notes.append(Retired(batch, rows[0].tenant, rule, tuple((row.kind, row.name) for row in rows)))

    def retired(self) -> Retired | None:
        return next(iter(self.notes), None)

    def settle(self, batch: str) -> None:
        self.notes = [note for note in self.notes if note.id != batch]
