"""The vault's root in a hardware security module, through PKCS#11: AES keys that never leave the token.

A version is one secret key object of the token: AES-256, sensitive, not extractable, labelled NAME and with the version
as its CKA_ID. The newest is the one whose CKA_ID is greatest: eight bytes of time, then eight random ones. To forget a
version is C_DestroyObject. Wrapping is CKM_AES_GCM (PKCS#11 2.40, section 2.12.4) with a nonce of ours.

Named by a URI as in RFC 7512: pkcs11:token=TOKEN;object=NAME?module-path=/usr/lib/softhsm/libsofthsm2.so
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import parse_qs, unquote

import pkcs11
from pkcs11 import Attribute, GCMParams, KeyType, Mechanism, ObjectClass

from daulat.adapters import key_file
from daulat.errors import ConfigError, Conflict, Unavailable, VerificationFailed
from daulat.vault.sealed import NONCE_BYTES

_TAG_BITS: Final = 128
_BITS: Final = 256
_T = TypeVar("_T")


class Pkcs11Root:
    """`vault.ports.Root`. One session, opened again after the token has closed it."""

    def __init__(self, uri: str, pin_file: Path) -> None:
        """Raises ConfigError: the URI, module, token or PIN is wrong; Unavailable: the token does not answer."""
        module, self._token, self._label = _parsed(uri)
        self._pin = key_file.read(pin_file, "PIN")
        try:
            self._library = pkcs11.lib(module)
        except (RuntimeError, OSError, pkcs11.PKCS11Error) as error:
            raise ConfigError(f"the module {module} cannot be loaded: {error}", location="vault_root") from None
        self._session: Any = None
        self._lock = threading.Lock()
        if not self._do(self._ids):
            self.rotate()

    def version(self) -> str:
        return self.versions()[-1]

    def versions(self) -> Sequence[str]:
        return tuple(id_.hex() for id_ in self._do(self._ids))

    def wrap(self, key: bytes, bound: bytes) -> bytes:
        nonce = os.urandom(NONCE_BYTES)
        newest = self._do(self._ids)[-1]

        def encrypt() -> bytes:
            found = self._key(newest)
            params = GCMParams(nonce, bound, _TAG_BITS)
            return bytes(found.encrypt(key, mechanism=Mechanism.AES_GCM, mechanism_param=params))

        return nonce + self._do(encrypt)

    def unwrap(self, wrapped: bytes, version: str, bound: bytes) -> bytes:
        """Raises VerificationFailed, Unavailable."""
        nonce, sealed = wrapped[:NONCE_BYTES], wrapped[NONCE_BYTES:]

        def decrypt() -> bytes:
            try:
                found = self._key(bytes.fromhex(version))
                params = GCMParams(nonce, bound, _TAG_BITS)
                return bytes(found.decrypt(sealed, mechanism=Mechanism.AES_GCM, mechanism_param=params))
            except (pkcs11.NoSuchKey, ValueError):
                raise VerificationFailed("a key stands under a version of the root that was destroyed") from None
            except (
                pkcs11.exceptions.EncryptedDataInvalid,
                pkcs11.exceptions.EncryptedDataLenRange,
                pkcs11.exceptions.GeneralError,  # SoftHSM's word for a tag that does not match
            ):
                raise VerificationFailed("a key does not open: it was changed, or belongs elsewhere") from None

        return self._do(decrypt)

    def rotate(self) -> str:
        id_ = time.time_ns().to_bytes(8) + os.urandom(8)

        def generate() -> None:
            self._session.generate_key(
                KeyType.AES,
                _BITS,
                id=id_,
                label=self._label,
                store=True,
                template={Attribute.SENSITIVE: True, Attribute.EXTRACTABLE: False, Attribute.MODIFIABLE: False},
            )

        self._do(generate)
        return id_.hex()

    def forget(self, version: str) -> None:
        """Raises Conflict: it is the one in use."""
        versions = self.versions()
        if version == versions[-1]:
            raise Conflict("the root's version in use cannot be destroyed: rotate first")
        if version in versions:
            self._do(lambda: self._key(bytes.fromhex(version)).destroy())

    def _keys(self) -> Iterator[Any]:
        sought = {Attribute.CLASS: ObjectClass.SECRET_KEY, Attribute.LABEL: self._label}
        return iter(list(self._session.get_objects(sought)))

    def _ids(self) -> list[bytes]:
        return sorted(bytes(key[Attribute.ID]) for key in self._keys())

    def _key(self, id_: bytes) -> Any:
        return self._session.get_key(object_class=ObjectClass.SECRET_KEY, label=self._label, id=id_)

    def _do(self, work: Callable[[], _T]) -> _T:
        """Work on the token; once more in a new session where the old one is gone."""
        with self._lock:
            for last in (False, True):
                try:
                    if self._session is None:
                        token = self._library.get_token(token_label=self._token)
                        self._session = token.open(rw=True, user_pin=self._pin)
                    return work()
                except (pkcs11.PinIncorrect, pkcs11.PinLocked) as error:
                    words = f"the token {self._token!r} refuses the PIN: {type(error).__name__}"
                    raise ConfigError(words, location="vault_root") from None
                except pkcs11.PKCS11Error as error:
                    self._session = None
                    if last:
                        said = f"the token {self._token!r} is not there, or fails: {type(error).__name__}"
                        raise Unavailable(said) from None
                    self._library.reinitialize()  # a token that was put in, or began anew, is seen only then
        raise AssertionError("the second try answers or raises")


def _parsed(uri: str) -> tuple[str, str, str]:
    """Module, token and object.

    Raises:
        ConfigError: one is missing.
    """
    path, _, query = uri.removeprefix("pkcs11:").partition("?")
    said = dict(part.partition("=")[::2] for part in path.split(";"))
    module = parse_qs(query).get("module-path", [""])[0]
    token, label = unquote(said.get("token", "")), unquote(said.get("object", ""))
    if not uri.startswith("pkcs11:") or not (module and token and label) or set(said) != {"token", "object"}:
        words = "expected pkcs11:token=TOKEN;object=NAME?module-path=/PATH (RFC 7512)"
        raise ConfigError(words, location="vault_root")
    return module, token, label
