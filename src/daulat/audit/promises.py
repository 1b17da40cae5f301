"""Checking a `Daulat-Promise`: who signed it, that it covers this request, and what it obliges the log to hold."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping

from daulat.audit.facts import KeyFacts
from daulat.audit.finding import Finding
from daulat.core.entries import admission_bytes
from daulat.core.promise import MAX_PATH, Promise, signed_text
from daulat.errors import VerificationFailed
from daulat.tlog.merkle import leaf_hash, verify_inclusion
from daulat.tlog.note import Verifier


def check_signature(promise: Promise, worker: Verifier) -> None:
    """The promise is the worker's: its batch root is signed, and this request is in that batch.

    Raises:
        VerificationFailed: path or signature does not hold.
    """
    if len(promise.path) > MAX_PATH:
        raise VerificationFailed(f"the promise's path has {len(promise.path)} hashes, at most {MAX_PATH} are read")
    verify_inclusion(leaf_hash(promise.leaf()), promise.index, promise.size, promise.path, promise.root)
    text = signed_text(promise.origin, promise.worker, promise.batch, promise.size, promise.root, promise.deadline)
    worker.verify_bytes(text, promise.signature)


def check_kept(promise: Promise, admission: bytes) -> None:
    """The entry's admission record is, byte for byte, the one that was promised.

    Raises:
        VerificationFailed: it is another one.
    """
    if leaf_hash(admission) != promise.admission:
        raise VerificationFailed("the log's admission record is not the promised one: it was rewritten")


class Promised:
    """Promises handed to an audit, waiting for their entries."""

    def __init__(self, origin: str, promises: Iterable[Promise]) -> None:
        self.pending = 0  # after `settle`: those whose deadline has not come
        self.kept = 0
        self._origin = origin
        self._waiting: dict[bytes, list[Promise]] = {}
        self._met: list[tuple[Promise, int | None, str]] = []  # index of the entry; what is wrong with it
        for promise in promises:
            if promise.origin == origin:
                self._waiting.setdefault(promise.request_id.encode(), []).append(promise)

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def meet(self, request_id: bytes, index: int, entry: bytes) -> None:
        """An entry for this request stands at `index`."""
        for promise in self._waiting.pop(request_id, ()):
            try:
                check_kept(promise, admission_bytes(entry))
            except VerificationFailed as error:
                self._met.append((promise, index, error.message))
            else:
                self._met.append((promise, index, ""))

    def settle(self, now: int, keys: Mapping[int, KeyFacts]) -> Iterator[Finding]:
        """What is wrong with the promises, once the whole log has been seen."""
        waiting = [(promise, None, "") for group in self._waiting.values() for promise in group]
        for promise, index, wrong in [*self._met, *waiting]:
            try:
                check_signature(promise, worker_verifier(promise, keys))
            except VerificationFailed as error:
                words = f"the promise for {promise.request_id[:40]} is not one of this log's: {error.message}"
                yield Finding("promise.signature", words, index)
                continue
            if wrong:
                yield Finding("promise.broken", wrong, index)
            elif index is not None:
                self.kept += 1
            elif promise.deadline >= now:
                self.pending += 1
            else:
                words = f"request {promise.request_id[:40]} was promised an entry and has none: it was omitted"
                yield Finding("promise.broken", words)


def elsewhere(promises: Iterable[Promise], audited: Collection[str]) -> Iterator[Finding]:
    """Promises of none of the audited logs (by origin): whether they were kept, nobody has seen."""
    for promise in promises:
        if promise.origin not in audited:
            words = (
                f"the promise for {promise.request_id[:40]} is of {promise.origin[:80]!r}, which was not audited here"
            )
            yield Finding("promise.origin", words)


def worker_verifier(promise: Promise, keys: Mapping[int, KeyFacts]) -> Verifier:
    """The key that a promise says it is signed by.

    Raises:
        VerificationFailed: the log certifies no such key for a worker.
    """
    key = keys.get(promise.worker)
    if key is None or key.purpose != "worker":
        raise VerificationFailed(f"entry {promise.worker} certifies no worker's key")
    return Verifier(key.vkey)
