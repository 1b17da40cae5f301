"""Checkpoints: a log's signed tree head, as c2sp.org/tlog-checkpoint defines it."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from daulat.errors import VerificationFailed
from daulat.tlog import note
from daulat.tlog.merkle import HASH_BYTES

_SIZE: Final = re.compile(r"(0|[1-9][0-9]{0,18})\Z", re.ASCII)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A log's size (leaves) and root (32 bytes) under its origin."""

    origin: str
    size: int
    root: bytes
    extensions: tuple[str, ...] = ()

    def text(self) -> bytes:
        """The note text: origin, size, base64 root, extension lines."""
        lines = (self.origin, str(self.size), base64.b64encode(self.root).decode(), *self.extensions)
        return "".join(f"{line}\n" for line in lines).encode()


def parse(text: bytes) -> Checkpoint:
    """Read a checkpoint's note text.

    Raises:
        VerificationFailed: malformed, with the line that is.
    """
    try:
        lines = text.decode().split("\n")
    except UnicodeDecodeError:
        raise VerificationFailed("the checkpoint is not UTF-8") from None
    if len(lines) < 4 or lines[-1] or "" in lines[:-1]:  # noqa: PLR2004  three lines and the end
        raise VerificationFailed("a checkpoint has at least three lines, none empty, each ended by a newline")
    origin, size, root, *extensions = lines[:-1]
    if not _SIZE.match(size):
        raise VerificationFailed(f"checkpoint size {size[:40]!r} is not a decimal number without leading zeroes")
    try:
        raw = base64.b64decode(root, validate=True)
    except (binascii.Error, ValueError):
        raise VerificationFailed("the checkpoint's root is not base64") from None
    if len(raw) != HASH_BYTES or base64.b64encode(raw).decode() != root:
        raise VerificationFailed("the checkpoint's root is not the canonical base64 of 32 bytes")
    return Checkpoint(origin, int(size), raw, tuple(extensions))


def sign(checkpoint: Checkpoint, signers: Iterable[note.Signer]) -> bytes:
    """The signed note of a checkpoint."""
    return note.sign(checkpoint.text(), signers)


def open_checkpoint(signed: bytes, verifier: note.Verifier) -> Checkpoint:
    """Verify a signed checkpoint of the log that `verifier` names.

    Raises:
        VerificationFailed: the signature does not hold, or the origin is another than the key's name.
    """
    checkpoint = parse(note.open_note(signed, (verifier,)).text)
    if checkpoint.origin != verifier.name:
        raise VerificationFailed(f"the checkpoint is of {checkpoint.origin!r}, the key of {verifier.name!r}")
    return checkpoint
