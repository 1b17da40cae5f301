"""The vault's root key in a file, sealed with a passphrase that stands in another: whoever copies one has nothing.

{"format": "daulat/vault-root/v1", "current": "<version>", "scrypt": {"salt", "n", "r", "p"},
 "versions": {"<version>": "<nonce, ciphertext and tag in base64>", ...}}

Each version is 32 random bytes under AES-256-GCM with a key that scrypt (RFC 7914) makes of the passphrase; format,
version and scrypt's parameters are its associated data. The passphrase's file may be anything that only this user can
read: a credential of the service manager, a file on another medium.
"""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from daulat.adapters import key_file
from daulat.adapters import passphrase as passphrases
from daulat.adapters.journal_files import sync_folder
from daulat.errors import ConfigError, Conflict, VerificationFailed
from daulat.vault.sealed import KEY_BYTES, unwrap, wrap

FORMAT: Final = "daulat/vault-root/v1"
_SALT_BYTES: Final = 16
_LONGEST: Final = 262_144  # bytes of a file
_PASSPHRASE: Final = re.compile(r"[\x20-\x7e]{12,}\Z")  # a short one is soon guessed by whoever copies the root's file


class PassphraseRoot:
    """`vault.ports.Root` over two files. Not for two processes at once."""

    def __init__(self, path: Path, passphrase: Path) -> None:
        """Open; make both where neither is there.

        Raises:
            ConfigError: a file cannot be read, others may read it, the passphrase is wrong, or something was changed.
        """
        self._path, self._current = path, ""
        if not path.exists() and not passphrase.exists():
            write_private(passphrase, base64.b64encode(os.urandom(KEY_BYTES)) + b"\n")
        said = key_file.read(passphrase, "passphrase", form=_PASSPHRASE).encode()
        if not path.exists():
            self._costs: dict[str, Any] = {"salt": _text(os.urandom(_SALT_BYTES)), **passphrases.COSTS}
            self._derived = _derive(said, self._costs)
            self._keys: dict[str, bytes] = {}
            self.rotate()
            return
        value = _read(path)
        self._costs, self._current = value["scrypt"], value["current"]
        self._derived = _derive(said, self._costs)
        try:
            self._keys = {
                name: unwrap(base64.b64decode(sealed, validate=True), self._derived, self._bound(name))
                for name, sealed in value["versions"].items()
            }
        except (VerificationFailed, ValueError):
            words = "the passphrase is wrong, or the file was changed"
            raise ConfigError(words, location=str(path)) from None

    def version(self) -> str:
        return self._current

    def versions(self) -> Sequence[str]:
        return tuple(self._keys)

    def wrap(self, key: bytes, bound: bytes) -> bytes:
        return wrap(key, self._keys[self._current], bound)

    def unwrap(self, wrapped: bytes, version: str, bound: bytes) -> bytes:
        """Raises VerificationFailed: that version was destroyed, or this is not of it."""
        if version not in self._keys:
            raise VerificationFailed("a key stands under a version of the root that was destroyed")
        return unwrap(wrapped, self._keys[version], bound)

    def rotate(self) -> str:
        version = os.urandom(8).hex()
        self._keep({**self._keys, version: AESGCM.generate_key(256)}, version)
        return version

    def forget(self, version: str) -> None:
        """Raises Conflict: it is the one in use."""
        if version == self._current:
            raise Conflict("the root's version in use cannot be destroyed: rotate first")
        self._keep({name: key for name, key in self._keys.items() if name != version}, self._current)

    def _keep(self, keys: dict[str, bytes], current: str) -> None:
        sealed = {name: _text(wrap(key, self._derived, self._bound(name))) for name, key in keys.items()}
        value = {"format": FORMAT, "current": current, "scrypt": self._costs, "versions": sealed}
        write_private(self._path, json.dumps(value, indent=1).encode() + b"\n")
        self._keys, self._current = keys, current

    def _bound(self, version: str) -> bytes:
        said = {"format": FORMAT, "version": version, "scrypt": self._costs}
        return json.dumps(said, sort_keys=True, separators=(",", ":")).encode()


def write_private(path: Path, data: bytes) -> None:
    """Replace a file whole and durably, for its owner's eyes only."""
    beside = path.with_name(f".{path.name}.new")
    descriptor = os.open(beside, os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(descriptor)
    beside.replace(path)
    sync_folder(path.parent)


def _read(path: Path) -> dict[str, Any]:
    value = passphrases.read_json(path, "the vault's root", _LONGEST)
    if not isinstance(value, dict) or value.get("format") != FORMAT or not _formed(value):
        raise ConfigError(f"is no root key of the format {FORMAT!r}", location=str(path))
    return value


def _formed(value: dict[str, Any]) -> bool:
    versions = value.get("versions")
    if not isinstance(versions, dict) or value.get("current") not in versions:
        return False
    if not all(isinstance(sealed, str) and len(sealed) < _LONGEST for sealed in versions.values()):
        return False
    return passphrases.affordable(value.get("scrypt"))


def _derive(passphrase: bytes, costs: dict[str, Any]) -> bytes:
    try:
        salt = base64.b64decode(costs["salt"], validate=True)
    except ValueError:
        salt = b""
    return passphrases.derive(passphrase, salt, costs)


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
