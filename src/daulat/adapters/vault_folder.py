"""Sealed objects in a folder of this machine: each a file that is there whole or not at all."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from daulat.adapters.journal_files import sync_folder
from daulat.errors import InvalidRequest, NotFound, Unavailable

_NAME: Final = re.compile(r"[a-z0-9_]{1,120}\Z")
_PIECE: Final = 1 << 18
_SYNC: Final = 1 << 26  # bytes after which they go to the disk, so that the end of a large object need not wait for all


class Folder:
    """`vault.ports.Place`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.chmod(0o700)

    def describe(self) -> str:
        return "a folder of this machine"

    def put(self, name: str, data: Iterable[bytes]) -> int:
        """Raises Unavailable: the disk is full, or fails; nothing is kept then."""
        path, size = self._file(name), 0
        beside = path.with_name(f".{name}.new")
        try:
            descriptor = os.open(beside, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
            try:
                with os.fdopen(descriptor, "wb") as stream:
                    for piece in data:
                        size += stream.write(piece)
                        if size // _SYNC > (size - len(piece)) // _SYNC:
                            stream.flush()
                            os.fdatasync(descriptor)
                    stream.flush()
                    os.fsync(descriptor)
                beside.replace(path)
                sync_folder(self._path)
            finally:
                beside.unlink(missing_ok=True)
        except OSError as error:
            raise Unavailable(f"the object cannot be kept: {error.strerror}", code="storage_failed") from None
        return size

    def get(self, name: str) -> Iterator[bytes]:
        """Raises NotFound, Unavailable."""
        try:
            stream = self._file(name).open("rb", buffering=0)
        except FileNotFoundError:
            raise NotFound("the object is not where it was kept", code="object_missing") from None
        except OSError as error:
            raise Unavailable(f"the object cannot be read: {error.strerror}", code="storage_failed") from None

        def pieces() -> Iterator[bytes]:
            with stream:
                while piece := stream.read(_PIECE):
                    yield piece

        return pieces()

    def delete(self, name: str) -> None:
        self._file(name).unlink(missing_ok=True)
        sync_folder(self._path)

    def names(self) -> Iterator[str]:
        return (path.name for path in self._path.iterdir() if _NAME.match(path.name))

    def tidy(self) -> None:
        for left in self._path.glob(".*.new"):
            left.unlink(missing_ok=True)

    def _file(self, name: str) -> Path:
        if not _NAME.match(name):
            raise InvalidRequest("an object's name is of lower-case letters, digits and '_'")
        return self._path / name
