"""The control plane's snapshot as a file: replaced whole, numbered in its first bytes, touched as a heartbeat."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

import msgspec

from daulat.core.snapshot import Snapshot

_decode: Final = msgspec.json.Decoder(Snapshot).decode
# Known by its number: a new file may have the inode, the size and, to the clock's tick, the time of an old one.
_NUMBER: Final = re.compile(rb'\{"number":(\d+),')
_PREFIX_BYTES: Final = 32


class SnapshotFile:
    """One reader's view, or the control plane's own."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._number = b""
        self.touched = 0  # the heartbeat's time, as last seen: only its changing means something

    def poll(self) -> Snapshot | None:
        """The snapshot, if it is another than the last one returned.

        Raises:
            FileNotFoundError: nothing is published.
        """
        with self._path.open("rb", buffering=0) as stream:
            self.touched = os.fstat(stream.fileno()).st_mtime_ns
            prefix = stream.read(_PREFIX_BYTES)
            match = _NUMBER.match(prefix)
            if match is not None and match[1] == self._number:
                return None
            snapshot = _decode(prefix + stream.readall())
        self._number = str(snapshot.number).encode()
        return snapshot

    def write(self, snapshot: Snapshot) -> None:
        """Publish, whole or not at all; for this user's eyes only."""
        beside = self._path.with_name(f".{self._path.name}.new")
        descriptor = os.open(beside, os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(msgspec.json.encode(snapshot))
        beside.replace(self._path)

    def touch(self) -> None:
        """Be seen alive."""
        os.utime(self._path)
