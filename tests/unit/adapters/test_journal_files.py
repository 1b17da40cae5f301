"""Journal segments on disk: durable when `commit` returns, sized ahead, locked while their worker lives."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.ledger import answered, group_of

from daulat.adapters import journal_files
from daulat.adapters.journal_files import PREALLOCATE_BYTES, JournalFolder, WorkerSegments
from daulat.ledger import records


def group(number: int, size: int = 10) -> bytes:
    return group_of(number, [(records.ADMISSION, number + 1, b"x" * size)])


@pytest.fixture
def segments(tmp_path: Path) -> Iterator[WorkerSegments]:
    made = WorkerSegments(tmp_path, 4, "test/1")
    yield made
    made.close()


def whole(folder: Path, worker: int = 4) -> list[int]:
    """Numbers of the groups in all segments."""
    journals, found = JournalFolder(folder), list[int]()
    for segment in journals.segments(worker):
        data = journals.read(worker, segment, 0)
        start = records.header_length(data)
        assert start > 0
        found += [item.number for item in records.groups(data, start, len(found))]
    return found


def test_the_file_is_open_for_synchronous_writes_and_sized_ahead(segments: WorkerSegments, tmp_path: Path) -> None:
    assert fcntl.fcntl(segments._file, fcntl.F_GETFL) & os.O_DSYNC
    assert (tmp_path / "w4-000000").stat().st_size == PREALLOCATE_BYTES
    segments.commit(group(0, PREALLOCATE_BYTES))
    assert (tmp_path / "w4-000000").stat().st_size == 2 * PREALLOCATE_BYTES
    assert whole(tmp_path) == [0]


def test_what_is_sized_ahead_is_filled_and_never_what_is_written(
    segments: WorkerSegments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled: list[tuple[int, int]] = []
    real = os.pwrite

    def watched(file: int, data: bytes, offset: int) -> int:
        if not any(data):
            filled.append((offset, len(data)))
        return real(file, data, offset)

    monkeypatch.setattr(os, "pwrite", watched)
    for number in range(5):
        segments.commit(group(number, PREALLOCATE_BYTES // 2))
    assert filled == [(PREALLOCATE_BYTES, PREALLOCATE_BYTES), (2 * PREALLOCATE_BYTES, PREALLOCATE_BYTES)]
    assert whole(tmp_path) == [0, 1, 2, 3, 4]


def test_files_are_for_this_user_alone(segments: WorkerSegments, tmp_path: Path) -> None:
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}


def test_segments_roll_and_closed_ones_are_cut_to_what_they_hold(tmp_path: Path) -> None:
    segments = WorkerSegments(tmp_path, 4, "test/1", segment=1000)
    for number in range(10):
        segments.commit(group(number, 400))
    segments.close()
    assert whole(tmp_path) == list(range(10))
    journals = JournalFolder(tmp_path)
    assert len(journals.segments(4)) > 1
    for segment in journals.segments(4):
        data = journals.read(4, segment, 0)
        *_, last = records.groups(data, records.header_length(data), next(_numbers(data)))
        assert last.end == len(data)


def _numbers(data: bytes) -> Iterator[int]:
    """The number a segment begins with, as its bytes say."""
    yield int.from_bytes(data[records.header_length(data) + 4 :][:8], "little")


def test_a_number_is_used_once(segments: WorkerSegments, tmp_path: Path) -> None:
    with pytest.raises(FileExistsError, match="lives, or is not taken in"):
        WorkerSegments(tmp_path, 4, "test/1")
    WorkerSegments(tmp_path, 5, "test/1").close()
    with pytest.raises(FileExistsError):  # it is gone, and not taken in
        WorkerSegments(tmp_path, 5, "test/1")


def test_a_killed_worker_is_dead_and_its_journal_can_be_read(tmp_path: Path) -> None:
    program = (
        "import os,sys,signal; from pathlib import Path; from daulat.adapters.journal_files import WorkerSegments;"
        "from daulat.ledger import records; s=WorkerSegments(Path(sys.argv[1]),7,'test/1');"
        "s.commit(records.encode_group(0,(records.head(records.ADMISSION,1,1),b'x'))); "
        "print('up',flush=True); signal.pause()"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        journals = JournalFolder(tmp_path)
        assert journals.alive(7)
        process.send_signal(signal.SIGKILL)
        process.wait(20)
        assert not journals.alive(7)
        assert whole(tmp_path, 7) == [0]


def test_a_short_write_is_an_error(segments: WorkerSegments, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "pwrite", lambda _file, data, _at: len(data) - 1)
    with pytest.raises(OSError, match="short write"):
        segments.commit(group(0))


class FullDisk:
    """No space beyond what is there, until something is deleted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, reserve: Path) -> None:
        self.full, self._reserve, self._real = True, reserve, os.posix_fallocate
        monkeypatch.setattr(os, "posix_fallocate", self.fallocate)

    def fallocate(self, file: int, offset: int, length: int) -> None:
        if self.full and (self._reserve.exists() or length % PREALLOCATE_BYTES == 0):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._real(file, offset, length)


def test_on_a_full_disk_the_reserve_is_given_up_and_taken_again_later(
    segments: WorkerSegments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reserve = tmp_path / "w4.reserve"
    assert reserve.stat().st_size == journal_files.RESERVE_BYTES
    disk = FullDisk(monkeypatch, reserve)
    for number in range(3):  # each beyond what was allocated before
        segments.commit(group(number, PREALLOCATE_BYTES))
        assert not reserve.exists()
    disk.full = False
    segments.commit(group(3, PREALLOCATE_BYTES))
    assert reserve.stat().st_size == journal_files.RESERVE_BYTES
    assert whole(tmp_path) == [0, 1, 2, 3]


def test_another_failure_to_allocate_is_not_taken_for_a_full_disk(
    segments: WorkerSegments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_arguments: Any) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "posix_fallocate", broken)
    with pytest.raises(OSError, match="Input/output"):
        segments.commit(group(0, PREALLOCATE_BYTES))
    assert (tmp_path / "w4.reserve").exists()


def test_shortage_says_how_much_is_free_and_how_much_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    segments = WorkerSegments(tmp_path, 4, "test/1")
    assert segments.shortage() == ""
    monkeypatch.setattr(journal_files, "free_bytes", lambda _folder: 12 * 2**20)
    assert segments.shortage() == "12 MiB are free for the journal, 256 are needed"
    segments.close()


def test_other_files_in_the_folder_are_nobodys(segments: WorkerSegments, tmp_path: Path) -> None:
    for name in ("w5-00000", "w6.lock.new", ".w7.lock.new", "x8-000000", "w9-000000.bak", "w10.txt"):
        (tmp_path / name).touch()
    assert JournalFolder(tmp_path).workers() == [4]
    assert JournalFolder(tmp_path).segments(4) == [0]


def test_whole_answers_come_back(segments: WorkerSegments, tmp_path: Path) -> None:
    segments.commit(group_of(0, list(answered(1, 1))))
    (found,) = records.groups(JournalFolder(tmp_path).read(4, 0, 0), len(records.encode_header(4, 0, "test/1")), 0)
    assert [(item.kind, item.sequence, item.payload) for item in found.records] == list(answered(1, 1))
