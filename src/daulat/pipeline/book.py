"""The control plane's pen: it writes entries into the log, and remembers which are in force."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

from daulat.core import entries
from daulat.core.clock import Clock

Append = Callable[[list[str]], Awaitable[list[int]]]
"""Port: entries in; their indices out once a published checkpoint covers them (the sequencer's `append`)."""


class LiveEntries(Protocol):
    """Port: durable memory of the entries in force, by kind and name."""

    def live(self, kind: str, name: str = "") -> dict[str, Any] | None: ...

    def all_live(self, kind: str) -> list[dict[str, Any]]: ...

    def set_live(self, kind: str, name: str, origin: str, position: int, entry: str) -> None: ...

    def end_live(self, kind: str, name: str) -> None: ...


class Book:
    """One log, as the control plane writes it."""

    def __init__(self, origin: str, append: Append, memory: LiveEntries, clock: Clock) -> None:
        self.origin = origin
        self._append, self._memory, self._clock = append, memory, clock

    async def write(self, type_: str, fields: Mapping[str, Any], *, name: str | None = None) -> int:
        """Append one entry, timed now; with `name`, it is from now on the one in force of its type under that name.

        Raises:
            Unavailable: the log cannot be written, or the memory not reached; then nothing was appended, as far as
                that is known beforehand: whoever tries again and again must not fill the log meanwhile.
        """
        if name is not None:
            self._memory.live(type_, name)
        entry = entries.encode(type_, {"time": self._clock.now_ms(), **fields}).decode()
        (index,) = await self._append([entry])
        if name is not None:
            self._memory.set_live(type_, name, self.origin, index, entry)
        return index

    def held(self, type_: str, name: str = "") -> dict[str, Any] | None:
        """The entry in force in this log: {"position", "entry", "value", ...}."""
        found = self._memory.live(type_, name)
        return found if found is not None and found["origin"] == self.origin else None

    def index(self, type_: str, name: str = "") -> int | None:
        found = self.held(type_, name)
        return None if found is None else int(found["position"])

    def all_held(self, type_: str) -> list[dict[str, Any]]:
        return [found for found in self._memory.all_live(type_) if found["origin"] == self.origin]

    def end(self, type_: str, name: str) -> None:
        """No longer in force."""
        self._memory.end_live(type_, name)

    def memory(self, type_: str, name: str = "") -> dict[str, Any] | None:
        """The entry that was in force last, in this log or in an older shard, decoded."""
        found = self._memory.live(type_, name)
        return None if found is None else dict(found["value"])

    def restated(self, type_: str, name: str = "") -> dict[str, Any] | None:
        """Where an older shard has what is about to be written again (`restates`), or None."""
        found = self._memory.live(type_, name)
        if found is None or found["origin"] == self.origin:
            return None
        return {"origin": found["origin"], "index": found["position"]}
