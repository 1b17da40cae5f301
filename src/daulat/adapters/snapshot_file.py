"""The control plane's snapshot as a file: replaced whole, numbered in its first bytes, touched as a heartbeat.

Its roll stands in a file beside it, written before it and only when it is new, so that a new lease makes nobody read
the names of ten thousand tenants again. Whoever reads the two between these writes has the newer roll: nobody who was
revoked is on it.
"""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Final

import msgspec

from daulat.core.snapshot import Roll, Snapshot
from daulat.errors import IntegrityError

_decode: Final = msgspec.json.Decoder(Snapshot).decode
_decode_roll: Final = msgspec.json.Decoder(Roll).decode
# Known by its number: a new file may have the inode, the size and, to the clock's tick, the time of an old one.
_NUMBER: Final = re.compile(rb'\{"number":(\d+),')
_PREFIX_BYTES: Final = 32


class SnapshotFile:
    """One reader's view, or the control plane's own."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._beside = path.with_name(f"{path.name}.roll")
        self._number = b""
        self._roll = Roll(-1)  # as last read, or written
        self.touched = 0  # the heartbeat's time, as last seen: only its changing means something

    def poll(self) -> Snapshot | None:
        """The snapshot, if it is another than the last one returned.

        Raises:
            FileNotFoundError: nothing is published.
            IntegrityError: the roll is older than the snapshot: somebody else has written there.
        """
        with self._path.open("rb", buffering=0) as stream:
            self.touched = os.fstat(stream.fileno()).st_mtime_ns
            prefix = stream.read(_PREFIX_BYTES)
            match = _NUMBER.match(prefix)
            if match is not None and match[1] == self._number:
                return None
            snapshot = _decode(prefix + stream.readall())
        if self._roll.number != (wanted := snapshot.roll.number):
            self._roll = _decode_roll(self._beside.read_bytes())
            if self._roll.number < wanted:
                raise IntegrityError(f"{self._beside} has roll {self._roll.number}, the snapshot needs {wanted}")
        self._number = str(snapshot.number).encode()
        return replace(snapshot, roll=self._roll)

    def write(self, snapshot: Snapshot) -> None:
        """Publish, whole or not at all; for this user's eyes only."""
        if self._roll.number != snapshot.roll.number:
            _replace(self._beside, msgspec.json.encode(snapshot.roll))
            self._roll = snapshot.roll
        _replace(self._path, msgspec.json.encode(replace(snapshot, roll=Roll(snapshot.roll.number))))

    def confirm(self, worker: int, number: int) -> None:
        """Say that this worker works by that snapshot from now on."""
        path = self._path.with_name(f"{self._path.name}-{worker}")
        beside = path.with_name(f".{path.name}.new")
        beside.write_text(str(number))
        beside.replace(path)

    def confirmed(self, worker: int) -> int:
        """The number of the snapshot by which a worker works; 0 where it has said none."""
        try:
            return int(self._path.with_name(f"{self._path.name}-{worker}").read_text())
        except FileNotFoundError:
            return 0

    def touch(self) -> None:
        """Be seen alive."""
        os.utime(self._path)


def _replace(path: Path, data: bytes) -> None:
    beside = path.with_name(f".{path.name}.new")
    descriptor = os.open(beside, os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(data)
    beside.replace(path)
