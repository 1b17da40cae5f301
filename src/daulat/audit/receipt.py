"""Verifying one receipt offline, with the log's public key alone.

1. **Format**: a JSON object of the receipt's format, each field of its type, nothing more.
2. **Checkpoint**: signed by the log's key, for the receipt's origin.
3. **Inclusion**: every entry stands under the checkpoint at its index; the C2SP proof inside says the same.
4. **Shape**: every entry has the fields of its type, in order; the first is the inference entry of this request.
5. **References**: each points backwards to an entry of the right type, and all needed up to the charter are here.
6. **Chain**: charter, lease, model, replica and policy make the answer lawful at the time of its admission.
7. **Bodies**: request and response, where given, open the commitments.
8. **Promise**, where given: signed by a worker whose key the log certifies, for these admission bytes, and kept.
9. **Decision**: run again, where something that can run it is given, with the same result.

Any step that fails ends the verification; the message says which. What holds is returned in plain words, together with
who vouches for what, and what is not proven at all.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from daulat.audit import facts, words
from daulat.audit.chain import Chain, check_references, expect_none, shortfalls
from daulat.audit.decisions import DeciderFactory, Decisions
from daulat.audit.facts import InferenceFacts
from daulat.audit.promises import check_kept, check_signature, worker_verifier
from daulat.core import commitments, entries
from daulat.core.promise import parse_header
from daulat.errors import DaulatError, NotFound, VerificationFailed
from daulat.tlog import checkpoint as checkpoints
from daulat.tlog import note
from daulat.tlog import proof as proofs
from daulat.tlog.checkpoint import Checkpoint
from daulat.tlog.merkle import HASH_BYTES, leaf_hash, verify_inclusion
from daulat.tlog.note import Verifier

FORMAT: Final = "daulat/receipt/v1"
MAX_BYTES: Final = 32 * 1024 * 1024
MAX_ENTRIES: Final = 4096  # as many as the service puts into one
MAX_PATH: Final = 64
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
_UPPER_ESCAPE: Final = re.compile(rb"(?<!\\)(?:\\\\)*\\u[0-9a-f]{0,3}[A-F]")


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
        promised = tuple(_promised(parsed, chain, request, given))
    with _step("9 (decision)"):
        decided = tuple(_decided(chain, request, given))
    return Verdict(
        parsed.request_id,
        parsed.origin,
        parsed.items[0].index,
        request.effect,
        request.outcome,
        proven=(*words.proven(head, parsed.items[0].index, chain, request), *opened, *promised, *decided),
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
        return str(values[index]["type"]) if index in values else None

    # Beside the answer's entry, the key ceremony may be in it, for itself.
    begun = {receipt.items[0].index, *(at for at, value in values.items() if value["type"] == "ceremony/v1")}
    reachable, pending = set(begun), list(begun)
    while pending:
        index = pending.pop()
        for path, target, _ in entries.references(values[index]):
            if path in entries.HISTORY and target not in values:
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


def _replay(receipt: _Receipt, values: Mapping[int, Mapping[str, Any]], request: InferenceFacts) -> Chain:
    chain = Chain(receipt.origin)
    first = receipt.items[0]
    for item in receipt.items[1:]:
        expect_none(chain.add(item.index, values[item.index]))
    expect_none(chain.check(first.index, request))
    return chain


def _opened(receipt: _Receipt, request: InferenceFacts, given: Given) -> Iterator[str]:
    pairs: tuple[tuple[commitments.Kind, bytes | None, str | None], ...] = (
        ("request", given.request, request.request),
        ("response", given.response, request.response),
    )
    for kind, body, commitment in pairs:
        if body is None:
            continue
        if kind not in receipt.salts:
            raise VerificationFailed(f"the receipt has no salt to open the {kind} with")
        if commitment is None:
            raise VerificationFailed(f"the entry commits to no {kind}: none was sent")
        if not commitments.opens(commitment, receipt.salts[kind], kind, body):
            raise VerificationFailed(f"the {kind}'s {len(body)} bytes are not those that the entry commits to")
        yield words.opened(kind, len(body))


def _promised(receipt: _Receipt, chain: Chain, request: InferenceFacts, given: Given) -> Iterator[str]:
    if given.promise is None:
        return
    promise = parse_header(given.promise)
    if promise.header() != given.promise:
        raise VerificationFailed("the promise is not written in its canonical form")
    if (promise.request_id, promise.origin) != (receipt.request_id, receipt.origin):
        raise VerificationFailed("the promise is for another request, or of another log")
    if promise.worker != request.worker:
        raise VerificationFailed(f"promised by worker {promise.worker}, admitted by worker {request.worker}")
    check_signature(promise, worker_verifier(promise, chain.keys))
    check_kept(promise, entries.admission_bytes(receipt.items[0].data))
    yield words.promised(in_time=given.now is not None and given.now <= promise.deadline)


def _decided(chain: Chain, request: InferenceFacts, given: Given) -> Iterator[str]:
    if given.decider is None:
        return
    decisions = Decisions(chain, given.decider, given.blob or _no_blob)
    try:
        wrong = decisions.check_inference(request)
        for lease in chain.leases.values():
            wrong = wrong or decisions.check_lease(lease)
        for model in chain.models.values():
            wrong = wrong or decisions.check_model(model)
    except NotFound:
        return  # a policy's text stands in a blob that is not at hand: said under what is not proven
    if wrong is not None:
        raise VerificationFailed(wrong)
    yield words.decided(request, decisions.asked)


def _no_blob(digest: str) -> bytes:
    raise NotFound(f"no blob {digest}")


@contextmanager
def _step(name: str) -> Iterator[None]:
    """Put the step's name before whatever does not hold in it."""
    try:
        yield
    except DaulatError as error:
        raise VerificationFailed(f"step {name}: {error.message}") from None


