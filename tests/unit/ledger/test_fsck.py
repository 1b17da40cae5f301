"""`fsck` finds every kind of damage to what lies on disk, and nothing in a sound log, wherever a crash has left it."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.support import logs
from tests.support.ledger import MemoryJournals, admission, answered, group_of
from tests.support.logs import ORIGIN, SIGNER, T0, VERIFIER, Step

from daulat.adapters.journal_files import JournalFolder, WorkerSegments
from daulat.adapters.log_files import Blobs, LogFiles, LogFolder
from daulat.adapters.request_index import IndexReader, RequestIndex
from daulat.adapters.seal import SqliteSeal
from daulat.core import entries
from daulat.ledger import fsck, records
from daulat.ledger.edge import RightEdge
from daulat.ledger.intake import Cursor, Journals
from daulat.ledger.sequencer import Sealed
from daulat.tlog.checkpoint import Checkpoint, sign
from daulat.tlog.tiles import encode_bundle

BASE = 280  # entries under the checkpoint before the newest
LATER = 7  # the first number that the story leaves


def story() -> tuple[list[bytes], bytes]:
    """The tests' own lawful log, with enough answers for a full tile, and a rule's text that is named by its hash."""
    more = [
        Step(f"more-{number}", entries.INFERENCE, logs.inference(number, 4000 + number))
        for number in range(LATER, LATER + 300)
    ]
    steps = logs.after(logs.story(), "limited", *more)
    first, *rest = logs.rules()
    changes = {"policy": {"files": [{**first, "text": None}, *rest]}}
    return logs.write(changes, steps).entries, first["text"].encode()


ENTRIES, RULE = story()


class Disk:
    """A log as its sequencer leaves it: shard, blobs, second place, index and the journal of one worker."""

    def __init__(self, folder: Path, *, published: bool = True) -> None:
        self.log, self.blobs = LogFolder(folder / "log" / "2026"), folder / "log" / "blob"
        self.seal_db, self.index_db, self.journal = folder / "seal.db", folder / "index.db", folder / "journal"
        self.journal.mkdir()
        self.log.folder.mkdir(parents=True)
        self.blob = self.blobs / Blobs(self.blobs).put(RULE)
        edge = RightEdge(0, self.log)
        self.log.write(dict(edge.extend(ENTRIES[:BASE])))
        base = self._sign(edge)
        self.log.publish(base)
        files = dict(edge.extend(ENTRIES[BASE:]))
        self.newest = self._sign(edge)
        if published:
            self.log.write(files)
            self.log.publish(self.newest)
        self._journal()
        self.seal = SqliteSeal(self.seal_db, ORIGIN)
        sealed = Sealed(edge.size, self.newest, BASE, base, tuple(ENTRIES[BASE:]), {4: self.cursor}, {})
        self.seal.advance(b"", sealed)
        index = RequestIndex(self.index_db, ORIGIN)
        index.add(0, ENTRIES if published else ENTRIES[:BASE])
        index.close()

    @staticmethod
    def _sign(edge: RightEdge) -> bytes:
        return sign(Checkpoint(ORIGIN, edge.size, edge.root()), [SIGNER])

    def _journal(self) -> None:
        """Three groups, of which the first was taken in; its worker is gone."""
        segments = WorkerSegments(self.journal, 4, ORIGIN)
        for number in range(3):
            segments.commit(group_of(number, list(answered(number, number))))
        segments.close()
        self.segment = self.journal / "w4-000000"
        data = self.segment.read_bytes()
        self.ends = [group.end for group in records.groups(data, records.header_length(data), 0)]
        self.cursor = Cursor(0, self.ends[0], 1)

    def change_seal(self, statement: str, *values: object) -> None:
        with sqlite3.connect(self.seal_db) as database:
            database.execute(statement, values)
        database.close()

    def check(self, journals: Journals | None = None, now: int = T0 + logs.DAY) -> list[fsck.Problem]:
        index = IndexReader(self.index_db, ORIGIN)
        shard = fsck.Shard(VERIFIER, LogFiles(self.log, self.blobs), self.seal.load, self.newest, index)
        try:
            return list(fsck.check(shard, journals or JournalFolder(self.journal), now))
        finally:
            index.close()

    def path(self, name: str) -> Path:
        return self.log.folder / name


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(tmp_path)


def test_a_sound_log_has_no_problems(disk: Disk) -> None:
    assert disk.check() == []


def test_a_log_that_was_sealed_and_not_yet_published_is_sound(tmp_path: Path) -> None:
    soon = T0 + 20_000  # two answers of the story are among the staged ones: now, their numbers may still be open
    (published,) = Disk(tmp_path, published=False).check(now=soon)
    assert "next start does it" in published.what
    assert not published.serious


def flip(path: Path, at: int = 40) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 4
    path.write_bytes(data)


def torn_open(path: Path, at: int, new: bytes) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:at] + new + data[at + len(new) :])


def _partial(disk: Disk, name: str) -> Path:
    (found,) = disk.path(f"{name}.p").glob(f"{_width(name)}")
    return found


def _width(name: str) -> int:
    return len(ENTRIES) // 256 if name.startswith("tile/1") else len(ENTRIES) % 256


def _shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def _cut(disk: Disk, start: int, end: int) -> None:
    data = disk.segment.read_bytes()
    disk.segment.write_bytes(data[:start] + data[end:])


def _swap(disk: Disk) -> None:
    """Two answers change places: every entry is lawful, and the tree another."""
    path = disk.path("tile/entries/000")
    one, other = (len(entry).to_bytes(2, "big") + entry for entry in ENTRIES[20:22])
    path.write_bytes(path.read_bytes().replace(one + other, other + one))


def _ahead(disk: Disk) -> None:
    """Sealed again and again, while what is published stood still: the tiles are there, too."""
    edge = RightEdge(len(ENTRIES), disk.log)
    before = disk.newest
    for entry in (ENTRIES[5], ENTRIES[6]):
        base_size, base = edge.size, before
        disk.log.write(dict(edge.extend([entry])))
        before = Disk._sign(edge)
    values = (edge.size, before, base_size, base)
    disk.change_seal("UPDATE seal SET size = ?, checkpoint = ?, base_size = ?, base_checkpoint = ?", *values)
    disk.change_seal("UPDATE staged_bundle SET width = 1, entries = ?", encode_bundle([ENTRIES[6]]))


def _stranger(disk: Disk) -> bytes:
    edge = RightEdge(len(ENTRIES), disk.log)
    return sign(Checkpoint(ORIGIN, edge.size, edge.root()), [type(SIGNER)(ORIGIN, bytes(32))])


DAMAGE: dict[str, tuple[Callable[[Disk], object], str]] = {
    "a flipped bit in a full tile": (lambda disk: flip(disk.path("tile/0/000")), "entry 0: the level 0 tile"),
    "a flipped bit in a partial tile": (lambda disk: flip(_partial(disk, "tile/0/001")), "entry 256: the level 0 tile"),
    "a flipped bit in an upper tile": (lambda disk: flip(_partial(disk, "tile/1/000"), 9), "tile/1/000"),
    "a missing tile": (lambda disk: disk.path("tile/0/000").unlink(), "no tile/0/000"),
    "a missing partial tile": (lambda disk: _partial(disk, "tile/1/000").unlink(), "no tile/1/000"),
    "a changed bundle": (lambda disk: flip(disk.path("tile/entries/000"), 5000), ""),
    "a bundle in which an entry is no JSON any more": (lambda disk: flip(disk.path("tile/entries/000"), 60), ""),
    "a bundle of other entries": (_swap, "root"),
    "a missing bundle": (lambda disk: disk.path("tile/entries/000").unlink(), "no tile/entries/000"),
    "a shortened bundle": (lambda disk: _shorten(_partial(disk, "tile/entries/001")), "exactly"),
    "a flipped bit in the checkpoint": (lambda disk: flip(disk.path("checkpoint"), -20), "checkpoint"),
    "no checkpoint": (lambda disk: disk.path("checkpoint").unlink(), "checkpoint"),
    "a missing blob": (lambda disk: disk.blob.unlink(), "is missing"),
    "a blob of other bytes": (lambda disk: flip(disk.blob), "other bytes"),
    "a second place that was set back": (
        lambda disk: disk.change_seal("UPDATE seal SET checkpoint = base_checkpoint, size = base_size"),
        "neither the sealed one",
    ),
    "a second place ahead of what is published": (_ahead, "neither the sealed one"),
    "a second place of another log": (
        lambda disk: disk.change_seal("UPDATE seal SET checkpoint = ?", _stranger(disk)),
        "known key",
    ),
    "changed staged entries": (
        lambda disk: disk.change_seal("UPDATE staged_bundle SET width = 1, entries = ?", encode_bundle([b"{}"])),
        "staged entries do not lead",
    ),
    "staged entries that are no bundle": (
        lambda disk: disk.change_seal("UPDATE staged_bundle SET entries = ?", b"{}"),
        "staged entries were changed",
    ),
    "lost staged entries": (lambda disk: disk.change_seal("DELETE FROM staged_bundle"), "staged entries do not lead"),
    "a flipped bit in a journal": (lambda disk: flip(disk.segment, disk.ends[0] + 30), "the file was changed"),
    "a journal with a group missing": (lambda disk: _cut(disk, disk.ends[0], disk.ends[1]), "the file was changed"),
    "a journal cut within a group": (lambda disk: _shorten(disk.segment), "it was cut"),
    "a journal cut below what was taken in": (
        lambda disk: disk.segment.write_bytes(disk.segment.read_bytes()[: disk.ends[0] - 5]),
        "it was cut",
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_found_and_serious(disk: Disk, name: str) -> None:
    damage, words = DAMAGE[name]
    damage(disk)
    problems = [problem for problem in disk.check() if problem.serious]
    assert any(words in problem.what for problem in problems), problems


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE request SET position = position + 1 WHERE position = 100",
        "DELETE FROM request WHERE position = 30",
        "UPDATE request SET origin = 'other/1' WHERE position = 200",
        "UPDATE control SET type = 'charter/v1' WHERE position = 3",
    ],
)
def test_an_index_that_points_elsewhere_is_found_wherever_it_does(disk: Disk, statement: str) -> None:
    with sqlite3.connect(disk.index_db) as database:
        assert database.execute(statement).rowcount == 1
    database.close()
    (problem,) = disk.check()
    assert "for 1 entries" in problem.what
    assert not problem.serious  # it is a projection


def test_an_index_that_is_not_there_can_be_made_anew(disk: Disk) -> None:
    disk.index_db.unlink()
    (problem,) = disk.check()
    assert "the index knows 0 of" in problem.what
    assert not problem.serious


def test_a_torn_last_group_is_what_a_crash_leaves(disk: Disk) -> None:
    torn_open(disk.segment, disk.ends[1] + 40, bytes(disk.ends[2] - disk.ends[1] - 40))
    assert disk.check() == []


def test_a_living_worker_may_write_while_it_is_looked_at(disk: Disk) -> None:
    journals = MemoryJournals()
    journals.begin(4)
    journals.write(4, (records.ADMISSION, 1, admission(1)), *answered(2, 2))
    journals.files[4, 0] = journals.files[4, 0][:-7]
    disk.change_seal("DELETE FROM cursor")
    assert disk.check(journals) == []
    journals.end(4)
    (problem,) = disk.check(journals)
    assert "it was cut" in problem.what


def test_a_segment_that_is_swept_meanwhile_was_taken_in(disk: Disk) -> None:
    class Swept(JournalFolder):
        def read(self, worker: int, segment: int, offset: int) -> bytes:
            raise FileNotFoundError

    assert disk.check(Swept(disk.journal)) == []


def test_a_sequencer_that_goes_on_meanwhile_is_no_divergence(disk: Disk) -> None:
    """The published checkpoint was read before; two steps later the second place is looked at."""
    _ahead(disk)
    sealed = disk.seal.load()
    assert sealed is not None
    published = [disk.newest, sealed.base_checkpoint]

    class Moving(LogFiles):
        def checkpoint(self) -> bytes:
            return published.pop(0)

    index = IndexReader(disk.index_db, ORIGIN)
    shard = fsck.Shard(VERIFIER, Moving(disk.log, disk.blobs), disk.seal.load, disk.newest, index)
    assert [item for item in fsck.check(shard, JournalFolder(disk.journal), T0 + logs.DAY) if item.serious] == []
    index.close()


def test_a_closed_log_is_final(disk: Disk) -> None:
    index = IndexReader(disk.index_db, ORIGIN)
    store = LogFiles(disk.log, disk.blobs)
    for final, problems in ((disk.newest, 0), (b"", 1), (disk.newest.replace(b"2026", b"2027"), 1)):
        shard = fsck.Shard(VERIFIER, store, lambda: None, final, index)
        found = list(fsck.check(shard, MemoryJournals(), T0 + logs.DAY))
        assert len(found) == problems
        assert all("final" in problem.what and problem.serious for problem in found)
    index.close()
