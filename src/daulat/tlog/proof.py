"""Offline proofs of inclusion, as c2sp.org/tlog-proof defines them (`.tlog-proof`)."""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from typing import Final

from daulat.errors import VerificationFailed
from daulat.tlog.checkpoint import Checkpoint, open_checkpoint
from daulat.tlog.merkle import HASH_BYTES, verify_inclusion
from daulat.tlog.note import Verifier

HEADER: Final = "c2sp.org/tlog-proof@v1"
MAX_BYTES: Final = 1_000_000
_INDEX: Final = re.compile(r"index (0|[1-9][0-9]{0,18})\Z", re.ASCII)


@dataclass(frozen=True, slots=True)
class Proof:
    """An entry's index and inclusion path, and the signed checkpoint they lead to."""

    index: int
    path: tuple[bytes, ...]
    checkpoint: bytes
    extra: bytes | None = None

    def encode(self) -> bytes:
        lines = [HEADER]
        if self.extra is not None:
            lines.append(f"extra {base64.b64encode(self.extra).decode()}")
        lines.append(f"index {self.index}")
        lines += [base64.b64encode(node).decode() for node in self.path]
        return "".join(f"{line}\n" for line in lines).encode() + b"\n" + self.checkpoint

    def verify(self, leaf: bytes, verifier: Verifier) -> Checkpoint:
        """Check that the entry with this leaf hash is in the log that `verifier` names (*Verifying a tlog proof*).

        Raises:
            VerificationFailed: signature, origin or inclusion does not hold.
        """
        checkpoint = open_checkpoint(self.checkpoint, verifier)
        verify_inclusion(leaf, self.index, checkpoint.size, self.path, checkpoint.root)
        return checkpoint


def parse(data: bytes) -> Proof:
    """Read a proof; nothing is verified.

    Raises:
        VerificationFailed: malformed, with the line that is.
    """
    head, separator, checkpoint = data.partition(b"\n\n")
    if not separator or len(data) > MAX_BYTES:
        raise VerificationFailed("a tlog-proof has a head, an empty line and a checkpoint, in at most 1 MB")
    try:
        lines = head.decode().split("\n")
    except UnicodeDecodeError:
        raise VerificationFailed("the tlog-proof is not UTF-8") from None
    if lines.pop(0) != HEADER:
        raise VerificationFailed(f"the first line is not {HEADER!r}")
    extra = None
    if lines and lines[0].startswith("extra "):
        extra = _base64(lines.pop(0).removeprefix("extra "))
    match = _INDEX.match(lines.pop(0)) if lines else None
    if match is None:
        raise VerificationFailed("the index line is missing or malformed")
    path = tuple(map(_base64, lines))
    if any(len(node) != HASH_BYTES for node in path):
        raise VerificationFailed("a hash of the inclusion proof has not 32 bytes")
    return Proof(int(match[1]), path, checkpoint, extra)


def _base64(text: str) -> bytes:
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise VerificationFailed(f"{text[:60]!r} is not base64") from None
    if base64.b64encode(raw).decode() != text:
        raise VerificationFailed(f"{text[:60]!r} is not canonical base64")
    return raw
