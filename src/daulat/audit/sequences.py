"""Every request a worker admitted has one entry: its sequence numbers are unique and, in the end, without gaps.

Entries stand in the order of completion, so numbers arrive out of order and a gap is open while its request runs. A gap
is an omission once the request behind it must have ended: it was admitted before any later number of the same worker.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

MAX_OPEN: Final = 65_536  # requests one worker can have open; a number further ahead cannot be honest
_MARK: Final = 256


class Worker:
    """One worker's numbers: a byte for each, and the admission time of every 256th."""

    __slots__ = ("_marks", "_seen", "count", "highest", "latest", "not_after")

    def __init__(self, not_after: int | None) -> None:
        self.not_after = not_after if not_after is not None else 1 << 62
        self.count = 0
        self.highest = 0
        self.latest = 0  # admission time of the latest
        self._seen = bytearray(_MARK)
        self._marks: dict[int, int] = {}

    def take(self, sequence: int, time: int) -> str | None:
        """Note one number; why that cannot be, or None."""
        if sequence > self.highest:
            if sequence > self.count + MAX_OPEN:
                return f"sequence {sequence} of a worker with {self.count} entries"
            self.highest = sequence
            self.latest = time
            if sequence >= len(self._seen):
                self._seen.extend(bytes(max(sequence + 1 - len(self._seen), len(self._seen))))
        if self._seen[sequence]:
            return f"sequence {sequence} stands twice"
        if sequence < 1:
            return "sequence 0; numbers begin with 1"
        self._seen[sequence] = 1
        self.count += 1
        if not sequence % _MARK:
            self._marks[sequence] = time
        return None

    def gaps(self) -> Iterator[tuple[int, int, int]]:
        """(first, last, admitted before) of each run of missing numbers below the highest."""
        position = 1
        while True:
            first = self._seen.find(0, position, self.highest + 1)
            if first < 0:
                return
            position = self._seen.find(1, first, self.highest + 1)
            yield first, position - 1, self._before(position)

    def _before(self, sequence: int) -> int:
        """An upper bound on the admission time of anything below `sequence`."""
        mark = -(-sequence // _MARK) * _MARK
        while mark <= self.highest:
            if mark in self._marks:
                return self._marks[mark]
            mark += _MARK
        return self.latest
