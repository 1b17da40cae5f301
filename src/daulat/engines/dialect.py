"""How a request is put to an engine that needs more than OpenAI's wire, and its answer put back into it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import msgspec

from daulat.errors import DaulatError


class EngineRequest(msgspec.Struct, frozen=True):
    """What an engine is asked. A Struct, because one is made for every request."""

    action: str
    path: str
    body: bytes
    stream: bool
    fields: Mapping[str, msgspec.Raw]  # the body's members, as they came
    leads: bool = True  # may read a shared prefix ahead for others

    def raw(self, name: str) -> bytes | None:
        """A field's JSON as it came, None where it is absent or null."""
        text = bytes(self.fields.get(name, b""))
        return None if text in {b"", b"null"} else text


class Rewriter(Protocol):
    """Puts one answer back into OpenAI's wire."""

    def feed(self, data: bytes) -> bytes:
        """Bytes of an event stream in, bytes of an event stream out; may keep some back."""
        ...

    def hold(self, data: bytes) -> bytes:
        """Bytes of a whole answer in; nothing out before `finish`."""
        ...

    def finish(self) -> bytes:
        """What is left at the answer's end."""
        ...


Explain = Callable[[int, bytes], DaulatError | None]
"""`explain(status, body)`: what an engine's error means, where its own words and status say it badly."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request ready to be sent. `release` is called once, when the answer has ended or will not come."""

    body: bytes
    release: Callable[[], None]
    rewriter: Rewriter | None = None
    overhead: int = 0  # prompt tokens spent beside it on its behalf
    explain: Explain | None = None


class Merger(Protocol):
    """Puts the answers of a request's parts into one. `part` counts from 0; the last `finish` completes the answer."""

    overhead: int
    """Prompt tokens that the parts spent beyond the usage that the answer states."""

    def feed(self, part: int, data: bytes) -> bytes:
        """Bytes of a part's event stream in, bytes of the one event stream out."""
        ...

    def hold(self, part: int, data: bytes) -> bytes:
        """Bytes of a part's whole answer in; nothing out before `finish`."""
        ...

    def finish(self, part: int) -> bytes:
        """A part has ended.

        Raises:
            EngineError: before its answer was complete.
        """
        ...


@dataclass(frozen=True, slots=True)
class Parts:
    """A request that must be asked in several."""

    requests: tuple[EngineRequest, ...]
    merger: Merger


class Dialect(Protocol):
    """One replica's, in one worker."""

    def parts(self, request: EngineRequest) -> Parts | None:
        """How a request is asked in several, None where it is asked as it is.

        Raises:
            InvalidRequest: there would be too many.
        """
        ...

    async def prepare(self, request: EngineRequest) -> Prepared:
        """Wait for a place, and change what must be changed.

        Raises:
            Overloaded: too many are waiting already.
            EngineError: the engine failed while it was being prepared.
        """
        ...
