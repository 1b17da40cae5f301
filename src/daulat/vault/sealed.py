"""One object at rest, to the byte. Whoever has the file and not the key has nothing, and can change nothing unseen.

    header     "daulat object 1\n"        16 bytes
               wrapping key's id          16 bytes
               nonce                      12 bytes
               AES-256-GCM(wrapping key, nonce, data key; bound)    48 bytes
               prefix                      7 bytes
    chunks     AES-256-GCM(data key, prefix || counter || last, 65,536 bytes; SHA-256(header || bound)), + 16 each

The data key is the object's own and random. Chunks are the STREAM construction (Hoang, Reyhanitabar, Rogaway, Vizár,
"Online Authenticated-Encryption and its Nonce-Reuse Misuse-Resistance", CRYPTO 2015), as in Tink and age: `counter` is
four bytes, `last` one, 1 for the last chunk and 0 for the others. So each chunk says where it stands and whether it is
the end: one left out, doubled, moved or cut off does not open. Only the last may be shorter, and it is empty only where
the object is. `bound` names tenant, object and version: an object put in another's place does not open either.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from daulat.errors import VerificationFailed

MAGIC: Final = b"daulat object 1\n"
KEY_BYTES: Final = 32
KEY_ID_BYTES: Final = 16
CHUNK_BYTES: Final = 65_536
TAG_BYTES: Final = 16
NONCE_BYTES: Final = 12
_PREFIX_BYTES: Final = 7
_WRAPPED_BYTES: Final = KEY_BYTES + TAG_BYTES
HEADER_BYTES: Final = len(MAGIC) + KEY_ID_BYTES + NONCE_BYTES + _WRAPPED_BYTES + _PREFIX_BYTES
_MOST_CHUNKS: Final = 2**32
MOST_BYTES: Final = CHUNK_BYTES * _MOST_CHUNKS  # of one object
_SEALED_CHUNK: Final = CHUNK_BYTES + TAG_BYTES
_CHANGED: Final = "it was changed, cut off, or put in the place of another"


@dataclass(frozen=True, slots=True)
class Binding:
    """Which object some bytes are: they open as nothing else."""

    tenant: str
    object: str
    version: int

    def encode(self) -> bytes:
        """Raises ValueError: a name holds a newline, so that two bindings could be the same bytes."""
        if "\n" in self.tenant or "\n" in self.object:
            raise ValueError("a name with a newline cannot be bound")
        return f"daulat/object/v1\n{self.tenant}\n{self.object}\n{self.version}\n".encode()


@dataclass(frozen=True, slots=True)
class Key:
    """A key that wraps others, and the public id under which it is found again."""

    id: bytes  # 16 bytes
    secret: bytes  # 32 bytes

    def __repr__(self) -> str:  # never into a log or a traceback
        return f"Key({self.id.hex()})"


def wrap(key: bytes, under: bytes, bound: bytes) -> bytes:
    """A key under another: nonce, ciphertext and tag. `bound`: what has to be said again to open it."""
    nonce = os.urandom(NONCE_BYTES)
    return nonce + AESGCM(under).encrypt(nonce, key, bound)


def unwrap(wrapped: bytes, under: bytes, bound: bytes) -> bytes:
    """Raises VerificationFailed: another key or binding, or changed bytes."""
    try:
        return AESGCM(under).decrypt(wrapped[:NONCE_BYTES], wrapped[NONCE_BYTES:], bound)
    except (InvalidTag, ValueError):
        raise VerificationFailed("a key does not open: it was changed, or belongs elsewhere") from None


def seal(plaintext: Iterable[bytes], key: Key, binding: Binding) -> Iterator[bytes]:
    """The object, piece by piece; at most two chunks of plaintext are held at once, besides what a piece brings.

    Raises:
        ValueError: more than 2^48 bytes.
    """
    bound, data_key, prefix = binding.encode(), AESGCM.generate_key(256), os.urandom(_PREFIX_BYTES)
    header = MAGIC + key.id + wrap(data_key, key.secret, bound) + prefix
    yield header
    cipher, said = AESGCM(data_key), hashlib.sha256(header + bound).digest()
    held, counter = bytearray(), 0
    for piece in plaintext:
        held += piece
        while len(held) > CHUNK_BYTES:  # not "at least": the last chunk has to be known as the last
            yield cipher.encrypt(_nonce(prefix, counter, last=False), bytes(held[:CHUNK_BYTES]), said)
            del held[:CHUNK_BYTES]
            counter += 1
            if counter == _MOST_CHUNKS:
                raise ValueError(f"an object has at most {MOST_BYTES} bytes")
    yield cipher.encrypt(_nonce(prefix, counter, last=True), bytes(held), said)


def key_of(header: bytes) -> bytes:
    """The id of the key that an object's header names.

    Raises:
        VerificationFailed: it is no such header.
    """
    if len(header) < HEADER_BYTES or not header.startswith(MAGIC):
        raise VerificationFailed("it is no sealed object, or one of another format")
    return header[len(MAGIC) : len(MAGIC) + KEY_ID_BYTES]


def opened(sealed: Iterable[bytes], key: Key, binding: Binding) -> Iterator[bytes]:
    """The plaintext, chunk by chunk, each checked before it is given out. The last is the end only once this ends.

    Raises:
        VerificationFailed: something was changed, cut off, re-ordered or exchanged, here or further on.
    """
    pieces, held = iter(sealed), bytearray()
    while len(held) < HEADER_BYTES and (piece := next(pieces, None)) is not None:
        held += piece
    header = bytes(held[:HEADER_BYTES])
    if key_of(header) != key.id:
        raise VerificationFailed("the object is sealed under another key")
    bound, start = binding.encode(), len(MAGIC) + KEY_ID_BYTES
    try:
        data_key = unwrap(header[start : start + NONCE_BYTES + _WRAPPED_BYTES], key.secret, bound)
    except VerificationFailed:
        raise VerificationFailed(f"the object does not open: {_CHANGED}") from None
    del held[:HEADER_BYTES]
    cipher, said = AESGCM(data_key), hashlib.sha256(header + bound).digest()
    prefix, counter = header[-_PREFIX_BYTES:], 0
    for piece in pieces:
        held += piece
        while len(held) > _SEALED_CHUNK:
            yield _chunk(cipher, _nonce(prefix, counter, last=False), bytes(held[:_SEALED_CHUNK]), said)
            del held[:_SEALED_CHUNK]
            counter += 1
    while len(held) > _SEALED_CHUNK:  # what came with the header
        yield _chunk(cipher, _nonce(prefix, counter, last=False), bytes(held[:_SEALED_CHUNK]), said)
        del held[:_SEALED_CHUNK]
        counter += 1
    last = _chunk(cipher, _nonce(prefix, counter, last=True), bytes(held), said)
    if not last and counter:
        raise VerificationFailed(f"the object ends with an empty chunk: {_CHANGED}")
    yield last


def size_sealed(size: int) -> int:
    """How many bytes an object of so many bytes takes."""
    chunks = max(1, -(-size // CHUNK_BYTES))
    return HEADER_BYTES + size + chunks * TAG_BYTES


def _nonce(prefix: bytes, counter: int, *, last: bool) -> bytes:
    return prefix + counter.to_bytes(4) + (b"\1" if last else b"\0")


def _chunk(cipher: AESGCM, nonce: bytes, sealed: bytes, said: bytes) -> bytes:
    try:
        return cipher.decrypt(nonce, sealed, said)
    except (InvalidTag, ValueError):
        raise VerificationFailed(f"a chunk of the object does not open: {_CHANGED}") from None
