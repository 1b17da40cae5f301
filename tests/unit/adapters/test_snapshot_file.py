"""The snapshot's file: replaced whole, known by its number, seen alive by its time."""

from __future__ import annotations

import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from daulat.adapters.snapshot_file import SnapshotFile
from daulat.core.snapshot import CharterRef, PolicyRef, Roll, Snapshot, TenantRow
from daulat.errors import IntegrityError

SNAPSHOT = Snapshot(7, "log/1", CharterRef(0, "text"), PolicyRef(2, "v", "rules", "schema"))


def test_a_reader_sees_each_number_once(tmp_path: Path) -> None:
    written, read = SnapshotFile(tmp_path / "snapshot"), SnapshotFile(tmp_path / "snapshot")
    with pytest.raises(FileNotFoundError):
        read.poll()
    written.write(SNAPSHOT)
    assert read.poll() == SNAPSHOT
    assert read.poll() is None
    written.write(replace(SNAPSHOT, number=8))
    newest = read.poll()
    assert newest is not None
    assert newest.number == 8


def test_a_heartbeat_changes_the_time_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "snapshot"
    written, read = SnapshotFile(path), SnapshotFile(path)
    written.write(SNAPSHOT)
    os.utime(path, ns=(1, 1))
    read.poll()
    assert read.touched == 1
    written.touch()
    assert read.poll() is None
    assert read.touched > 1


def test_readers_say_by_which_number_they_work(tmp_path: Path) -> None:
    written = SnapshotFile(tmp_path / "snapshot")
    assert written.confirmed(0) == 0
    for worker, number in ((0, 7), (1, 7), (0, 8)):
        SnapshotFile(tmp_path / "snapshot").confirm(worker, number)
    assert [written.confirmed(worker) for worker in (0, 1, 2)] == [8, 7, 0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["snapshot-0", "snapshot-1"]


def test_the_file_holds_keys_and_is_for_this_user_alone(tmp_path: Path) -> None:
    SnapshotFile(tmp_path / "snapshot").write(SNAPSHOT)
    assert (tmp_path / "snapshot").stat().st_mode & 0o777 == 0o600


def test_the_roll_is_written_and_read_only_when_it_is_new(tmp_path: Path) -> None:
    path, beside = tmp_path / "snapshot", tmp_path / "snapshot.roll"
    written, read = SnapshotFile(path), SnapshotFile(path)
    roll = Roll(7, (TenantRow("tenant_1", "key", "house"),))
    written.write(replace(SNAPSHOT, roll=roll))
    first, inode = read.poll(), beside.stat().st_ino
    assert first is not None
    assert first.roll == roll
    assert b"tenant_1" not in path.read_bytes()
    written.write(replace(SNAPSHOT, number=8, roll=roll))
    second = read.poll()
    assert second is not None
    assert second.roll is first.roll
    assert beside.stat().st_ino == inode
    written.write(replace(SNAPSHOT, number=9, roll=Roll(9)))
    third = read.poll()
    assert third is not None
    assert third.roll == Roll(9)
    assert beside.stat().st_mode & 0o777 == 0o600


def test_a_roll_may_be_newer_than_the_snapshot_and_never_older(tmp_path: Path) -> None:
    path, beside = tmp_path / "snapshot", tmp_path / "snapshot.roll"
    SnapshotFile(path).write(replace(SNAPSHOT, roll=Roll(7, (TenantRow("tenant_1", "key", "house"),))))
    old = path.read_bytes()
    SnapshotFile(path).write(replace(SNAPSHOT, number=8, roll=Roll(8)))
    newest = path.read_bytes()
    path.write_bytes(old)  # the moment between the two writes
    between = SnapshotFile(path).poll()
    assert between is not None
    assert between.roll == Roll(8), "nobody who was revoked is on it"
    path.write_bytes(newest)
    beside.write_bytes(beside.read_bytes().replace(b"8", b"7"))
    with pytest.raises(IntegrityError, match="has roll 7, the snapshot needs 8"):
        SnapshotFile(path).poll()


def test_readers_never_see_half_of_one(tmp_path: Path) -> None:
    """A writer replaces it all the time; whatever is read is whole, and numbers ascend."""
    path = tmp_path / "snapshot"
    written = SnapshotFile(path)
    written.write(SNAPSHOT)
    done = threading.Event()

    def write() -> None:
        for number in range(8, 300):
            tenants = tuple(TenantRow(f"{number}", "k" * 500, "p") for _ in range(number % 40))
            written.write(replace(SNAPSHOT, number=number, roll=Roll(number, tenants)))
        done.set()

    thread = threading.Thread(target=write)
    thread.start()
    read, numbers = SnapshotFile(path), list[int]()
    while not done.is_set() or not numbers or numbers[-1] != 299:
        found = read.poll()
        if found is not None:
            assert len(found.roll.tenants) == (found.roll.number % 40 if found.roll.number > 7 else 0)
            numbers.append(found.number)
    thread.join()
    assert numbers == sorted(set(numbers))