def _without_absent(value: Mapping[str, Any], values: Mapping[int, Any]) -> Mapping[str, Any]:
    """The entry without references to a history that the receipt leaves out."""
    absent = {name for name in entries.HISTORY if name in value and value[name] not in values}
    return {name: None if name in absent else item for name, item in value.items()}


def _item(value: Any) -> _Item:
    if not isinstance(value, dict) or set(value) != {"index", "entry", "proof"}:
        raise VerificationFailed("an entry is not an object of index, entry and proof")
    index, path = value["index"], value["proof"]
    if type(index) is not int or index < 0:
        raise VerificationFailed(f"index is {str(index)[:40]!r}, expected a natural number")
    if not isinstance(path, list) or len(path) > MAX_PATH:
        raise VerificationFailed(f"the proof of entry {index} is not a list of at most {MAX_PATH} hashes")
    return _Item(index, _octets(value, "entry"), tuple(_hash(node, "a hash of a proof") for node in path))


def _salts(value: Any) -> dict[commitments.Kind, bytes]:
    if not isinstance(value, dict) or not set(value) <= {"request", "response"}:
        raise VerificationFailed("salts is not an object of request and response")
    return {kind: _hash(text, f"the salt of the {kind}") for kind, text in value.items()}


def _hash(text: Any, what: str) -> bytes:
    try:
        raw = base64.b64decode(text, validate=True) if isinstance(text, str) else b""
    except ValueError:
        raw = b""
    if len(raw) != HASH_BYTES or base64.b64encode(raw).decode() != text:
        raise VerificationFailed(f"{what} is not the canonical base64 of {HASH_BYTES} bytes")
    return raw


def _text(value: Mapping[str, Any], name: str) -> str:
    item = value[name]
    if not isinstance(item, str):
        raise VerificationFailed(f"{name} is not a string")
    return item


def _octets(value: Mapping[str, Any], name: str) -> bytes:
    try:
        return _text(value, name).encode()
    except UnicodeEncodeError:
        raise VerificationFailed(f"{name} is not Unicode text") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a name stands twice in one object")
    return value


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not a JSON number")
