"""The log's folder: files appear whole and durable, in an order that any crash leaves sound."""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.support.ledger import Crash, HandClock, MemoryIndex, MemoryJournals, MemorySeal, Steps, charter_entry

from daulat.adapters import log_files
from daulat.adapters.log_files import Blobs, LogFolder
from daulat.errors import NotFound, SealBroken
from daulat.ledger.reading import read_entries
from daulat.ledger.sequencer import Sequencer
from daulat.tlog.checkpoint import open_checkpoint
from daulat.tlog.merkle import leaf_hash, root
from daulat.tlog.note import Signer, Verifier

SIGNER = Signer("test/1", bytes(range(32)))


def crash_at(monkeypatch: pytest.MonkeyPatch, steps: Steps) -> None:
    """Every system call that changes the folder counts as a step, before and after it takes effect."""

    def around(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            steps.step()
            result = real(*arguments, **options)
            steps.step()
            return result

        return call

    real_write = os.write

    def write(descriptor: int, data: bytes) -> int:
        steps.step()
        real_write(descriptor, data[: len(data) // 2])  # torn
        steps.step()
        return len(data) // 2 + real_write(descriptor, data[len(data) // 2 :])

    monkeypatch.setattr(log_files.os, "write", write)
    monkeypatch.setattr(log_files.os, "fsync", around(_nothing))
    monkeypatch.setattr(Path, "replace", around(Path.replace))
    monkeypatch.setattr(Path, "mkdir", around(Path.mkdir))


def _nothing(_descriptor: int) -> None:
    """Instead of a sync: the machine lives on, so nothing is lost that was not synced."""


class Disk:
    """A log in a real folder, with the rest in memory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.seal, self.index = MemorySeal(), MemoryIndex()

    def open(self) -> Sequencer:
        return Sequencer(
            origin="test/1",
            signer=SIGNER,
            seal=self.seal,
            log=LogFolder(self.folder),
            index=self.index,
            journals=MemoryJournals(),
            clock=HandClock(),
        )

    def check(self) -> list[bytes]:
        """What a reader finds at this very moment: the published tree, whole."""
        log = LogFolder(self.folder)
        if not log.published():
            return []
        head = open_checkpoint(log.published(), Verifier(SIGNER.vkey))
        found = read_entries(log, 0, head.size, head.size)
        assert root([leaf_hash(entry) for entry in found]) == head.root
        return found


ENTRIES = [charter_entry(number) for number in range(260)]


def life(disk: Disk) -> None:
    """Appends whatever is not there yet, in steps that end before, at and after a full tile."""
    sequencer = disk.open()
    for end in (0, 3, 256, 257, 260):
        if end > sequencer.size:
            sequencer.append(ENTRIES[sequencer.size : end])


def test_a_crash_at_any_system_call_leaves_a_log_that_can_be_read_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", _nothing)
    for last in itertools.count():
        disk = Disk(tmp_path / f"{last}" / "log" / "1")
        disk.folder.parent.mkdir(parents=True)
        with monkeypatch.context() as patched:
            steps = Steps(last)
            crash_at(patched, steps)
            try:
                life(disk)
            except Crash:
                pass
            else:
                assert disk.check() == ENTRIES
                break
        before = disk.check()
        assert before == ENTRIES[: len(before)]
        life(disk)
        assert disk.check() == ENTRIES
        assert disk.open().size == len(ENTRIES)
    assert last > 100


def test_nothing_is_published_before_what_it_covers_is_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Written, synced, renamed, and the folder synced: in this order, and the checkpoint last of all."""
    done: list[str] = []

    def note(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(first: Any, *rest: Any) -> Any:
            path = Path(f"/proc/self/fd/{first}").readlink() if isinstance(first, int) else str(first)
            done.append(f"{name} {os.path.relpath(path, tmp_path)}")
            return real(first, *rest)

        return call

    (tmp_path / "log").mkdir()
    disk = Disk(tmp_path / "log" / "1")
    monkeypatch.setattr(log_files.os, "write", note("write", os.write))
    monkeypatch.setattr(log_files.os, "fsync", note("sync", os.fsync))
    monkeypatch.setattr(Path, "replace", note("rename", Path.replace))
    sequencer = disk.open()
    assert "sync log" in done  # the shard's own folder
    done.clear()
    sequencer.append(ENTRIES[:1])
    bundle, tile, head = "log/1/tile/entries/000.p", "log/1/tile/0/000.p", "log/1"
    assert done[:3] == [f"write {bundle}/.1.new", f"sync {bundle}/.1.new", f"rename {bundle}/.1.new"]
    published = [f"write {head}/.checkpoint.new", f"sync {head}/.checkpoint.new", f"rename {head}/.checkpoint.new"]
    assert done[-4:] == [*published, f"sync {head}"]
    folders = done[:-4]
    for folder in (bundle, tile, "log/1/tile/entries", "log/1/tile/0", "log/1/tile", "log/1"):
        assert f"sync {folder}" in folders  # every new name is durable in its parent


@pytest.mark.parametrize("call", ["fsync", "write"])
def test_a_failed_write_or_sync_is_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    log = LogFolder(tmp_path / "1")
    log.publish(b"first\n")

    def fail(*_arguments: Any) -> Any:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(log_files.os, call, fail)
    with pytest.raises(SealBroken, match="Input/output error"):
        log.publish(b"second\n")
    assert log.published() == b"first\n"


def test_a_short_write_is_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_files.os, "write", lambda _descriptor, data: len(data) - 1)
    with pytest.raises(SealBroken, match="No space left"):
        LogFolder(tmp_path / "1").publish(b"first\n")


def test_blobs_are_found_by_their_hash_alone(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path / "blob")
    digest = blobs.put(b"rules")
    assert blobs.get(digest) == b"rules"
    for wrong in ("0" * 64, digest.upper(), "../log.vkey", "", f"{digest}/"):
        with pytest.raises(NotFound):
            blobs.get(wrong)


def test_the_period_in_force_is_remembered(tmp_path: Path) -> None:
    assert log_files.current_period(tmp_path) == ""
    log_files.set_current_period(tmp_path, "2026")
    log_files.set_current_period(tmp_path, "2027")
    assert log_files.current_period(tmp_path) == "2027"
    folder = LogFolder(tmp_path / "2027")
    with pytest.raises(NotFound):
        folder.vkey()
    folder.set_vkey(SIGNER.vkey)
    assert folder.vkey() == f"{SIGNER.vkey}\n"
