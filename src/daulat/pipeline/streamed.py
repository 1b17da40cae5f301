"""The part of a stream that its client gets: nothing before it says something, and all of it committed to.

An engine's stream is held until its admission is durable, and its final frame until its completion is: that is
`pipeline.inference`'s business. Here is what passes in between.
"""

from __future__ import annotations

import base64
import hashlib
import time
from typing import Final

from daulat.core import commitments
from daulat.errors import DaulatError, EngineRequestFailed
from daulat.pipeline import empty, typed
from daulat.pipeline.events import EventStream
from daulat.pipeline.record import Recorded
from daulat.pipeline.usage import Usage

EVENT_STREAM: Final = b"text/event-stream"


class Streamed(Recorded):
    """One authenticated request, as far as its answer is a stream; `pipeline.inference` is the rest of it."""

    __slots__ = ("_events", "_handing", "_kept", "_said", "_sent", "_started", "_unsaid")

    # As in `Recorded`, `pipeline.inference` sets them.
    _events: EventStream | typed.TypedStream | None  # None: the answer is one piece
    _started: bool  # the first byte has gone out
    _sent: hashlib._Hash  # what has gone out, on its way to a commitment
    _said: bool  # whether something was said in it yet,
    _unsaid: bytearray  # and what has come before that
    _kept: list[bytes] | None  # what has gone out of an answer that is to be stored
    _handing: bool  # over to the vault, which has not said yet that it has it

    def _pass(self, data: bytes) -> None:
        events = self._events
        if events is None or self._done or self._handing:
            return
        try:
            passed = events.feed(data)
        except ValueError as error:
            self._engine_gave_up(EngineRequestFailed(f"{error}.", status=502))
            return
        if not self._said:
            passed = self._first_words(passed, ended=events.final is not None)
            if self._done or events is not self._events:
                return
        if passed:
            self._sent.update(passed)
            self._reply.write(passed)
            if self._kept is not None:
                self._kept.append(passed)
        if events.final is not None:
            self._end_stream("ok", events.final)

    def _first_words(self, passed: bytes, *, ended: bool) -> bytes:
        """While nothing is said, nothing goes out: another replica may still answer instead of an empty one."""
        unsaid = self._unsaid
        self._said = empty.speaks(passed, len(unsaid)) or (ended and not self._ended_empty(bytes(unsaid) + passed))
        if not self._said and ended:
            self._engine_gave_up(empty.failure())
            return b""
        if not self._said and (unsaid or not passed.startswith(b":")):  # a comment keeps a connection alive: it passes
            unsaid += passed
            return b""
        if unsaid:
            passed, self._unsaid = bytes(unsaid) + passed, bytearray()
        if not self._started:
            self._start()
        return passed

    def _ended_empty(self, events: bytes) -> bool:
        final, usage = (self._events.final, self._events.usage) if self._events is not None else (None, None)
        return empty.ended_empty(self._action, events, final or b"", usage, self._asked())

    def _asked(self) -> empty.Asked:
        members = self._peek.members if self._peek is not None else {}
        return empty.Asked(members, self._model.context_length if self._model is not None else 0)

    def _start(self) -> None:
        self._started, self._status, self._first = True, 200, time.monotonic()
        self._sent = commitments.opening(self._salt, "response")  # what has gone out, on its way to a commitment
        self._reply.start(200, [(b"content-type", EVENT_STREAM), (b"cache-control", b"no-cache")])

    def _engine_gave_up(self, error: DaulatError) -> None:
        """What has come is no answer."""
        raise NotImplementedError

    def _end_stream(self, outcome: str, final: bytes) -> None:
        """Nothing comes after this frame."""
        raise NotImplementedError

    def _counted(self) -> Usage:
        """For answers that ended early: the engine has not said, so the events that went through are counted."""
        return Usage(completion_tokens=self._events.events if self._events is not None else 0)

    def _digest(self) -> str:
        return base64.b64encode(self._sent.digest()).decode()
