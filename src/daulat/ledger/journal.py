"""A worker's journal: what makes `admit` and `complete` durable, and the promise that says so.

The loop's thread gathers records into a group, with the group's Merkle tree (`core.promise`); one committing thread
signs the tree's root, once a group, and writes the group durably; then the loop's thread hands out what was promised.
The committing thread needs the interpreter for microseconds only: more would cost the loop a thread switch each time.
The next group is whatever arrives meanwhile, and what comes for as long as every turn of the loop brings more: what a
commit costs (a sync, a signature, the switches) is then shared by many, and nobody waits who has no company. Who is
patient waits for it anyway.

What must hold: a callback runs only after its record is durable. After the first failed write or sync nothing is
acknowledged any more: what the kernel still has is unknown (it may have dropped the dirty pages), so the worker ends.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import queue
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import Any, Final, Protocol

from daulat.core.clock import Clock
from daulat.core.promise import headers, leaves, signed_text
from daulat.ledger import records
from daulat.ledger.records import ADMISSION, ATTEMPT, COMPLETION, REFUSALS, head
from daulat.tlog.merkle import levels

_sha256 = hashlib.sha256
Durable = Callable[[], None]
Promised = Callable[[str], None]  # takes the Daulat-Promise header's value
_MAX_GROUP_PARTS: Final = 2048  # two a record
_GATHER_SECONDS: Final = 0.01  # at most, however much more comes
_PATIENCE_SECONDS: Final = 0.003
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


class _Group:
    """One commit in the making, then on its way: its records as they will lie on disk, and whom to tell."""

    __slots__ = (
        "admissions", "callbacks", "deadline", "hashes", "members", "number", "parts", "promised", "tree", "urgent",
    )  # fmt: skip

    def __init__(self) -> None:
        self.urgent = False  # whether anybody in it does not want to wait
        self.parts: list[bytes] = []  # a head and a payload each
        # Of who is promised something: the request's id, its admission record, and whom to tell.
        self.members: list[str] = []
        self.admissions: list[bytes] = []
        self.promised: list[Promised] = []
        self.callbacks: list[Durable] = []

    def close(self, number: int, deadline: int) -> bytes:
        """Nothing joins any more: number it, and make the tree of those who are promised something. What is to be
        written, and is not kept here: until it is, others use its room."""
        self.number, self.deadline = number, deadline
        self.hashes = [_sha256(b"\0" + admission).digest() for admission in self.admissions]
        self.tree = levels(leaves(self.members, self.hashes))
        parts, self.parts, self.admissions = self.parts, [], []
        return records.encode_group(number, parts)

    def text(self, origin: str, worker: int) -> bytes:
        """What is signed; empty where nothing is promised."""
        if not self.promised:
            return b""
        return signed_text(origin, worker, self.number, len(self.members), self.tree[-1][0], self.deadline)

    def deliver(self, origin: str, worker: int, signature: bytes) -> None:
        """Tell everyone. Callbacks may ask for more records."""
        if self.promised:
            made = headers(
                origin=origin,
                worker=worker,
                batch=self.number,
                members=self.members,
                admissions=self.hashes,
                tree=self.tree,
                deadline=self.deadline,
                signature=signature,
            )
            for promised, header in zip(self.promised, made, strict=True):
                promised(header)
        for told in self.callbacks:
            told()


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
        self._open = _Group()
        self._flying: deque[_Group] = deque()
        self._scheduled = self._waiting = self._closed = False
        self._seen, self._until = 0, 0.0  # parts of the open group a turn ago, and until when more are waited for
        self._groups: queue.SimpleQueue[tuple[bytes, bytes] | None] = queue.SimpleQueue()
        self.next_sequence = itertools.count(1).__next__  # under which one request's records stand: no gaps
        self._counts: Counter[str] = Counter()
        self._principals: Counter[str] = Counter()
        self._refused_from = clock.now_ms()
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
        self._thread.start()

    def admit(self, sequence: int, request_id: str, admission: bytes, on_durable: Promised) -> None:
        group = self._open
        group.urgent = True
        group.parts += (head(ADMISSION, sequence, len(admission)), admission)
        group.members.append(request_id)
        group.admissions.append(admission)
        group.promised.append(on_durable)
        if not (self._scheduled or self._flying) or len(group.parts) >= _MAX_GROUP_PARTS:
            self._wake(group)

    def attempt(self, sequence: int, replica: bytes, on_durable: Durable) -> None:
        self._put(ATTEMPT, sequence, replica, on_durable)

    def complete(self, sequence: int, completion: bytes, on_durable: Durable, *, patient: bool = False) -> None:
        """`patient`: a stream's end may be 3 ms late, if it then shares a commit with somebody's beginning."""
        self._put(COMPLETION, sequence, completion, on_durable, urgent=not patient)

    def admit_complete(
        self, sequence: int, request_id: str, admission: bytes, completion: bytes, on_durable: Promised
    ) -> None:
        """Both records in one group, for answers that are known at once: refusals by policy, above all."""
        group = self._open
        group.urgent = True
        group.parts += (head(ADMISSION, sequence, len(admission)), admission)
        group.parts += (head(COMPLETION, sequence, len(completion)), completion)
        group.members.append(request_id)
        group.admissions.append(admission)
        group.promised.append(on_durable)
        self._wake(group)

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
        counted = {"from": self._refused_from, "to": now, "counts": self._counts, "principals": self._principals}
        payload = json.dumps(counted, separators=(",", ":")).encode()
        self._counts, self._principals, self._refused_from = Counter(), Counter(), now
        self._put(REFUSALS, 0, payload, None)

    def close(self) -> None:
        """Commit what is pending, then stop. Blocks for that long; callbacks come from the loop, afterwards."""
        self._flush_refusals()
        self._closed = True
        self._flush()
        self._groups.put(None)
        self._thread.join()

    def _put(self, kind: int, sequence: int, payload: bytes, callback: Durable | None, *, urgent: bool = True) -> None:
        group = self._open
        group.urgent = group.urgent or urgent
        group.parts += (head(kind, sequence, len(payload)), payload)
        if callback is not None:
            group.callbacks.append(callback)
        if not (self._scheduled or (urgent and self._flying)) or len(group.parts) >= _MAX_GROUP_PARTS:
            self._wake(group)

    def _wake(self, group: _Group) -> None:
        """Something has joined this group: see that it will be on its way."""
        if len(group.parts) >= _MAX_GROUP_PARTS:
            self._flush()
        elif group.urgent:
            if not self._scheduled and not self._flying:
                self._schedule()
        elif not self._waiting:
            self._waiting = True
            self._loop.call_later(_PATIENCE_SECONDS, self._waited)

    def _waited(self) -> None:
        """Patience is over."""
        self._waiting = False
        group = self._open
        if group.parts:
            group.urgent = True
            self._wake(group)

    def _schedule(self) -> None:
        self._scheduled = True
        self._seen, self._until = len(self._open.parts), time.monotonic() + _GATHER_SECONDS
        self._loop.call_soon(self._gather)

    def _gather(self) -> None:
        """A turn of the loop is over: flush, or see what the next one brings."""
        if not self._scheduled:
            return  # it went as it was full, or at the end
        parts = len(self._open.parts)
        if parts == self._seen or time.monotonic() >= self._until:
            self._flush()
        else:
            self._seen = parts
            self._loop.call_soon(self._gather)

    def _flush(self) -> None:
        """Send what has gathered on its way."""
        self._scheduled = False
        group = self._open
        if not group.parts:
            return
        self._open = _Group()
        written = group.close(self.commits, self._clock.now_ms() + self._promise_ms)
        self.commits += 1
        self._flying.append(group)
        self._groups.put((group.text(self._origin, self.worker), written))

    def _landed(self, signature: bytes) -> None:
        """The oldest group on its way is durable."""
        self._flying.popleft().deliver(self._origin, self.worker, signature)
        if self._open.urgent and not self._scheduled and not self._flying and not self._closed:
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
