"""A worker's journal: what makes `admit` and `complete` durable, and the promise that says so.

The loop's thread gathers records into a group, with the group's Merkle tree (`core.promise`); one committing thread
signs the tree's root, once a group, and writes the group durably; then the loop's thread hands out what was promised.
The committing thread needs the interpreter for microseconds only: more would cost the loop a thread switch each time.
The next group is whatever arrives meanwhile. A quiet journal commits at once; a busy one waits a moment first, because
what a commit costs (a sync, a signature, the switches) is then shared by many.

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

    def commit(self, group: bytes) -> None:
        """Append a group; it is durable on return. Called on the committing thread alone."""
        ...

    def shortage(self) -> str:
        """Why admission must stop for lack of space, or an empty string."""
        ...

    def close(self) -> None: ...


class Loop(Protocol):
    """What is needed of the event loop, in asyncio's words."""

    def call_soon(self, callback: Callable[..., Any], *arguments: Any) -> Any: ...

    def call_later(self, delay: float, callback: Callable[..., Any], *arguments: Any) -> Any: ...

    def call_soon_threadsafe(self, callback: Callable[..., Any], *arguments: Any) -> Any: ...


class _Item:
    __slots__ = ("callback", "kind", "payload", "request_id", "sequence")

    def __init__(self, kind: int, sequence: int, payload: bytes, request_id: str | None, callback: Any) -> None:
        self.kind, self.sequence, self.payload = kind, sequence, payload
        self.request_id, self.callback = request_id, callback


class _Batch:
    """One group on its way: whom to tell, and the tree of those who are promised something."""

    __slots__ = ("deadline", "hashes", "items", "number", "promised", "tree")

    def __init__(self, number: int, items: Sequence[_Item], deadline: int) -> None:
        self.number, self.items, self.deadline = number, items, deadline
        self.promised = [item for item in items if item.request_id is not None]
        self.hashes = [leaf_hash(item.payload) for item in self.promised]
        self.tree = levels(
            [
                leaf_hash(leaf_data(item.request_id or "", hash_))
                for item, hash_ in zip(self.promised, self.hashes, strict=True)
            ]
        )

    def text(self, origin: str, worker: int) -> bytes:
        """What is signed; empty where nothing is promised."""
        if not self.promised:
            return b""
        return signed_text(origin, worker, self.number, len(self.promised), self.tree[-1][0], self.deadline)

    def deliver(self, origin: str, worker: int, signature: bytes) -> None:
        """Tell everyone. Callbacks may ask for more records."""
        if self.promised:
            texts = [[b2a_base64(node, newline=False).decode() for node in level] for level in self.tree[:-1]]
            made = headers(
                origin=origin,
                worker=worker,
                batch=self.number,
                members=[
                    (item.request_id or "", hash_) for item, hash_ in zip(self.promised, self.hashes, strict=True)
                ],
                paths=paths([*texts, []]) if texts else [[]],
                root=self.tree[-1][0],
                deadline=self.deadline,
                signature=signature,
            )
            for item, header in zip(self.promised, made, strict=True):
                item.callback(header)
        for item in self.items:
            if item.request_id is None and item.callback is not None:
                item.callback()


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
        loop: Loop,
        on_fatal: Callable[[BaseException], None],
    ) -> None:
        """Start the committing thread.

        Args:
            worker: log index of the worker's `key/v1` entry.
            sign: the worker's raw Ed25519 signature.
            promise_ms: from a commit to the promise's deadline: the longest answer and the charter's margin.
            on_fatal: called once, on the loop, when durability is lost; the worker must end.
        """
        self.worker = worker
        self.shortage = ""  # why admission must stop; empty while there is room
        self.commits = 0  # groups begun
        self._segments, self._origin, self._sign, self._promise_ms = segments, origin, sign, promise_ms
        self._clock, self._loop, self._on_fatal = clock, loop, on_fatal
        self._pending: list[_Item] = []
        self._flying: deque[_Batch] = deque()
        self._scheduled = self._closed = False
        self._groups: queue.SimpleQueue[tuple[bytes, bytes] | None] = queue.SimpleQueue()
        self._sequence = 0
        self._rate, self._flushed = 0.0, time.monotonic()
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
        """Commit what is pending, then stop. Blocks for that long; callbacks come from the loop, afterwards."""
        self._flush_refusals()
        self._closed = True
        while self._pending:
            self._flush()
        self._groups.put(None)
        self._thread.join()

    def _put(self, item: _Item) -> None:
        self._pending.append(item)
        if not self._scheduled and not self._flying:
            self._schedule()

    def _schedule(self) -> None:
        self._scheduled = True
        if self._rate > _BUSY_RATE:
            self._loop.call_later(_GATHER_SECONDS, self._flush)
        else:
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        """Send what has gathered on its way."""
        self._scheduled = False
        items, self._pending = self._pending[:_MAX_GROUP_RECORDS], self._pending[_MAX_GROUP_RECORDS:]
        if not items:
            return
        then, self._flushed = self._flushed, time.monotonic()
        self._rate += _SMOOTHING * (len(items) / max(1e-6, self._flushed - then) - self._rate)
        batch = _Batch(self.commits, items, self._clock.now_ms() + self._promise_ms)
        self.commits += 1
        self._flying.append(batch)
        group = records.encode_group(batch.number, [(item.kind, item.sequence, item.payload) for item in items])
        self._groups.put((batch.text(self._origin, self.worker), group))

    def _landed(self, signature: bytes) -> None:
        """The oldest group on its way is durable."""
        self._flying.popleft().deliver(self._origin, self.worker, signature)
        if self._pending and not self._scheduled and not self._flying and not self._closed:
            self._schedule()

    def _run(self) -> None:
        """The committing thread."""
        try:
            while (group := self._groups.get()) is not None:
                signature = self._sign(group[0]) if group[0] else b""
                self._segments.commit(group[1])
                self._loop.call_soon_threadsafe(self._landed, signature)
            self._segments.close()
        except Exception as error:  # noqa: BLE001  the thread's edge: whatever it was, durability is unknown now
            self._loop.call_soon_threadsafe(self._on_fatal, error)
