"""Who is next where several want the same thing: weighted fair shares, by tokens.

The virtual token counter of Sheng et al., "Fairness in Serving Large Language Models" (OSDI 2024): whoever has had the
fewest tokens for its weight is next, and who comes back after a rest starts level with those that wait, so that nobody
saves up, and nobody is starved by another's thousand requests. Priorities go first, but every eighth turn goes by
shares alone: whatever others' priority, nobody waits for ever.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterator
from typing import Final, Generic, TypeVar

EVERY: Final = 8
_Item = TypeVar("_Item")


class FairQueue(Generic[_Item]):
    """Items wait in flows, one a tenant. Pure; a step takes as long as there are flows that wait."""

    def __init__(self) -> None:
        self._flows: dict[tuple[int, Hashable], deque[tuple[int, float, _Item]]] = {}  # priority, flow
        self._served: dict[Hashable, float] = {}  # tokens for their weight, of flows
        self._level = 0.0  # what the flow that was last served had had
        self._count = self._turns = 0
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[_Item]:
        return iter([item for held in self._flows.values() for _, _, item in held])

    def push(self, flow: Hashable, item: _Item, *, cost: int, weight: int = 1, priority: int = 0) -> None:
        """Let it wait. `cost`: the tokens it is expected to take."""
        if not self._size:
            self._served = {
                known: had for known, had in self._served.items() if had > self._level
            }  # others start level
        if all(known != flow for _, known in self._flows):
            level = min((self._served[known] for _, known in self._flows), default=self._level)
            self._served[flow] = max(self._served.get(flow, 0.0), level)
        self._count += 1
        self._flows.setdefault((priority, flow), deque()).append((self._count, cost / weight, item))
        self._size += 1

    def pop(self) -> _Item:
        """Who is next. Raises IndexError: nobody waits."""
        if not self._flows:
            raise IndexError("nobody waits")
        self._turns += 1
        counts = self._turns % EVERY != 0  # whether priorities do
        key = min(self._flows, key=lambda key: (-key[0] * counts, self._served[key[1]], self._flows[key][0][0]))
        _, cost, item = self._flows[key].popleft()
        self._level = max(self._level, self._served[key[1]])
        self._served[key[1]] += cost
        self._shrink(key)
        return item

    def correct(self, flow: Hashable, tokens: float) -> None:
        """A flow has had so many tokens, for its weight, more than was expected; below zero: fewer."""
        if flow in self._served:
            self._served[flow] += tokens

    def remove(self, item: _Item) -> bool:
        """It waits no longer; whether it did."""
        for key, held in self._flows.items():
            for waiting in held:
                if waiting[2] is item:
                    held.remove(waiting)
                    self._shrink(key)
                    return True
        return False

    def _shrink(self, key: tuple[int, Hashable]) -> None:
        self._size -= 1
        if not self._flows[key]:
            del self._flows[key]
