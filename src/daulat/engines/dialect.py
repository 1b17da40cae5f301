"""How a request is put to an engine that needs more than OpenAI's wire, and its answer put back into it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class EngineRequest:
    """What an engine is asked. `messages`, `prompt`, `tools`, `tool_choice` are raw JSON, None where absent."""

    action: str
    path: str
    body: bytes
    stream: bool
    messages: bytes | None = None
    prompt: bytes | None = None
    tools: bytes | None = None
    tool_choice: bytes | None = None


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


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request ready to be sent. `release` is called once, when the answer has ended or will not come."""

    body: bytes
    release: Callable[[], None]
    rewriter: Rewriter | None = None
    overhead: int = 0  # prompt tokens spent beside it on its behalf


class Dialect(Protocol):
    """One replica's, in one worker."""

    async def prepare(self, request: EngineRequest) -> Prepared:
        """Wait for a place, and change what must be changed.

        Raises:
            Overloaded: too many are waiting already.
            EngineError: the engine failed while it was being prepared.
        """
        ...
