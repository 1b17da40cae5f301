"""The ledger's ports in memory, and a way to stop at any of their steps: what a crash at that moment leaves behind."""

from __future__ import annotations

import contextlib
import json
import queue
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

from daulat.core import entries
from daulat.errors import NotFound, SealBroken
from daulat.ledger import records
from daulat.ledger.sequencer import Sealed
from daulat.tlog.tiles import WIDTH, parse_path

NOW = 1_790_000_000_000
_PATIENCE = 20.0


def group_of(number: int, items: Iterable[tuple[int, int, bytes]]) -> bytes:
    """A journal's group of (kind, sequence, payload) records."""
    parts = [(records.head(kind, sequence, len(payload)), payload) for kind, sequence, payload in items]
    return records.encode_group(number, chain.from_iterable(parts))


class Crash(BaseException):
    """The process ends here. Nothing may catch it."""


class Steps:
    """Counts steps of I/O, and crashes at one of them. Where it never does, `taken` says how many there are."""

    def __init__(self, last: int | None = None) -> None:
        self.last, self.taken = last, 0

    def step(self) -> None:
        if self.taken == self.last:
            raise Crash
        self.taken += 1


class HandClock:
    """A clock moved by hand."""

    def __init__(self, now_ms: int = NOW) -> None:
        self.now = now_ms

    def now_ms(self) -> int:
        return self.now

    def boottime(self) -> float:
        return self.now / 1000


class HandLoop:
    """The event loop's three calls; `run` calls back until a condition holds.

    `timers` says what had to wait; timers end at once, or, while `held`, when they are let go.
    """

    def __init__(self) -> None:
        self.held = False
        self._waiting: list[tuple[Callable[..., Any], tuple[Any, ...]]] = []
        self._ready: queue.Queue[tuple[Callable[..., Any], tuple[Any, ...]]] = queue.Queue()
        self.timers: list[float] = []

    def call_soon(self, callback: Callable[..., Any], *arguments: Any) -> None:
        self._ready.put((callback, arguments))

    call_soon_threadsafe = call_soon

    def call_later(self, delay: float, callback: Callable[..., Any], *arguments: Any) -> None:
        self.timers.append(delay)
        if self.held:
            self._waiting.append((callback, arguments))
        else:
            self.call_soon(callback, *arguments)

    def let_go(self) -> None:
        self.held, waiting, self._waiting = False, self._waiting, []
        for callback, arguments in waiting:
            self.call_soon(callback, *arguments)

    def run(self, until: Callable[[], bool]) -> None:
        """The condition may come true on another thread, with nothing to call back."""
        end = time.monotonic() + _PATIENCE
        while not until():
            assert time.monotonic() < end, "the condition does not come true"
            with contextlib.suppress(queue.Empty):
                callback, arguments = self._ready.get(timeout=0.01)
                callback(*arguments)

    def run_ready(self) -> None:
        """What is there, and what that brings about at once."""
        while not self._ready.empty():
            callback, arguments = self._ready.get()
            callback(*arguments)


class MemoryJournals:
    """`ledger.intake.Journals`, with the writing side beside it."""

    def __init__(self) -> None:
        self.files: dict[tuple[int, int], bytes] = {}
        self.locks: dict[int, bool] = {}  # worker -> lives
        self._numbers: dict[int, int] = {}
        self.steps = Steps()

    def begin(self, worker: int) -> None:
        self.locks[worker], self._numbers[worker] = True, 0
        self.roll(worker, 0)

    def roll(self, worker: int, segment: int) -> None:
        self.files[worker, segment] = records.encode_header(worker, segment, "test")

    def write(self, worker: int, *group: tuple[int, int, bytes]) -> None:
        segment = max(number for owner, number in self.files if owner == worker)
        self.files[worker, segment] += group_of(self._numbers[worker], group)
        self._numbers[worker] += 1

    def end(self, worker: int) -> None:
        self.locks[worker] = False

    def workers(self) -> list[int]:
        return sorted({*self.locks, *(worker for worker, _ in self.files)})

    def segments(self, worker: int) -> list[int]:
        return sorted(segment for owner, segment in self.files if owner == worker)

    def read(self, worker: int, segment: int, offset: int) -> bytes:
        return self.files[worker, segment][offset:]

    def alive(self, worker: int) -> bool:
        return self.locks.get(worker, False)

    def remove(self, worker: int, segment: int) -> None:
        self.steps.step()
        del self.files[worker, segment]
        self.steps.step()

    def forget(self, worker: int) -> None:
        self.steps.step()
        self.locks.pop(worker, None)
        self.steps.step()


