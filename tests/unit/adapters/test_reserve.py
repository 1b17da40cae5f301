"""The log's room: a reserve that is given up when the disk is full, and taken again when there is plenty."""

from __future__ import annotations

from pathlib import Path

import pytest

from daulat.adapters import reserve
from daulat.adapters.reserve import LogRoom, free_bytes, preallocate
from daulat.errors import Unavailable

SIZE, STEP = 1000, 100


class Disk:
    """So much free space, and what the reserve takes of it."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.others = folder, 10_000
        monkeypatch.setattr(reserve, "free_bytes", lambda _folder: self.others - SIZE * self.held)
        self.room = LogRoom(folder, size=SIZE, step=STEP)

    @property
    def held(self) -> bool:
        return (self.folder / ".reserve").exists()


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(tmp_path, monkeypatch)


def test_the_reserve_is_held_while_there_is_plenty(disk: Disk) -> None:
    disk.room.need()
    assert (disk.folder / ".reserve").stat().st_size == SIZE


def test_a_full_disk_takes_the_reserve_and_then_there_is_no_room(disk: Disk) -> None:
    disk.room.need()
    disk.others = SIZE + STEP
    disk.room.need()
    assert disk.held  # what is free is enough
    disk.others = SIZE + STEP - 1
    disk.room.need()
    assert not disk.held
    disk.others = STEP - 1
    with pytest.raises(Unavailable, match="are free for the log"):
        disk.room.need()


def test_a_little_space_is_not_taken_for_a_reserve_and_plenty_is(disk: Disk) -> None:
    disk.others = 2 * SIZE
    disk.room.need()
    assert not disk.held
    disk.others += 1
    disk.room.need()
    assert disk.held


def test_what_is_preallocated_really_takes_its_room(tmp_path: Path) -> None:
    preallocate(tmp_path / "room", 1 << 20)
    assert (tmp_path / "room").stat().st_blocks * 512 >= 1 << 20
    assert free_bytes(tmp_path) > 0
