"""Rights of people over their data, between three processes: what is agreed to, what the vault gives out, what is said.

The control process knows what was agreed to. The vault asks it before it gives anything out, so what a caller claims
counts for nothing.
"""

from __future__ import annotations

import asyncio
import base64
import threading
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any, Final

from daulat.adapters import rpc
from daulat.core.clock import Clock
from daulat.errors import InvalidRequest, VerificationFailed
from daulat.pipeline.correct import Correcting
from daulat.pipeline.export import Exporting, Exports
from daulat.pipeline.operate import Desk, Log, Rows
from daulat.vault.objects import Kept, Objects, Whose
from daulat.vault.ports import Kind

_PIECE: Final = 8 << 20  # bytes of an object that are given out at once, and a chunk of it more
_KINDS: Final[tuple[Kind, ...]] = ("file", "completion")


class Rights:
    """The control process's side."""

    def __init__(self, rows: Rows, log: Log, clock: Clock, charter_index: int, desk: Desk) -> None:
        self._exports = Exports(rows, log, clock, charter_index)
        self._correcting = Correcting(rows, desk, clock)
        self.act = Exporting(rows, self._exports)

    def handlers(self, changes: Callable[[Callable[..., Any]], rpc.Handler]) -> dict[str, rpc.Handler]:
        """By method; `changes` makes one of an administrative act."""
        return {
            "export.open": self._open,
            "export.held": self._held,
            "export.made": self._exports.made,
            "person.correct": changes(self._correcting.correct),
        }

    async def _open(self, person: str) -> dict[str, Any]:
        return self._exports.open(person)

    async def _held(self, person: str) -> dict[str, Any]:
        return self._exports.held(person)


class Giving:
    """The vault's side: what a person keeps there, in clear, while an export of theirs is agreed to."""

    def __init__(self, objects: Callable[[], Objects], control: rpc.Client) -> None:
        """`objects` raises Unavailable while the vault is closed."""
        self._objects, self._control = objects, control
        self._lock = threading.Lock()
        self._reading: tuple[tuple[Whose, Kind, str], int, Iterator[bytes]] | None = None

    def handlers(self) -> dict[str, rpc.Handler]:
        return {"export.list": self._list, "export.read": self._read}

    async def _list(self, person: str) -> list[dict[str, Any]]:
        """Everything that they keep, oldest first, without its content."""
        whose, objects = await self._whose(person), self._objects()
        return [_shown(kind, kept) for kind, kept in await asyncio.to_thread(objects.all, whose)]

    async def _read(self, person: str, kind: str, id: str, offset: int = 0) -> dict[str, Any]:  # noqa: A002  a parameter's name
        """Some megabytes of an object's content from `offset` on, base64, nothing behind its end; or why it cannot be
        read: what is damaged does not keep the rest from them."""
        chosen = next((known for known in _KINDS if known == kind), None)
        if chosen is None:
            raise InvalidRequest(f"kept are {' and '.join(_KINDS)}s")
        whose, objects = await self._whose(person), self._objects()
        try:
            data = await asyncio.to_thread(self._piece, objects, (whose, chosen, id), offset)
        except VerificationFailed as error:
            return {"unreadable": error.message}
        return {"content": base64.b64encode(data).decode()}

    def _piece(self, objects: Objects, which: tuple[Whose, Kind, str], offset: int) -> bytes:
        """Who goes on where they ended does not have it opened from its beginning again."""
        with self._lock:
            held, self._reading = self._reading, None
            if held is not None and held[:2] == (which, offset):
                pieces = held[2]
            else:
                pieces = _behind(objects.content(*which), offset)
            data = bytearray()
            for piece in pieces:
                data += piece
                if len(data) >= _PIECE:
                    break
            self._reading = which, offset + len(data), pieces
            return bytes(data)

    async def _whose(self, person: str) -> Whose:
        """Raises NotFound: nobody has agreed to it."""
        found = await self._control.call("export.open", person=person)
        return Whose(found["tenant"], found["person"])


def _shown(kind: Kind, kept: Kept) -> dict[str, Any]:
    said = {"id": kept.id, "created": kept.created, "expires": kept.expires, "size": kept.size}
    return {"kind": kind, **said, "about": dict(kept.about)}


def _behind(pieces: Iterator[bytes], offset: int) -> Iterator[bytes]:
    """What comes behind the first `offset` bytes."""
    left = offset
    for piece in pieces:
        if left < len(piece):
            return chain((piece[left:],), pieces)
        left -= len(piece)
    return iter(())
