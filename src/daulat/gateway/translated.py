"""Calls to engines that need translation: a slot to be chosen, a body changed, an answer rewritten."""

from __future__ import annotations

import asyncio
import logging
from typing import Final, Protocol

from daulat.engines.dialect import Dialect, EngineRequest, Prepared
from daulat.errors import DaulatError, EngineRequestFailed
from daulat.gateway.several import Several
from daulat.pipeline.ports import EngineCall, EngineSink

_MOST_KEPT: Final = 64 * 1024 * 1024  # bytes of an answer that a rewriter may keep back
_ERRORS: Final = 400
_log = logging.getLogger(__name__)


class Poster(Protocol):
    """Port: whoever posts a body to an address (`gateway.engines.Pool`)."""

    def post(self, address: str, path: str, body: bytes, sink: EngineSink) -> EngineCall: ...


def ask(poster: Poster, address: str, dialect: Dialect, request: EngineRequest, sink: EngineSink) -> EngineCall:
    """Ask through a dialect, in parts where the dialect wants it so. Failures reach the sink, from the loop."""
    try:
        parts = dialect.parts(request)
    except DaulatError as error:
        return Refused(sink, error)
    if parts is None:
        return Translated(poster, address, dialect, request, sink)
    return Several(lambda part, listener: Translated(poster, address, dialect, part, listener), parts, sink)


class Refused:
    """A call that is never made."""

    overhead = 0

    def __init__(self, sink: EngineSink, error: DaulatError) -> None:
        self._told = asyncio.get_running_loop().call_soon(sink.engine_failed, error)

    def abort(self) -> None:
        self._told.cancel()

    def pause(self) -> None:
        """Nothing will come."""

    def resume(self) -> None:
        """Nothing will come."""


class Translated(EngineSink):
    """One call through a dialect: an `EngineCall` to its owner, an `EngineSink` to the engine's own call."""

    __slots__ = (
        "_address",
        "_call",
        "_dialect",
        "_events",
        "_kept",
        "_poster",
        "_prepared",
        "_refusal",
        "_request",
        "_sink",
        "_task",
        "overhead",
    )

    def __init__(
        self, poster: Poster, address: str, dialect: Dialect, request: EngineRequest, sink: EngineSink
    ) -> None:
        self._poster, self._address, self._dialect, self._request = poster, address, dialect, request
        self._sink: EngineSink | None = sink
        self._prepared: Prepared | None = None
        self._call: EngineCall | None = None
        self._events = False
        self._kept = 0
        self._refusal: tuple[int, bytes, list[bytes]] | None = None  # status, type and body of an error to be explained
        self.overhead = 0
        self._task: asyncio.Task[None] | None = asyncio.get_running_loop().create_task(self._prepare())

    async def _prepare(self) -> None:
        try:
            prepared = await self._dialect.prepare(self._request)
        except DaulatError as error:
            self._task = None
            self.engine_failed(error)
            return
        except Exception:  # noqa: BLE001  the edge of one call: a defect must not leave its client waiting
            _log.exception("a request could not be prepared")
            self._task = None
            self.engine_failed(DaulatError("internal error"))
            return
        self._task = None
        self._prepared, self.overhead = prepared, prepared.overhead
        if self._sink is None:
            self._release()
            return
        self._call = self._poster.post(self._address, self._request.path, prepared.body, self)

    def abort(self) -> None:
        self._sink = None
        if self._task is not None:
            self._task.cancel()
        if self._call is not None:
            self._call.abort()
        self._release()

    def pause(self) -> None:
        if self._call is not None:
            self._call.pause()

    def resume(self) -> None:
        if self._call is not None:
            self._call.resume()

    def engine_head(self, status: int, content_type: bytes) -> None:
        if status >= _ERRORS and self._prepared is not None and self._prepared.explain is not None:
            self._refusal = (status, content_type, [])
            return
        self._events = content_type.startswith(b"text/event-stream")
        if self._sink is not None:
            self._sink.engine_head(status, content_type)

    def engine_data(self, data: bytes) -> None:
        if self._refusal is not None:
            self._keep(data, self._refusal[2])
            return
        rewriter = self._prepared.rewriter if self._prepared is not None else None
        if rewriter is not None:
            passed = rewriter.feed(data) if self._events else rewriter.hold(data)
            self._kept += len(data) - len(passed)
            if self._kept > _MOST_KEPT:
                self._break_off(EngineRequestFailed("The engine's answer is too large.", status=502))
                return
            data = passed
        if data and self._sink is not None:
            self._sink.engine_data(data)

    def _keep(self, data: bytes, kept: list[bytes]) -> None:
        kept.append(data)
        self._kept += len(data)
        if self._kept > _MOST_KEPT:
            self._break_off(EngineRequestFailed("The engine's answer is too large.", status=502))

    def _explained(self, status: int, content_type: bytes, body: bytes) -> None:
        """The engine's error in our words, or as it came."""
        explain = self._prepared.explain if self._prepared is not None else None
        error = explain(status, body) if explain is not None else None
        if error is not None:
            self.engine_failed(error)
            return
        sink, self._sink = self._sink, None
        self._release()
        if sink is not None:
            sink.engine_head(status, content_type)
            sink.engine_data(body)
            sink.engine_done()

    def engine_done(self) -> None:
        if self._refusal is not None:
            status, content_type, kept = self._refusal
            self._explained(status, content_type, b"".join(kept))
            return
        rewriter = self._prepared.rewriter if self._prepared is not None else None
        sink, self._sink = self._sink, None
        self._release()
        if sink is None:
            return
        if rewriter is not None and (rest := rewriter.finish()):
            sink.engine_data(rest)
        sink.engine_done()

    def engine_failed(self, error: DaulatError) -> None:
        sink, self._sink = self._sink, None
        self._release()
        if sink is not None:
            sink.engine_failed(error)

    def _break_off(self, error: DaulatError) -> None:
        if self._call is not None:
            self._call.abort()
        self.engine_failed(error)

    def _release(self) -> None:
        prepared, self._prepared, self._call = self._prepared, None, None
        if prepared is not None:
            prepared.release()
