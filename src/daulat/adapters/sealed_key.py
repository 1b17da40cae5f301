"""An operator's Ed25519 key in a file, sealed with a passphrase: whoever copies the file has nothing.

{"format": "daulat/operator-key/v1", "vkey": ..., "scrypt": {"salt", "n", "r", "p"}, "nonce": ..., "sealed": ...}

The seed is encrypted with AES-256-GCM under a key that scrypt (RFC 7914) makes of the passphrase; the vkey and scrypt's
parameters are bound to it as associated data, so none of them can be exchanged. Binary values are base64.
"""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import Any, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from daulat.adapters import passphrase as passphrases
from daulat.errors import ConfigError, Conflict, VerificationFailed
from daulat.tlog.note import Signer, Verifier

FORMAT: Final = "daulat/operator-key/v1"
_SALT_BYTES, _NONCE_BYTES = 16, 12
_LONGEST: Final = 8_192  # bytes of a file


def create(path: Path, name: str, passphrase: str) -> str:
    """Make a key and seal it into a new file that its owner alone may read; its vkey.

    Raises:
        ConfigError: the passphrase is too short, or the name has a space or a '+'; Conflict: the file exists.
    """
    passphrases.strong(passphrase)
    try:
        signer = Signer.generate(name)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    salt, nonce = os.urandom(_SALT_BYTES), os.urandom(_NONCE_BYTES)
    costs = {"salt": _text(salt), **passphrases.COSTS}
    value = {"format": FORMAT, "vkey": signer.vkey, "scrypt": costs, "nonce": _text(nonce)}
    sealed = AESGCM(passphrases.derive(passphrase.encode(), salt, costs)).encrypt(
        nonce, signer.export().encode(), _bound(value)
    )
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise Conflict(f"{path} exists already: a key is never written over") from None
    with os.fdopen(descriptor, "w") as stream:
        stream.write(json.dumps({**value, "sealed": _text(sealed)}, indent=1) + "\n")
        stream.flush()
        os.fsync(descriptor)
    return signer.vkey


def vkey(path: Path) -> str:
    """The public half, for which no passphrase is needed.

    Raises:
        ConfigError: the file cannot be read, or is none of these.
    """
    return str(_read(path)["vkey"])


def unseal(path: Path, passphrase: str) -> Signer:
    """The key.

    Raises:
        ConfigError: the file is none of these; the passphrase is wrong, or something in the file was changed.
    """
    value = _read(path)
    salt = _bytes(value["scrypt"]["salt"], path)
    try:
        opened = AESGCM(passphrases.derive(passphrase.encode(), salt, value["scrypt"])).decrypt(
            _bytes(value["nonce"], path), _bytes(value["sealed"], path), _bound(value)
        )
        signer = Signer.load(opened.decode())
    except (InvalidTag, ValueError):
        raise ConfigError("the passphrase is wrong, or the file was changed", location=str(path)) from None
    return signer


def _read(path: Path) -> dict[str, Any]:
    value = passphrases.read_json(path, "the key", _LONGEST)
    if not isinstance(value, dict) or value.get("format") != FORMAT or not _formed(value):
        raise ConfigError(f"is no key of the format {FORMAT!r}: `daulat operator key create`", location=str(path))
    return value


def _formed(value: dict[str, Any]) -> bool:
    if not all(isinstance(value.get(name), str) for name in ("vkey", "nonce", "sealed")):
        return False
    try:
        Verifier(value["vkey"])
    except VerificationFailed:
        return False
    return passphrases.affordable(value.get("scrypt"))


def _bound(value: dict[str, Any]) -> bytes:
    said = {name: value[name] for name in ("format", "vkey", "scrypt")}
    return json.dumps(said, sort_keys=True, separators=(",", ":")).encode()


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _bytes(text: str, path: Path) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        raise ConfigError("holds something that is not base64", location=str(path)) from None
