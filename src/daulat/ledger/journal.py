"""A worker's journal: what makes `admit` and `complete` durable, and the promise that says so.

The loop's thread only appends to a queue. One committing thread takes what has gathered, writes it as one group, syncs
it, signs the group's Merkle root once (`core.promise`) and hands all results back to the loop in one call. The next
group is whatever arrived meanwhile. A quiet journal commits at once; a busy one waits half a millisecond first, because
what a commit costs (a sync, a signature, two thread switches) is then shared by many.

What must hold: a callback runs only after its record is durable. After the first failed write or sync nothing is
acknowledged any more: what the kernel still has is unknown (it may have dropped the dirty pages), so the worker ends.
"""

from __future__ import annotations

import json
import queue
import threading
import time
from binascii import b2a_base64
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

from daulat.core.clock import Clock
from daulat.core.promise import headers, leaf_data, signed_text
from daulat.ledger import records
from daulat.tlog.merkle import leaf_hash, levels, paths

Durable = Callable[[], None]
Promised = Callable[[str], None]  # takes the Daulat-Promise header's value
_MAX_GROUP_RECORDS: Final = 1024
_BUSY_RATE: Final = 4000.0  # records a second from which on gathering pays
_GATHER_SECONDS: Final = 0.0005
_SMOOTHING: Final = 0.1
_MAX_PRINCIPALS: Final = 256  # named in one refusals record; the rest are counted together


class Segments(Protocol):
    """Port: where groups go. `adapters.journal_files` is the real one. All methods raise OSError."""

    def append(self, group: bytes) -> None: ...

    def sync(self) -> None: ...

    def roll(self) -> bool:
        """Whether the segment was full and a next one has begun; called between groups."""
        ...

    def shortage(self) -> str:
        """Why admission must stop for lack of space, or an empty string."""
        ...

    def close(self) -> None: ...


class _Item:
    __slots__ = ("callback", "kind", "payload", "request_id", "sequence")

    def __init__(self, kind: int, sequence: int, payload: bytes, request_id: str | None, callback: Any) -> None:
        self.kind, self.sequence, self.payload = kind, sequence, payload
        self.request_id, self.callback = request_id, callback


