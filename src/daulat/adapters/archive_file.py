"""A backup in one file, sealed under a passphrase: whoever copies it has nothing, and changes nothing unseen.

    magic   "daulat backup 1\\n" or "daulat keys 1\\n"
    salt    16 bytes
    object  as `vault.sealed` says: the key is scrypt (RFC 7914; N 2^17, r 8, p 1) of passphrase and salt, its id the
            salt, and it is bound to which of the two it is

What is inside, `vault.archive` says.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from io import BufferedReader
from itertools import chain
from pathlib import Path
from typing import Final, Literal

from daulat.adapters import passphrase as passphrases
from daulat.adapters.journal_files import sync_folder
from daulat.errors import ConfigError, Conflict, VerificationFailed
from daulat.vault.sealed import HEADER_BYTES, KEY_ID_BYTES, Binding, Key, opened, seal

Kind = Literal["backup", "keys"]
_MAGIC: Final[dict[Kind, bytes]] = {"backup": b"daulat backup 1\n", "keys": b"daulat keys 1\n"}
_COSTS: Final = {"n": 2**17, "r": 8, "p": 1}  # the format's own: a file does not name them
_PIECE: Final = 1 << 18


def create(path: Path, kind: Kind, passphrase: str, content: Iterable[bytes]) -> str:
    """Write it, for its owner's eyes only: whole and durable, or not at all. The file's SHA-256 in hex.

    Raises:
        ConfigError: the passphrase is too short; Conflict: the file exists; OSError: there is no room.
    """
    passphrases.strong(passphrase)
    if path.exists():
        raise Conflict(f"{path} exists already: a backup is never written over")
    salt, hashed = os.urandom(KEY_ID_BYTES), hashlib.sha256()
    beside = path.with_name(f".{path.name}.new")
    beside.unlink(missing_ok=True)  # of one that was cut off
    descriptor = os.open(beside, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            for piece in chain((_MAGIC[kind], salt), seal(content, _key(passphrase, salt), _binding(kind))):
                hashed.update(piece)
                stream.write(piece)
            stream.flush()
            os.fsync(descriptor)
        beside.replace(path)
        sync_folder(path.parent)
    finally:
        beside.unlink(missing_ok=True)
    return hashed.hexdigest()


def contents(
    path: Path, kind: Kind, passphrase: str, look: Callable[[bytes], object] = lambda _: None
) -> Iterator[bytes]:
    """What was sealed into it, chunk by chunk; whole only once this ends. `look` sees each of the file's own bytes.

    Raises:
        ConfigError: it cannot be read, is something else, or the passphrase is wrong.
        VerificationFailed: it was changed or cut off, here or further on.
    """
    with _opened(path) as stream:
        magic = _MAGIC[kind]
        start = stream.read(len(magic) + KEY_ID_BYTES)
        if not start.startswith(magic) or len(start) < len(magic) + KEY_ID_BYTES:
            other = next((name for name, known in _MAGIC.items() if start.startswith(known)), "")
            words = f"holds {other}, not {kind}" if other else f"is no file that `daulat backup` made ({kind})"
            raise ConfigError(words, location=str(path))
        salt = start[len(magic) :]
        look(start)
        pieces = opened(_seen(stream, look), _key(passphrase, salt), _binding(kind))
        try:
            first = next(pieces)
        except VerificationFailed:
            if path.stat().st_size < len(start) + HEADER_BYTES:
                raise VerificationFailed(f"{path} is cut off") from None
            raise ConfigError("the passphrase is wrong, or the file was changed", location=str(path)) from None
        yield first
        yield from pieces


def digest(path: Path) -> str:
    """The file's SHA-256 in hex, by which operators agree to restoring it.

    Raises:
        ConfigError: it cannot be read.
    """
    with _opened(path) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def size(path: Path) -> int:
    """The file's, in bytes: nothing in it is larger.

    Raises:
        ConfigError: it cannot be read.
    """
    with _opened(path) as stream:
        return os.fstat(stream.fileno()).st_size


def _seen(stream: BufferedReader, look: Callable[[bytes], object]) -> Iterator[bytes]:
    while piece := stream.read(_PIECE):
        look(piece)
        yield piece


def _opened(path: Path) -> BufferedReader:
    try:
        return path.open("rb")
    except OSError as error:
        raise ConfigError(f"the backup cannot be read: {error.strerror}", location=str(path)) from None


def _key(passphrase: str, salt: bytes) -> Key:
    return Key(salt, passphrases.derive(passphrase.encode(), salt, _COSTS))


def _binding(kind: Kind) -> Binding:
    return Binding("backup", kind, 1)
