"""What the ledger asks of its ports, held against every implementation: files, SQLite, and the tests' own in memory."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import pytest
from tests.support.ledger import (
    MemoryIndex,
    MemoryJournals,
    MemorySeal,
    MemorySegments,
    MemoryStore,
    admission,
    answered,
    charter_entry,
    completion,
    group_of,
    key_entry,
    request_id,
)

from daulat.adapters.journal_files import JournalFolder, WorkerSegments
from daulat.adapters.log_files import LogFolder
from daulat.adapters.request_index import IndexReader, RequestIndex
from daulat.adapters.seal import SqliteSeal, settle
from daulat.core import entries
from daulat.errors import DaulatError, NotFound, SealBroken
from daulat.ledger import records
from daulat.ledger.intake import Cursor, Open
from daulat.ledger.sequencer import Sealed

Record = tuple[int, int, bytes]


class Writers(Protocol):
    """A way to write the journals that the port under test reads."""

    journals: Any

    def begin(self, worker: int) -> None: ...

    def write(self, worker: int, *group: Record) -> None: ...

    def roll(self, worker: int) -> None: ...

    def end(self, worker: int) -> None: ...


class MemoryWriters:
    """Those of `tests.support.ledger`."""

    def __init__(self, _folder: Path) -> None:
        self.journals = MemoryJournals()
        self.begin, self.write, self.end = self.journals.begin, self.journals.write, self.journals.end

    def roll(self, worker: int) -> None:
        self.journals.roll(worker, self.journals.segments(worker)[-1] + 1)


class FileWriters:
    """`adapters.journal_files`, both sides."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.journals = JournalFolder(folder)
        self._segments: dict[int, WorkerSegments] = {}
        self._numbers: dict[int, int] = {}

    def begin(self, worker: int) -> None:
        self._segments[worker] = WorkerSegments(self._folder, worker, "test/1", segment=1)
        self._numbers[worker] = 0

    def write(self, worker: int, *group: Record) -> None:
        self._segments[worker].commit(group_of(self._numbers[worker], group))
        self._numbers[worker] += 1

    def roll(self, worker: int) -> None:
        """Every group begins a segment, where a segment may have one byte."""

    def end(self, worker: int) -> None:
        self._segments.pop(worker).close()


@pytest.fixture(params=[MemoryWriters, FileWriters], ids=["memory", "files"])
def writers(request: pytest.FixtureRequest, tmp_path: Path) -> Writers:
    made: Writers = request.param(tmp_path)
    return made


def read_all(journals: Any, worker: int) -> list[records.Group]:
    found: list[records.Group] = []
    for segment in journals.segments(worker):
        data = journals.read(worker, segment, 0)
        found += records.groups(data, records.header_length(data), len(found))
    return found


class TestJournals:
    """`ledger.intake.Journals`."""

    def test_nobody_has_left_anything_at_first(self, writers: Writers) -> None:
        assert writers.journals.workers() == []
        assert writers.journals.segments(4) == []
        assert not writers.journals.alive(4)

    def test_a_worker_lives_from_its_beginning_to_its_end(self, writers: Writers) -> None:
        writers.begin(12)
        writers.begin(4)
        assert writers.journals.workers() == [4, 12]
        assert writers.journals.alive(4)
        assert writers.journals.alive(4)  # looking changes nothing
        writers.end(4)
        assert not writers.journals.alive(4)
        assert writers.journals.alive(12)
        assert writers.journals.workers() == [4, 12]  # what it left is still there

    def test_what_was_written_can_be_read_at_once_and_in_order(self, writers: Writers) -> None:
        writers.begin(4)
        for number in range(1, 6):
            writers.write(4, *answered(number, number))
            if number % 2:
                writers.roll(4)
            assert len(read_all(writers.journals, 4)) == number
        payloads = [record.payload for group in read_all(writers.journals, 4) for record in group.records]
        assert payloads[::2] == [admission(number) for number in range(1, 6)]

    def test_reading_begins_at_an_offset(self, writers: Writers) -> None:
        writers.begin(4)
        writers.write(4, *answered(1, 1))
        segment = writers.journals.segments(4)[-1]
        whole = writers.journals.read(4, segment, 0)
        assert writers.journals.read(4, segment, 10) == whole[10:]
        assert writers.journals.read(4, segment, len(whole)) == b""

    def test_removed_segments_are_gone_and_the_worker_with_the_last_once_forgotten(self, writers: Writers) -> None:
        writers.begin(4)
        for number in range(1, 4):
            writers.write(4, *answered(number, number))
            writers.roll(4)
        first, *rest = writers.journals.segments(4)
        writers.journals.remove(4, first)
        assert writers.journals.segments(4) == rest
        writers.end(4)
        for segment in rest:
            writers.journals.remove(4, segment)
        assert writers.journals.workers() == [4]
        writers.journals.forget(4)
        assert writers.journals.workers() == []
        writers.journals.forget(4)  # a sequencer killed in between does it again


