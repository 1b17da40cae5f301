"""A worker follows the snapshot: a new number is a new world, a new time a heartbeat."""

from __future__ import annotations

import os
import socket
from dataclasses import replace
from pathlib import Path

import pytest
from tests.support.worlds import SECRET, roll, snapshot

from daulat.adapters.snapshot_file import SnapshotFile
from daulat.errors import Unauthenticated
from daulat.processes.worker import Worlds, listen


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "snapshot"
    SnapshotFile(made).write(snapshot(number=3))
    return made


def test_without_a_snapshot_there_is_no_worker(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Worlds(tmp_path / "snapshot", 7)


def test_a_new_number_is_a_new_world_and_the_rules_are_parsed_once(path: Path) -> None:
    worlds = Worlds(path, 7)
    first = worlds.world
    assert not worlds.poll()
    assert worlds.world is first
    decider = worlds._decider
    SnapshotFile(path).write(snapshot(number=4))
    assert worlds.poll()
    assert worlds.world.snapshot.number == 4
    assert worlds._decider is decider
    policy = snapshot().policy
    SnapshotFile(path).write(snapshot(number=5, policy=replace(policy, version="another")))
    assert worlds.poll()
    assert worlds._decider is not decider


def test_who_may_ask_is_indexed_again_only_when_the_roll_is_new(path: Path) -> None:
    worlds = Worlds(path, 7)
    first = worlds.world.directory
    mine = first.authenticate(SECRET.encode())
    SnapshotFile(path).write(snapshot(number=4, leases=()))
    assert worlds.poll()
    assert worlds.world.directory is first
    assert first.authenticate(SECRET.encode()) is mine
    SnapshotFile(path).write(snapshot(number=5, roll=roll(number=5, keys=())))
    assert worlds.poll()
    with pytest.raises(Unauthenticated):
        worlds.world.directory.authenticate(SECRET.encode())
    assert worlds.world.directory.principal("key_1") is None


def test_a_touched_file_is_a_heartbeat_and_a_still_one_is_not(path: Path) -> None:
    worlds = Worlds(path, 7)
    worlds.poll()
    worlds.world.heartbeat = 0.0
    worlds.poll()
    assert worlds.world.heartbeat == 0.0
    os.utime(path, ns=(5, 5))
    assert not worlds.poll()
    assert worlds.world.heartbeat > 0.0


def test_a_snapshot_that_is_gone_leaves_the_world_as_it_is(path: Path) -> None:
    worlds = Worlds(path, 7)
    path.unlink()
    assert not worlds.poll()
    assert worlds.world.snapshot.number == 3


def test_workers_share_one_port() -> None:
    one = listen("127.0.0.1", 0)
    other = listen("127.0.0.1", one.getsockname()[1])
    assert one.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT)
    for listener in (one, other):
        listener.close()
