"""The snapshot's file: replaced whole, known by its number, seen alive by its time."""

from __future__ import annotations

import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from daulat.adapters.snapshot_file import SnapshotFile
from daulat.core.snapshot import CharterRef, PolicyRef, Snapshot, TenantRow

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


def test_the_file_holds_keys_and_is_for_this_user_alone(tmp_path: Path) -> None:
    SnapshotFile(tmp_path / "snapshot").write(SNAPSHOT)
    assert (tmp_path / "snapshot").stat().st_mode & 0o777 == 0o600


def test_readers_never_see_half_of_one(tmp_path: Path) -> None:
    """A writer replaces it all the time; whatever is read is whole, and numbers ascend."""
    path = tmp_path / "snapshot"
    written = SnapshotFile(path)
    written.write(SNAPSHOT)
    done = threading.Event()

    def write() -> None:
        for number in range(8, 300):
            tenants = tuple(TenantRow(f"{number}", "k" * 500, "p") for _ in range(number % 40))
            written.write(replace(SNAPSHOT, number=number, tenants=tenants))
        done.set()

    thread = threading.Thread(target=write)
    thread.start()
    read, numbers = SnapshotFile(path), list[int]()
    while not done.is_set() or not numbers or numbers[-1] != 299:
        found = read.poll()
        if found is not None:
            assert len(found.tenants) == (found.number % 40 if found.number > 7 else 0)
            numbers.append(found.number)
    thread.join()
    assert numbers == sorted(set(numbers))