@pytest.fixture(params=["memory", "sqlite"])
def open_seal(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], Any]]:
    """Opens the same seal again: what a restart finds."""
    memory, opened = MemorySeal(), list[SqliteSeal]()

    def open_again() -> Any:
        if request.param == "memory":
            return memory
        opened.append(SqliteSeal(tmp_path / "seal.db", "test/1"))
        return opened[-1]

    yield open_again
    for seal in opened:
        seal.close()


FIRST = Sealed(0, b"checkpoint 0", 0, b"", (), {}, {})
SECOND = Sealed(
    2,
    b"checkpoint 2",
    0,
    b"checkpoint 0",
    (b"one", b"two"),
    {4: Cursor(1, 200, 3), 9: Cursor(0, 70, 1)},
    {(4, 7): Open(admission(7), [{"replica": 8, "lease": 6}])},
)
THIRD = Sealed(3, b"checkpoint 3", 2, b"checkpoint 2", (b"three",), {9: Cursor(0, 90, 2)}, {})


class TestSeal:
    """`ledger.sequencer.Seal`."""

    def test_it_is_empty_at_first(self, open_seal: Callable[[], Any]) -> None:
        assert open_seal().load() is None

    def test_all_of_it_is_replaced_at_once_and_outlives_a_restart(self, open_seal: Callable[[], Any]) -> None:
        seal = open_seal()
        seal.advance(b"", FIRST)
        assert open_seal().load() == FIRST
        seal.advance(FIRST.checkpoint, SECOND)
        assert open_seal().load() == SECOND
        seal.advance(SECOND.checkpoint, THIRD)
        assert open_seal().load() == THIRD

    @pytest.mark.parametrize("count", [0, 1, 255, 256, 257, 1000])
    def test_as_many_entries_as_there_are_come_back_in_order(self, open_seal: Callable[[], Any], count: int) -> None:
        staged = tuple(b"%d" % number * (number % 300) for number in range(count))
        open_seal().advance(b"", replace(FIRST, staged=staged))
        assert open_seal().load().staged == staged

    @pytest.mark.parametrize("expected", [b"", b"checkpoint 0", b"something else"])
    def test_whoever_expects_another_checkpoint_changes_nothing(
        self, open_seal: Callable[[], Any], expected: bytes
    ) -> None:
        seal = open_seal()
        seal.advance(b"", FIRST)
        seal.advance(FIRST.checkpoint, SECOND)
        with pytest.raises(SealBroken, match="another one is running"):
            open_seal().advance(expected, THIRD)
        assert seal.load() == SECOND
        seal.advance(SECOND.checkpoint, THIRD)

    def test_a_smaller_tree_is_never_sealed(self, open_seal: Callable[[], Any]) -> None:
        seal = open_seal()
        seal.advance(b"", FIRST)
        seal.advance(FIRST.checkpoint, SECOND)
        with pytest.raises(SealBroken):
            seal.advance(SECOND.checkpoint, replace(THIRD, size=1))
        assert seal.load() == SECOND

    def test_nothing_is_advanced_before_a_beginning(self, open_seal: Callable[[], Any]) -> None:
        with pytest.raises(SealBroken):
            open_seal().advance(FIRST.checkpoint, SECOND)
        assert open_seal().load() is None

    def test_what_the_caller_changes_afterwards_is_not_sealed(self, open_seal: Callable[[], Any]) -> None:
        seal = open_seal()
        cursors = {4: Cursor(0, 1, 1)}
        seal.advance(b"", replace(FIRST, cursors=cursors))
        cursors[5] = Cursor()
        assert set(seal.load().cursors) == {4}


