"""A request asked of an engine in several parts, and their answers put into one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from daulat.engines.dialect import EngineRequest, Parts
from daulat.errors import DaulatError, EngineRequestFailed
from daulat.pipeline.ports import EngineCall, EngineSink

_OK: Final = 200
_EVENT_STREAM: Final = b"text/event-stream"
_JSON: Final = b"application/json"


class Several:
    """All parts of one request: an `EngineCall` to its owner. One part that fails ends the others."""

    __slots__ = ("_begun", "_calls", "_left", "_merger", "_refused", "_sink")

    def __init__(self, ask: Callable[[EngineRequest, EngineSink], EngineCall], parts: Parts, sink: EngineSink) -> None:
        """`ask` asks one part. It raises nothing and calls nothing back at once."""
        self._merger = parts.merger
        self._sink: EngineSink | None = sink
        self._begun = False
        self._refused: int | None = None  # the part whose error is the answer
        self._left = len(parts.requests)
        self._calls = [ask(request, _Part(self, number)) for number, request in enumerate(parts.requests)]

    @property
    def overhead(self) -> int:
        return self._merger.overhead + sum(call.overhead for call in self._calls)

    def abort(self) -> None:
        self._sink = None
        for call in self._calls:
            call.abort()

    def pause(self) -> None:
        for call in self._calls:
            call.pause()

    def resume(self) -> None:
        for call in self._calls:
            call.resume()

    # What the parts hear.

    def head(self, part: int, status: int, content_type: bytes) -> None:
        if self._sink is None or self._refused is not None:
            return
        if status == _OK:
            if not self._begun and content_type.startswith(_EVENT_STREAM):
                self._begin(content_type)
            return
        if self._begun:
            self.failed(EngineRequestFailed(f"The engine refused one of the answers with status {status}.", status=502))
            return
        self._refused = part
        self._sink.engine_head(status, content_type)
        for number, call in enumerate(self._calls):
            if number != part:
                call.abort()

    def _begin(self, content_type: bytes) -> None:
        if self._sink is not None and not self._begun:
            self._begun = True
            self._sink.engine_head(_OK, content_type)

    def data(self, part: int, data: bytes, *, events: bool) -> None:
        if self._sink is None:
            return
        if self._refused is None:
            data = self._merger.feed(part, data) if events else self._merger.hold(part, data)
        if data:
            self._sink.engine_data(data)

    def done(self, part: int) -> None:
        if self._sink is None:
            return
        if self._refused is None:
            try:
                rest = self._merger.finish(part)
            except DaulatError as error:
                self.failed(error)
                return
            self._left -= 1
            if rest:
                self._begin(_JSON)
                self._sink.engine_data(rest)
            if self._left:
                return
        sink, self._sink = self._sink, None
        if sink is not None:
            sink.engine_done()

    def failed(self, error: DaulatError) -> None:
        sink = self._sink
        self.abort()
        if sink is not None:
            sink.engine_failed(error)


class _Part(EngineSink):
    """One part's `EngineSink`."""

    __slots__ = ("_events", "_number", "_owner")

    def __init__(self, owner: Several, number: int) -> None:
        self._owner, self._number = owner, number
        self._events = False

    def engine_head(self, status: int, content_type: bytes) -> None:
        self._events = content_type.startswith(_EVENT_STREAM)
        self._owner.head(self._number, status, content_type)

    def engine_data(self, data: bytes) -> None:
        self._owner.data(self._number, data, events=self._events)

    def engine_done(self) -> None:
        self._owner.done(self._number)

    def engine_failed(self, error: DaulatError) -> None:
        self._owner.failed(error)
