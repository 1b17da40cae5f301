"""What stands in the log instead of people, prompts and answers.

    salt       = HMAC-SHA256(tenant epoch key, "daulat/salt/v1\\n" || request id || "\\n" || kind)
    commitment = SHA-256("daulat/commitment/v1\\n" || kind || "\\n" || salt || body)
    pseudonym  = base64url(HMAC-SHA256(tenant epoch key, "daulat/pseudonym/v1\\n" || kind || "\\n" || id))[:22]

`kind` is "request" or "response" for salts; "tenant", "principal" or "key" for pseudonyms. The body is the octets as
received or sent after transfer decoding, the final frame included. Request and response have separate salts, so that
either can be opened alone. Destroying the epoch key makes commitments unopenable and pseudonyms unlinkable.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from typing import Final, Literal

Kind = Literal["request", "response"]
EPOCH_KEY_BYTES: Final = 32
_PREFIX: Final = {
    "request": b"daulat/commitment/v1\nrequest\n",
    "response": b"daulat/commitment/v1\nresponse\n",
}


def salt(epoch_key: bytes, request_id: str, kind: Kind) -> bytes:
    """The 32-byte salt of one body of one request."""
    return hmac.digest(epoch_key, f"daulat/salt/v1\n{request_id}\n{kind}".encode(), "sha256")


def opening(salt_: bytes, kind: Kind) -> hashlib._Hash:
    """A hash to be fed the body, for bodies that arrive in pieces; its digest is the commitment."""
    return hashlib.sha256(_PREFIX[kind] + salt_)


def commit(salt_: bytes, kind: Kind, body: bytes) -> str:
    """The commitment to a whole body, base64 as it stands in an entry."""
    return base64.b64encode(hashlib.sha256(_PREFIX[kind] + salt_ + body).digest()).decode()


def opens(commitment: str, salt_: bytes, kind: Kind, body: bytes) -> bool:
    """Whether `body` is what `commitment` was made over."""
    return hmac.compare_digest(commit(salt_, kind, body).encode(), commitment.encode())


def pseudonym(epoch_key: bytes, kind: str, id_: str) -> str:
    """A 132-bit keyed pseudonym, 22 characters of base64url."""
    mac = hmac.digest(epoch_key, f"daulat/pseudonym/v1\n{kind}\n{id_}".encode(), "sha256")
    return base64.urlsafe_b64encode(mac)[:22].decode()
