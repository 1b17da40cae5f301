"""What stands in the log instead of people, prompts and answers.

    person key = HMAC-SHA256(tenant epoch key, "daulat/person/v1\\n" || person's id)
    salt       = HMAC-SHA256(person key, "daulat/salt/v1\\n" || request id || "\\n" || kind)
    commitment = SHA-256("daulat/commitment/v1\\n" || kind || "\\n" || salt || body)
    pseudonym  = base64url(HMAC-SHA256(tenant epoch key, "daulat/pseudonym/v1\\n" || kind || "\\n" || id))[:22]

`kind` is "request" or "response" for salts; "tenant", "principal", "key", "directory" or "network" for pseudonyms. A
network's id is the id of the key that is good there, "\n" and the network (CIDR). The body is the octets as
received or sent after transfer decoding, the final frame included. Request and response have separate salts, so that
either can be opened alone. Destroying the epoch key, or the random id of a person, makes commitments unopenable and
pseudonyms unlinkable.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from binascii import b2a_base64
from typing import Final, Literal

Kind = Literal["request", "response"]
_sha256: Final = hashlib.sha256
EPOCH_KEY_BYTES: Final = 32
_PREFIX: Final = {
    "request": b"daulat/commitment/v1\nrequest\n",
    "response": b"daulat/commitment/v1\nresponse\n",
}


class Salter:
    """Salts under one epoch key, quickly: HMAC (RFC 2104) with both keys padded once.

    To hash them once as well saves nothing where one key asks, and costs 1 us a request where ten thousand do: a hash
    that is kept is some ten lines of memory that are in no cache.
    """

    __slots__ = ("_inner", "_outer")

    def __init__(self, epoch_key: bytes) -> None:
        padded = epoch_key.ljust(64, b"\0")  # SHA-256's block; a key of 32 bytes needs no hashing first
        self._inner = bytes(byte ^ 0x36 for byte in padded) + b"daulat/salt/v1\n"
        self._outer = bytes(byte ^ 0x5C for byte in padded)

    def salts(self, request_id: str) -> tuple[bytes, bytes]:
        """The same as `salt` for request and response: by the time of the latter this would have to be found again."""
        inner, outer = self._inner + request_id.encode(), self._outer
        request, response = _sha256(inner + b"\nrequest").digest(), _sha256(inner + b"\nresponse").digest()
        return _sha256(outer + request).digest(), _sha256(outer + response).digest()


def salt(epoch_key: bytes, request_id: str, kind: Kind) -> bytes:
    """The 32-byte salt of one body of one request."""
    return hmac.digest(epoch_key, f"daulat/salt/v1\n{request_id}\n{kind}".encode(), "sha256")


def opening(salt_: bytes, kind: Kind) -> hashlib._Hash:
    """A hash to be fed the body, for bodies that arrive in pieces; its digest is the commitment."""
    return hashlib.sha256(_PREFIX[kind] + salt_)


def commit(salt_: bytes, kind: Kind, body: bytes) -> str:
    """The commitment to a whole body, base64 as it stands in an entry."""
    digest = hashlib.sha256(b"".join((_PREFIX[kind], salt_, body))).digest()
    return b2a_base64(digest, newline=False).decode()


def opens(commitment: str, salt_: bytes, kind: Kind, body: bytes) -> bool:
    """Whether `body` is what `commitment` was made over."""
    return hmac.compare_digest(commit(salt_, kind, body).encode(), commitment.encode())


def personal(epoch_key: bytes, person: str) -> bytes:
    """The key of one person's salts: who knows the tenant's epoch key and no longer the person's id, has it no more."""
    return hmac.digest(epoch_key, f"daulat/person/v1\n{person}".encode(), "sha256")


def pseudonym(epoch_key: bytes, kind: str, id_: str) -> str:
    """A 132-bit keyed pseudonym, 22 characters of base64url."""
    mac = hmac.digest(epoch_key, f"daulat/pseudonym/v1\n{kind}\n{id_}".encode(), "sha256")
    return base64.urlsafe_b64encode(mac)[:22].decode()
