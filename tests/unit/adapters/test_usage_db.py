"""Use counted from a log: the same sums however it is counted, by whom, and how often it was interrupted."""

from __future__ import annotations

import contextlib
import json
import random
import sqlite3
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.support.worlds import NOW

from daulat.adapters import usage_db
from daulat.adapters.log_files import LogFolder
from daulat.adapters.usage_db import UsageDatabase
from daulat.core.entries import ADMISSION_FIELDS, COMPLETION_FIELDS, decode, join_inference
from daulat.core.quota import DAY_MS, MINUTE_MS, day_of
from daulat.errors import IntegrityError
from daulat.ledger.edge import RightEdge

ORIGIN = "test.daulat.example/2026"


def inference(
    time: int,
    *,
    tenant: str = "t",
    key: str = "k",
    model: str = "small",
    worker: int = 7,
    tokens: Sequence[int] = (5, 2, 3),
    asked: bool = True,
) -> bytes:
    """An entry as a worker and the sequencer make it."""
    admission: dict[str, Any] = dict.fromkeys(ADMISSION_FIELDS, "")
    admission |= {"time": time, "tenant": tenant, "key": key, "requested_model": model, "worker": worker}
    completion: dict[str, Any] = dict.fromkeys(COMPLETION_FIELDS, "")
    completion["attempts"] = [{"replica": 1, "lease": 2, "outcome": "ok"}] if asked else []
    completion["usage"] = dict(zip(("prompt_tokens", "cached_tokens", "completion_tokens"), tokens, strict=True))
    records = [json.dumps(record, separators=(",", ":")).encode() for record in (admission, completion)]
    entry = join_inference(*records)
    decode(entry)  # it is one
    return entry


class Log:
    """A shard that grows."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = LogFolder(folder)
        self._edge = RightEdge(0, self.folder)
        self.entries: list[bytes] = []

    def grow(self, entries: Sequence[bytes]) -> None:
        self.entries += entries
        self.folder.write(dict(self._edge.extend(entries)))
        self.folder.publish(f"{ORIGIN}\n{self._edge.size}\nroot\n".encode())


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path / "2026")


def many(chance: random.Random, count: int) -> list[bytes]:
    return [
        inference(
            NOW + chance.randrange(3 * DAY_MS),
            tenant=chance.choice("ab"),
            key=chance.choice("klm"),
            model=chance.choice(("small", "large")),
            worker=chance.choice((7, 9)),
            tokens=(chance.randrange(50, 99), chance.randrange(50), chance.randrange(99)),
            asked=chance.random() < 0.9,
        )
        if chance.random() < 0.9
        else b'{"type":"refusals/v1"}'
        for _ in range(count)
    ]


def naive(entries: Sequence[bytes]) -> dict[tuple[str, ...], Counter[str]]:
    """The rule of docs/limits.md, written down once more."""
    sums: dict[tuple[str, ...], Counter[str]] = {}
    for entry in map(json.loads, entries):
        if entry["type"] == "inference/v1" and entry["completion"]["attempts"]:
            admission = entry["admission"]
            place = (day_of(admission["time"]), admission["tenant"], admission["key"], admission["requested_model"])
            sums.setdefault(place, Counter()).update({"requests": 1, **entry["completion"]["usage"]})
    return sums


def counted(database: UsageDatabase) -> dict[tuple[str, ...], Counter[str]]:
    rows = database.rows()
    return {tuple(row.pop(name) for name in ("day", "tenant", "key", "model")): Counter(row) for row in rows}


def test_the_sums_are_those_of_the_log_however_often_it_was_counted(log: Log, tmp_path: Path) -> None:
    chance = random.Random(7)  # noqa: S311
    database = UsageDatabase(tmp_path / "usage.db")
    for size in (1, 255, 1, 300, 700):
        log.grow(many(chance, size))
        assert database.catch_up({ORIGIN: log.folder}) == size
        assert database.catch_up({ORIGIN: log.folder}) == 0
        assert counted(database) == naive(log.entries)
    database.drop()
    assert counted(database) == {}
    assert database.catch_up({ORIGIN: log.folder}) == len(log.entries)
    assert counted(database) == naive(log.entries)
    assert {row["day"] for row in database.rows("2026", day_of(NOW + DAY_MS))} == {day_of(NOW)}


def test_an_interrupted_count_counts_nothing_twice(log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process dies between any two statements of the transaction."""
    monkeypatch.setattr(usage_db, "STEP", 64)
    log.grow(many(random.Random(8), 200))  # noqa: S311
    for survived in range(1, 14):
        path = tmp_path / f"usage-{survived}.db"
        database, statements = UsageDatabase(path), 0

        def dies(_statement: str, survived: int = survived) -> None:
            nonlocal statements
            statements += 1
            if statements > survived:
                raise KeyboardInterrupt

        class Dying:
            """The connection of a process that ends at a certain statement."""

            in_transaction = False  # nothing is left that could roll back

            def __init__(self, connection: sqlite3.Connection) -> None:
                self._connection = connection

            def execute(self, statement: str, *arguments: Any) -> Any:
                dies(statement)
                return self._connection.execute(statement, *arguments)

            def executemany(self, statement: str, rows: Any) -> Any:
                dies(statement)
                return self._connection.executemany(statement, rows)

        held = database._writing
        database._writing = Dying(held)  # type: ignore[assignment]
        with pytest.raises(KeyboardInterrupt):
            database.catch_up({ORIGIN: log.folder})
        held.close()  # what was not committed is gone
        again = UsageDatabase(path)
        again.catch_up({ORIGIN: log.folder})
        assert counted(again) == naive(log.entries), survived


