"""Use by day, tenant, key and model: a projection of the log, in a SQLite file that can be dropped and is made again.

How far it has come stands in the same transaction as what it counted, so nothing is counted twice and nothing is left
out, whichever process is killed when. It is never written by the request path.

Nobody else has anything to write there. While the service runs, SQLite tells of a commit that is not ours
(`PRAGMA data_version`); what was changed at another time shows where the sums are held against the log (`check`).
"""

from __future__ import annotations

import contextlib
import operator
import sqlite3
import threading
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from daulat.adapters import sqlite_file
from daulat.adapters.log_files import LogFolder
from daulat.core.quota import DAY_MS, MINUTE_MS, day_of
from daulat.errors import IntegrityError, Unavailable
from daulat.ledger.reading import read_entries
from daulat.metering.totals import used

STEP: Final = 65_536  # entries a transaction, in which each place is written once
_READ: Final = 4096  # entries that are held at once
_MINUTES_KEPT: Final = 10
_AT_ONCE: Final = 500  # subjects in one query: SQLite takes 32,766 values
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
_BY: Final = {  # by scope: where to look for a subject. Left to itself SQLite would read all tenants' rows for a key
    "tenant": "used WHERE tenant",  # the primary key leads there
    "key": "used INDEXED BY used_key WHERE key",
    "model": "used WHERE model",
}


class _Row(NamedTuple):
    """The primary key of `used`."""

    period: str
    number: int
    tenant: str
    key: str
    model: str
    origin: str
    worker: int


_Sums = dict[tuple[int, str, str, str, int], list[int]]
"""`_COUNTS` by minute, tenant, key, model and worker."""


class Checked(NamedTuple):
    """How many entries were counted again, and in words whatever stood otherwise in the projection."""

    entries: int
    differences: tuple[str, ...]


class UsageDatabase:
    """The projection. `catch_up` and `drop` may run on a thread of their own, one at a time."""

    def __init__(self, path: Path) -> None:
        """Raises IntegrityError: the file is none of ours any more."""
        self._writing, self._reading = _open(path), _open(path)
        self._lock = threading.Lock()
        self._version = _version(self._writing)

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
        self._version = _version(self._writing)

    def touched(self) -> bool:
        """Whether somebody else has written here since the sums were last known to be the log's."""
        with self._lock:
            return _version(self._writing) != self._version

    def check(self, shards: Mapping[str, LogFolder]) -> Checked:
        """Count the log once more beside what stands here, as far as it was counted, and compare.

        Counting may go on meanwhile: what is compared are the sums of the moment when this is called.

        Raises:
            IntegrityError: an entry cannot be counted. Unavailable: the projection cannot be read.
        """
        with self._lock, _transaction(self._writing):
            version = _version(self._writing)
            sizes = dict(self._writing.execute("SELECT origin, size FROM state"))
            held = {_Row(*row[:7]): row[7:] for row in self._writing.execute("SELECT * FROM used")}
        wrong, counted, entries = list[str](), dict[_Row, tuple[int, ...]](), 0
        for origin, said in sizes.items():
            size = there = _size(shards[origin]) if origin in shards else 0
            if isinstance(said, int) and 0 <= said <= there:
                size = said
            else:
                wrong.append(f"{said!r} entries of {origin} are said to be counted; it has {there}")
            counted |= _rows(origin, _counted(shards[origin], 0, size, there)) if size else {}
            entries += size
        wrong += _differences(held, counted)
        if not wrong:
            with self._lock:
                self._version = version
        return Checked(entries, tuple(wrong))

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
        self,
        scope: str,
        subjects: Collection[str],
        period: str,
        numbers: range,
        *,
        origin: str,
        without: Collection[int],
    ) -> list[dict[str, Any]]:
        """Sums by subject, number and model, without the entries of these workers of `origin`."""
        rows, every = [], list(subjects)
        for first in range(0, len(every), _AT_ONCE):
            some = every[first : first + _AT_ONCE]
            whose, those, marks = (", ".join("?" * len(values)) for values in (some, numbers, without))
            found = self._reading.execute(
                f"SELECT {scope} AS subject, number, model, {_SUMS} FROM {_BY[scope]} IN ({whose}) AND period = ?"  # noqa: S608  constants
                f" AND number IN ({those}) AND NOT (origin = ? AND worker IN ({marks})) GROUP BY 1, +number, +model",
                (*some, period, *numbers, origin, *without),
            )
            names = [column[0] for column in found.description]
            rows += [dict(zip(names, row, strict=True)) for row in found]
        return rows

    def close(self) -> None:
        self._reading.close()
        self._writing.close()

    def _shard(self, origin: str, folder: LogFolder) -> int:
        size, start = _size(folder), _position(self._writing, origin)
        if start > size:
            raise IntegrityError(f"the log {origin} has {size} entries, {start} were counted: daulat usage rebuild")
        for first in range(start, size, STEP):
            end = min(size, first + STEP)
            self._add(origin, first, end, _rows(origin, _counted(folder, first, end, size)))
        return size - start

    def _add(self, origin: str, first: int, end: int, rows: Mapping[_Row, tuple[int, ...]]) -> None:
        newest = max((row.number for row in rows if row.period == "minute"), default=0)
        with _transaction(self._writing):
            if _position(self._writing, origin) != first:
                raise Unavailable("somebody else counts the log: try again")
            self._writing.executemany(_ADD, [row + counts for row, counts in rows.items()])
            self._writing.execute("DELETE FROM used WHERE period = 'minute' AND number < ?", (newest - _MINUTES_KEPT,))
            self._writing.execute("INSERT OR REPLACE INTO state VALUES (?, ?)", (origin, end))


