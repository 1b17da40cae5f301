"""One file with everything that somebody is given: a ZIP archive, under a passphrase (`adapters.age`) or in clear.

It is written as it comes, straight into what seals it: of a sealed archive nothing lies on the disk in clear. Nobody
but its owner may read it, and it has its name only once it is whole.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import zipfile
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, Self, cast

from daulat.adapters.age import Sealing
from daulat.errors import Conflict

_LONGEST_NAME: Final = 120
_ODD: Final = re.compile(r"[\x00-\x1f\x7f/\\:*?\"<>|\u200e\u200f\u2028-\u202e\u2066-\u2069]")


class Archive:
    """Made inside `with`; where that is left by an error, nothing stays."""

    def __init__(self, path: Path, passphrase: str | None) -> None:
        """`passphrase` None: in clear.

        Raises:
            Conflict: there is such a file; ConfigError: the passphrase is too short.
        """
        self._path, self._beside = path, path.with_name(f".{path.name}.partial")
        if path.exists():
            raise Conflict(f"{path} exists already: nothing is written over")
        descriptor = os.open(self._beside, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        os.fchmod(descriptor, 0o600)  # also one that a killed run left
        self._file = _Counted(os.fdopen(descriptor, "wb"))
        try:
            self._sealing = None if passphrase is None else Sealing(self._file, passphrase)
        except BaseException:
            self._file.stop()
            self._beside.unlink()
            raise
        self._zip = zipfile.ZipFile(cast("IO[bytes]", self._sealing or self._file), "w", zipfile.ZIP_DEFLATED)
        self._listed = list[dict[str, Any]]()
        self._whole = False

    def add(self, name: str, data: bytes) -> None:
        """One file of it."""
        self.stream(name, (data,))

    def stream(self, name: str, pieces: Iterable[bytes]) -> None:
        """One file of it, in pieces."""
        hash_, size = hashlib.sha256(), 0
        with self._zip.open(name, "w", force_zip64=True) as file:
            for piece in pieces:
                file.write(piece)
                hash_.update(piece)
                size += len(piece)
        self._listed.append({"path": name, "size": size, "sha256": hash_.hexdigest()})

    def finish(self, manifest: dict[str, Any]) -> str:
        """The manifest comes last, with a list of what else there is; the whole file's SHA-256 in hex.

        The file has its name once `keep` was called.
        """
        said = json.dumps({**manifest, "files": self._listed}, ensure_ascii=False, indent=1)
        self.add("manifest.json", said.encode())
        self._zip.close()
        if self._sealing is not None:
            self._sealing.close()
        self._file.durable()
        return self._file.hash.hexdigest()

    def keep(self) -> None:
        """It is whole, and written down: give it its name."""
        try:
            os.link(self._beside, self._path)
        except FileExistsError:
            raise Conflict(f"{self._path} exists already: nothing is written over") from None
        self._beside.unlink()
        self._whole = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: type[BaseException] | None, _error: object, _trace: TracebackType | None) -> None:
        if not self._whole:
            self._drop()

    def _drop(self) -> None:
        self._file.stop()
        self._beside.unlink(missing_ok=True)
        self._zip.close()  # into nowhere, now, and not when it is collected


class _Counted:
    """A file that is hashed as it is written, and cannot go back."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self.hash = file, hashlib.sha256()

    def write(self, data: bytes, /) -> int:
        """Once it was stopped, what still comes is for nobody."""
        self.hash.update(data)
        return len(data) if self._file.closed else self._file.write(data)

    def flush(self) -> None:
        """At the end, by `durable`."""

    def durable(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def stop(self) -> None:
        self._file.close()


def safe(name: str) -> str:
    """A file's own name, as it can stand in any folder: no path, nothing that a terminal or a system takes amiss."""
    tame = _ODD.sub("_", name).strip(". ")
    return tame[-_LONGEST_NAME:] or "file"