class MemorySeal:
    """`ledger.sequencer.Seal`: a crash comes before the transaction, or after it."""

    def __init__(self) -> None:
        self.sealed: Sealed | None = None
        self.steps = Steps()
        self.history: list[bytes] = []

    def load(self) -> Sealed | None:
        return self.sealed

    def advance(self, expected: bytes, new: Sealed) -> None:
        self.steps.step()
        held = b"" if self.sealed is None else self.sealed.checkpoint
        if held != expected or (self.sealed is not None and new.size < self.sealed.size):
            raise SealBroken("the sealed checkpoint is not the one this sequencer last sealed: another one is running")
        # Copied, as a database does: what the caller changes afterwards is not sealed.
        opened = {
            key: type(item)(item.admission, json.loads(json.dumps(item.attempts))) for key, item in new.opened.items()
        }
        self.sealed = Sealed(
            new.size, new.checkpoint, new.base_size, new.base_checkpoint, new.staged, dict(new.cursors), opened
        )
        self.history.append(new.checkpoint)
        self.steps.step()


class MemoryStore:
    """`ledger.sequencer.LogStore`: a crash may come between any two files."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.steps = Steps()
        self.history: list[bytes] = []

    def read(self, path: str) -> bytes:
        tile = parse_path(path)
        if path in self.files:
            return self.files[path]
        full = self.files.get(path.partition(".p/")[0])
        if tile.width == WIDTH or full is None:
            raise NotFound(f"the log has no {path}")
        if tile.level is not None:
            return full[: 32 * tile.width]
        position = 0
        for _ in range(tile.width):
            position += 2 + int.from_bytes(full[position : position + 2], "big")
        return full[:position]

    def write(self, files: Mapping[str, bytes]) -> None:
        for path, data in files.items():
            self.steps.step()
            self.files[path] = data
        self.steps.step()
        for path in files:
            if ".p/" not in path:
                for old in [old for old in self.files if old.startswith(f"{path}.p/")]:
                    del self.files[old]

    def publish(self, checkpoint: bytes) -> None:
        self.steps.step()
        self.files["checkpoint"] = checkpoint
        self.history.append(checkpoint)
        self.steps.step()

    def published(self) -> bytes:
        return self.files.get("checkpoint", b"")


class MemoryIndex:
    """`ledger.sequencer.Index` and `ledger.fsck.Index`."""

    def __init__(self) -> None:
        self.requests: dict[str, int] = {}
        self.types: dict[int, str] = {}
        self.size = 0
        self.steps = Steps()

    def add(self, first: int, new: Sequence[bytes]) -> None:
        self.steps.step()
        for index, entry in enumerate(new, first):
            value = json.loads(entry)
            if value["type"] == entries.INFERENCE:
                self.requests[value["admission"]["request_id"]] = index
            else:
                self.types[index] = value["type"]
        self.size = first + len(new)
        self.steps.step()

    def position_of(self, request_id: str) -> int | None:
        return self.requests.get(request_id)

    def type_of(self, index: int) -> str | None:
        return self.types.get(index)


class MemorySegments:
    """`ledger.journal.Segments`. `before` runs in each commit, before it takes effect: to hold it up, or to fail it."""

    def __init__(self, before: Callable[[bytes], None] = lambda _: None) -> None:
        self.before = before
        self.groups: list[records.Group] = []
        self.short = ""
        self.closed = False

    def commit(self, group: bytes) -> None:
        self.before(group)
        (decoded,) = records.groups(group, 0, len(self.groups))
        self.groups.append(decoded)

    def shortage(self) -> str:
        return self.short

    def close(self) -> None:
        self.closed = True


def request_id(number: int) -> str:
    return f"req_{number:032x}"


def admission(number: int, **fields: Any) -> bytes:
    """A record with what the ledger looks at; the rest is for the audit."""
    return json.dumps(
        {"request_id": request_id(number), "time": NOW, "replica": 7, "lease": 5, **fields}, separators=(",", ":")
    ).encode()


def completion(number: int) -> bytes:
    return json.dumps({"time": NOW, "outcome": "ok", "status": 200, "number": number}, separators=(",", ":")).encode()


def answered(sequence: int, number: int) -> Iterator[tuple[int, int, bytes]]:
    """Both records of one request."""
    yield records.ADMISSION, sequence, admission(number)
    yield records.COMPLETION, sequence, completion(number)


def charter_entry(number: int = 0, origin: str = "test/1") -> bytes:
    """A control entry that refers to nothing."""
    return entries.encode(
        "charter/v1",
        {
            "time": NOW + number,
            "origin": origin,
            "previous": None,
            "profile": "evaluation",
            "jurisdiction": "MY",
            "approvals": 0,
            "sha256": "0" * 64,
            "text": "",
            "restates": None,
        },
    )


def key_entry(charter: int, number: int = 0) -> bytes:
    """A control entry that refers to a charter."""
    return entries.encode(
        "key/v1",
        {
            "time": NOW + number,
            "charter": charter,
            "purpose": "worker",
            "name": "worker",
            "vkey": "worker",
            "not_after": None,
            "replaces": None,
            "signatures": [],
        },
    )