def _counted(folder: LogFolder, start: int, end: int, size: int) -> _Sums:
    """What entries start to end of a log of `size` entries use."""
    sums: _Sums = {}
    for first in range(start, end, _READ):
        for index, entry in enumerate(read_entries(folder, first, min(end, first + _READ), size), first):
            try:
                found = used(entry)
            except msgspec.MsgspecError as error:
                raise IntegrityError(f"entry {index} cannot be counted: {error}") from None
            if found is None:
                continue
            admission, tokens = found.admission, found.completion.usage
            minute = admission.time // MINUTE_MS
            place = (minute, admission.tenant, admission.key, admission.requested_model, admission.worker)
            into = sums.get(place)
            if into is None:
                into = sums[place] = [0, 0, 0, 0]
            into[0] += 1
            into[1] += tokens.prompt_tokens
            into[2] += tokens.cached_tokens
            into[3] += tokens.completion_tokens
    return sums


def _rows(origin: str, sums: _Sums) -> dict[_Row, tuple[int, ...]]:
    """The same as rows of `used`, by minute and by day."""
    rows: dict[_Row, tuple[int, ...]] = {}
    for (minute, tenant, key, model, worker), counts in sums.items():
        rows[_Row("minute", minute, tenant, key, model, origin, worker)] = tuple(counts)
        day = _Row("day", minute * MINUTE_MS // DAY_MS, tenant, key, model, origin, worker)
        rows[day] = tuple(map(operator.add, rows.get(day, (0, 0, 0, 0)), counts))
    return rows


def _open(path: Path) -> sqlite3.Connection:
    try:
        return sqlite_file.opened(path, _SCHEMA, "journal_mode=WAL", "synchronous=NORMAL")
    except sqlite3.OperationalError as error:
        raise Unavailable(f"{path} cannot be opened: {error}") from None
    except sqlite3.DatabaseError as error:
        words = f"{path} is no count of the log any more ({error}): delete it, and it is counted again from the log"
        raise IntegrityError(words) from None


def _version(connection: sqlite3.Connection) -> int:
    """Another number once another connection has committed something (https://sqlite.org/pragma.html)."""
    (number,) = connection.execute("PRAGMA data_version").fetchone()
    return int(number)


def _size(folder: LogFolder) -> int:
    published = folder.published()
    return int(published.split(b"\n", 2)[1]) if published else 0


def _differences(held: Mapping[_Row, tuple[int, ...]], counted: Mapping[_Row, tuple[int, ...]]) -> Iterator[str]:
    """Of the minutes only the newest are kept, and those before them count for nothing."""
    newest = max((row.number for row in counted if row.period == "minute"), default=0)
    for row in sorted(held.keys() | counted.keys(), key=repr):  # whoever writes here may write anything
        old = row.period == "minute" and isinstance(row.number, int) and row.number < newest - _MINUTES_KEPT
        if held.get(row) == counted.get(row) or old:
            continue
        here, there = (_worded(rows.get(row)) for rows in (held, counted))
        place = f"tenant {row.tenant}, key {row.key}, model {row.model}, worker {row.worker} of {row.origin}"
        day = f"{day_of(row.number * DAY_MS)}, " if row.period == "day" and row in counted else ""
        yield f"{day}{row.period} {row.number}, {place}: {here}; the log has {there}"


def _worded(counts: tuple[int, ...] | None) -> str:
    """As "requests 3, prompt_tokens 15"."""
    return "nothing" if counts is None else ", ".join(map("{} {}".format, _COUNTS, counts))


def _position(connection: sqlite3.Connection, origin: str) -> int:
    row = connection.execute("SELECT size FROM state WHERE origin = ?", (origin,)).fetchone()
    if row is not None and not isinstance(row[0], int):
        raise IntegrityError(f"{row[0]!r} is no number of entries of {origin}")
    return 0 if row is None else int(row[0])


@contextlib.contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    try:
        with sqlite_file.transaction(connection):
            yield
    except sqlite3.Error as error:
        raise Unavailable(f"the use cannot be counted: {error}") from None