def test_what_is_spent_leaves_out_workers_that_are_lent_to(log: Log, tmp_path: Path) -> None:
    minute = NOW // MINUTE_MS
    log.grow([inference(NOW, worker=7), inference(NOW, worker=9, model="large")])
    database = UsageDatabase(tmp_path / "usage.db")
    database.catch_up({ORIGIN: log.folder})

    def spent(period: str, number: int, *without: int, scope: str = "tenant", subject: str = "t") -> int:
        rows = database.spent(scope, [subject], period, range(number, number + 1), origin=ORIGIN, without=without)
        return sum(row["requests"] for row in rows)

    assert spent("minute", minute) == 2
    assert spent("minute", minute, 9) == 1
    log.grow([inference(NOW + DAY_MS, worker=9)])
    database.catch_up({ORIGIN: log.folder})
    assert spent("day", NOW // DAY_MS, 7, 9) == 0
    assert spent("day", NOW // DAY_MS, scope="model", subject="large") == 1
    assert spent("day", NOW // DAY_MS, scope="key", subject="other") == 0
    rows = database.spent("tenant", ["t"], "day", range(NOW // DAY_MS, NOW // DAY_MS + 2), origin=ORIGIN, without=())
    assert sorted((row["number"] - NOW // DAY_MS, row["model"], row["requests"]) for row in rows) == [
        (0, "large", 1),
        (0, "small", 1),
        (1, "small", 1),
    ]


def test_what_many_have_spent_is_each_ones_own(log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In several queries, where they are more than one may be asked for."""
    monkeypatch.setattr(usage_db, "_AT_ONCE", 2)
    log.grow([inference(NOW, tenant=f"t{number}", key="k") for number in range(5) for _ in range(number + 1)])
    database = UsageDatabase(tmp_path / "usage.db")
    database.catch_up({ORIGIN: log.folder})
    numbers = range(NOW // DAY_MS, NOW // DAY_MS + 1)
    asked = ["t4", "nobody", "t0", "t2", "t3"]
    rows = database.spent("tenant", asked, "day", numbers, origin=ORIGIN, without=())
    assert {row["subject"]: row["requests"] for row in rows} == {"t0": 1, "t2": 3, "t3": 4, "t4": 5}
    assert len(rows) == 4


@pytest.mark.parametrize("scope", ["tenant", "key"])
def test_what_one_has_spent_is_found_without_reading_all_others(log: Log, tmp_path: Path, scope: str) -> None:
    """With ten thousand tenants each look would take a hundredth of a second, and there are many."""
    database, steps = UsageDatabase(tmp_path / "usage.db"), 0

    def looked(others: int) -> int:
        nonlocal steps
        log.grow([inference(NOW, tenant=f"t{number}", key=f"k{number}") for number in range(others)])
        database.catch_up({ORIGIN: log.folder})
        steps = 0
        for period, first, count in (("minute", NOW // MINUTE_MS, 1), ("day", NOW // DAY_MS - 3, 7)):
            numbers = range(first, first + count)
            assert len(database.spent(scope, [f"{scope[0]}0"], period, numbers, origin=ORIGIN, without=[1])) == 1
        return steps

    def step() -> None:
        nonlocal steps
        steps += 1

    database._reading.set_progress_handler(step, 1)
    few = looked(2)
    assert looked(2000) < 2 * few


def test_old_minutes_are_forgotten_and_days_are_not(log: Log, tmp_path: Path) -> None:
    database = UsageDatabase(tmp_path / "usage.db")
    log.grow([inference(NOW)])
    database.catch_up({ORIGIN: log.folder})
    log.grow([inference(NOW + 3_600_000)])
    database.catch_up({ORIGIN: log.folder})
    numbers = database._reading.execute("SELECT number FROM used WHERE period = 'minute'").fetchall()
    assert numbers == [((NOW + 3_600_000) // MINUTE_MS,)]
    assert sum(row["requests"] for row in database.rows()) == 2


def test_a_log_that_is_shorter_than_what_was_counted_is_no_log_to_count(log: Log, tmp_path: Path) -> None:
    database = UsageDatabase(tmp_path / "usage.db")
    log.grow([inference(NOW)] * 3)
    database.catch_up({ORIGIN: log.folder})
    log.folder.publish(f"{ORIGIN}\n2\nroot\n".encode())
    with pytest.raises(IntegrityError, match="has 2 entries, 3 were counted"):
        database.catch_up({ORIGIN: log.folder})


def test_an_entry_that_cannot_be_counted_is_not_passed_over(log: Log, tmp_path: Path) -> None:
    log.grow([inference(NOW), b'{"type":"inference/v1","admission":{}}'])
    database = UsageDatabase(tmp_path / "usage.db")
    with pytest.raises(IntegrityError, match="entry 1 cannot be counted"):
        database.catch_up({ORIGIN: log.folder})
    assert database.position(ORIGIN) == 0


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("UPDATE used SET requests = requests - 1 WHERE rowid_of", "the log has requests 3,"),
        ("UPDATE used SET prompt_tokens = 0", "prompt_tokens 0, cached_tokens 6"),
        ("DELETE FROM used WHERE tenant = 'a'", ": nothing; the log has requests 3"),
        ("INSERT INTO used VALUES ('day', 9, 'c', 'k', 'm', 'o', 1, 1, 1, 1, 1)", "day 9, tenant c"),
        ("UPDATE used SET tenant = CASE tenant WHEN 'a' THEN 'b' ELSE 'a' END, key = 'x'", "key x"),
        ("UPDATE used SET number = 'never' WHERE tenant = 'b' AND period = 'day'", "day never"),
        ("UPDATE state SET size = size - 1", "the log has requests"),
        ("UPDATE state SET size = 99", "99 entries of test.daulat.example/2026 are said to be counted; it has 6"),
        ("UPDATE state SET size = 'all'", "'all' entries"),
        ("DELETE FROM state", "the log has nothing"),
        ("INSERT INTO state VALUES ('another/2026', 5)", "5 entries of another/2026"),
    ],
)
def test_what_somebody_else_wrote_shows_and_is_counted_anew(
    log: Log, tmp_path: Path, statement: str, words: str
) -> None:
    """While it is open, at once; and when it was closed meanwhile, by the next look at it."""
    log.grow([inference(NOW, tenant=tenant) for tenant in "ab"] * 3)
    path, shards = tmp_path / "usage.db", {ORIGIN: log.folder}
    database = UsageDatabase(path)
    database.catch_up(shards)
    right = counted(database)
    assert (database.check(shards), database.touched()) == ((6, ()), False)
    changed(path, statement.replace(" WHERE rowid_of", " WHERE tenant = 'a'"))
    assert database.touched()
    again = UsageDatabase(path)
    for each in (database, again):
        found = each.check(shards)
        assert any(words in said for said in found.differences), found
    assert database.touched(), "until it is mended"
    database.drop()
    assert not database.touched()
    database.catch_up(shards)
    assert counted(database) == right == naive(log.entries)
    assert database.check(shards).differences == ()
    again.close()
    database.close()


def test_a_change_that_was_taken_back_is_none(log: Log, tmp_path: Path) -> None:
    log.grow(many(random.Random(9), 300))  # noqa: S311
    path, shards = tmp_path / "usage.db", {ORIGIN: log.folder}
    database = UsageDatabase(path)
    database.catch_up(shards)
    changed(path, "UPDATE used SET requests = requests + 1", "UPDATE used SET requests = requests - 1")
    assert database.touched()
    assert database.check(shards) == (300, ())
    assert not database.touched()
    log.grow(many(random.Random(10), 50))  # noqa: S311
    database.catch_up(shards)
    assert not database.touched(), "what it writes itself is nobody else's"
    database.close()


def test_a_file_that_is_no_database_is_said_to_be_none(tmp_path: Path) -> None:
    (tmp_path / "usage.db").write_bytes(b"not a database" * 100)
    with pytest.raises(IntegrityError, match="delete it, and it is counted again"):
        UsageDatabase(tmp_path / "usage.db")


def changed(path: Path, *statements: str) -> None:
    """As somebody does who has the file."""
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        for statement in statements:
            connection.execute(statement)
