"""Work that appears whole or not at all: scratch folders, and folders and files put in place in one step.

A killed process leaves its scratch folder. Each is locked by whoever works in it, so the next one knows which to sweep.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_PREFIX: Final = ".scratch-"
_HERE: Final = -100  # AT_FDCWD of linux/fcntl.h
_EXCHANGE: Final = 2  # RENAME_EXCHANGE of linux/fs.h


@contextlib.contextmanager
def scratch(beside: Path) -> Iterator[Path]:
    """A folder inside `beside`, removed afterwards. Those whose owners were killed are removed first."""
    with _locked(beside):  # nobody sweeps between a folder's birth and its lock
        for left in beside.glob(f"{_PREFIX}*"):
            with contextlib.suppress(OSError), _locked(left, wait=False):  # else its owner lives
                shutil.rmtree(left, ignore_errors=True)
        made = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=beside))
        held = _lock(made, wait=False)
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)
        os.close(held)


def put_in_place(made: Path, final: Path, aside: Path) -> None:
    """Rename a folder; where `final` is there, exchange the two, so that no kill leaves nothing under its name.

    On a file system that cannot exchange (`renameat2`), what was there goes to `aside` in a step of its own.
    """
    if not final.exists():
        made.rename(final)
        return
    exchange = getattr(ctypes.CDLL(None), "renameat2", None)
    if exchange is None or exchange(_HERE, os.fsencode(made), _HERE, os.fsencode(final), _EXCHANGE) != 0:
        final.rename(aside)
        made.rename(final)


def link(source: Path, target: Path) -> None:
    """Another name for a read-only file; a copy where the file system has no hard links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
        target.chmod(0o444)


def _lock(folder: Path, *, wait: bool) -> int:
    """Hold a folder until the descriptor is closed. Raises OSError where somebody has it, or it is gone."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


@contextlib.contextmanager
def _locked(folder: Path, *, wait: bool = True) -> Iterator[None]:
    held = _lock(folder, wait=wait)
    try:
        yield
    finally:
        os.close(held)
