"""The self-contained receipt of one answer: its entry, all that made it lawful, and the proofs of both."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any, Final

from daulat.core import entries
from daulat.errors import NotFound
from daulat.ledger.reading import read_entries
from daulat.tlog.checkpoint import Checkpoint
from daulat.tlog.proof import Proof
from daulat.tlog.tiles import Hashes, TileSource, inclusion_proof

FORMAT: Final = "daulat/receipt/v1"
_MAX_ENTRIES: Final = 4096
_CHARTER: Final = b'{"type":"charter/v1",'
_HELD: Final = b'{"type":"ceremony/v1",'
_NEAR: Final = 32  # entries from a charter to the ceremony that brought it, at most


def gather(source: TileSource, size: int, index: int) -> dict[int, bytes]:
    """Entry `index` and, transitively, every entry it rests on, by index. History (earlier leases, say) is left out;
    of an installation in production, the key ceremony is there too.

    Raises:
        NotFound: the log is not as large.
        VerificationFailed: an entry is malformed.
    """
    if index >= size:
        raise NotFound("The entry is not under a checkpoint yet.", code="receipt_pending")
    found: dict[int, bytes] = {}
    wanted = [index]
    while wanted and len(found) < _MAX_ENTRIES:
        position = wanted.pop()
        if position in found:
            continue
        (entry,) = read_entries(source, position, position + 1, size)
        found[position] = entry
        found_here = entries.references(entries.decode(entry))
        wanted += [target for path, target, _ in found_here if path not in entries.HISTORY]
    ceremony = _ceremony(source, size, found)
    return found if ceremony is None else {**found, **ceremony}


def _ceremony(source: TileSource, size: int, found: Mapping[int, bytes]) -> dict[int, bytes] | None:
    """The key ceremony behind a charter of production, and the charter it brought; None where there is none.

    It stands soon after the first charter of production, which the later ones lead back to.
    """
    at = max((at for at, entry in found.items() if entry.startswith(_CHARTER)), default=None)
    first: dict[int, bytes] = {}
    while at is not None:
        (entry,) = read_entries(source, at, at + 1, size)
        value = entries.decode(entry)
        if value["profile"] != "production":
            break
        first, at = {at: entry}, value["previous"]
    for begun in first:
        near = range(begun + 1, min(begun + _NEAR, size))
        for at, entry in zip(near, read_entries(source, near.start, near.stop, size), strict=True):
            if entry.startswith(_HELD):
                return {**first, at: entry}
    return None


def build(
    source: TileSource,
    checkpoint: Checkpoint,
    signed: bytes,
    vkey: str,
    index: int,
    gathered: Mapping[int, bytes],
    salts: Mapping[str, bytes],
) -> dict[str, Any]:
    """The receipt as a JSON object; `signed` is the checkpoint's note, `gathered` comes from `gather`."""
    hashes = Hashes(checkpoint.size, source)
    rest = sorted(position for position in gathered if position != index)
    paths = {position: inclusion_proof(position, hashes) for position in (index, *rest)}
    listed = [
        {
            "index": position,
            "entry": gathered[position].decode(),
            "proof": [base64.b64encode(node).decode() for node in path],
        }
        for position, path in paths.items()
    ]
    admission = entries.decode(gathered[index])["admission"]
    return {
        "format": FORMAT,
        "request_id": admission["request_id"],
        "origin": checkpoint.origin,
        "checkpoint": signed.decode(),
        "log_vkey": vkey,
        "entries": listed,
        "salts": {kind: base64.b64encode(salt).decode() for kind, salt in salts.items()},
        "tlog_proof": Proof(index, tuple(paths[index]), signed).encode().decode(),
    }