@pytest.mark.parametrize("table", ["cursor", "opened", "staged_bundle"])
def test_whoever_reads_while_another_advances_sees_one_checkpoint_with_what_belongs_to_it(
    tmp_path: Path, table: str
) -> None:
    path = tmp_path / "seal.db"
    writer, reader = SqliteSeal(path, "test/1"), SqliteSeal(path, "test/1")
    writer.advance(b"", FIRST)
    advanced = list[str]()

    def advance(statement: str) -> None:
        if f"FROM {table}" in statement and not advanced:
            advanced.append(statement)
            writer.advance(FIRST.checkpoint, SECOND)

    reader._db.set_trace_callback(advance)
    assert reader.load() == FIRST
    assert advanced
    assert reader.load() == SECOND
    reader.close()
    writer.close()


def test_what_an_earlier_version_has_staged_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "seal.db"
    seal = SqliteSeal(path, "test/1")
    seal.advance(b"", FIRST)
    seal.advance(FIRST.checkpoint, replace(SECOND, staged=()))
    seal.close()
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as earlier:
        earlier.execute("DROP TABLE staged_bundle")
        earlier.execute("CREATE TABLE staged(position INTEGER PRIMARY KEY, entry BLOB NOT NULL) STRICT")
        earlier.executemany("INSERT INTO staged(entry) VALUES (?)", [(entry,) for entry in SECOND.staged])
    for _ in range(2):
        seal = SqliteSeal(path, "test/1")
        assert seal.load() == SECOND
        seal.close()


@pytest.mark.parametrize("rows", [True, False])
def test_a_settled_copy_has_nothing_staged(tmp_path: Path, rows: bool) -> None:
    path = tmp_path / "seal.db"
    seal = SqliteSeal(path, "test/1")
    seal.advance(b"", FIRST)
    seal.advance(FIRST.checkpoint, SECOND)
    seal.close()
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as copy:
        if rows:
            copy.execute("ALTER TABLE staged_bundle RENAME TO staged")
        settle(copy)
    seal = SqliteSeal(path, "test/1")
    newest = SECOND.checkpoint
    assert seal.load() == replace(SECOND, base_size=SECOND.size, base_checkpoint=newest, staged=())
    seal.close()


