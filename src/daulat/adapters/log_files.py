"""The log as plain files, laid out as c2sp.org/tlog-tiles says: `<period>/{checkpoint,vkey,tile/...}`, `blob/`."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

from daulat.adapters.journal_files import sync_folder
from daulat.errors import NotFound, SealBroken
from daulat.tlog.tiles import WIDTH, parse_path

CURRENT: Final = "current"  # the file that names the period in force
VKEY: Final = "vkey"


class LogFolder:
    """One shard of a log. Reading needs no lock: files appear whole and never change."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._durable: set[Path] = set()  # folders known to stand in their parents

    def read(self, path: str) -> bytes:
        """The bytes at a tile path, taken from the full tile where a partial one has been removed.

        Raises:
            NotFound: there is no such file.
            VerificationFailed: it is not a tile path.
        """
        tile = parse_path(path)
        try:
            return (self.folder / path).read_bytes()
        except FileNotFoundError:
            if tile.width == WIDTH:
                raise NotFound(f"the log has no {path}") from None
        return self._part_of_full(path, tile.width)

    def write(self, files: Mapping[str, bytes]) -> None:
        """Write files and make them and their names durable. A file may be written again with the same bytes."""
        self._store(files)
        for path in files:
            if ".p/" not in path:
                partials = self.folder / f"{path}.p"
                shutil.rmtree(partials, ignore_errors=True)
                self._durable.discard(partials)

    def publish(self, checkpoint: bytes) -> None:
        self._store({"checkpoint": checkpoint})

    def published(self) -> bytes:
        try:
            return (self.folder / "checkpoint").read_bytes()
        except FileNotFoundError:
            return b""

    def vkey(self) -> str:
        """The public key of this shard, a C2SP vkey line."""
        try:
            return (self.folder / VKEY).read_text()
        except FileNotFoundError:
            raise NotFound("this log has no public key yet") from None

    def set_vkey(self, vkey: str) -> None:
        """Publish it. The same key has another vkey in each shard, because the shard's name is part of it."""
        self._store({VKEY: f"{vkey}\n".encode()})

    def _part_of_full(self, path: str, width: int) -> bytes:
        full = path.partition(".p/")[0]
        try:
            data = (self.folder / full).read_bytes()
        except FileNotFoundError:
            raise NotFound(f"the log has no {path}") from None
        if not full.startswith("tile/entries/"):
            return data[: 32 * width]
        position = 0
        for _ in range(width):
            position += 2 + int.from_bytes(data[position : position + 2], "big")
        return data[:position]

    def _store(self, files: Mapping[str, bytes]) -> None:
        changed: set[Path] = set()
        try:
            for path, data in files.items():
                target = self.folder / path
                changed |= self._prepare(target.parent)
                replace_file(target, data)
            for folder in sorted(changed):
                sync_folder(folder)
        except OSError as error:
            raise SealBroken(f"the log could not be written: {error}") from None

    def _prepare(self, folder: Path) -> set[Path]:
        """Make a folder if there is none; returns those whose listing must be made durable.

        One that is there already may have been made by a process that was killed before it had synced the parent.
        """
        changed = {folder}
        while folder not in self._durable and self.folder.parent != folder:
            for path in reversed([path for path in (folder, *folder.parents) if not path.is_dir()]):
                path.mkdir(mode=0o755)
            self._durable.add(folder)
            folder = folder.parent
            changed.add(folder)
        return changed


class LogFiles:
    """A shard as `audit.log.LogSource` and `tlog.tiles.TileSource`, from its files."""

    def __init__(self, folder: LogFolder, blobs: Path) -> None:
        self._folder, self._blobs = folder, Blobs(blobs)

    def checkpoint(self) -> bytes:
        return self._folder.published()

    def read(self, path: str) -> bytes:
        return self._folder.read(path)

    def stream(self, paths: Iterable[str]) -> Iterator[bytes]:
        return (self._folder.read(path) for path in paths)

    def blob(self, digest: str) -> bytes:
        return self._blobs.get(digest)


class Blobs:
    """Content too long for an entry, by SHA-256."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put(self, data: bytes) -> str:
        """Store and make durable; returns the hex SHA-256."""
        digest = hashlib.sha256(data).hexdigest()
        LogFolder(self._folder).write({digest: data})
        return digest

    def get(self, digest: str) -> bytes:
        """Raises NotFound."""
        if len(digest) != 64 or not set(digest) <= set("0123456789abcdef"):  # noqa: PLR2004  SHA-256 in hex
            raise NotFound("not a SHA-256 in hex")
        try:
            return (self._folder / digest).read_bytes()
        except FileNotFoundError:
            raise NotFound(f"no blob {digest}") from None


def current_period(log: Path) -> str:
    """The period in force, empty before the first start."""
    try:
        return (log / CURRENT).read_text().strip()
    except FileNotFoundError:
        return ""


def set_current_period(log: Path, period: str) -> None:
    replace_file(log / CURRENT, f"{period}\n".encode())
    sync_folder(log)


def replace_file(target: Path, data: bytes) -> None:
    """Write beside, sync, rename: after a crash it is the old file or the new one. Raises OSError."""
    beside = target.with_name(f".{target.name}.new")
    descriptor = os.open(beside, os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    try:
        if os.write(descriptor, data) != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    beside.replace(target)
