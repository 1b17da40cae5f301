"""Journal segments as files: `w<worker>-<segment>` beside `w<worker>.lock`, which the living worker holds.

Space is preallocated and filled with zeros, so that a synchronous write writes its own bytes and nothing of the file
system's: neither the file's size, nor that an extent has been written to for the first time. A reserve file per worker
is given up when the disk is full, so that running requests can finish; admission has stopped well before (`shortage`).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
from pathlib import Path
from typing import Final

from daulat.adapters.reserve import free_bytes, preallocate
from daulat.ledger import records

SEGMENT_BYTES: Final = 64 * 1024 * 1024
PREALLOCATE_BYTES: Final = 1024 * 1024  # 1 ms to fill, for which a commit waits
_SMALL_BYTES: Final = 64 * 1024  # allocated ahead on a full disk
RESERVE_BYTES: Final = 16 * 1024 * 1024
WATERMARK_BYTES: Final = 256 * 1024 * 1024
_SEGMENT: Final = re.compile(r"w(\d+)-(\d{6})\Z", re.ASCII)
_ANY: Final = re.compile(r"w(\d+)(?:-\d{6}|\.lock|\.reserve)\Z", re.ASCII)


class WorkerSegments:
    """The writing side (`ledger.journal.Segments`), used by the committing thread alone, but for `shortage`."""

    def __init__(
        self, folder: Path, worker: int, origin: str, *, watermark: int = WATERMARK_BYTES, segment: int = SEGMENT_BYTES
    ) -> None:
        """Lock the worker's name and create its first segment.

        Raises:
            OSError: there is or was a worker of that number, or there is no room.
        """
        self._folder, self._worker, self._origin = folder, worker, origin
        self._watermark, self._limit = watermark, segment
        self._lock = _lock(folder / f"w{worker}.lock")
        self._reserve = folder / f"w{worker}.reserve"
        preallocate(self._reserve, RESERVE_BYTES)
        self._number = 0
        self._position = self._allocated = 0
        self._open()

    def commit(self, group: bytes) -> None:
        """Append a group; the file is open for synchronous writes, so one call writes and makes durable."""
        if self._position >= self._limit:
            self._roll()
        end = self._position + len(group)
        if end > self._allocated:
            self._allocate(end)
        written = os.pwrite(self._file, group, self._position)
        if written != len(group):
            raise OSError(errno.EIO, f"short write of {written} of {len(group)} bytes")
        self._position = end

    def shortage(self) -> str:
        free = free_bytes(self._folder)
        if free >= self._watermark:
            return ""
        return f"{free >> 20} MiB are free for the journal, {self._watermark >> 20} are needed"

    def close(self) -> None:
        os.ftruncate(self._file, self._position)
        os.fsync(self._file)
        os.close(self._file)
        with contextlib.suppress(FileNotFoundError):
            self._reserve.unlink()
        os.close(self._lock)  # last: from here on the sequencer takes this worker for gone

    def _roll(self) -> None:
        os.ftruncate(self._file, self._position)
        os.fsync(self._file)
        os.close(self._file)
        self._number += 1
        self._open()

    def _open(self) -> None:
        path = self._folder / f"w{self._worker}-{self._number:06d}"
        self._file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_DSYNC | os.O_CLOEXEC, 0o600)
        self._position = self._allocated = 0
        header = records.encode_header(self._worker, self._number, self._origin)
        self._allocate(len(header))
        os.pwrite(self._file, header, 0)
        self._position = len(header)
        os.fsync(self._file)
        sync_folder(self._folder)

    def _allocate(self, end: int) -> None:
        wanted = -(-end // PREALLOCATE_BYTES) * PREALLOCATE_BYTES
        try:
            os.posix_fallocate(self._file, 0, wanted)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            self._reserve.unlink(missing_ok=True)
            wanted = end + _SMALL_BYTES
            os.posix_fallocate(self._file, 0, wanted)
        else:
            if not self._reserve.exists() and not self.shortage():  # there is room again
                preallocate(self._reserve, RESERVE_BYTES)
        os.pwrite(self._file, bytes(wanted - self._allocated), self._allocated)  # were it cut short, no harm
        os.fsync(self._file)
        self._allocated = wanted


class JournalFolder:
    """The reading side, used by the sequencer: which workers there are, who lives, and their bytes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def workers(self) -> list[int]:
        """All that have left anything, be it a lock without segments: one that ended at its very start."""
        return sorted({int(match[1]) for path in self._folder.iterdir() if (match := _ANY.match(path.name))})

    def segments(self, worker: int) -> list[int]:
        found = (match for path in self._folder.iterdir() if (match := _SEGMENT.match(path.name)))
        return sorted(int(match[2]) for match in found if int(match[1]) == worker)

    def read(self, worker: int, segment: int, offset: int) -> bytes:
        """The segment's bytes from `offset` on."""
        with (self._folder / f"w{worker}-{segment:06d}").open("rb") as stream:
            stream.seek(offset)
            return stream.read()

    def alive(self, worker: int) -> bool:
        """Whether the worker holds its lock: the kernel lets go of it when the process ends, however it ends."""
        try:
            descriptor = os.open(self._folder / f"w{worker}.lock", os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False

    def remove(self, worker: int, segment: int) -> None:
        """Delete an integrated segment. Its covering checkpoint must be durable."""
        (self._folder / f"w{worker}-{segment:06d}").unlink()

    def forget(self, worker: int) -> None:
        """Delete what remains of a dead worker without segments."""
        for suffix in ("lock", "reserve"):
            with contextlib.suppress(FileNotFoundError):
                (self._folder / f"w{worker}.{suffix}").unlink()
        sync_folder(self._folder)


def sync_folder(folder: Path) -> None:
    """Make created, renamed and deleted names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _lock(path: Path) -> int:
    """Take a worker's lock. Its name appears with the lock held: whoever finds it free finds a worker that is gone."""
    if path.exists():
        raise FileExistsError(errno.EEXIST, "a worker of this number lives, or is not taken in yet", str(path))
    beside = path.with_name(f".{path.name}.new")
    held = os.open(beside, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    beside.replace(path)
    return held
