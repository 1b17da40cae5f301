"""Use by day, tenant, key and model: a projection of the log, in a SQLite file that can be dropped and is made again.

How far it has come stands in the same transaction as what it counted, so nothing is counted twice and nothing is left
out, whichever process is killed when. It is never written by the request path.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from daulat.adapters.log_files import LogFolder
from daulat.core.quota import DAY_MS, MINUTE_MS, day_of
from daulat.errors import IntegrityError, Unavailable
from daulat.ledger.reading import read_entries
from daulat.metering.totals import used

STEP: Final = 4096  # entries a transaction
_MINUTES_KEPT: Final = 10
_COUNTS: Final = ("requests", "prompt_tokens", "cached_tokens", "completion_tokens")
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS state (origin TEXT PRIMARY KEY, size INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS used (
    period TEXT NOT NULL, number INTEGER NOT NULL, tenant TEXT NOT NULL, key TEXT NOT NULL, model TEXT NOT NULL,
    origin TEXT NOT NULL, worker INTEGER NOT NULL, requests INTEGER NOT NULL, prompt_tokens INTEGER NOT NULL,
    cached_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL,
    PRIMARY KEY (period, number, tenant, key, model, origin, worker)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS used_key ON used (period, number, key);
CREATE INDEX IF NOT EXISTS used_model ON used (period, number, model);
"""
_ADD: Final = """INSERT INTO used VALUES (?,?,?,?,?,?,?,?,?,?,?) ON CONFLICT DO UPDATE SET
    requests = requests + excluded.requests, prompt_tokens = prompt_tokens + excluded.prompt_tokens,
    cached_tokens = cached_tokens + excluded.cached_tokens,
    completion_tokens = completion_tokens + excluded.completion_tokens"""
_SUMS: Final = ", ".join(f"SUM({count}) AS {count}" for count in _COUNTS)
_COLUMNS: Final = {"tenant": "tenant", "key": "key", "model": "model"}


class _Place(NamedTuple):
    """Where something counts: the primary key of `used`, but for the origin."""

    period: str
    number: int
    tenant: str
    key: str
    model: str
    worker: int


class UsageDatabase:
    """The projection. `catch_up` and `drop` may run on a thread of their own, one at a time."""

    def __init__(self, path: Path) -> None:
        self._writing, self._reading = _open(path), _open(path)
        self._lock = threading.Lock()

    def catch_up(self, shards: Mapping[str, LogFolder]) -> int:
        """Count what is new in the log; `shards` by origin. How many entries there were.

        Raises:
            IntegrityError: an entry cannot be counted, or the log is shorter than what was counted of it.
            Unavailable: the projection cannot be written.
        """
        with self._lock:
            return sum(self._shard(origin, folder) for origin, folder in shards.items())

    def drop(self) -> None:
        """Forget everything: the next `catch_up` counts the log from its beginning."""
        with self._lock, _transaction(self._writing):
            self._writing.execute("DELETE FROM used")
            self._writing.execute("DELETE FROM state")

    def position(self, origin: str) -> int:
        """How many entries of a shard are counted."""
        return _position(self._reading, origin)

    def rows(self, since: str = "", until: str = "9999") -> list[dict[str, Any]]:
        """Sums by day, tenant, key and model, of the days from `since` on and before `until`."""
        found = self._reading.execute(
            f"SELECT number, tenant, key, model, {_SUMS} FROM used WHERE period = 'day'"  # noqa: S608  constants
            " GROUP BY number, tenant, key, model ORDER BY number, tenant, key, model"
        )
        rows = [
            {**dict(zip(("day", "tenant", "key", "model", *_COUNTS), row, strict=True)), "day": day_of(row[0] * DAY_MS)}
            for row in found
        ]
        return [row for row in rows if since <= row["day"] < until]

    def spent(
        self, scope: str, subject: str, period: str, numbers: range, *, origin: str, without: Collection[int]
    ) -> list[dict[str, Any]]:
        """Sums by number and model, without the entries of these workers of `origin`."""
        column = _COLUMNS[scope]
        marks = ", ".join("?" * len(without))
        found = self._reading.execute(
            f"SELECT number, model, {_SUMS} FROM used WHERE period = ? AND number >= ? AND number < ? AND {column} = ?"  # noqa: S608  constants
            f" AND NOT (origin = ? AND worker IN ({marks})) GROUP BY number, model",
            (period, numbers.start, numbers.stop, subject, origin, *without),
        )
        names = [column[0] for column in found.description]
        return [dict(zip(names, row, strict=True)) for row in found]

    def close(self) -> None:
        self._reading.close()
        self._writing.close()

    def _shard(self, origin: str, folder: LogFolder) -> int:
        published = folder.published()
        size = int(published.split(b"\n", 2)[1]) if published else 0
        start = _position(self._writing, origin)
        if start > size:
            raise IntegrityError(f"the log {origin} has {size} entries, {start} were counted: daulat usage rebuild")
        for first in range(start, size, STEP):
            end = min(size, first + STEP)
            counts = self._counted(read_entries(folder, first, end, size), first)
            self._add(origin, first, end, counts)
        return size - start

    @staticmethod
    def _counted(entries: Sequence[bytes], first: int) -> dict[_Place, Counter[str]]:
        counts: dict[_Place, Counter[str]] = {}
        for index, entry in enumerate(entries, first):
            try:
                found = used(entry)
            except msgspec.MsgspecError as error:
                raise IntegrityError(f"entry {index} cannot be counted: {error}") from None
            if found is None:
                continue
            admission, tokens = found.admission, found.tokens
            for period, length in (("day", DAY_MS), ("minute", MINUTE_MS)):
                place = _Place(
                    period,
                    admission.time // length,
                    admission.tenant,
                    admission.key,
                    admission.requested_model,
                    admission.worker,
                )
                into = counts.setdefault(place, Counter())
                into["requests"] += 1
                for name in _COUNTS[1:]:
                    into[name] += getattr(tokens, name)
        return counts

    def _add(self, origin: str, first: int, end: int, counts: Mapping[_Place, Counter[str]]) -> None:
        newest = max((place.number for place in counts if place.period == "minute"), default=0)
        with _transaction(self._writing):
            if _position(self._writing, origin) != first:
                raise Unavailable("somebody else counts the log: try again")
            self._writing.executemany(
                _ADD,
                [
                    (*place[:5], origin, place.worker, *(counted[name] for name in _COUNTS))
                    for place, counted in counts.items()
                ],
            )
            self._writing.execute("DELETE FROM used WHERE period = 'minute' AND number < ?", (newest - _MINUTES_KEPT,))
            self._writing.execute("INSERT OR REPLACE INTO state VALUES (?, ?)", (origin, end))


def _open(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    path.chmod(0o600)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")
    connection.executescript(_SCHEMA)
    return connection


def _position(connection: sqlite3.Connection, origin: str) -> int:
    row = connection.execute("SELECT size FROM state WHERE origin = ?", (origin,)).fetchone()
    return 0 if row is None else int(row[0])


@contextlib.contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    try:
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")
    except sqlite3.Error as error:
        raise Unavailable(f"the use cannot be counted: {error}") from None
