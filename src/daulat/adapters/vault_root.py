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
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from daulat.adapters import key_file
from daulat.errors import ConfigError, Conflict, VerificationFailed
from daulat.vault.sealed import KEY_BYTES, unwrap, wrap

FORMAT: Final = "daulat/vault-root/v1"
_SCRYPT: Final = {"n": 2**17, "r": 8, "p": 1}  # 128 MiB and about half a second (OWASP's first choice)
_MOST: Final = {"n": 2**20, "r": 16, "p": 4}  # what is computed at a file's word
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
            self._costs: dict[str, Any] = {"salt": _text(os.urandom(_SALT_BYTES)), **_SCRYPT}
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


def sync_folder(path: Path) -> None:
    """Make names in a folder durable."""
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as stream:
            data = stream.read(_LONGEST + 1)
        value = json.loads(data) if len(data) <= _LONGEST else None
    except OSError as error:
        raise ConfigError(f"the vault's root cannot be read: {error.strerror}", location=str(path)) from None
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict) or value.get("format") != FORMAT or not _formed(value):
        raise ConfigError(f"is no root key of the format {FORMAT!r}", location=str(path))
    return value


def _formed(value: dict[str, Any]) -> bool:
    costs, versions = value.get("scrypt"), value.get("versions")
    if not isinstance(costs, dict) or set(costs) != {"salt", *_SCRYPT} or not isinstance(costs["salt"], str):
        return False
    if not isinstance(versions, dict) or value.get("current") not in versions:
        return False
    if not all(isinstance(sealed, str) and len(sealed) < _LONGEST for sealed in versions.values()):
        return False
    numbers = [(costs[name], most) for name, most in _MOST.items()]
    known = all(type(number) is int and 1 <= number <= most for number, most in numbers)
    return known and costs["n"] > 1 and costs["n"] & (costs["n"] - 1) == 0


def _derive(passphrase: bytes, costs: dict[str, Any]) -> bytes:
    try:
        salt = base64.b64decode(costs["salt"], validate=True)
    except ValueError:
        salt = b""
    return Scrypt(salt, KEY_BYTES, costs["n"], costs["r"], costs["p"]).derive(passphrase)


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
