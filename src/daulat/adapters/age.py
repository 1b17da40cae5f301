"""Files under a passphrase in the age format (C2SP age.md, https://c2sp.org/age), written as they come.

What is written here opens with any implementation of age (`age --decrypt FILE.age`): whoever gets it needs nothing of
ours. One recipient, scrypt. The payload is the STREAM construction over ChaCha20-Poly1305 in chunks of 64 KiB: a chunk
that is left out, moved, or cut off does not open.
"""

from __future__ import annotations

import base64
import hmac
import os
from typing import Final, Protocol

from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from daulat.adapters import passphrase as passphrases

CHUNK_BYTES: Final = 65_536
_COST: Final = 17  # log2 of scrypt's N: 128 MiB and about half a second; age reads up to 22
_LABEL: Final = b"age-encryption.org/v1/scrypt"


class Sink(Protocol):
    """Where bytes go, in order."""

    def write(self, data: bytes, /) -> int: ...


class Sealing:
    """A `Sink` whose bytes arrive in another one sealed. Nothing of it opens before `close`."""

    def __init__(self, sink: Sink, passphrase: str, cost: int = _COST) -> None:
        """Raises ConfigError: the passphrase is too short."""
        passphrases.strong(passphrase)
        file_key, nonce = os.urandom(16), os.urandom(16)
        sink.write(_header(file_key, passphrase, cost) + nonce)
        self._sink, self._held, self._counter = sink, bytearray(), 0
        self._cipher = ChaCha20Poly1305(_derived(file_key, nonce, b"payload"))

    def write(self, data: bytes, /) -> int:
        self._held += data
        while len(self._held) > CHUNK_BYTES:  # one that is full may still be the last
            self._chunk(bytes(self._held[:CHUNK_BYTES]), last=False)
            del self._held[:CHUNK_BYTES]
        return len(data)

    def flush(self) -> None:
        """Nothing: a chunk is written once it is full."""

    def close(self) -> None:
        """Write the last chunk, which says that it is."""
        self._chunk(bytes(self._held), last=True)
        self._held.clear()

    def _chunk(self, data: bytes, *, last: bool) -> None:
        nonce = self._counter.to_bytes(11, "big") + bytes([last])
        self._sink.write(self._cipher.encrypt(nonce, data, None))
        self._counter += 1


def _header(file_key: bytes, passphrase: str, cost: int) -> bytes:
    salt = os.urandom(16)
    wrapping = Scrypt(salt=_LABEL + salt, length=32, n=1 << cost, r=8, p=1).derive(passphrase.encode())
    wrapped = ChaCha20Poly1305(wrapping).encrypt(bytes(12), file_key, None)
    head = f"age-encryption.org/v1\n-> scrypt {_text(salt)} {cost}\n{_text(wrapped)}\n---".encode()
    mac = hmac.digest(_derived(file_key, b"", b"header"), head, "sha256")
    return head + f" {_text(mac)}\n".encode()


def _derived(file_key: bytes, salt: bytes, info: bytes) -> bytes:
    return HKDF(SHA256(), length=32, salt=salt, info=info).derive(file_key)


def _text(data: bytes) -> str:
    return base64.b64encode(data).rstrip(b"=").decode()
