"""Runs one of Daulat's processes on a disk that fails when a test says so.

    FAULTS=FOLDER python -m tests.support.faulty daulat.processes.worker --home ...

The file FOLDER/<pid> names what happens at this process' next write that should become durable:

    torn     half of the bytes reach the file, then the process is gone: what a loss of power leaves of a write
    garbled  the same, but the bytes are other ones: a sector that was being written
    lost     nothing is written, and the call fails with EIO
    unknown  everything is written, and the call fails with EIO all the same: a failed sync

Nothing in Daulat knows of this: `os.pwrite`, `os.write` and `os.fsync` are replaced in this process alone.
"""

from __future__ import annotations

import errno
import os
import runpy
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

KINDS = ("torn", "garbled", "lost", "unknown")
_pwrite, _write, _fsync = os.pwrite, os.write, os.fsync


def _due() -> str:
    order = Path(os.environ["FAULTS"]) / str(os.getpid())
    try:
        kind = order.read_text()
    except FileNotFoundError:
        return ""
    order.unlink()
    return kind


def _faulty(write: Callable[[bytes], int], data: bytes) -> int:
    kind = _due()
    if kind in {"torn", "garbled"}:
        half = data[: len(data) // 2]
        write(half if kind == "torn" else bytes(byte ^ 0x5A for byte in half))
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "unknown":
        write(data)
    if kind:
        raise OSError(errno.EIO, os.strerror(errno.EIO))
    return write(data)


def pwrite(descriptor: int, data: bytes, offset: int) -> int:
    return _faulty(lambda part: _pwrite(descriptor, part, offset), data)


def write(descriptor: int, data: Any) -> int:
    """Pipes and terminals are left alone: a disk cannot fail there."""
    if not os.path.isfile(f"/proc/self/fd/{descriptor}"):  # noqa: PTH113  `Path` would follow less
        return _write(descriptor, data)
    return _faulty(lambda part: _write(descriptor, part), bytes(data))


def fsync(descriptor: int) -> None:
    """A sync that is to fail has synced, or not: nobody can tell."""
    if _due():
        raise OSError(errno.EIO, os.strerror(errno.EIO))
    _fsync(descriptor)


def main() -> None:
    module, *arguments = sys.argv[1:]
    os.pwrite, os.write, os.fsync = pwrite, write, fsync  # type: ignore[assignment]
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__")


if __name__ == "__main__":
    main()
