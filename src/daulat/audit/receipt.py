"""Verifying one receipt offline, with the log's public key alone.

1. **Format**: a JSON object of the receipt's format, each field of its type, nothing more.
2. **Checkpoint**: signed by the log's key, for the receipt's origin.
3. **Inclusion**: every entry stands under the checkpoint at its index; the C2SP proof inside says the same.
4. **Shape**: every entry has the fields of its type, in order; the first is the inference entry of this request.
5. **References**: each points backwards to an entry of the right type, and all that are needed up to the charter are
here. 6. **Chain**: charter, lease, model, replica and policy make the answer lawful at the time of its admission.
7. **Bodies**: request and response, where given, open the commitments.
8. **Promise**, where given: signed by a worker whose key the log certifies, for these admission bytes, and kept.
9. **Decision**: run again, where something that can run it is given, with the same result.

Any step that fails ends the verification; the message says which. What holds is returned in plain words, together with
who vouches for what, and what is not proven at all.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from daulat.audit import facts, words
from daulat.audit.chain import check_references, expect_none, shortfalls
from daulat.audit.decisions import DeciderFactory
from daulat.audit.facts import InferenceFacts
from daulat.core import commitments, entries
from daulat.errors import VerificationFailed
from daulat.tlog import checkpoint as checkpoints
from daulat.tlog import note
from daulat.tlog import proof as proofs
from daulat.tlog.checkpoint import Checkpoint
from daulat.tlog.merkle import leaf_hash, verify_inclusion
from daulat.tlog.note import Verifier

FORMAT: Final = "daulat/receipt/v1"
MAX_BYTES: Final = 32 * 1024 * 1024
MAX_ENTRIES: Final = 100_000
HISTORY: Final = frozenset({"previous", "replaces"})  # tell what was before; nothing lawful rests on them
_FIELDS: Final = (
    "format",
    "request_id",
    "origin",
    "checkpoint",
    "log_vkey",
    "entries",
    "salts",
    "tlog_proof",
)
_UPPER_ESCAPE: Final = re.compile(rb"\\u[0-9a-f]*[A-F]")


@dataclass(frozen=True, slots=True)
class Given:
    """What a verifier holds besides the receipt. `now` (Unix milliseconds) is when the receipt was at hand."""

    request: bytes | None = None
    response: bytes | None = None
    promise: str | None = None
    now: int | None = None
    decider: DeciderFactory | None = None
    blob: Callable[[str], bytes] | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """A receipt that holds: in plain words, what that proves, who vouches for the rest, and what falls short."""

    request_id: str
    origin: str
    index: int
    effect: str
    outcome: str
    proven: tuple[str, ...]
    vouched: tuple[str, ...]
    unproven: tuple[str, ...]
    short: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Item:
    index: int
    data: bytes
    path: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class _Receipt:
    request_id: str
    origin: str
    checkpoint: bytes
    vkey: str
    items: tuple[_Item, ...]  # the inference entry first
    salts: Mapping[commitments.Kind, bytes]
    proof: bytes


def verify(receipt: bytes, verifier: Verifier, given: Given | None = None) -> Verdict:
    """Check a receipt's bytes against the log's key.

    Raises:
        VerificationFailed: a step does not hold; the message begins with its number and name.
    """
    given = given or Given()
    with _step("1 (format)"):
        parsed = parse(receipt)
    with _step("2 (checkpoint)"):
        head = _open(parsed, verifier)
    with _step("3 (inclusion)"):
        _included(parsed, head, verifier)
    with _step("4 (shape)"):
        values = {item.index: entries.decode(item.data) for item in parsed.items}
        request = _request(parsed, values)
    with _step("5 (references)"):
        _complete(parsed, values)
    with _step("6 (chain)"):
        chain = _replay(parsed, values, request)
    with _step("7 (bodies)"):
        opened = tuple(_opened(parsed, request, given))
    with _step("8 (promise)"):
        promised = tuple(_promised(parsed, chain, given))
    with _step("9 (decision)"):
        decided = _decided(chain, request, given)
    return Verdict(
        parsed.request_id,
        parsed.origin,
        parsed.items[0].index,
        request.effect,
        request.outcome,
        proven=(*words.proven(head, chain, request), *opened, *promised, *decided),
        vouched=tuple(words.vouched(chain, request)),
        unproven=tuple(words.unproven(opened=opened, promised=promised, decided=decided)),
        short=(*shortfalls(chain), words.witnesses(note.open_note(parsed.checkpoint, (verifier,)).unknown)),
    )


def parse(receipt: bytes) -> _Receipt:
    """Read a receipt; nothing is verified.

    Raises:
        VerificationFailed: it is not of the format.
    """
    if len(receipt) > MAX_BYTES:
        raise VerificationFailed(f"the receipt has {len(receipt)} bytes, at most {MAX_BYTES} are read")
    try:
        value = json.loads(receipt.decode(), object_pairs_hook=_unique, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise VerificationFailed(f"the receipt is not JSON: {error}") from None
    if _UPPER_ESCAPE.search(receipt):
        raise VerificationFailed("\\u escapes are written with small letters, so that no two files say the same")
    if not isinstance(value, dict) or set(value) != set(_FIELDS) or value["format"] != FORMAT:
        raise VerificationFailed(f"not a {FORMAT!r} object with exactly the fields {', '.join(_FIELDS)}")
    items = value["entries"]
    if not isinstance(items, list) or not 0 < len(items) <= MAX_ENTRIES:
        raise VerificationFailed(f"entries is not a list of 1 to {MAX_ENTRIES}")
    return _Receipt(
        request_id=_text(value, "request_id"),
        origin=_text(value, "origin"),
        checkpoint=_octets(value, "checkpoint"),
        vkey=_text(value, "log_vkey"),
        items=tuple(map(_item, items)),
        salts=_salts(value["salts"]),
        proof=_octets(value, "tlog_proof"),
    )


def _open(receipt: _Receipt, verifier: Verifier) -> Checkpoint:
    head = checkpoints.open_checkpoint(receipt.checkpoint, verifier)
    if receipt.origin != head.origin:
        raise VerificationFailed(f"the receipt says origin {receipt.origin[:80]!r}, its checkpoint {head.origin!r}")
    if receipt.vkey != verifier.vkey:
        raise VerificationFailed("the receipt names another key of the log than the one given")
    return head


def _included(receipt: _Receipt, head: Checkpoint, verifier: Verifier) -> None:
    for item in receipt.items:
        verify_inclusion(leaf_hash(item.data), item.index, head.size, item.path, head.root)
    proof = proofs.parse(receipt.proof)
    proof.verify(leaf_hash(receipt.items[0].data), verifier)
    if (proof.index, proof.path, proof.checkpoint) != (
        receipt.items[0].index,
        receipt.items[0].path,
        receipt.checkpoint,
    ):
        raise VerificationFailed("the C2SP proof is not about this receipt's entry and checkpoint")
    if proof.encode() != receipt.proof:
        raise VerificationFailed("the C2SP proof is not written in its canonical form")


def _request(receipt: _Receipt, values: Mapping[int, Mapping[str, Any]]) -> InferenceFacts:
    first, *others = receipt.items
    if len(values) != len(receipt.items):
        raise VerificationFailed("an entry stands twice")
    if [item.index for item in others] != sorted(item.index for item in others):
        raise VerificationFailed("the referenced entries are not in ascending order")
    if values[first.index]["type"] != entries.INFERENCE:
        raise VerificationFailed(f"the first entry is a {values[first.index]['type']}, expected {entries.INFERENCE}")
    entries.admission_bytes(first.data)
    request = facts.inference(values[first.index])
    if request.request_id != receipt.request_id:
        raise VerificationFailed(f"the receipt is for {receipt.request_id[:80]!r}, its entry for another request")
    return request


def _complete(receipt: _Receipt, values: Mapping[int, Mapping[str, Any]]) -> None:
    def type_of(index: int) -> str | None:
        return values[index]["type"] if index in values else None

    reachable = {receipt.items[0].index}
    pending = [receipt.items[0].index]
    while pending:
        index = pending.pop()
        for path, target, _ in entries.references(values[index]):
            if path in HISTORY and target not in values:
                continue
            if target not in values:
                raise VerificationFailed(f"entry {index}: {path} points at {target}, which the receipt lacks")
            if target not in reachable:
                reachable.add(target)
                pending.append(target)
    for index in values:
        expect_none(finding for finding in check_references(index, _without_absent(values[index], values), type_of))
    if len(reachable) != len(values):
        raise VerificationFailed(f"entries {sorted(set(values) - reachable)[:5]} are referred to by nothing")
