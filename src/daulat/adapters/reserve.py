"""Space kept back on a disk: given up when the disk is full, so that what has begun can end; taken again later."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Final

from daulat.errors import Unavailable

_log = logging.getLogger(__name__)
LOG_RESERVE_BYTES: Final = 64 * 1024 * 1024
_STEP_BYTES: Final = 16 * 1024 * 1024  # what one step of the log may take: seal, tiles and index, each with its copy


def free_bytes(folder: Path) -> int:
    """What this user may still write there."""
    facts = os.statvfs(folder)
    return facts.f_bavail * facts.f_frsize


def preallocate(path: Path, size: int) -> None:
    """Make a file that really takes its room. Raises OSError where there is none."""
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(descriptor, 0, size)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class LogRoom:
    """The log's room. A step that ran out of space half-way ends the sequencer, so it is asked before each step."""

    def __init__(self, folder: Path, *, size: int = LOG_RESERVE_BYTES, step: int = _STEP_BYTES) -> None:
        self._folder, self._size, self._step = folder, size, step
        self._reserve = folder / ".reserve"

    def need(self) -> None:
        """Make sure that there is room for a step, giving up the reserve for it if need be.

        Raises:
            Unavailable: there is none.
        """
        free = free_bytes(self._folder)
        if free < self._step and self._reserve.exists():
            self._reserve.unlink()
            free = free_bytes(self._folder)
            _log.warning("the disk is full: the log gives up its reserve, %d MiB are left", free >> 20)
        elif free > 2 * self._size and not self._reserve.exists():
            preallocate(self._reserve, self._size)
        if free < self._step:
            raise Unavailable(f"{free >> 20} MiB are free for the log, {self._step >> 20} are needed")
