"""Reading age files (C2SP age.md) with a passphrase: written for the tests from the specification, in memory."""

from __future__ import annotations

import base64
import hmac

from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

CHUNK = 65_536 + 16


def opened(data: bytes, passphrase: str) -> bytes:
    """Raises ValueError, or cryptography's InvalidTag: it is none, or was changed."""
    version, stanza, body, mac, rest = data.split(b"\n", 4)
    assert version == b"age-encryption.org/v1"
    arrow, kind, salt, cost = stanza.split(b" ")
    assert (arrow, kind) == (b"->", b"scrypt")
    assert len(body) < 64
    salted = b"age-encryption.org/v1/scrypt" + _bytes(salt)
    under = Scrypt(salt=salted, length=32, n=2 ** int(cost), r=8, p=1).derive(passphrase.encode())
    file_key = ChaCha20Poly1305(under).decrypt(bytes(12), _bytes(body), None)
    head = b"\n".join((version, stanza, body, b"---"))
    if not hmac.compare_digest(hmac.digest(_key(file_key, b"", b"header"), head, "sha256"), _bytes(mac[4:])):
        raise ValueError("the header was changed")
    nonce, payload = rest[:16], rest[16:]
    cipher, found = ChaCha20Poly1305(_key(file_key, nonce, b"payload")), b""
    starts = range(0, len(payload), CHUNK)
    for number, start in enumerate(starts):
        flag = b"\x01" if start == starts[-1] else b"\x00"
        found += cipher.decrypt(number.to_bytes(11, "big") + flag, payload[start : start + CHUNK], None)
    return found


def _key(file_key: bytes, salt: bytes, info: bytes) -> bytes:
    return HKDF(SHA256(), length=32, salt=salt, info=info).derive(file_key)


def _bytes(text: bytes) -> bytes:
    return base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)
