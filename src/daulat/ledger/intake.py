"""From journal groups to log entries: pairs admissions with completions, each (worker, sequence) once."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from daulat.core import entries
from daulat.core.clock import Clock
from daulat.errors import SealBroken
from daulat.ledger import records

NO_USAGE = {"prompt_tokens": 0, "cached_tokens": 0, "completion_tokens": 0}


class Journals(Protocol):
    """Port: the journals of all workers, as `adapters.journal_files.JournalFolder` has them."""

    def workers(self) -> list[int]: ...

    def segments(self, worker: int) -> list[int]: ...

    def read(self, worker: int, segment: int, offset: int) -> bytes: ...

    def alive(self, worker: int) -> bool: ...

    def remove(self, worker: int, segment: int) -> None: ...

    def forget(self, worker: int) -> None: ...


@dataclass(frozen=True, slots=True)
class Cursor:
    """How far one worker's journal has been taken in: the byte in a segment, and the group expected there."""

    segment: int = 0
    offset: int = 0
    group: int = 0


@dataclass(slots=True)
class Open:
    """An admission whose completion has not been seen."""

    admission: bytes
    attempts: list[dict[str, Any]] = field(default_factory=list)


class Intake:
    """What has been taken in. Its state is made durable with the entries it led to, in one transaction."""

    def __init__(self, cursors: Mapping[int, Cursor], opened: Mapping[tuple[int, int], Open]) -> None:
        self.cursors = dict(cursors)
        self.opened = dict(opened)
        self.finished: set[int] = set()  # dead workers with nothing left to take in

    def copy(self) -> Intake:
        """Independent in everything that `take` changes."""
        opened = {key: Open(item.admission, list(item.attempts)) for key, item in self.opened.items()}
        twin = Intake(self.cursors, opened)
        twin.finished = set(self.finished)
        return twin

    def take(self, journals: Journals, clock: Clock, limit: int) -> list[bytes]:
        """Read on, worker by worker, until about `limit` entries have come together; returns the new entries.

        Raises:
            SealBroken: a journal was changed, or says something twice.
        """
        taken: list[bytes] = []
        # Whoever has left an open admission is looked at, even if its journal is gone: the promise is not.
        for worker in sorted({*journals.workers(), *(worker for worker, _ in self.opened)}):
            # Asked first: what a living worker writes after this question is read the next time.
            alive = journals.alive(worker)
            done = self._read(journals, worker, taken, limit, clock)
            if done and not alive and worker not in self.finished:
                taken += self._interrupt(worker, clock)
                self.finished.add(worker)
            if len(taken) >= limit:
                break
        return taken

    def _read(self, journals: Journals, worker: int, taken: list[bytes], limit: int, clock: Clock) -> bool:
        """Whether everything that is there has been read."""
        segments = journals.segments(worker)
        cursor = self.cursors.get(worker, Cursor(segments[0] if segments else 0))
        for segment in segments:
            if segment < cursor.segment:
                continue
            if segment > cursor.segment:
                cursor = Cursor(segment, 0, cursor.group)
            for group in self._groups(journals, worker, segment, cursor):
                self._group(worker, group, taken, clock)
                cursor = Cursor(segment, group.end, group.number + 1)
                self.cursors[worker] = cursor
                if len(taken) >= limit:
                    return False
        return True

    @staticmethod
    def _groups(journals: Journals, worker: int, segment: int, cursor: Cursor) -> list[records.Group]:
        """The whole groups behind the cursor, with absolute ends."""

        def read() -> list[records.Group]:
            data = journals.read(worker, segment, cursor.offset)
            start = records.header_length(data) if cursor.offset == 0 else 0
            found = records.groups(data, start, cursor.group)
            return [group._replace(end=cursor.offset + group.end) for group in found]

        try:
            return read()
        except SealBroken:
            # A living worker may have written this group and the next while we read: by now the first is whole.
            return read()

    def _group(self, worker: int, group: records.Group, taken: list[bytes], clock: Clock) -> None:
        opened = self.opened
        fresh: dict[int, bytes] = {}  # admitted in this very group; who is completed in it, too, needs no `Open`
        for kind, sequence, payload in group.records:
            if kind == records.COMPLETION and sequence in fresh:
                taken.append(entries.join_inference(fresh.pop(sequence), payload))
                continue
            key = (worker, sequence)
            if kind == records.ADMISSION:
                if sequence in fresh or key in opened:
                    raise SealBroken(f"worker {worker} admitted sequence {sequence} twice")
                fresh[sequence] = payload
                continue
            if sequence in fresh:
                opened[key] = Open(fresh.pop(sequence))
            if kind == records.REFUSALS:
                taken.append(_refusals(worker, payload, clock))
            elif key not in opened:
                raise SealBroken(f"worker {worker}: sequence {sequence} was not admitted, or completed twice")
            elif kind == records.ATTEMPT:
                opened[key].attempts.append(json.loads(payload))
            else:
                taken.append(entries.join_inference(opened.pop(key).admission, payload))
        opened.update({(worker, sequence): Open(admission) for sequence, admission in fresh.items()})

    def _interrupt(self, worker: int, clock: Clock) -> Iterator[bytes]:
        """Entries for what a dead worker left open."""
        for key in sorted(key for key in self.opened if key[0] == worker):
            item = self.opened.pop(key)
            yield entries.join_inference(item.admission, _interrupted(item, clock))


def _interrupted(item: Open, clock: Clock) -> bytes:
    admission = json.loads(item.admission)
    attempts = (
        [{"replica": admission["replica"], "lease": admission["lease"]}] if admission["replica"] is not None else []
    )
    attempts += item.attempts
    for attempt in attempts:
        attempt["outcome"] = "interrupted"
    completion = {
        "time": max(clock.now_ms(), int(admission["time"])),  # a clock that was set back since makes no lie of it
        "outcome": "interrupted",
        "status": 0,
        "error": "interrupted",
        "attempts": attempts,
        "usage": NO_USAGE,
        "overhead": 0,
        "response": None,
    }
    return json.dumps({name: completion[name] for name in entries.COMPLETION_FIELDS}, separators=(",", ":")).encode()


def _refusals(worker: int, payload: bytes, clock: Clock) -> bytes:
    return entries.encode("refusals/v1", {"time": clock.now_ms(), "worker": worker, **json.loads(payload)})
