"""So that nobody can fill the log: one key's denials beyond a rate become counts."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final

ENTRIES_A_SECOND: Final = 10


class DenialBudget:
    """How many denials of one key may still become entries in this second."""

    def __init__(self) -> None:
        self._second = 0
        self._spent: dict[Hashable, int] = {}

    def spend(self, key: Hashable, now_ms: int) -> bool:
        """Whether this denial gets an entry of its own."""
        second = now_ms // 1000
        if second != self._second:
            self._second = second
            self._spent.clear()
        spent = self._spent.get(key, 0)
        self._spent[key] = spent + 1
        return spent < ENTRIES_A_SECOND
