"""Slots of one engine, and what this worker last put into each.

A slot keeps the prompt it ran last in its KV cache, so a request is best put where the longest part of its prompt
already is. Which prompts those are is remembered as raw bytes of the request: no tokenising beside the event loop.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

REMEMBERED: Final = 65_536  # bytes of a prompt
_WORTH: Final = 64  # bytes in common that mean more than the wire's own words


class Places(Protocol):
    """Port: who may use a slot now. Several workers may share one engine."""

    poll_seconds: float
    """How often to look again while others hold every slot; 0: nobody else can."""

    def take(self, slot: int) -> int | None:
        """Take a free slot: how often it has been taken so far, by anybody. None when it is not free."""
        ...

    def give(self, slot: int) -> None:
        """Give it back."""
        ...


class Partition:
    """Slot i belongs to worker i % workers; a worker without one shares worker % slots and lets the engine queue."""

    poll_seconds = 0.0

    def __init__(self, slots: int, worker: int = 0, workers: int = 1) -> None:
        owned = [slot for slot in range(slots) if slot % workers == worker] or [worker % slots]
        self._free = dict.fromkeys(owned, True)
        self._taken = dict.fromkeys(owned, 0)

    def take(self, slot: int) -> int | None:
        if not self._free.get(slot, False):
            return None
        self._free[slot] = False
        self._taken[slot] += 1
        return self._taken[slot]

    def give(self, slot: int) -> None:
        self._free[slot] = True


@dataclass(slots=True)
class _Memory:
    prompt: bytes = b""
    taken: int = 0  # the count when we took it: another's use in between makes `prompt` untrue
    used: int = 0  # our own clock, for the least recently used


class Slots:
    """Chooses among free slots. Synchronous and without waiting: the dialect waits."""

    def __init__(self, places: Places, count: int) -> None:
        self._places = places
        self._memories = [_Memory() for _ in range(count)]
        self._clock = 0

    def take(self, prompt: bytes, shared: int) -> int | None:
        """A free slot, or None.

        First one whose prompt goes on beyond the first `shared` bytes, which can be had anywhere (a conversation's next
        turn); else the least recently used.
        """
        common = [common_length(memory.prompt, prompt) for memory in self._memories]
        order = sorted(
            range(len(common)),
            key=lambda slot: (-common[slot] if common[slot] > shared + _WORTH else 0, self._memories[slot].used),
        )
        for slot in order:
            if (taken := self._places.take(slot)) is not None:
                memory = self._memories[slot]
                if taken != memory.taken + 1:
                    memory.prompt = b""
                memory.taken = taken
                self._clock += 1
                memory.used = self._clock
                return slot
        return None

    def give(self, slot: int) -> None:
        self._places.give(slot)

    def holds(self, slot: int, prefix: bytes) -> bool:
        """Whether a taken slot begins with `prefix`."""
        return self._memories[slot].prompt.startswith(prefix)

    def remember(self, slot: int, prompt: bytes) -> None:
        self._memories[slot].prompt = prompt[:REMEMBERED]


def common_length(one: bytes, other: bytes) -> int:
    """Length of the longest common prefix, by halving: 16 comparisons of slices, not one of each byte."""
    low, high = 0, min(len(one), len(other))
    if one[:high] == other[:high]:
        return high
    while high - low > 1:
        middle = (low + high) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle
    return low


def with_slot(body: bytes, slot: int) -> bytes:
    """The same request, in that slot."""
    return with_members(body, b'"id_slot":%d' % slot)


def with_members(body: bytes, members: bytes) -> bytes:
    """The same object with `members` at its end, where they win over the client's own of these names."""
    head = body.rstrip()[:-1]
    comma = b"" if head.rstrip().endswith(b"{") else b","
    return b"%b%b%b}" % (head, comma, members)
