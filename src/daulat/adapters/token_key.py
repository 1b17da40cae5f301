"""An operator's Ed25519 key inside a PKCS#11 token (a smart card, an HSM): it signs there and never leaves it.

The file that names it holds nothing secret:

    {"format": "daulat/operator-token/v1", "vkey", "module", "token", "id"}

with `module` the path of the vendor's PKCS#11 library, `token` the token's label and `id` the key's CKA_ID in hex.
PKCS#11 3.0, section 2.3: key pairs by CKM_EC_EDWARDS_KEY_PAIR_GEN, signatures by CKM_EDDSA (Ed25519, not prehashed).
"""

from __future__ import annotations

import base64
import importlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from daulat.errors import ConfigError, Conflict, VerificationFailed
from daulat.tlog.note import ED25519, Verifier, key_id

FORMAT: Final = "daulat/operator-token/v1"
_ED25519: Final = bytes.fromhex("06032b6570")  # DER of the OID 1.3.101.112 (RFC 8410)
_POINT: Final = bytes.fromhex("0420")  # DER of an octet string of 32 bytes: how CKA_EC_POINT wraps the key
_LONGEST: Final = 8_192
_KEY_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class Place:
    """Where the key is. `id` in hex."""

    vkey: str
    module: str
    token: str
    id: str


@dataclass(frozen=True, slots=True)
class TokenKey:
    """An opened key. Each signature is checked before it is given out: a token that signs wrongly is found here."""

    vkey: str
    _private: Any
    _mechanism: Any

    def sign_bytes(self, data: bytes) -> bytes:
        """Raises ConfigError: the token does not sign, or signs with another key than the file names."""
        pkcs11 = _library()
        try:
            signature: bytes = self._private.sign(data, mechanism=self._mechanism)
        except pkcs11.PKCS11Error as error:
            raise ConfigError(f"the token does not sign: {_words(error)}") from None
        try:
            Verifier(self.vkey).verify_bytes(data, signature)
        except VerificationFailed:
            raise ConfigError("the token signed with another key than this file names") from None
        return signature


def create(path: Path, name: str, module: str, token: str, pin: str) -> str:
    """Make a key pair inside the token, and the file that names it; its vkey.

    Raises:
        ConfigError: the token is not there, the PIN is wrong, or it makes no Ed25519 keys; Conflict: the file exists.
    """
    if path.exists():
        raise Conflict(f"{path} exists already: a key is never written over")
    pkcs11 = _library()
    id_ = os.urandom(16)
    with _session(module, token, pin, rw=True) as session:
        try:
            parameters = session.create_domain_parameters(
                pkcs11.KeyType.EC_EDWARDS, {pkcs11.Attribute.EC_PARAMS: _ED25519}, local=True
            )
            public, _ = parameters.generate_keypair(
                id=id_,
                label=f"daulat {name}",
                mechanism=pkcs11.Mechanism.EC_EDWARDS_KEY_PAIR_GEN,
                store=True,
                private_template={pkcs11.Attribute.SENSITIVE: True, pkcs11.Attribute.EXTRACTABLE: False},
            )
            vkey = _vkey(name, bytes(public[pkcs11.Attribute.EC_POINT]))
        except pkcs11.PKCS11Error as error:
            raise ConfigError(f"the token makes no Ed25519 key: {_words(error)}", location=module) from None
    _write(path, Place(vkey, module, token, id_.hex()))
    return vkey


def read(path: Path) -> Place:
    """The file.

    Raises:
        ConfigError: it cannot be read, or is none of these.
    """
    try:
        with path.open("rb") as stream:
            value = json.loads(stream.read(_LONGEST + 1))
        if set(value) != {"format", *Place.__slots__} or value.pop("format") != FORMAT:
            raise ValueError("other fields")
        place = Place(**value)
        if not all(isinstance(text, str) for text in value.values()) or not bytes.fromhex(place.id):
            raise ValueError("other types")
        Verifier(place.vkey)
    except OSError as error:
        raise ConfigError(f"the key cannot be read: {error.strerror}", location=str(path)) from None
    except (ValueError, TypeError, AttributeError, RecursionError, VerificationFailed):
        raise ConfigError(f"names no key of the format {FORMAT!r}", location=str(path)) from None
    return place


@contextmanager
def opened(place: Place, pin: str) -> Iterator[TokenKey]:
    """The key, for as long as the token's session lasts.

    Raises:
        ConfigError: the token is not there, the PIN is wrong, or the token has no such key.
    """
    pkcs11 = _library()
    with _session(place.module, place.token, pin, rw=False) as session:
        try:
            private = session.get_key(object_class=pkcs11.ObjectClass.PRIVATE_KEY, id=bytes.fromhex(place.id))
        except pkcs11.PKCS11Error as error:
            raise ConfigError(f"the token has no such key: {_words(error)}", location=place.token) from None
        yield TokenKey(place.vkey, private, pkcs11.Mechanism.EDDSA)


def _library() -> Any:
    """The package, where it is installed."""
    try:
        return importlib.import_module("pkcs11")
    except ModuleNotFoundError:
        raise ConfigError("keys in tokens need the package python-pkcs11: pip install 'daulat[pkcs11]'") from None


@contextmanager
def _session(module: str, token: str, pin: str, *, rw: bool) -> Iterator[Any]:
    pkcs11 = _library()
    try:
        session = pkcs11.lib(module).get_token(token_label=token).open(rw=rw, user_pin=pin)
    except (pkcs11.PinIncorrect, pkcs11.PinLenRange, pkcs11.PinInvalid):
        raise ConfigError("the PIN is wrong; a token locks itself after a few wrong ones", location=token) from None
    except pkcs11.NoSuchToken:
        raise ConfigError("there is no such token", location=token) from None
    except (pkcs11.PKCS11Error, RuntimeError) as error:
        raise ConfigError(f"the token cannot be used: {_words(error)}", location=module) from None
    with session:
        yield session


def _vkey(name: str, point: bytes) -> str:
    raw = point.removeprefix(_POINT) if len(point) > _KEY_BYTES else point
    if len(raw) != _KEY_BYTES:
        raise ConfigError(f"the token gave a public key of {len(raw)} bytes, expected {_KEY_BYTES}")
    vkey = f"{name}+{key_id(name, raw).hex()}+{base64.b64encode(bytes([ED25519]) + raw).decode()}"
    try:
        return Verifier(vkey).vkey
    except VerificationFailed as error:
        raise ConfigError(error.message) from None


def _write(path: Path, place: Place) -> None:
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w") as stream:
        stream.write(json.dumps({"format": FORMAT, **asdict(place)}, indent=1) + "\n")
        stream.flush()
        os.fsync(descriptor)


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__