class Journal:
    """Owned by one worker's loop; every method but the committing thread's own is called on that loop."""

    def __init__(
        self,
        segments: Segments,
        *,
        worker: int,
        origin: str,
        sign: Callable[[bytes], bytes],
        promise_ms: int,
        clock: Clock,
        call: Callable[..., Any],
        on_fatal: Callable[[BaseException], None],
    ) -> None:
        """Start the committing thread.

        Args:
            worker: log index of the worker's `key/v1` entry.
            sign: the worker's raw Ed25519 signature.
            promise_ms: from a commit to the promise's deadline: the longest answer and the charter's margin.
            call: the loop's `call_soon_threadsafe`.
            on_fatal: called once, on the loop, when durability is lost; the worker must end.
        """
        self.worker = worker
        self.shortage = ""  # why admission must stop; empty while there is room
        self.commits = 0
        self._segments, self._origin, self._sign, self._promise_ms = segments, origin, sign, promise_ms
        self._clock, self._call, self._on_fatal = clock, call, on_fatal
        self._pending: deque[_Item] = deque()
        self._idle = True
        self._wake: queue.SimpleQueue[bool] = queue.SimpleQueue()  # False: stop when all is committed
        self._sequence = 0
        self._rate, self._committed = 0.0, time.monotonic()
        self._counts: Counter[str] = Counter()
        self._principals: Counter[str] = Counter()
        self._refused_from = clock.now_ms()
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
        self._thread.start()

    def next_sequence(self) -> int:
        """The number under which one request's records stand: 1, 2, 3 ... without gaps."""
        self._sequence += 1
        return self._sequence

    def admit(self, sequence: int, request_id: str, record: bytes, on_durable: Promised) -> None:
        self._put(_Item(records.ADMISSION, sequence, record, request_id, on_durable))

    def attempt(self, sequence: int, record: bytes, on_durable: Durable) -> None:
        self._put(_Item(records.ATTEMPT, sequence, record, None, on_durable))

    def complete(self, sequence: int, record: bytes, on_durable: Durable) -> None:
        self._put(_Item(records.COMPLETION, sequence, record, None, on_durable))

    def admit_complete(
        self, sequence: int, request_id: str, admission: bytes, completion: bytes, on_durable: Promised
    ) -> None:
        """Both records in one group, for answers that are known at once: refusals by policy, above all."""
        self._pending.append(_Item(records.ADMISSION, sequence, admission, request_id, on_durable))
        self._put(_Item(records.COMPLETION, sequence, completion, None, None))

    def refuse(self, reason: str) -> None:
        """Count a refusal before authentication."""
        self._counts[reason] += 1

    def refuse_principal(self, pseudonym: str) -> None:
        """Count a denial beyond what one key may leave as entries."""
        known = pseudonym in self._principals or len(self._principals) < _MAX_PRINCIPALS
        self._principals[pseudonym if known else "others"] += 1

    def tick(self) -> None:
        """Look at free space, and write the refusals counted since the last call. About once a second."""
        self.shortage = self._segments.shortage()
        self._flush_refusals()

    def _flush_refusals(self) -> None:
        if not self._counts and not self._principals:
            return
        now = self._clock.now_ms()
        record = {"from": self._refused_from, "to": now, "counts": self._counts, "principals": self._principals}
        payload = json.dumps(record, separators=(",", ":")).encode()
        self._counts, self._principals, self._refused_from = Counter(), Counter(), now
        self._put(_Item(records.REFUSALS, 0, payload, None, None))

    def close(self) -> None:
        """Commit what is pending, then stop. Blocks for that long."""
        self._flush_refusals()
        self._wake.put(False)
        self._thread.join()

    def _put(self, item: _Item) -> None:
        self._pending.append(item)
        if self._idle:
            self._idle = False
            self._wake.put(True)

    # The committing thread, from here on.

    def _run(self) -> None:
        try:
            while self._wake.get():
                self._drain()
            self._drain()
            self._segments.close()
        except Exception as error:  # noqa: BLE001  the thread's edge: whatever it was, durability is unknown now
            self._call(self._on_fatal, error)

    def _drain(self) -> None:
        pending = self._pending
        while True:
            while pending:
                if self._rate > _BUSY_RATE:
                    time.sleep(_GATHER_SECONDS)
                self._commit([pending.popleft() for _ in range(min(len(pending), _MAX_GROUP_RECORDS))])
            self._idle = True
            # Whoever appended before seeing `_idle` has not woken us: look once more.
            if not pending:
                return
            self._idle = False

    def _commit(self, items: Sequence[_Item]) -> None:
        self._segments.roll()
        number = self.commits
        self._segments.append(
            records.encode_group(number, [(item.kind, item.sequence, item.payload) for item in items])
        )
        self._segments.sync()
        self.commits = number + 1
        then, self._committed = self._committed, time.monotonic()
        self._rate += _SMOOTHING * (len(items) / max(1e-6, self._committed - then) - self._rate)
        now = self._clock.now_ms()
        results = self._promises(number, now, [item for item in items if item.request_id is not None])
        results += [(item.callback, ()) for item in items if item.request_id is None and item.callback is not None]
        if results:
            self._call(_deliver, results)

    def _promises(self, number: int, now: int, items: Sequence[_Item]) -> list[tuple[Any, tuple[Any, ...]]]:
        if not items:
            return []
        hashes = [leaf_hash(item.payload) for item in items]
        leaves = [leaf_hash(leaf_data(item.request_id or "", hash_)) for item, hash_ in zip(items, hashes, strict=True)]
        tree = levels(leaves)
        root, size, deadline = tree[-1][0], len(items), now + self._promise_ms
        signature = self._sign(signed_text(self._origin, self.worker, number, size, root, deadline))
        texts = [[b2a_base64(node, newline=False).decode() for node in level] for level in tree[:-1]]
        made = headers(
            origin=self._origin,
            worker=self.worker,
            batch=number,
            members=[(item.request_id or "", hash_) for item, hash_ in zip(items, hashes, strict=True)],
            paths=paths([*texts, []]) if texts else [[]],
            root=root,
            deadline=deadline,
            signature=signature,
        )
        return [(item.callback, (header,)) for item, header in zip(items, made, strict=True)]


def _deliver(results: list[tuple[Any, tuple[Any, ...]]]) -> None:
    for callback, arguments in results:
        callback(*arguments)