@pytest.fixture(params=["memory", "files"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    if request.param == "memory":
        return MemoryStore()
    (tmp_path / "log").mkdir()
    return LogFolder(tmp_path / "log" / "1")


HASHES = bytes(range(256)) * 32


class TestLogStore:
    """`ledger.sequencer.LogStore` and `tlog.tiles.TileSource`."""

    def test_nothing_is_published_at_first(self, store: Any) -> None:
        assert store.published() == b""
        with pytest.raises(NotFound):
            store.read("tile/0/000.p/1")

    def test_what_is_written_is_read(self, store: Any) -> None:
        files = {"tile/0/000.p/3": HASHES[:96], "tile/0/x001/x234/067": HASHES, "tile/entries/000.p/1": b"\0\1a"}
        store.write(files)
        assert {path: store.read(path) for path in files} == files
        store.write(files)  # the same again, as after a crash
        assert {path: store.read(path) for path in files} == files

    def test_a_checkpoint_replaces_the_one_before_it(self, store: Any) -> None:
        for signed in (b"one\n", b"two, and longer\n", b"3\n"):
            store.publish(signed)
            assert store.published() == signed

    def test_partial_tiles_are_found_in_the_full_one_that_took_their_place(self, store: Any) -> None:
        bundle = b"".join(b"\0\3%03d" % number for number in range(256))
        store.write({"tile/0/000.p/255": HASHES[: 255 * 32], "tile/entries/000.p/2": bundle[:10]})
        store.write({"tile/0/000": HASHES, "tile/entries/000": bundle})
        assert store.read("tile/0/000.p/255") == HASHES[: 255 * 32]
        assert store.read("tile/0/000.p/1") == HASHES[:32]
        assert store.read("tile/entries/000.p/2") == bundle[:10]

    @pytest.mark.parametrize("path", ["checkpoint", "../vkey", "tile/0/../000", "tile/0/0", "tile/0/000.p/256", ""])
    def test_only_tile_paths_are_read(self, store: Any, path: str) -> None:
        store.publish(b"signed\n")
        with pytest.raises(DaulatError):
            store.read(path)


@pytest.fixture(params=["memory", "sqlite"])
def open_index(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], Any]]:
    memory, opened = MemoryIndex(), list[RequestIndex]()

    def open_again() -> Any:
        if request.param == "memory":
            return memory
        opened.append(RequestIndex(tmp_path / "index.db", "test/1"))
        return opened[-1]

    yield open_again
    for index in opened:
        index.close()


class TestIndex:
    """`ledger.sequencer.Index`."""

    def test_it_knows_types_of_control_entries_and_how_far_it_has_come(self, open_index: Callable[[], Any]) -> None:
        index = open_index()
        assert index.size == 0
        index.add(0, [charter_entry(), key_entry(0)])
        index.add(2, [entries.join_inference(admission(1), completion(1)), key_entry(0)])
        again = open_index()
        assert again.size == 4
        types = [again.type_of(at) for at in range(5)]
        assert types == ["charter/v1", "key/v1", None, "key/v1", None]

    def test_adding_again_changes_nothing(self, open_index: Callable[[], Any]) -> None:
        index = open_index()
        for _ in range(2):
            index.add(0, [charter_entry(), entries.join_inference(admission(1), completion(1))])
        assert (index.size, index.type_of(0), index.type_of(1)) == (2, "charter/v1", None)


@pytest.fixture(params=["memory", "sqlite"])
def reader(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    """`ledger.fsck.Index` over a charter and two answers."""
    new = [charter_entry(), *(entries.join_inference(admission(number), completion(number)) for number in (1, 2))]
    if request.param == "memory":
        memory = MemoryIndex()
        memory.add(0, new)
        yield memory
        return
    written = RequestIndex(tmp_path / "index.db", "test/1")
    written.add(0, new)
    other = RequestIndex(tmp_path / "index.db", "test/2")
    other.add(0, [key_entry(0), entries.join_inference(admission(3), completion(3))])
    made = IndexReader(tmp_path / "index.db", "test/1")
    yield made
    for opened in (written, other, made):
        opened.close()


def test_an_index_is_read_by_request_and_by_position(reader: Any) -> None:
    assert reader.size == 3
    assert [reader.position_of(request_id(number)) for number in (1, 2, 3)] == [1, 2, None]
    assert [reader.type_of(at) for at in range(3)] == ["charter/v1", None, None]


@pytest.fixture(params=["memory", "files"])
def segments(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    if request.param == "memory":
        yield MemorySegments()
        return
    made = WorkerSegments(tmp_path, 4, "test/1")
    yield made
    made.close()


def test_segments_take_groups_one_after_the_other_and_say_when_room_is_short(segments: Any, tmp_path: Path) -> None:
    """`ledger.journal.Segments`."""
    assert segments.shortage() == ""
    for number in range(3):
        segments.commit(group_of(number, list(answered(number, number))))
    groups = segments.groups if isinstance(segments, MemorySegments) else read_all(JournalFolder(tmp_path), 4)
    assert [group.number for group in groups] == [0, 1, 2]
